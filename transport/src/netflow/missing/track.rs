//! One run of numbers: everything that one counter of an exporter has counted since its first datagram.

use core::time::Duration;

use crate::datagram::{BootTime, Timestamp};
use crate::limits::{JUMP_DATAGRAMS, JUMP_RATE_FACTOR, SEQUENCE_WINDOW};
use crate::netflow::missing::holes::{Holes, NumberRange};

/// A number at least this far ahead, modulo 2^32, counts as behind.
const AHEAD_MAX: u32 = 1 << 31;

/// Minimum duration of a run for its rate to be known.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// The moment at which a datagram was received, by both clocks. While ingest waits for room, only the time of
/// arrival advances.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::netflow) struct Seen {
    pub(in crate::netflow) boot: BootTime,
    pub(in crate::netflow) arrival: Timestamp,
}

impl Seen {
    /// The time since `earlier`, by the clock that shows more.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let boot = self.boot.since(earlier.boot).unwrap_or_default();
        boot.max(self.arrival.since(earlier.arrival))
    }
}

/// Position of a datagram relative to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// Directly after the last datagram.
    Next,
    /// After a datagram of unknown contents; this far above its number.
    AfterUnknown(u32),
    /// In a hole.
    Late,
    /// Inside the window; adds nothing or an unknown amount.
    Neutral,
    /// After a gap.
    Ahead(u32),
    /// Before the first datagram, by this distance.
    Early(u32),
    /// At a number inside the window that was seen before.
    Seen,
    /// None of these.
    Outside,
}

/// The degree to which a run is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// Enough numbers have followed each other.
    Confirmed,
    /// This many numbers have followed each other.
    Tentative(u8),
}

/// A forward jump from another run to this one. It is a loss if that run does not continue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jump {
    /// The id of the run before the jump.
    pub(super) from: u32,
    pub(super) length: u32,
}

/// A run of numbers.
#[derive(Clone, Debug)]
pub(super) struct Track {
    pub(super) id: u32,
    pub(super) standing: Confirmation,
    /// The jump to this run, as long as it may be a loss.
    pub(super) jump: Option<Jump>,
    /// The run whose beginning this one may be, if its datagrams are late.
    pub(super) may_precede: Option<u32>,
    /// True once it has continued after another run was seen.
    pub(super) has_returned: bool,
    /// The count of datagrams of all runs at the last datagram of this one.
    pub(super) touched: usize,
    /// The numbers from the lowest one seen to the one after the highest.
    span: NumberRange,
    /// True if the datagram at the end of the span adds an unknown amount.
    is_open: bool,
    holes: Holes,
    missing: u64,
    datagrams: usize,
    /// Counted units, including lost ones.
    units: u64,
    first_seen: Seen,
    last_seen: Seen,
}

impl Track {
    /// A run that begins with a datagram at `start`.
    pub(super) fn new(id: u32, standing: Confirmation, start: u32, end: Option<u32>, seen: Seen) -> Self {
        let span = NumberRange { start, end: end.unwrap_or(start) };
        Self {
            id,
            standing,
            jump: None,
            may_precede: None,
            has_returned: false,
            touched: 0,
            span,
            is_open: end.is_none(),
            holes: Holes::default(),
            missing: 0,
            datagrams: 1,
            units: u64::from(span.len()),
            first_seen: seen,
            last_seen: seen,
        }
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.standing == Confirmation::Confirmed
    }

    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// The number of the next datagram, if none is lost; `None` if not known.
    pub(super) fn next(&self) -> Option<u32> {
        (!self.is_open).then_some(self.span.end)
    }

    /// Bytes of holes.
    pub(super) fn hole_bytes(&self) -> usize {
        self.holes.bytes()
    }

    /// Adds `offset` to all numbers.
    pub(super) fn shift(&mut self, offset: u32) {
        self.span = self.span.shifted(offset);
        self.holes.shift(offset);
    }

    /// Closes all holes, so that late datagrams stay missing.
    pub(super) fn close_holes(&mut self) {
        self.holes.close();
    }

