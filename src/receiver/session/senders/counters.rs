//! Counters of a sender.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::host::boot_clock;
use crate::receiver::delivery::Settled;
use crate::receiver::delivery::denied::Denied;
use crate::receiver::delivery::unmatched::Unmatched;
use crate::status::{SenderTotals, Tally};

/// Counts of one sender since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) datagrams: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) denied: Denied,
    /// Datagrams of all senders that match no collector.
    pub(super) unmatched: Arc<Unmatched>,
}

impl Counters {
    /// Adds delivered, denied, lost and unmatched datagrams.
    pub(super) fn add_settled(&self, settled: &Settled) {
        Self::add(&self.datagrams, settled.delivered.datagrams);
        Self::add(&self.bytes, settled.delivered.bytes);
        let now = boot_clock();
        self.denied.add(&settled.denied, now);
        self.unmatched.add(&settled.unmatched, now);
        for loss in &settled.losses {
            Self::add(&self.gaps, loss.datagrams);
        }
    }

    /// Returns the current counts.
    pub(super) fn totals(&self) -> SenderTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SenderTotals {
            delivered: Tally { datagrams: get(&self.datagrams), bytes: get(&self.bytes) },
            duplicates: get(&self.duplicates),
            gaps: get(&self.gaps),
            denied: self.denied.total(),
        }
    }

    /// Adds `count`, which a sender may have chosen, and returns the sum. The counter saturates.
    pub(crate) fn add(counter: &AtomicU64, count: u64) -> u64 {
        let add = |sum: u64| sum.saturating_add(count);
        let before = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| Some(add(sum)));
        add(before.unwrap_or_else(|sum| sum))
    }
}
