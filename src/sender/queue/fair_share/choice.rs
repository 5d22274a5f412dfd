//! Chooses the segment that makes room, and the bytes that each exporter loses in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nf_transport_core::sequence::Position;
use nf_transport_core::spool::Candidate;

use super::sieve::Budgets;
use crate::sender::queue::holdings::{Holdings, level};

/// A segment is thinned if an eighth of it may go. The lowest level frees an eighth of all known holdings, so
/// there is such a segment at that level.
pub(super) const PARTS: u64 = 8;

/// The number of levels that are tried, from the highest to the lowest.
const LEVELS: u64 = 32;

/// Exporters are cut down to a quarter below the level.
const ALIKE_PARTS: u64 = 4;

/// The time for which a segment that could not be read or rewritten is exempt.
const EXEMPT_FOR: Duration = Duration::from_secs(60);

/// Segments that are not read or thinned.
#[derive(Debug, Default)]
pub(super) struct ExemptSegments {
    /// Segments that are not readable or of which too little could be dropped, and the time of the retry.
    /// Damaged ones have none.
    until: BTreeMap<Position, Option<Instant>>,
    /// Segments that a newer version wrote.
    newer: BTreeSet<Position>,
}

impl ExemptSegments {
    /// Exempts the segment that starts at `first` for a while.
    pub(super) fn add(&mut self, first: Position, now: Instant) {
        self.until.insert(first, Some(now + EXEMPT_FOR));
    }

    /// Exempts the segment that starts at `first` until it changes.
    pub(super) fn add_for_good(&mut self, first: Position) {
        self.until.insert(first, None);
    }

    /// Notes that a newer version wrote the segment that starts at `first`.
    pub(super) fn add_newer(&mut self, first: Position) {
        self.newer.insert(first);
    }

    /// Ends the exemption of a segment that has changed.
    pub(super) fn remove(&mut self, first: Position) {
        self.until.remove(&first);
    }

    /// Ends the exemptions that have expired at `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        self.until.retain(|_, until| until.is_none_or(|until| until > now));
    }

    /// Forgets the segments below `position`.
    pub(super) fn forget_below(&mut self, position: Position) {
        self.until = self.until.split_off(&position);
        self.newer = self.newer.split_off(&position);
    }

    pub(super) fn contains(&self, first: Position) -> bool {
        self.until.contains_key(&first) || self.newer.contains(&first)
    }
}

/// A segment that makes room.
#[derive(Debug)]
pub(super) struct SegmentChoice {
    pub(super) segment: Candidate,
    /// The bytes that each exporter may lose; `None` if all of the segment goes.
    pub(super) budgets: Option<Budgets>,
}

/// Returns the oldest segment that makes room, at the highest level at which there is one.
pub(super) fn choose(
    holdings: &Holdings,
    exempt: &ExemptSegments,
    candidates: &[Candidate],
) -> Option<SegmentChoice> {
    // The spool moves data of newer versions aside, which makes room as well.
    if candidates.first().is_some_and(|oldest| exempt.newer.contains(&oldest.first)) {
        return None;
    }
    let of_candidates: u64 = candidates.iter().map(|segment| segment.size).sum();
    let held = holdings.largest_first();
    if held.iter().sum::<u64>() < of_candidates / 2 {
        // After a start the largest holders are not known before half of the spool is.
        return None;
    }
    // Nothing newer goes before the content of an older segment is known.
    let is_known =
        |segment: &&Candidate| holdings.of_segment(segment.first).is_some() || exempt.contains(segment.first);
    let find_at = |level: u64| {
        let mut known = candidates.iter().take_while(is_known);
        known.find(|segment| makes_room(holdings, exempt, **segment, level))
    };
    let step = lowest(&held).div_ceil(LEVELS);
    let most = step.saturating_mul(LEVELS);
    // An eighth of the largest segment, or small segments would go before older ones.
    let least = candidates.iter().map(|segment| segment.size / PARTS).max().unwrap_or(0).min(most);
    let level_of = |number: u64| level(&held, step.saturating_mul(number).max(least));
    let (mut low, mut high) = (0, LEVELS);
    find_at(level_of(high))?;
    while high - low > 1 {
        let middle = u64::midpoint(low, high);
        if find_at(level_of(middle)).is_some() { high = middle } else { low = middle }
    }
    let segment = *find_at(level_of(high))?;
    let level = lowered(level_of(high));
    let shares = holdings.of_segment(segment.first)?;
    let all_go = shares.iter().all(|(exporter, held)| held.bytes <= holdings.budget(exporter, level));
    let budgets =
        || shares.iter().map(|(exporter, _)| (exporter, holdings.budget(exporter, level))).collect();
    Some(SegmentChoice { segment, budgets: (!all_go).then(budgets) })
}

