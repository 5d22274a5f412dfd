//! The account of every datagram of the sender: each is in exactly one place.
//!
//! Owns positions and counts only. Always holds: received + recovered = acknowledged + queued + dropped
//! (spool-full, too-old and corrupt).

use std::collections::BTreeMap;

use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::sequence::{Gap, GapReason, Position};
use nf_transport_core::spool::Thinned;

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LedgerCounts {
    pub(crate) received: u64,
    pub(crate) received_bytes: u64,
    /// Datagrams in the spool at the start of the process.
    pub(crate) recovered: u64,
    pub(crate) acknowledged: u64,
    pub(crate) acknowledged_bytes: u64,
    pub(crate) spool_full: u64,
    pub(crate) too_old: u64,
    pub(crate) corrupt: u64,
}

/// The state of each position: acknowledged, queued or dropped.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// Everything below is acknowledged or dropped; `acknowledged <= next`.
    acknowledged: Position,
    /// The position of the next datagram.
    next: Position,
    /// Positions from `acknowledged` to `next` that are not queued, in order. No gap touches another one of
    /// its reason.
    gaps: Vec<Gap>,
    /// Datagrams that were dropped one by one, by segment. While a segment is acknowledged, they count as its
    /// last ones.
    thinned: BTreeMap<Position, SegmentDrops>,
    /// The sum of `thinned`. A segment covered by gaps has none.
    thinned_total: u64,
    counts: LedgerCounts,
}

/// The datagrams that were dropped from the segment that ends at `end`.
#[derive(Clone, Copy, Debug)]
struct SegmentDrops {
    end: Position,
    datagrams: u64,
}

impl Ledger {
    /// Creates a ledger of the positions `acknowledged..next`. Earlier runs dropped those in `gaps`, and
    /// `thinned`.
    pub(crate) fn new(
        acknowledged: Position,
        next: Position,
        gaps: impl Iterator<Item = Gap>,
        thinned: impl Iterator<Item = Thinned>,
    ) -> Self {
        let mut ledger = Self {
            acknowledged,
            next,
            gaps: Vec::new(),
            thinned: BTreeMap::new(),
            thinned_total: 0,
            counts: LedgerCounts::default(),
        };
        for gap in gaps {
            ledger.insert(gap);
        }
        for thinned in thinned {
            ledger.insert_thinned(thinned);
        }
        ledger.counts.recovered = ledger.queued();
        ledger
    }

    /// Counts since the start of the process.
    pub(crate) fn counts(&self) -> LedgerCounts {
        self.counts
    }

    /// The position below which everything is acknowledged or dropped.
    pub(crate) fn acknowledged(&self) -> Position {
        self.acknowledged
    }

    /// The position of the next datagram.
    pub(crate) fn next(&self) -> Position {
        self.next
    }

    /// The number of queued datagrams.
    pub(crate) fn queued(&self) -> u64 {
        let gone: u64 = self.gaps.iter().map(|gap| gap.end.since(gap.first)).sum();
        less(self.next.since(self.acknowledged), gone + self.thinned_total)
    }

    /// Returns the gap at `position`, from there on.
    pub(crate) fn gap_at(&self, position: Position) -> Option<Gap> {
        let index = self.gaps.partition_point(|gap| gap.end <= position);
        let gap = self.gaps.get(index).filter(|gap| gap.first <= position)?;
        Some(Gap { first: position, ..*gap })
    }

    /// Returns the gaps within `from..to`, cut to that range.
    pub(crate) fn gaps_within(&self, from: Position, to: Position) -> impl Iterator<Item = Gap> {
        let cut = move |gap: &Gap| Gap { first: gap.first.max(from), end: gap.end.min(to), ..*gap };
        self.gaps.iter().map(cut).filter(|gap| gap.first < gap.end)
    }

