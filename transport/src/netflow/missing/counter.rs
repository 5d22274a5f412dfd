//! Follows the numbers of one exporter by one way of counting.
//!
//! A number that does not continue a run of numbers begins another run. So a restart needs no special case:
//! the old run falls silent. Two counters behind one address and port need none either: both runs continue. A
//! run counts once some of its numbers are consecutive. A stray number changes nothing.
//!
//! | a number | is |
//! |---|---|
//! | after a short gap | after a loss, at once |
//! | after a long gap | after a loss if the next numbers continue it, the old run does not continue, and the amount could be sent in the elapsed time; else of another run |
//! | in a gap | late |
//! | before the first one | late if the next numbers are in any order, a restart if they are consecutive |
//! | seen before, with other contents | of another run |

use crate::limits::{EXPORTER_RATE_MAX, JUMP_RATE_FACTOR_MAX, SEQUENCE_RUNS, SEQUENCE_WINDOW};
use crate::netflow::missing::holes::NumberRange;
use crate::netflow::missing::track::{Confirmation, Jump, Relation, Seen, Track};
use crate::netflow::missing::way::DatagramRange;

/// Numbers that have to follow the first one of a run before it counts.
const CONFIRMED_AFTER: u8 = 2;

/// Numbers that have to follow the first one if all datagrams of the run may be late.
const LATE_CONFIRMED_AFTER: u8 = 5;

/// A run may jump over a gap of at most this many units if another run has seen the number.
const GAP_NEXT_TO_ANOTHER: u64 = 64;

/// The fit of a number to those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is adjacent to a number that was seen.
    Yes,
    /// It is after a gap.
    No,
    /// It belongs to no known run.
    Stray,
    /// It is adjacent to none, and before others that were seen.
    Reordered,
    /// No number was expected.
    Unknown,
}

/// The runs of numbers of one exporter.
#[derive(Clone, Debug, Default)]
pub(super) struct SequenceCounter {
    /// At most [`SEQUENCE_RUNS`], from the one seen last to the one silent longest.
    tracks: Vec<Track>,
    /// Missing units of runs that are no longer followed.
    settled: u64,
    returns: u32,
    datagrams: usize,
    next_id: u32,
}

impl SequenceCounter {
    /// Follows a datagram at `place`. At most `most` holes of each run stay open.
    pub(super) fn follow(&mut self, place: DatagramRange, seen: Seen, most: usize) -> Fit {
        self.datagrams = self.datagrams.wrapping_add(1);
        if let [track] = self.tracks.as_mut_slice()
            && let Some(start) = place.start
            && track.next() == Some(start)
        {
            track.touch(self.datagrams);
            track.go_on(0, place.end, seen, most);
            return Fit::Yes;
        }
        self.retire_silent();
        match (place.start, place.end) {
            (Some(start), end) => self.follow_start(start, end, seen, most),
            (None, end) => self.go_on_to(end, seen),
        }
    }

    /// True if nothing was seen.
    pub(super) fn is_empty(&self) -> bool {
        self.tracks.is_empty()
    }

    /// Units that are missing.
    pub(super) fn missing(&self) -> u64 {
        self.tracks
            .iter()
            .filter(|track| track.is_confirmed())
            .map(missing_of)
            .fold(self.settled, u64::saturating_add)
    }

    /// Number of times that a run continued after another one had been seen, at most one for each run.
    pub(super) fn returns(&self) -> u32 {
        self.returns
    }

    /// True if there is one run, and `start` is its next number.
    pub(super) fn is_next(&self, start: u32) -> bool {
        self.tracks.len() == 1 && self.expects(start)
    }

    /// True if `start` is the next number of a run.
    pub(super) fn expects(&self, start: u32) -> bool {
        self.tracks.iter().any(|track| track.next() == Some(start))
    }

    /// True if `number` is close to the numbers of a run.
    pub(super) fn is_near(&self, number: u32, seen: Seen) -> bool {
        self.tracks.iter().any(|track| track.is_near(number, seen))
    }

    /// Bytes of runs, without their holes.
    pub(super) fn bytes(&self) -> usize {
        self.tracks.len() * size_of::<Track>()
    }

    /// Bytes of holes.
    pub(super) fn hole_bytes(&self) -> usize {
        self.tracks.iter().map(Track::hole_bytes).sum()
    }

    /// Moves all runs by `offset`.
    pub(super) fn shift(&mut self, offset: u32) {
        self.tracks.iter_mut().for_each(|track| track.shift(offset));
    }

    /// Closes all holes, so that late datagrams stay missing.
    pub(super) fn close_holes(&mut self) {
        self.tracks.iter_mut().for_each(Track::close_holes);
    }

    fn follow_start(&mut self, start: u32, end: Option<u32>, seen: Seen, most: usize) -> Fit {
        match self.choose(start, end, seen) {
            None => self.begin(start, end, seen),
            Some((index, Relation::Early(_))) => self.note_early(index, start, end, seen, most),
            Some((index, relation)) => self.apply(index, relation, start, end, seen, most),
        }
    }