/// Returns `true` if an eighth of `segment` may go at `level`.
fn makes_room(holdings: &Holdings, exempt: &ExemptSegments, segment: Candidate, level: u64) -> bool {
    let Some(shares) = holdings.of_segment(segment.first) else { return false };
    let is_much = holdings.droppable(shares, level) >= segment.size / PARTS;
    is_much && !exempt.until.contains_key(&segment.first)
}

/// Lowers a level, so that exporters that hold nearly as much lose alike. Otherwise many would be cut down a
/// little repeatedly.
fn lowered(level: u64) -> u64 {
    level - level / ALIKE_PARTS
}

/// Returns the lowest level to which [`choose`] cuts exporters down, given the total of each.
pub(super) fn lowest_level(held: &[u64]) -> u64 {
    lowered(level(held, lowest(held).div_ceil(LEVELS).saturating_mul(LEVELS)))
}

/// Returns the bytes that may go at the lowest level, given the total of each exporter.
pub(super) fn lowest(held: &[u64]) -> u64 {
    held.iter().sum::<u64>() / PARTS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sender::queue::holdings::{Holding, Shares};

    const SEGMENTS: u64 = 8;

    /// Exporters that hold the same in each of the segments, and the segments.
    fn spool(held: &[u64]) -> (Holdings, Vec<Candidate>) {
        let mut holdings = Holdings::default();
        let mut candidates = Vec::new();
        for segment in 0..SEGMENTS {
            let mut shares = Shares::default();
            for (number, bytes) in (0..).zip(held) {
                let number: u8 = number;
                shares.add([192, 0, 2, number].into(), Holding { datagrams: 1, bytes: *bytes });
            }
            holdings.set(Position(segment), shares);
            let (first, end) = (Position(segment), Position(segment + 1));
            candidates.push(Candidate { first, end, size: held.iter().sum() });
        }
        (holdings, candidates)
    }

    #[test]
    fn no_segment_goes_before_an_older_unknown_one() {
        let (mut holdings, candidates) = spool(&[5000, 5000]);
        let choose_now = |holdings: &Holdings| choose(holdings, &ExemptSegments::default(), &candidates);
        assert_eq!(choose_now(&holdings).unwrap().segment.first, Position(0));
        holdings.remove(Position(0));
        assert!(choose_now(&holdings).is_none());
    }

    #[test]
    fn of_alike_segments_the_oldest_goes() {
        let (mut holdings, mut candidates) = spool(&[5000, 5000]);
        // A little more than the others.
        let mut shares = Shares::default();
        for number in [0, 1] {
            shares.add([192, 0, 2, number].into(), Holding { datagrams: 1, bytes: 5500 });
        }
        holdings.set(Position(0), shares);
        candidates[0].size = 11_000;
        let choice = choose(&holdings, &ExemptSegments::default(), &candidates);
        assert_eq!(choice.unwrap().segment.first, Position(0));
    }

    #[test]
    fn a_small_rest_of_one_exporter_goes_before_newer_data() {
        let (mut holdings, mut candidates) = spool(&[5000, 5000, 5000]);
        // A thinning left one datagram.
        let mut rest = Shares::default();
        rest.add([192, 0, 2, 0].into(), Holding { datagrams: 1, bytes: 100 });
        holdings.set(Position(0), rest);
        candidates[0].size = 164;
        let choice = choose(&holdings, &ExemptSegments::default(), &candidates);
        assert_eq!(choice.unwrap().segment.first, Position(0));
    }

    proptest! {
        #[test]
        fn each_loser_still_loses_at_the_lowest_level(
            held in proptest::collection::vec(1000_u64..100_000, 1..30),
        ) {
            let (holdings, candidates) = spool(&held);
            let choice = choose(&holdings, &ExemptSegments::default(), &candidates);
            let lowest = lowest_level(&holdings.largest_first());
            for (exporter, budget) in choice.and_then(|choice| choice.budgets).into_iter().flatten() {
                let is_fair = budget == 0 || holdings.budget(exporter, lowest) > 0;
                prop_assert!(is_fair, "{exporter} may lose {budget}, but nothing at the lowest level");
            }
        }
    }
}