    /// True if `number` is close to those that were seen. The cost is independent of the number of open
    /// holes, because a datagram from an unknown port is compared with many exporters.
    pub(super) fn is_near(&self, number: u32, seen: Seen) -> bool {
        let ahead = number.wrapping_sub(self.span.end);
        if ahead < AHEAD_MAX {
            return u64::from(ahead) <= self.plausible_jump(seen);
        }
        if self.spans(number) {
            return u64::from(self.span.end.wrapping_sub(number)) <= self.window();
        }
        let early = self.span.start.wrapping_sub(number);
        self.datagrams <= SEQUENCE_WINDOW && u64::from(early) <= self.window()
    }

    /// The position of a datagram that begins at `start`.
    pub(super) fn relation(&self, start: u32, end: Option<u32>) -> Relation {
        let ahead = start.wrapping_sub(self.span.end);
        if ahead < AHEAD_MAX {
            return match ahead {
                ahead if self.is_open => Relation::AfterUnknown(ahead),
                0 => Relation::Next,
                ahead => Relation::Ahead(ahead),
            };
        }
        let is_recent = u64::from(self.span.end.wrapping_sub(start)) <= self.window();
        let Some(end) = end else {
            return if self.spans(start) && is_recent { Relation::Neutral } else { Relation::Outside };
        };
        if self.holes.contains(NumberRange { start, end }) {
            return Relation::Late;
        }
        if self.spans(start) {
            return match (is_recent, start == end) {
                (true, true) => Relation::Neutral,
                (true, false) => Relation::Seen,
                (false, _) => Relation::Outside,
            };
        }
        let early = self.span.start.wrapping_sub(start);
        let is_before = end.wrapping_sub(start) <= early && self.datagrams <= SEQUENCE_WINDOW;
        if is_before && u64::from(early) <= self.window() {
            Relation::Early(early)
        } else {
            Relation::Outside
        }
    }

    fn spans(&self, number: u32) -> bool {
        number.wrapping_sub(self.span.start) < self.span.len()
    }

    /// Average units of a datagram.
    fn units_per_datagram(&self) -> u64 {
        let datagrams = u64::try_from(self.datagrams).unwrap_or(u64::MAX);
        self.units.checked_div(datagrams).unwrap_or_default().max(1)
    }

    /// Units of as many datagrams as the window has.
    fn window(&self) -> u64 {
        u64::try_from(SEQUENCE_WINDOW).unwrap_or(u64::MAX) * self.units_per_datagram()
    }

    /// The longest jump that is a loss without further evidence, for a datagram that was just `seen`.
    pub(super) fn plausible_jump(&self, seen: Seen) -> u64 {
        let at_rate = self.units_in(seen.since(self.last_seen)).unwrap_or_default();
        at_rate.saturating_mul(JUMP_RATE_FACTOR).saturating_add(JUMP_DATAGRAMS * self.units_per_datagram())
    }

    /// Units that this run counts in `time`; `None` if its rate is not known.
    pub(super) fn units_in(&self, time: Duration) -> Option<u64> {
        let lasted = self.lasted();
        if lasted < RATE_AFTER {
            return None;
        }
        let units = u128::from(self.units) * time.as_millis() / lasted.as_millis().max(1);
        Some(u64::try_from(units).unwrap_or(u64::MAX))
    }

    /// The time from the first datagram to the last one. The shorter time of both clocks: one may have been
    /// set meanwhile.
    fn lasted(&self) -> Duration {
        let boot = self.last_seen.boot.since(self.first_seen.boot).unwrap_or_default();
        let arrival = self.last_seen.arrival.since(self.first_seen.arrival);
        if boot.is_zero() || arrival.is_zero() { boot.max(arrival) } else { boot.min(arrival) }
    }

