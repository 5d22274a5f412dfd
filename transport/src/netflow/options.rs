//! The latest options data records of one observation domain: samplers, interfaces, applications, and the
//! like.
//!
//! Records are stored by options template and by subject: all fields that identify a record (see
//! [`option_values`](super::option_values)). They take at most [`OPTION_BYTES_PER_EXPORTER`]: the oldest
//! record of the largest table makes room. An unchanged record costs a look-up and no allocation.

use core::hash::BuildHasher;
use std::collections::BTreeMap;
use std::hash::RandomState;

use lru::LruCache;

use crate::limits::{OPTION_BYTES_PER_EXPORTER, OPTION_OVERHEAD, OPTION_TABLE_OVERHEAD};
use crate::netflow::template::Template;

/// One options data record.
#[derive(Clone)]
struct OptionsRow {
    /// Byte for byte, as in its set.
    record: Box<[u8]>,
    /// The revision of the domain in which it last changed.
    revision: u64,
}

impl OptionsRow {
    /// Bytes of memory.
    fn cost(&self) -> usize {
        self.record.len().saturating_add(OPTION_OVERHEAD)
    }
}

/// The records of one options template.
#[derive(Clone)]
struct OptionsTable {
    /// By a hash of their subject, in the order of their last arrival.
    rows: LruCache<u64, OptionsRow>,
    /// Bytes of all rows.
    bytes: usize,
}

impl Default for OptionsTable {
    fn default() -> Self {
        Self { rows: LruCache::unbounded(), bytes: 0 }
    }
}

impl OptionsTable {
    /// Bytes of memory.
    fn cost(&self) -> usize {
        self.bytes.saturating_add(OPTION_TABLE_OVERHEAD)
    }

    /// Stores `record`, whose subject has the hash `about`; true if it is new or changed.
    fn keep(&mut self, about: u64, record: &[u8], revision: u64) -> bool {
        if self.rows.get(&about).is_some_and(|row| *row.record == *record) {
            return false;
        }
        let row = OptionsRow { record: record.into(), revision };
        self.bytes += row.cost();
        self.bytes -= self.rows.put(about, row).map_or(0, |replaced| replaced.cost());
        true
    }

    fn drop_oldest(&mut self) {
        self.bytes -= self.rows.pop_lru().map_or(0, |(_, row)| row.cost());
    }
}

/// The options data records of one domain.
#[derive(Clone, Default)]
pub(super) struct Options {
    /// By the ids of their templates.
    tables: BTreeMap<u16, OptionsTable>,
}

impl Options {
    /// Stores the records of a data set with this body, which the options template describes; true if any of
    /// them is new or changed. These get this revision.
    pub(super) fn store(
        &mut self,
        template: &Template<'_>,
        body: &[u8],
        revision: u64,
        hasher: &RandomState,
    ) -> bool {
        let table = self.tables.entry(template.id).or_default();
        let (mut rest, mut about, mut is_news) = (body, Vec::new(), false);
        while let Some(record) = template.take_record(&mut rest, &mut about) {
            is_news |= table.keep(hasher.hash_one(&about), record, revision);
        }
        self.make_room();
        is_news
    }

    /// Forgets the records of templates that are not `wanted`.
    pub(super) fn retain(&mut self, wanted: impl Fn(u16) -> bool) {
        self.tables.retain(|template_id, _| wanted(*template_id));
    }

    /// Bytes of memory of all tables.
    pub(super) fn bytes(&self) -> usize {
        self.tables.values().map(OptionsTable::cost).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The records with a later revision, each with the id of its template, in the order of arrival within
    /// one template.
    pub(super) fn since(&self, revision: u64) -> impl Iterator<Item = (u16, &[u8])> {
        self.tables.iter().flat_map(move |(template_id, table)| {
            let rows = table.rows.iter().rev().map(|(_, row)| row);
            rows.filter(move |row| row.revision > revision).map(|row| (*template_id, &*row.record))
        })
    }

    /// Drops the oldest records of the largest tables until the rest fits, then tables without records.
    fn make_room(&mut self) {
        while self.bytes() > OPTION_BYTES_PER_EXPORTER {
            let Some(largest) = self.tables.values_mut().max_by_key(|table| table.bytes) else { break };
            largest.drop_oldest();
        }
        self.tables.retain(|_, table| !table.rows.is_empty());
    }
}
