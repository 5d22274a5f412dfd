//! The latest options data records of one observation domain: samplers, interfaces, applications, and the like.
//!
//! Kept by options template and by what a record is about (see [`option_values`](super::option_values)). Holds at most
//! [`OPTION_BYTES_PER_EXPORTER`]: the record that came longest ago in the largest table makes room. A record that comes
//! again without a change costs a look-up and no allocation.

use core::hash::BuildHasher;
use std::collections::BTreeMap;
use std::hash::RandomState;

use lru::LruCache;

use crate::limits::{OPTION_BYTES_PER_EXPORTER, OPTION_OVERHEAD, OPTION_TABLE_OVERHEAD};
use crate::netflow::template::Template;

/// One options data record.
#[derive(Clone)]
struct Row {
    /// Byte for byte, as it lay in its set.
    record: Box<[u8]>,
    /// The revision of the domain that brought it as it is.
    revision: u64,
}

impl Row {
    /// Bytes that it takes.
    fn cost(&self) -> usize {
        self.record.len().saturating_add(OPTION_OVERHEAD)
    }
}

/// The records of one options template.
#[derive(Clone)]
struct Table {
    /// By a hash of what they are about; in the order in which they came last.
    rows: LruCache<u64, Row>,
    /// Bytes of all rows.
    bytes: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { rows: LruCache::unbounded(), bytes: 0 }
    }
}

impl Table {
    /// Bytes that it takes.
    fn cost(&self) -> usize {
        self.bytes.saturating_add(OPTION_TABLE_OVERHEAD)
    }

    /// Keeps `record`, which is about what hashes to `about`; true if it was not known as it is.
    fn keep(&mut self, about: u64, record: &[u8], revision: u64) -> bool {
        if self.rows.get(&about).is_some_and(|row| *row.record == *record) {
            return false;
        }
        let row = Row { record: record.into(), revision };
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
    tables: BTreeMap<u16, Table>,
}

impl Options {
    /// Keeps the records of a data set with this body, which the options template describes; true if any of them was not
    /// known as it is. New ones get this revision.
    pub(super) fn note(
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

    /// Forgets the records of templates that are not wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(u16) -> bool) {
        self.tables.retain(|template_id, _| wanted(*template_id));
    }

    /// Bytes that all of them take.
    pub(super) fn bytes(&self) -> usize {
        self.tables.values().map(Table::cost).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The records with a later revision, each with the id of its template: of one template, the one that came last comes
    /// last.
    pub(super) fn since(&self, revision: u64) -> impl Iterator<Item = (u16, &[u8])> {
        self.tables.iter().flat_map(move |(template_id, table)| {
            let rows = table.rows.iter().rev().map(|(_, row)| row);
            rows.filter(move |row| row.revision > revision).map(|row| (*template_id, &*row.record))
        })
    }

    /// Drops tables that have no records, and records as long as there are too many.
    fn make_room(&mut self) {
        while self.bytes() > OPTION_BYTES_PER_EXPORTER {
            let Some(largest) = self.tables.values_mut().max_by_key(|table| table.bytes) else { break };
            largest.drop_oldest();
        }
        self.tables.retain(|_, table| !table.rows.is_empty());
    }
}