    /// Counts received datagrams and their payload bytes.
    pub(crate) fn receive(&mut self, datagrams: u64, bytes: u64) {
        self.next = self.next.plus(datagrams);
        self.counts.received += datagrams;
        self.counts.received_bytes += bytes;
    }

    /// Adds recovered datagrams of a newer version up to `end`. Returns their number.
    pub(crate) fn take_in(&mut self, end: Position) -> u64 {
        let datagrams = end.since(self.next);
        self.next = self.next.max(end);
        self.counts.recovered += datagrams;
        datagrams
    }

    /// Counts damaged datagrams of a newer version, which have no positions.
    pub(crate) fn lose_taken_in(&mut self, datagrams: u64) {
        self.counts.recovered += datagrams;
        self.counts.corrupt += datagrams;
    }

    /// Drops the queued datagrams in `gap`. Returns their number.
    pub(crate) fn lose(&mut self, gap: Gap) -> u64 {
        let lost = self.insert(gap);
        match gap.reason {
            GapReason::SpoolFull => self.counts.spool_full += lost,
            GapReason::TooOld => self.counts.too_old += lost,
            GapReason::Corrupt => self.counts.corrupt += lost,
            GapReason::Unused => {}
        }
        lost
    }

    /// Counts datagrams that were dropped from a full segment. Returns the number of those that were queued.
    pub(crate) fn lose_thinned(&mut self, thinned: Thinned) -> u64 {
        let lost = self.insert_thinned(thinned);
        self.counts.spool_full += lost;
        lost
    }

    /// Removes the queued datagrams in `gap`, which are kept apart, as if they had never been recovered.
    /// Returns their number.
    pub(crate) fn keep_apart(&mut self, gap: Gap) -> u64 {
        let kept = self.insert(gap);
        self.counts.recovered = less(self.counts.recovered, kept);
        kept
    }

    /// Handles the acknowledgement of everything below `position`. Returns the number of queued datagrams in
    /// it.
    pub(crate) fn acknowledge(&mut self, position: Position, bytes: u64) -> u64 {
        let position = position.min(self.next);
        if position <= self.acknowledged {
            return 0;
        }
        let (before, before_position) = (self.queued(), self.acknowledged);
        self.acknowledged = position;
        self.gaps.retain(|gap| gap.end > position);
        if let Some(gap) = self.gaps.first_mut() {
            gap.first = gap.first.max(position);
        }
        self.bound_thinned(before_position, position);
        let datagrams = less(before, self.queued());
        self.counts.acknowledged += datagrams;
        self.counts.acknowledged_bytes += bytes;
        datagrams
    }

    /// Adds datagrams that were dropped from a segment. Returns the number of those that were queued.
    fn insert_thinned(&mut self, thinned: Thinned) -> u64 {
        let before = self.queued();
        let Thinned { first, end, datagrams } = thinned;
        self.thinned_total += datagrams;
        let (mut begin, mut all) = (first, SegmentDrops { end, datagrams });
        // One file may contain several former segments.
        for (part_first, part) in self.thinned_within(first, end) {
            self.thinned.remove(&part_first);
            begin = begin.min(part_first);
            all = SegmentDrops { end: all.end.max(part.end), datagrams: all.datagrams + part.datagrams };
        }
        self.thinned.insert(begin, all);
        self.bound_thinned(first, end);
        less(before, self.queued())
    }

    /// Returns the thinned segments with positions within `from..to`.
    fn thinned_within(&self, from: Position, to: Position) -> Vec<(Position, SegmentDrops)> {
        let below = self.thinned.range(..to).rev().map(|(first, dropped)| (*first, *dropped));
        below.take_while(|(_, dropped)| dropped.end > from).collect()
    }