    /// The run to which a datagram belongs, and its position there.
    fn choose(&self, start: u32, end: Option<u32>, seen: Seen) -> Option<(usize, Relation)> {
        let relations = || self.tracks.iter().map(|track| track.relation(start, end));
        let is_seen = || {
            let mut pairs = self.tracks.iter().zip(relations());
            pairs.any(|(track, relation)| track.is_confirmed() && relation == Relation::Seen)
        };
        let ranked =
            self.tracks.iter().zip(relations()).enumerate().filter_map(|(index, (track, relation))| {
                let tentative = u8::from(!track.is_confirmed());
                let plausible = |by: u32| {
                    let gap = u64::from(by);
                    gap <= track.plausible_jump(seen) && (gap <= GAP_NEXT_TO_ANOTHER || !is_seen())
                };
                let rank = match relation {
                    Relation::Next => (tentative, 0),
                    Relation::Late | Relation::Neutral => (2 + tentative, 0),
                    Relation::AfterUnknown(by) if plausible(by) => (4, by),
                    Relation::Ahead(by) if plausible(by) => (5, by),
                    Relation::Early(by) => (5, by),
                    _ => return None,
                };
                Some((rank, index, relation))
            });
        ranked.min_by_key(|(rank, index, _)| (*rank, *index)).map(|(_, index, relation)| (index, relation))
    }

    fn apply(
        &mut self,
        index: usize,
        relation: Relation,
        start: u32,
        end: Option<u32>,
        seen: Seen,
        most: usize,
    ) -> Fit {
        let datagrams = self.datagrams;
        let is_return = index > 0 && self.tracks.first().is_some_and(Track::is_confirmed);
        let Some(track) = self.tracks.get_mut(index) else { return Fit::Unknown };
        track.touch(datagrams);
        let fit = match relation {
            Relation::Next => {
                track.go_on(0, end, seen, most);
                Fit::Yes
            }
            Relation::Ahead(gap) => {
                track.go_on(gap, end, seen, most);
                Fit::No
            }
            Relation::AfterUnknown(_) => {
                track.go_on_at(start, end, seen);
                Fit::Unknown
            }
            Relation::Late => {
                let ends = end.map_or(0, |end| track.fill(NumberRange { start, end }, seen, most));
                if ends > 0 { Fit::Yes } else { Fit::Reordered }
            }
            _ if end.is_none() => Fit::Unknown,
            _ => Fit::Reordered,
        };
        if is_return && fit == Fit::Yes && track.is_confirmed() && !track.has_returned {
            track.has_returned = true;
            self.returns += 1;
        }
        self.bring_to_front(index);
        match relation {
            Relation::Next => {
                self.confirm(seen);
                self.note_progress(most);
            }
            Relation::Ahead(_) | Relation::AfterUnknown(_) => self.note_progress(most),
            _ => {}
        }
        fit
    }

    /// Handles a datagram from before the first one of the run at `index`.
    fn note_early(&mut self, index: usize, start: u32, end: Option<u32>, seen: Seen, most: usize) -> Fit {
        let Some(track) = self.tracks.get(index) else { return Fit::Unknown };
        let (id, is_confirmed) = (track.id, track.is_confirmed());
        let earlier = self.tracks.iter().position(|earlier| earlier.may_precede == Some(id));
        if is_confirmed && earlier.is_none() {
            let fit = self.begin(start, end, seen);
            if let Some(track) = self.tracks.first_mut() {
                (track.may_precede, track.jump) = (Some(id), None);
            }
            return fit;
        }
        // It does not follow the previous one: they were reordered.
        self.absorb_earlier(id, most);
        match self.choose(start, end, seen) {
            Some((index, Relation::Early(_))) => {
                let datagrams = self.datagrams;
                let earlier = Track::new(id, Confirmation::Confirmed, start, end, seen);
                let Some(track) = self.tracks.get_mut(index) else { return Fit::Unknown };
                track.touch(datagrams);
                let is_next = earlier.is_followed_by(track);
                track.prepend(&earlier, most);
                if is_next { Fit::Yes } else { Fit::Reordered }
            }
            Some((index, relation)) => self.apply(index, relation, start, end, seen, most),
            None => self.begin(start, end, seen),
        }
    }

    /// Begins a run.
    fn begin(&mut self, start: u32, end: Option<u32>, seen: Seen) -> Fit {
        let (standing, fit) = if self.tracks.is_empty() {
            (Confirmation::Confirmed, Fit::Unknown)
        } else {
            (Confirmation::Tentative(0), Fit::Stray)
        };
        let from = self.tracks.iter().filter(|track| track.is_confirmed()).find_map(|track| {
            match track.relation(start, end) {
                Relation::Ahead(length) => Some(Jump { from: track.id, length }),
                _ => None,
            }
        });
        let mut track = Track::new(self.next_id, standing, start, end, seen);
        track.jump = from;
        track.touch(self.datagrams);
        self.next_id = self.next_id.wrapping_add(1);
        self.make_room();
        self.tracks.insert(0, track);
        fit
    }

