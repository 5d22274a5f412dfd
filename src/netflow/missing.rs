//! How much of what an exporter counted never came.

use crate::netflow::Sequence;

/// A number that lies back by at most this much belongs to a datagram that was overtaken on the way: 64 full
/// datagrams of NetFlow v5.
const LATE_MAX: u32 = 64 * 30;

/// A number that is ahead by more than this, past the wrap at 2^32, is no gap but a new count.
const AHEAD_OVER_WRAP_MAX: u32 = 1 << 24;

/// A number that is ahead by more than this is no gap but a new count.
const AHEAD_MAX: u32 = 1 << 31;

/// Follows the sequence numbers of one exporter.
///
/// An exporter that starts again counts from anew, and from 0 as a rule: a number that lies far back says so,
/// and nothing counts as missing. A datagram that arrives twice counts as a late one. After one that adds
/// nobody knows how much, nothing counts as missing before the next: the count goes on from there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Missing {
    /// The number that the next datagram bears if none is lost; `None` if that is not known.
    next: Option<u32>,
    missing: u64,
}

impl Missing {
    /// Takes note of a datagram that came.
    pub fn note(&mut self, sequence: Sequence) {
        let after = sequence.adds.map(|adds| sequence.number.wrapping_add(adds));
        let Some(next) = self.next else {
            self.next = after;
            return;
        };
        let ahead = sequence.number.wrapping_sub(next);
        let behind = next.wrapping_sub(sequence.number);
        if (1..=LATE_MAX).contains(&behind) {
            self.missing = self.missing.saturating_sub(u64::from(sequence.adds.unwrap_or_default()));
            return;
        }
        let ahead_max = if sequence.number < next { AHEAD_OVER_WRAP_MAX } else { AHEAD_MAX };
        if ahead <= ahead_max {
            self.missing = self.missing.saturating_add(u64::from(ahead));
        }
        self.next = after;
    }

    /// How much is missing so far, in the unit that the exporter counts: v5: flows; v9: datagrams; IPFIX:
    /// data records.
    pub fn count(&self) -> u64 {
        self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing_after(numbers: impl IntoIterator<Item = u32>, adds: u32) -> u64 {
        let mut missing = Missing::default();
        numbers.into_iter().for_each(|number| missing.note(Sequence { number, adds: Some(adds) }));
        missing.count()
    }

    #[test]
    fn nothing_is_missing_from_a_whole_run() {
        assert_eq!(missing_after(100..200, 1), 0);
        assert_eq!(missing_after((0..3000).step_by(30), 30), 0);
    }

    #[test]
    fn a_gap_counts_in_the_unit_of_the_exporter() {
        assert_eq!(missing_after([7, 8, 12, 13], 1), 3);
        assert_eq!(missing_after([0, 30, 90, 120], 30), 30);
    }

    #[test]
    fn numbers_wrap_without_a_gap_and_with_one() {
        assert_eq!(missing_after([u32::MAX - 1, u32::MAX, 0, 1], 1), 0);
        assert_eq!(missing_after([u32::MAX - 1, 2, 3], 1), 3);
    }

    #[test]
    fn what_was_overtaken_is_not_missing() {
        assert_eq!(missing_after([1, 2, 4, 3, 5], 1), 0);
        assert_eq!(missing_after([0, 60, 30, 90], 30), 0);
        assert_eq!(missing_after([u32::MAX - 1, 0, u32::MAX, 1], 1), 0);
    }

    #[test]
    fn an_exporter_that_starts_again_misses_nothing() {
        assert_eq!(missing_after([500_000, 500_001, 0, 1, 2], 1), 0);
        assert_eq!(missing_after([3_000_000_000, 0, 1], 1), 0);
    }

    #[test]
    fn after_an_unknown_amount_the_count_goes_on_where_the_exporter_is() {
        let mut missing = Missing::default();
        let mut note = |number, adds| {
            missing.note(Sequence { number, adds });
            missing.count()
        };
        assert_eq!(note(100, None), 0);
        assert_eq!(note(130, Some(10)), 0);
        assert_eq!(note(145, None), 5, "what is missing before it is known");
        assert_eq!(note(1_000, None), 5);
        assert_eq!(note(2_000, Some(1)), 5);
        assert_eq!(note(2_003, Some(1)), 7);
        assert_eq!(note(2_001, None), 7, "how much came late is not known");
        assert_eq!(note(2_004, Some(1)), 7);
    }

    #[test]
    fn a_gap_before_a_restart_stays_counted() {
        assert_eq!(missing_after([500_000, 500_003, 0, 1, 4], 1), 4);
    }
}