    /// Limits the dropped datagrams of segments within `from..to` to those that are neither acknowledged nor
    /// in a gap.
    fn bound_thinned(&mut self, from: Position, to: Position) {
        for (first, dropped) in self.thinned_within(from, to) {
            let begin = first.max(self.acknowledged);
            let gone: u64 = self.gaps_within(begin, dropped.end).map(|gap| gap.end.since(gap.first)).sum();
            let rest = dropped.end.since(begin).saturating_sub(gone);
            let datagrams = dropped.datagrams.min(rest);
            self.thinned_total -= dropped.datagrams - datagrams;
            if datagrams == 0 {
                self.thinned.remove(&first);
            } else {
                self.thinned.insert(first, SegmentDrops { datagrams, ..dropped });
            }
        }
    }

    /// Adds the queued part of `gap`. Returns the number of its positions.
    fn insert(&mut self, gap: Gap) -> u64 {
        let end = gap.end.min(self.next);
        let mut first = gap.first.max(self.acknowledged);
        let before = self.queued();
        while first < end {
            if let Some(covered) = self.gap_at(first) {
                first = covered.end;
                continue;
            }
            let index = self.gaps.partition_point(|other| other.end <= first);
            let stop = self.gaps.get(index).map_or(end, |other| other.first.min(end));
            self.gaps.insert(index, Gap { first, end: stop, ..gap });
            first = stop;
        }
        self.gaps.dedup_by(|later, earlier| {
            let touching = earlier.end == later.first && earlier.reason == later.reason;
            if touching {
                earlier.end = later.end;
            }
            touching
        });
        self.bound_thinned(gap.first, end);
        less(before, self.queued())
    }
}

/// Subtracts `part` from `count`, of which it is a part.
#[track_caller]
fn less(count: u64, part: u64) -> u64 {
    count.checked_sub(part).unwrap_or_else(|| {
        note_internal_error("a part is more than the whole");
        0
    })
}

#[cfg(test)]
mod tests {
    use core::iter::empty;

    use proptest::prelude::*;

    use super::*;

    fn gap(first: u64, end: u64, reason: GapReason) -> Gap {
        Gap { first: Position(first), end: Position(end), reason }
    }

    fn is_balanced(ledger: &Ledger) -> bool {
        let counts = ledger.counts();
        counts.received + counts.recovered
            == counts.acknowledged + ledger.queued() + counts.spool_full + counts.too_old + counts.corrupt
    }

    #[test]
    fn gaps_of_earlier_runs_count_nowhere() {
        let gaps = [gap(10, 20, GapReason::SpoolFull), gap(30, 1000, GapReason::Unused)];
        let mut ledger = Ledger::new(Position(5), Position(1000), gaps.into_iter(), empty());
        assert_eq!(ledger.counts(), LedgerCounts { recovered: 15, ..LedgerCounts::default() });
        assert_eq!(ledger.acknowledge(Position(1000), 0), 15);
        assert!(is_balanced(&ledger));
    }

    #[test]
    fn a_gap_is_returned_from_the_position_on() {
        let mut ledger = Ledger::new(Position(0), Position(100), empty(), empty());
        ledger.lose(gap(10, 20, GapReason::Corrupt));
        assert_eq!(ledger.gap_at(Position(9)), None);
        assert_eq!(ledger.gap_at(Position(15)), Some(gap(15, 20, GapReason::Corrupt)));
        assert_eq!(ledger.gap_at(Position(20)), None);
    }

    #[test]
    fn a_position_lost_twice_counts_once() {
        let mut ledger = Ledger::new(Position(0), Position(100), empty(), empty());
        assert_eq!(ledger.lose(gap(10, 20, GapReason::Corrupt)), 10);
        assert_eq!(ledger.lose(gap(5, 40, GapReason::SpoolFull)), 25);
        assert_eq!(ledger.lose(gap(0, 100, GapReason::TooOld)), 65);
        assert_eq!(ledger.queued(), 0);
        assert!(is_balanced(&ledger));
    }

    fn thinned(first: u64, end: u64, datagrams: u64) -> Thinned {
        Thinned { first: Position(first), end: Position(end), datagrams }
    }

