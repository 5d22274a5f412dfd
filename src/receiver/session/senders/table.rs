//! The table of entries, and the counts of removed ones. The sum over all senders never falls.

use std::collections::HashMap;
use std::sync::Arc;

use nf_transport_core::sequence::SenderId;

use crate::limits::{SENDER_ENTRIES_MAX, UNEVEN_SENDERS_MAX};
use crate::receiver::session::senders::entry::SenderEntry;
use crate::status::SenderTotals;

/// Entries by sender.
#[derive(Debug, Default)]
pub(super) struct SenderTable {
    pub(super) entries: HashMap<SenderId, Arc<SenderEntry>>,
    /// Counts of senders whose entries were removed.
    forgotten: SenderTotals,
}

/// Removed entries, with their senders.
pub(super) type RemovedSenders = Vec<(SenderId, Arc<SenderEntry>)>;

impl SenderTable {
    /// Removes entries if there is no room for one of `id`. Returns them.
    pub(super) fn make_room(&mut self, id: &SenderId) -> RemovedSenders {
        let mut forgotten = Vec::new();
        if self.entries.len() >= SENDER_ENTRIES_MAX && !self.entries.contains_key(id) {
            forgotten = self.forget(usize::MAX, SenderEntry::is_idle);
        }
        if self.entries.len() >= SENDER_ENTRIES_MAX + UNEVEN_SENDERS_MAX && !self.entries.contains_key(id) {
            forgotten.extend(self.forget_uneven());
        }
        forgotten
    }

    /// Returns the sum of the counts of all senders.
    pub(super) fn totals(&self) -> SenderTotals {
        let mut totals = self.forgotten;
        for entry in self.entries.values() {
            totals.add(entry.counters.totals());
        }
        totals
    }

    /// Removes an eighth of the entries that were kept because collectors of an absent sender have different
    /// offsets.
    fn forget_uneven(&mut self) -> RemovedSenders {
        let absent = self.forget(UNEVEN_SENDERS_MAX / 8, |entry| entry.active.try_lock().is_ok());
        let count = absent.len();
        tracing::warn!(
            count,
            "too many absent senders with a collector behind: dropped the collector offsets of {count} of \
             them; their next sessions repeat some datagrams to collectors that were ahead"
        );
        absent
    }

    /// Removes at most `most` of the entries that are free.
    fn forget(&mut self, most: usize, is_free: impl Fn(&SenderEntry) -> bool) -> RemovedSenders {
        // An entry with another reference is about to be acquired. A second entry of the same sender must
        // never exist.
        let free = self.entries.extract_if(|_, entry| Arc::strong_count(entry) == 1 && is_free(entry));
        let forgotten: RemovedSenders = free.take(most).collect();
        for (_, entry) in &forgotten {
            self.forgotten.add(entry.counters.totals());
        }
        forgotten
    }
}