    /// Continues with a datagram of which only the end of the range is known.
    fn go_on_to(&mut self, end: Option<u32>, seen: Seen) -> Fit {
        let Some(end) = end else { return Fit::Unknown };
        if self.tracks.is_empty() {
            return self.begin(end, Some(end), seen);
        }
        let datagrams = self.datagrams;
        let ahead = self.tracks.iter_mut().find(|track| match track.relation(end, Some(end)) {
            Relation::Next => true,
            Relation::Ahead(by) | Relation::AfterUnknown(by) => u64::from(by) <= track.plausible_jump(seen),
            _ => false,
        });
        if let Some(track) = ahead {
            track.touch(datagrams);
            track.go_on_to(end, seen);
        }
        Fit::Unknown
    }

    fn bring_to_front(&mut self, index: usize) {
        if let Some(tracks) = self.tracks.get_mut(..=index) {
            tracks.rotate_right(1);
        }
    }

    /// Counts a consecutive number of the run seen last, if that is not confirmed yet.
    fn confirm(&mut self, seen: Seen) {
        let Some(track) = self.tracks.first() else { return };
        let Confirmation::Tentative(followed) = track.standing else { return };
        let enough = if track.may_precede.is_some() { LATE_CONFIRMED_AFTER } else { CONFIRMED_AFTER };
        let is_confirmed = followed + 1 >= enough;
        let jump = track.jump.filter(|jump| self.is_possible(*jump, seen));
        let Some(track) = self.tracks.first_mut() else { return };
        if is_confirmed {
            (track.standing, track.jump, track.may_precede) = (Confirmation::Confirmed, jump, None);
        } else {
            track.standing = Confirmation::Tentative(followed + 1);
        }
    }

    /// True if a loss of this length is possible.
    fn is_possible(&self, jump: Jump, seen: Seen) -> bool {
        let from = self.tracks.iter().find(|track| track.id == jump.from);
        from.is_some_and(|from| {
            u64::from(jump.length) <= from.possible_jump(seen, JUMP_RATE_FACTOR_MAX, EXPORTER_RATE_MAX)
        })
    }

    /// Applies the progress of the run seen last. Jumps from it were no losses, and adjacent runs are part
    /// of it.
    fn note_progress(&mut self, most: usize) {
        let Some(track) = self.tracks.first() else { return };
        let id = track.id;
        if self.tracks.len() == 1 || !track.is_confirmed() {
            return;
        }
        for other in self.tracks.iter_mut().filter(|other| other.jump.is_some_and(|jump| jump.from == id)) {
            other.jump = None;
        }
        self.absorb_earlier(id, most);
        self.absorb_following(most);
    }

    /// Prepends the run that may be the beginning of the run `id`.
    fn absorb_earlier(&mut self, id: u32, most: usize) {
        let Some(place) = self.tracks.iter().position(|earlier| earlier.may_precede == Some(id)) else {
            return;
        };
        let earlier = self.tracks.remove(place);
        if let Some(track) = self.tracks.iter_mut().find(|track| track.id == id && earlier.is_before(track)) {
            track.prepend(&earlier, most);
        }
    }

    /// Adds the tentative run that begins where the one seen last ends.
    fn absorb_following(&mut self, most: usize) {
        let Some((track, others)) = self.tracks.split_first_mut() else { return };
        let follows = |other: &Track| !other.is_confirmed() && track.is_followed_by(other);
        if let Some(place) = others.iter().position(follows) {
            let later = self.tracks.remove(place + 1);
            if let Some(track) = self.tracks.first_mut() {
                track.append(&later, most);
            }
        }
    }

    /// Retires a run that is silent while others continue.
    fn retire_silent(&mut self) {
        let silent = |track: &Track| self.datagrams.wrapping_sub(track.touched) > 2 * SEQUENCE_WINDOW;
        if self.tracks.len() > 1 && self.tracks.last().is_some_and(silent) {
            let last = self.tracks.len() - 1;
            self.retire(last);
        }
    }

    /// Makes room for a run. Tentative runs are retired first.
    fn make_room(&mut self) {
        if self.tracks.len() >= SEQUENCE_RUNS {
            let last = self.tracks.len() - 1;
            self.retire(self.tracks.iter().rposition(|track| !track.is_confirmed()).unwrap_or(last));
        }
    }

    fn retire(&mut self, index: usize) {
        let track = self.tracks.remove(index);
        if track.is_confirmed() {
            self.settled = self.settled.saturating_add(missing_of(&track));
        }
    }
}

/// Missing units in a run and before it.
fn missing_of(track: &Track) -> u64 {
    track.missing().saturating_add(track.jump.map_or(0, |jump| u64::from(jump.length)))
}