    #[test]
    fn datagrams_dropped_one_by_one_count_once() {
        let earlier = [thinned(0, 50, 20)];
        let mut ledger = Ledger::new(Position(0), Position(100), empty(), earlier.into_iter());
        assert_eq!((ledger.counts().recovered, ledger.queued()), (80, 80));
        assert_eq!(ledger.lose_thinned(thinned(50, 100, 40)), 40);
        assert_eq!(ledger.lose_thinned(thinned(0, 50, 10)), 10);
        assert_eq!(ledger.lose(gap(50, 100, GapReason::SpoolFull)), 10, "the rest of a thinned segment");
        assert_eq!(ledger.acknowledge(Position(25), 0) + ledger.acknowledge(Position(100), 0), 20);
        assert_eq!((ledger.counts().spool_full, ledger.queued()), (60, 0));
        assert!(is_balanced(&ledger));
    }

    proptest! {
        #[test]
        fn thinned_segments_keep_the_account_balanced(
            steps in proptest::collection::vec((0_u8..4, 0_u64..10, 1_u64..4, 0_u64..15), 1..60),
        ) {
            let mut ledger = Ledger::new(Position(0), Position(100), empty(), empty());
            for (step, segment, segments, count) in steps {
                let (first, end) = (segment * 10, (segment + segments).min(10) * 10);
                match step {
                    0 => drop(ledger.lose_thinned(thinned(first, first + 10, count))),
                    1 => drop(ledger.lose_thinned(thinned(first, end, count))),
                    2 => drop(ledger.lose(gap(first + count, end, GapReason::Corrupt))),
                    _ => drop(ledger.acknowledge(Position(first + count), 0)),
                }
                prop_assert!(is_balanced(&ledger));
            }
            ledger.acknowledge(Position(100), 0);
            prop_assert_eq!(ledger.queued(), 0);
            prop_assert_eq!(ledger.thinned_total, 0);
        }
    }

    #[test]
    fn datagrams_kept_apart_were_not_recovered() {
        let mut ledger = Ledger::new(Position(0), Position(100), empty(), empty());
        assert_eq!(ledger.keep_apart(gap(10, 20, GapReason::Unused)), 10);
        assert_eq!((ledger.counts().recovered, ledger.queued()), (90, 90));
        assert!(is_balanced(&ledger));
    }

    proptest! {
        #[test]
        fn every_datagram_is_in_exactly_one_place(
            steps in proptest::collection::vec((0_u8..3, 0_u64..300, 1_u64..50, 1_u8..4), 1..60),
        ) {
            let mut ledger = Ledger::new(Position(0), Position(20), empty(), empty());
            // A plain model of each position: queued, acknowledged or lost.
            let mut held: Vec<bool> = vec![true; 20];
            for (step, at, length, reason) in steps {
                let range = |held: &Vec<bool>| {
                    let clip = |position: u64| usize::try_from(position).unwrap().min(held.len());
                    clip(at)..clip(at + length)
                };
                match step {
                    0 => {
                        ledger.receive(length, length * 10);
                        held.resize(held.len() + usize::try_from(length).unwrap(), true);
                    }
                    1 => {
                        let range = range(&held);
                        let lost = held[range.clone()].iter().filter(|held| **held).count();
                        held[range].fill(false);
                        let reason = GapReason::from_code(reason).unwrap();
                        let lost = u64::try_from(lost).unwrap();
                        prop_assert_eq!(ledger.lose(gap(at, at + length, reason)), lost);
                    }
                    _ => {
                        let end = range(&held).start;
                        let got = held[..end].iter().filter(|held| **held).count();
                        held[..end].fill(false);
                        prop_assert_eq!(ledger.acknowledge(Position(at), 0), u64::try_from(got).unwrap());
                    }
                }
                let queued = held.iter().filter(|held| **held).count();
                prop_assert_eq!(ledger.queued(), u64::try_from(queued).unwrap());
                prop_assert!(is_balanced(&ledger));
            }
        }
    }
}
