//! The tail of the queue: the batches in the ring of the receive journal, which no segment holds yet.

use std::collections::VecDeque;
use std::time::Instant;

use nf_transport_core::batch::Batch;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::sequence::Position;

use crate::limits::JOURNAL_RING;
use crate::sender::journal::RingEntry;

/// The batches in the ring, oldest first.
#[derive(Debug)]
pub(crate) struct Tail {
    /// With their arrival times.
    batches: VecDeque<(RingEntry, Instant)>,
    /// The offset after the newest batch.
    head: u64,
}

impl Tail {
    /// The tail that the last run left, which arrives `now`.
    pub(super) fn recovered(entries: Vec<RingEntry>, now: Instant) -> Self {
        Self {
            head: entries.last().map_or(0, |newest| newest.end),
            batches: entries.into_iter().map(|entry| (entry, now)).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The oldest batch and its arrival time.
    pub(super) fn oldest(&self) -> Option<(&RingEntry, Instant)> {
        self.batches.front().map(|(entry, since)| (entry, *since))
    }

    /// The batches after the oldest, with their arrival times.
    pub(super) fn after_oldest(&self) -> impl Iterator<Item = (&RingEntry, Instant)> {
        self.batches.iter().skip(1).map(|(entry, since)| (entry, *since))
    }

    /// Returns the batch that holds `position`.
    pub(super) fn batch_at(&self, position: Position) -> Option<&Batch> {
        let index = self.batches.partition_point(|(entry, _)| entry.batch.end() <= position);
        let (entry, _) = self.batches.get(index)?;
        Some(&entry.batch).filter(|batch| batch.first() <= position)
    }

    /// The offset of the oldest batch. From there on nothing in the ring may be overwritten.
    pub(super) fn start(&self) -> u64 {
        self.batches.front().map_or(self.head, |(oldest, _)| oldest.start)
    }

    /// The used bytes of the ring.
    pub(crate) fn bytes(&self) -> u64 {
        self.head.checked_sub(self.start()).unwrap_or_else(|| {
            note_internal_error("the tail begins after the head of the ring");
            0
        })
    }

    /// Returns `true` if the ring is so full that the tail must move to the spool at once.
    pub(super) fn is_pressing(&self) -> bool {
        self.bytes() > JOURNAL_RING / 2
    }

    /// Returns `true` if more than three quarters of the ring are used.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.bytes() > JOURNAL_RING / 4 * 3
    }

    /// Adds a batch, which is in the ring.
    pub(super) fn push(&mut self, entry: RingEntry) {
        self.head = entry.end;
        self.batches.push_back((entry, Instant::now()));
    }

    /// Removes batches below `position`. Returns `true` if there were some.
    pub(super) fn pop_below(&mut self, position: Position) -> bool {
        let mut is_popped = false;
        while self.batches.front().is_some_and(|(entry, _)| entry.batch.end() <= position) {
            self.batches.pop_front();
            is_popped = true;
        }
        is_popped
    }

    /// Replaces the oldest batch, if it is `batch`, by `sifted`, the rest of it. Returns `false` if it has
    /// left the ring.
    pub(super) fn replace_oldest(&mut self, batch: &Batch, sifted: &Batch) -> bool {
        match self.batches.front_mut() {
            Some((entry, _)) if entry.batch.first() == batch.first() => {
                entry.batch = sifted.clone();
                true
            }
            _ => false,
        }
    }
}
