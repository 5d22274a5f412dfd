//! The numbering with which a run starts.

use nf_transport_core::limits::POSITIONS_PER_RUN;
use nf_transport_core::sequence::{Gap, GapReason, Position, RunId};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{self, LastRun};

use crate::sender::journal::{PreviousRun, RingEntry};

/// The positions with which a run starts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Numbering {
    pub(super) acknowledged: Position,
    pub(super) next: Position,
    /// Positions from `acknowledged` to `next` that neither spool nor ring has.
    pub(super) gaps: Vec<Gap>,
}

impl Numbering {
    /// Derives the positions from the spool, the entries of the ring and the record of the last run.
    pub(super) fn derive(
        acknowledged: Option<Position>,
        spool: Option<(Position, Position)>,
        entries: &[RingEntry],
        trusted_next: Option<Position>,
        last_run: Option<LastRun>,
        newer: Option<Position>,
    ) -> Self {
        let mut runs: Vec<(Position, Position)> = Vec::from_iter(spool);
        runs.extend(entries.iter().map(|entry| (entry.batch.first(), entry.batch.end())));
        let known_end = runs.last().map_or(Position(0), |(_, end)| *end);
        let next = match (trusted_next, last_run) {
            (Some(next), _) | (None, Some(LastRun::Orderly { next, .. })) => next.max(known_end),
            (None, Some(LastRun::CutShort { start })) => start.max(known_end).plus(POSITIONS_PER_RUN),
            (None, None) => known_end,
        };
        let first = runs.first().map_or(next, |(first, _)| *first);
        let acknowledged = acknowledged.unwrap_or(first).min(next);
        // Positions below the start of a run were skipped by an earlier start.
        let leap_to = match (trusted_next, last_run) {
            (Some(_), Some(LastRun::CutShort { start })) => start,
            (None, Some(LastRun::CutShort { .. })) => next,
            _ => Position(0),
        };
        let mut gaps = Vec::new();
        let mut at = acknowledged;
        runs.push((next, next));
        for (first, end) in runs {
            // Data of a newer version at the end is kept apart, and its positions are not used any more.
            let leap_to = if newer.is_some_and(|newer| newer <= at) { first } else { leap_to };
            let leapt = leap_to.max(at).min(first);
            gaps.push(Gap { first: at, end: leapt, reason: GapReason::Unused });
            gaps.push(Gap { first: leapt, end: first, reason: GapReason::Corrupt });
            at = at.max(end);
        }
        gaps.retain(|gap| gap.first < gap.end);
        Self { acknowledged, next, gaps }
    }
}

/// Returns `true` if the journal is that of the last run. A journal of an earlier run is found if a later run
/// had its own elsewhere or in memory. It knows no more than the `stream` file.
pub(super) fn is_current(previous: &PreviousRun, opened: &spool::Opened<Directory>) -> bool {
    let known = match opened.last_run {
        Some(LastRun::CutShort { start }) => start,
        Some(LastRun::Orderly { next, .. }) => next,
        None => return false,
    };
    let last = opened.spool.lineage().run();
    let is_of_last = [previous.run, last].contains(&RunId::NONE) || previous.run == last;
    previous.next > known || (is_of_last && previous.next == known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(position: u64) -> Position {
        Position(position)
    }

    fn gap(first: u64, end: u64, reason: GapReason) -> Gap {
        Gap { first: at(first), end: at(end), reason }
    }

    const KILLED: Option<LastRun> = Some(LastRun::CutShort { start: at(50) });

    #[test]
    fn a_first_run_starts_at_zero() {
        let numbering = Numbering::derive(None, None, &[], None, None, None);
        assert_eq!(numbering, Numbering { acknowledged: at(0), next: at(0), gaps: vec![] });
    }

    #[test]
    fn after_a_kill_the_journal_has_the_numbers() {
        let numbering =
            Numbering::derive(Some(at(70)), Some((at(60), at(90))), &[], Some(at(90)), KILLED, None);
        assert_eq!(numbering, Numbering { acknowledged: at(70), next: at(90), gaps: vec![] });
    }

    #[test]
    fn missing_numbered_datagrams_are_corrupt() {
        let numbering =
            Numbering::derive(Some(at(70)), Some((at(75), at(90))), &[], Some(at(99)), KILLED, None);
        let gaps = vec![gap(70, 75, GapReason::Corrupt), gap(90, 99, GapReason::Corrupt)];
        assert_eq!(numbering, Numbering { acknowledged: at(70), next: at(99), gaps });
    }

    #[test]
    fn after_a_power_loss_the_numbering_skips_ahead() {
        let numbering = Numbering::derive(None, Some((at(60), at(90))), &[], None, KILLED, None);
        let next = 90 + POSITIONS_PER_RUN;
        let gaps = vec![gap(90, next, GapReason::Unused)];
        assert_eq!(numbering, Numbering { acknowledged: at(60), next: at(next), gaps });
        let nothing_held = Numbering::derive(None, None, &[], None, KILLED, None);
        let next = at(50 + POSITIONS_PER_RUN);
        assert_eq!(nothing_held, Numbering { acknowledged: next, next, gaps: vec![] });
    }

    #[test]
    fn skipped_positions_stay_unused_after_a_kill() {
        let last_run = Some(LastRun::CutShort { start: at(1000) });
        let numbering =
            Numbering::derive(Some(at(60)), Some((at(60), at(90))), &[], Some(at(1010)), last_run, None);
        let gaps = vec![gap(90, 1000, GapReason::Unused), gap(1000, 1010, GapReason::Corrupt)];
        assert_eq!(numbering, Numbering { acknowledged: at(60), next: at(1010), gaps });
    }

    #[test]
    fn an_orderly_stop_leaves_exact_numbers() {
        let last_run = Some(LastRun::Orderly { acknowledged: at(70), next: at(90) });
        let numbering = Numbering::derive(Some(at(70)), None, &[], None, last_run, None);
        let gaps = vec![gap(70, 90, GapReason::Corrupt)];
        assert_eq!(numbering, Numbering { acknowledged: at(70), next: at(90), gaps });
    }

    #[test]
    fn data_of_a_newer_version_is_not_lost() {
        let last_run = Some(LastRun::Orderly { acknowledged: at(40), next: at(90) });
        let numbering =
            Numbering::derive(Some(at(40)), Some((at(50), at(70))), &[], None, last_run, Some(at(70)));
        let gaps = vec![gap(40, 50, GapReason::Corrupt), gap(70, 90, GapReason::Unused)];
        assert_eq!(numbering, Numbering { acknowledged: at(40), next: at(90), gaps });
    }
}
