//! How many bytes of payload an acknowledgement stands for: those of the batches that were sent and end below it.

use std::collections::BTreeMap;

use crate::sequence::Position;

/// Batches that are told apart at the most. A receiver may take far more than it acknowledges; then those next to each other
/// count as one, which is acknowledged with the last of them.
const ENTRIES_MAX: usize = 4096;

/// What was sent and is not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Unacknowledged {
    /// Payload bytes by the end of each batch.
    batches: BTreeMap<Position, u64>,
}

impl Unacknowledged {
    /// A batch that ends at `end` was sent, perhaps once more.
    pub(crate) fn add(&mut self, end: Position, bytes: u64) {
        let is_last = self.batches.last_key_value().is_none_or(|(last, _)| *last < end);
        let is_first = self.batches.first_key_value().is_some_and(|(first, _)| *first > end);
        // Between others it was counted before, if not by itself.
        if is_last || is_first {
            self.batches.insert(end, bytes);
        }
        if self.batches.len() > ENTRIES_MAX {
            self.merge();
        }
    }

    /// Everything below `position` is acknowledged: how many bytes that are, beyond those that were before.
    pub(crate) fn acknowledge(&mut self, position: Position) -> u64 {
        let mut bytes = 0;
        while let Some(first) = self.batches.first_entry().filter(|first| *first.key() <= position) {
            bytes += first.remove();
        }
        bytes
    }

    /// Two next to each other become one.
    fn merge(&mut self) {
        let mut merged = BTreeMap::new();
        let mut carried = None;
        for (end, bytes) in core::mem::take(&mut self.batches) {
            match carried.take() {
                None => carried = Some((end, bytes)),
                Some((_, before)) => _ = merged.insert(end, before + bytes),
            }
        }
        merged.extend(carried);
        self.batches = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_once_however_often_they_are_sent() {
        let mut sent = Unacknowledged::default();
        for end in 10..20 {
            sent.add(Position(end), 100);
        }
        for end in 12..18 {
            sent.add(Position(end), 100);
        }
        assert_eq!(sent.acknowledge(Position(14)), 500);
        assert_eq!(sent.acknowledge(Position(14)), 0);
        assert_eq!(sent.acknowledge(Position(30)), 500);
    }

    #[test]
    fn what_the_receiver_took_before_this_session_counts_when_it_is_sent() {
        let mut sent = Unacknowledged::default();
        sent.add(Position(100), 7);
        sent.add(Position(50), 5);
        assert_eq!(sent.acknowledge(Position(50)), 5);
        sent.add(Position(60), 6);
        assert_eq!(sent.acknowledge(Position(100)), 13);
    }

    #[test]
    fn more_than_can_be_told_apart_is_still_counted_to_the_byte() {
        let mut sent = Unacknowledged::default();
        let count = 100_000;
        for end in 1..=count {
            sent.add(Position(end), end);
        }
        assert!(sent.batches.len() <= ENTRIES_MAX);
        let mut counted = 0;
        for end in 1..=count {
            counted += sent.acknowledge(Position(end));
        }
        assert_eq!(counted, count * (count + 1) / 2);
    }
}
