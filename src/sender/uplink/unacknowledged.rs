//! How many bytes of payload an acknowledgement stands for: those of the batches that were sent and end below it.

use std::collections::BTreeMap;

use nf_transport_core::sequence::Position;

/// Batches that are told apart at the most. A receiver may take far more than it acknowledges; then those next to each other
/// count as one, which is acknowledged with the last of them.
const ENTRIES_MAX: usize = 4096;

/// What was sent and is not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Unacknowledged {
    /// By the end of each batch, or of the last of several. They do not overlap.
    sent: BTreeMap<Position, Sent>,
}

/// One batch, or several next to each other.
#[derive(Clone, Copy, Debug)]
struct Sent {
    first: Position,
    /// Of payload.
    bytes: u64,
}

impl Unacknowledged {
    /// The batch of the positions from `first` to before `end` was sent, perhaps once more.
    pub(crate) fn add(&mut self, first: Position, end: Position, bytes: u64) {
        let next = self.sent.range(end..).next();
        if next.is_none_or(|(_, next)| next.first >= end) {
            self.sent.insert(end, Sent { first, bytes });
        }
        if self.sent.len() > ENTRIES_MAX {
            self.merge(|before, after| before == after);
            // With many holes. What is sent into one that is merged over counts for nothing.
            if self.sent.len() > ENTRIES_MAX / 4 * 3 {
                self.merge(|_, _| true);
            }
        }
    }

    /// Everything below `position` is acknowledged: how many bytes that are, beyond those that were before.
    pub(crate) fn acknowledge(&mut self, position: Position) -> u64 {
        let mut bytes = 0;
        while let Some(first) = self.sent.first_entry().filter(|first| *first.key() <= position) {
            bytes += first.remove().bytes;
        }
        bytes
    }

    /// The end of the batch with which those that were sent, from the oldest on, have `bytes` of payload; of the last one if all
    /// have less.
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

    /// Two next to each other become one, where `may` allows it between the end of the one and the beginning of the other.
    fn merge(&mut self, may: impl Fn(Position, Position) -> bool) {
        let mut merged = BTreeMap::new();
        let mut carried: Option<(Position, Sent)> = None;
        for (end, sent) in core::mem::take(&mut self.sent) {
            match carried.take() {
                Some((before_end, before)) if may(before_end, sent.first) => {
                    merged.insert(end, Sent { first: before.first, bytes: before.bytes + sent.bytes });
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
    fn bytes_count_once_however_often_they_are_sent() {
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
    fn what_the_receiver_took_before_this_session_counts_when_it_is_sent() {
        let mut sent = Unacknowledged::default();
        sent.add(Position(60), Position(100), 7);
        sent.add(Position(40), Position(50), 5);
        assert_eq!(sent.acknowledge(Position(50)), 5);
        sent.add(Position(50), Position(60), 6);
        assert_eq!(sent.acknowledge(Position(100)), 13);
    }

    #[test]
    fn more_than_can_be_told_apart_is_still_counted_to_the_byte() {
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
    fn what_is_sent_again_counts_once_when_it_is_one_with_others_already() {
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
    fn what_is_sent_into_a_hole_counts_however_much_was_sent_beyond_it() {
        let mut sent = Unacknowledged::default();
        let count = 3 * u64::try_from(ENTRIES_MAX).unwrap();
        let (before, hole, beyond) = (0..100, 100..200, 200..count);
        for number in before.chain(beyond).chain(hole) {
            sent.add(Position(number), Position(number + 1), 1);
        }
        assert_eq!(sent.acknowledge(Position(u64::MAX)), count);
    }

    #[test]
    fn however_many_holes_there_are_the_bound_holds() {
        let mut sent = Unacknowledged::default();
        for number in 0..100_000 {
            sent.add(Position(2 * number), Position(2 * number + 1), 1);
            assert!(sent.sent.len() <= ENTRIES_MAX);
        }
        assert_eq!(sent.acknowledge(Position(u64::MAX)), 100_000);
    }
}