    /// The longest jump that is a loss if the run does not continue where it was: the possible amount in the
    /// time before `seen`. If its rate is unknown, `datagrams` datagrams a second are possible.
    pub(super) fn possible_jump(&self, seen: Seen, factor: u64, datagrams: u64) -> u64 {
        let time = seen.since(self.last_seen).max(RATE_AFTER);
        let possible = match self.units_in(time) {
            Some(units) => units.saturating_mul(factor),
            None => datagrams.saturating_mul(self.units_per_datagram()).saturating_mul(time.as_secs()),
        };
        possible.saturating_add(JUMP_DATAGRAMS * self.units_per_datagram())
    }

    /// Continues with a datagram after a gap of `gap`, which may be 0.
    pub(super) fn go_on(&mut self, gap: u32, end: Option<u32>, seen: Seen, most: usize) {
        let before = self.span.end;
        let start = before.wrapping_add(gap);
        self.missing = self.missing.saturating_add(u64::from(gap));
        self.holes.open(NumberRange { start: before, end: start }, self.touched, most);
        self.move_end(start, end, seen);
    }

    /// Continues with a datagram at `start` after one of unknown contents. A gap between them stays
    /// undetected.
    pub(super) fn go_on_at(&mut self, start: u32, end: Option<u32>, seen: Seen) {
        self.move_end(start, end, seen);
    }

    /// Continues with a datagram of unknown contents that ends at `end`.
    pub(super) fn go_on_to(&mut self, end: u32, seen: Seen) {
        self.move_end(end, Some(end), seen);
    }

    fn move_end(&mut self, start: u32, end: Option<u32>, seen: Seen) {
        let reached = end.unwrap_or(start);
        self.units += u64::from(reached.wrapping_sub(self.span.end));
        self.span.end = reached;
        self.is_open = end.is_none();
        if self.span.len() >= AHEAD_MAX / 2 {
            self.span.start = reached.wrapping_sub(AHEAD_MAX / 2);
        }
        self.note_datagram(seen);
    }

    /// Fills a hole. Returns the number of its ends that the datagram reaches.
    pub(super) fn fill(&mut self, range: NumberRange, seen: Seen, most: usize) -> u32 {
        self.note_datagram(seen);
        let Some(ends) = self.holes.fill(range, self.touched, most) else { return 0 };
        self.missing = self.missing.saturating_sub(u64::from(range.len()));
        ends
    }

    fn note_datagram(&mut self, seen: Seen) {
        self.datagrams = self.datagrams.saturating_add(1);
        self.last_seen = seen;
    }

    /// Notes that `datagrams` datagrams of all runs were seen, and closes the holes that are too old by
    /// then.
    pub(super) fn touch(&mut self, datagrams: usize) {
        self.touched = datagrams;
        self.holes.close_old(datagrams);
    }

    /// Prepends `earlier`, which ends at or before the start of this run.
    pub(super) fn prepend(&mut self, earlier: &Self, most: usize) {
        let gap = NumberRange { start: earlier.span.end, end: self.span.start };
        self.missing = self.missing.saturating_add(earlier.missing).saturating_add(u64::from(gap.len()));
        self.holes.adopt(&earlier.holes, self.touched, most);
        self.holes.open(gap, self.touched, most);
        self.span.start = earlier.span.start;
        self.datagrams = self.datagrams.saturating_add(earlier.datagrams);
        self.units = self.units.saturating_add(earlier.units).saturating_add(u64::from(gap.len()));
    }

    /// Appends `later`, which starts where this run ends.
    pub(super) fn append(&mut self, later: &Self, most: usize) {
        self.missing = self.missing.saturating_add(later.missing);
        self.holes.adopt(&later.holes, self.touched, most);
        self.span.end = later.span.end;
        self.is_open = later.is_open;
        self.datagrams = self.datagrams.saturating_add(later.datagrams);
        self.units = self.units.saturating_add(later.units);
        self.last_seen = later.last_seen;
    }

    /// True if this run ends at or before the start of `later`, and is not open.
    pub(super) fn is_before(&self, later: &Self) -> bool {
        !self.is_open && later.span.start.wrapping_sub(self.span.end) < AHEAD_MAX / 2
    }

    /// True if `later` starts at the end of this run.
    pub(super) fn is_followed_by(&self, later: &Self) -> bool {
        self.next() == Some(later.span.start)
    }
}
