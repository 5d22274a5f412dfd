//! The payload bytes of the batches that were sent and are not acknowledged.

use std::collections::BTreeMap;

use nf_transport_core::sequence::Position;

/// The largest number of separate entries. A receiver may accept far more than it acknowledges. Adjacent
/// batches are then merged into one entry, which is acknowledged with the last of them.
const ENTRIES_MAX: usize = 4096;

/// The batches that were sent and are not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Unacknowledged {
    /// By the end of each batch or merged entry. Entries do not overlap.
    sent: BTreeMap<Position, SentBatches>,
}

/// One batch, or several adjacent ones.
#[derive(Clone, Copy, Debug)]
struct SentBatches {
    first: Position,
    /// Of payload.
    bytes: u64,
}

impl Unacknowledged {
    /// Notes that the batch of positions from `first` to before `end` was sent. A batch that is sent again
    /// does not count twice.
    pub(crate) fn add(&mut self, first: Position, end: Position, bytes: u64) {
        let next = self.sent.range(end..).next();
        if next.is_none_or(|(_, next)| next.first >= end) {
            self.sent.insert(end, SentBatches { first, bytes });
        }
        if self.sent.len() > ENTRIES_MAX {
            self.merge(|before, after| before == after);
            // With many holes, merge over holes too. Batches sent into a merged hole later are not counted.
            if self.sent.len() > ENTRIES_MAX / 4 * 3 {
                self.merge(|_, _| true);
            }
        }
    }

    /// Handles the acknowledgement of everything below `position`. Returns the newly acknowledged bytes.
    pub(crate) fn acknowledge(&mut self, position: Position) -> u64 {
        let mut bytes = 0;
        while let Some(first) = self.sent.first_entry().filter(|first| *first.key() <= position) {
            bytes += first.remove().bytes;
        }
        bytes
    }

    /// Returns the end of the batch with which the oldest unacknowledged batches reach `bytes` of payload.
    /// Returns the end of the last batch if all together have less.
    pub(crate) fn end_of_first_bytes(&self, bytes: u64) -> Position {
        let mut sum = 0;
        for (end, sent) in &self.sent {
            sum += sent.bytes;
            if sum >= bytes {
                return *end;
            }
        }
        self.sent.keys().next_back().copied().unwrap_or_default()
    }

    /// Merges pairs of adjacent entries where `may` allows it between the end of one and the start of the
    /// next.
    fn merge(&mut self, may: impl Fn(Position, Position) -> bool) {
        let mut merged = BTreeMap::new();
        let mut carried: Option<(Position, SentBatches)> = None;
        for (end, sent) in core::mem::take(&mut self.sent) {
            match carried.take() {
                Some((before_end, before)) if may(before_end, sent.first) => {
                    merged.insert(end, SentBatches { first: before.first, bytes: before.bytes + sent.bytes });
                }
                other => {
                    merged.extend(other);
                    carried = Some((end, sent));
                }
            }
        }
        merged.extend(carried);
        self.sent = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_ends_with_the_batch_that_fills_it() {
        let mut sent = Unacknowledged::default();
        assert_eq!(sent.end_of_first_bytes(1), Position(0));
        for end in 11..20 {
            sent.add(Position(end - 1), Position(end), 100);
        }
        assert_eq!(
            (sent.end_of_first_bytes(1), sent.end_of_first_bytes(100), sent.end_of_first_bytes(101)),
            (Position(11), Position(11), Position(12))
        );
        sent.acknowledge(Position(12));
        assert_eq!(
            (sent.end_of_first_bytes(150), sent.end_of_first_bytes(10_000)),
            (Position(14), Position(19))
        );
    }

    #[test]
    fn repeated_batches_count_once() {
        let mut sent = Unacknowledged::default();
        for end in 10..20 {
            sent.add(Position(end - 1), Position(end), 100);
        }
        for end in 12..18 {
            sent.add(Position(end - 1), Position(end), 100);
        }
        assert_eq!(sent.acknowledge(Position(14)), 500);
        assert_eq!(sent.acknowledge(Position(14)), 0);
        assert_eq!(sent.acknowledge(Position(30)), 500);
    }

    #[test]
    fn earlier_positions_count_when_they_are_sent() {
        let mut sent = Unacknowledged::default();
        sent.add(Position(60), Position(100), 7);
        sent.add(Position(40), Position(50), 5);
        assert_eq!(sent.acknowledge(Position(50)), 5);
        sent.add(Position(50), Position(60), 6);
        assert_eq!(sent.acknowledge(Position(100)), 13);
    }

    #[test]
    fn merged_batches_are_counted_to_the_byte() {
        let mut sent = Unacknowledged::default();
        let count = 100_000;
        for end in 1..=count {
            sent.add(Position(end - 1), Position(end), end);
        }
        assert!(sent.sent.len() <= ENTRIES_MAX);
        let mut counted = 0;
        for end in 1..=count {
            counted += sent.acknowledge(Position(end));
        }
        assert_eq!(counted, count * (count + 1) / 2);
    }

    #[test]
    fn repeats_of_merged_batches_count_once() {
        let mut sent = Unacknowledged::default();
        let batch = |number: u64| (Position(10 * number), Position(10 * number + 10));
        let count = 3 * u64::try_from(ENTRIES_MAX).unwrap();
        for number in 0..count {
            let (first, end) = batch(number);
            sent.add(first, end, 1);
        }
        for number in 0..count {
            let (first, end) = batch(number);
            sent.add(first, end, 1);
        }
        assert_eq!(sent.acknowledge(Position(u64::MAX)), count);
    }

    #[test]
    fn a_hole_filled_late_is_counted() {
        let mut sent = Unacknowledged::default();
        let count = 3 * u64::try_from(ENTRIES_MAX).unwrap();
        let (before, hole, beyond) = (0..100, 100..200, 200..count);
        for number in before.chain(beyond).chain(hole) {
            sent.add(Position(number), Position(number + 1), 1);
        }
        assert_eq!(sent.acknowledge(Position(u64::MAX)), count);
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let mut sent = Unacknowledged::default();
        for number in 0..100_000 {
            sent.add(Position(2 * number), Position(2 * number + 1), 1);
            assert!(sent.sent.len() <= ENTRIES_MAX);
        }
        assert_eq!(sent.acknowledge(Position(u64::MAX)), 100_000);
    }
}
