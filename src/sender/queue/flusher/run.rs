//! Appends batches that are due together in one write.
//!
//! The first batch of a run is appended by itself: all that drops data or makes room is decided for it. The
//! others follow only if the spool has room for them anyway.

use std::time::Instant;

use nf_transport_core::batch::Batch;
use nf_transport_core::spool::Spool;
use nf_transport_core::spool::disk::Directory;

use super::{Flusher, batch_len};
use crate::host::both_clocks;
use crate::sender::journal::RingEntry;
use crate::sender::queue::fair_share::FairShare;
use crate::sender::queue::state::QueueState;

/// Bytes of the batches that are appended at once: a twelfth of the ring. Larger writes save nothing more.
const RUN_BYTES: u64 = 1024 * 1024;

/// Batches that are appended at once: their list is copied while the state is locked.
const RUN_BATCHES: usize = 256;

/// A batch that will be due within this part of its time is written with one that is due now. So the flusher
/// wakes up a few times in that time, not for each batch.
const EARLY_PART: u32 = 4;

impl Flusher {
    /// Returns the batches to write after `first`, the oldest batch of the tail, which is due.
    pub(super) fn run_after(&self, state: &QueueState, first: &RingEntry, now: Instant) -> Vec<RingEntry> {
        let is_hurried = Self::is_hurried(state);
        let soon = now + self.half / EARLY_PART;
        let (mut end, mut bytes) = (first.batch.end(), 0);
        let is_in_run = |(entry, since): &(&RingEntry, Instant)| {
            let is_next = entry.batch.first() == end;
            end = entry.batch.end();
            bytes += batch_len(&entry.batch);
            is_next && bytes <= RUN_BYTES && (is_hurried || *since + self.half <= soon)
        };
        let run = state.tail().after_oldest().take(RUN_BATCHES).take_while(is_in_run);
        run.map(|(entry, _)| entry.clone()).collect()
    }

    /// Appends the first of `next`, as many as fit without dropping anything. Returns the last of them.
    pub(super) fn append_next<'a>(
        &mut self,
        spool: &mut Spool<Directory>,
        next: &'a [RingEntry],
    ) -> Option<&'a RingEntry> {
        let length = next.iter().map(|entry| batch_len(&entry.batch)).sum();
        if next.is_empty() || FairShare::is_nearly_full(spool, length) {
            return None;
        }
        let sealed: Vec<Batch> = next.iter().map_while(|entry| self.queue.seal(&entry.batch).ok()).collect();
        let count = spool.append_run(&sealed, both_clocks());
        let mut last = None;
        for entry in next.iter().take(count) {
            self.fair_share.note_appended(spool, &entry.batch, batch_len(&entry.batch));
            last = Some(entry);
        }
        last
    }
}
