//! How the wall clock goes, measured with the boot clock: recognizes when it was set, and by how much.
//!
//! Reads no clock: every moment comes in as an argument. Always holds: a step of the wall clock changes no time span
//! that was measured here.

use core::fmt;
use core::time::Duration;

use crate::datagram::{BootTime, Moment, Timestamp, nanoseconds};
use crate::limits::{CLOCK_EARLIEST, CLOCK_SETTLED_AFTER, CLOCK_STEADY_AFTER, CLOCK_STEP};

/// A change of the wall clock that time alone does not explain: `CLOCK_STEP` or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// Whether the clock showed a later time afterwards.
    pub is_forward: bool,
    /// How far it was set.
    pub size: Duration,
}

impl ClockStep {
    /// The step between two readings of [`Moment::wall_ahead`] of one boot; `None` if it is too small for one.
    pub fn between(before: i128, after: i128) -> Option<Self> {
        let nanos = u64::try_from((after - before).unsigned_abs()).unwrap_or(u64::MAX);
        let size = Duration::from_nanos(nanos);
        (size >= CLOCK_STEP).then_some(Self { is_forward: after > before, size })
    }

    /// The step with sign, in milliseconds, for the fields of a log line.
    pub fn milliseconds(self) -> i64 {
        let size = i64::try_from(self.size.as_millis()).unwrap_or(i64::MAX);
        if self.is_forward { size } else { -size }
    }
}

impl fmt::Display for ClockStep {
    /// As in "forward by 1h 30m", to the nearest second: the two clocks are not read at once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.is_forward { "forward" } else { "back" };
        let seconds = self.size.saturating_add(Duration::from_millis(500)).as_secs();
        write!(f, "{direction} by {}", humantime::format_duration(Duration::from_secs(seconds)))
    }
}

/// Recognizes steps of the wall clock as they happen.
#[derive(Clone, Copy, Debug)]
pub struct ClockWatch {
    /// What [`Moment::wall_ahead`] was after the last step.
    wall_ahead: i128,
    /// The last step, or the first look.
    steady_since: BootTime,
}

impl ClockWatch {
    /// Starts to watch.
    pub fn new(now: Moment) -> Self {
        Self { wall_ahead: now.wall_ahead(), steady_since: now.boot }
    }

    /// Returns the step since the last look, if there was one.
    pub fn look(&mut self, now: Moment) -> Option<ClockStep> {
        let step = ClockStep::between(self.wall_ahead, now.wall_ahead())?;
        *self = Self::new(now);
        Some(step)
    }

    /// Whether ages may be measured with the wall clock: it has not been set for `CLOCK_STEADY_AFTER`, and shows a time at
    /// which this program existed.
    pub fn is_steady(&self, now: Moment) -> bool {
        let steady = now.boot.since(self.steady_since).unwrap_or_default();
        steady >= CLOCK_STEADY_AFTER && now.wall >= Timestamp::from_unix(CLOCK_EARLIEST)
    }
}

/// The wall clock without its steps, until a step has lasted for `CLOCK_SETTLED_AFTER`: a clock that is wrong for a moment
/// is not followed.
#[derive(Clone, Copy, Debug)]
pub struct SettledClock {
    wall_ahead: i128,
    /// What the wall clock shows instead, and since when.
    other: Option<(i128, BootTime)>,
}

impl SettledClock {
    /// A clock that believes what the wall clock shows now.
    pub fn new(now: Moment) -> Self {
        Self { wall_ahead: now.wall_ahead(), other: None }
    }

    /// The time now, in nanoseconds since 1970.
    pub fn read(&mut self, now: Moment) -> i128 {
        let ahead = now.wall_ahead();
        if ClockStep::between(self.wall_ahead, ahead).is_none() {
            *self = Self::new(now);
        } else {
            let same = self.other.filter(|(other, _)| ClockStep::between(*other, ahead).is_none());
            let since = same.map_or(now.boot, |(_, since)| since);
            self.other = Some((ahead, since));
            if now.boot.since(since).unwrap_or_default() >= CLOCK_SETTLED_AFTER {
                *self = Self::new(now);
            }
        }
        self.wall_ahead + nanoseconds(now.boot.elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::BootId;

    const HOUR: Duration = Duration::from_secs(3600);
    const TEN_YEARS: Duration = Duration::from_secs(10 * 31_557_600);

    /// In 2030, an hour after a boot.
    fn start() -> Moment {
        let wall = Timestamp::from_unix(Duration::from_secs(1_900_000_000));
        Moment { wall, boot: BootTime { boot: BootId(7), elapsed: HOUR } }
    }

    #[test]
    fn a_step_is_recognized_once_with_its_size() {
        for is_forward in [true, false] {
            let mut watch = ClockWatch::new(start());
            let now = start().plus(HOUR).set(TEN_YEARS, is_forward);
            assert_eq!(watch.look(start().plus(HOUR)), None, "time passes");
            assert_eq!(watch.look(now), Some(ClockStep { is_forward, size: TEN_YEARS }));
            assert_eq!(watch.look(now.plus(HOUR)), None);
        }
    }

    #[test]
    fn small_corrections_are_a_step_once_they_add_up() {
        let mut watch = ClockWatch::new(start());
        let corrected = |count| start().set(Duration::from_millis(400) * count, false);
        assert_eq!([1, 2].map(|count| watch.look(corrected(count))), [None, None]);
        let size = Duration::from_millis(1200);
        assert_eq!(watch.look(corrected(3)), Some(ClockStep { is_forward: false, size }));
    }

    #[test]
    fn a_clock_is_steady_an_hour_after_its_last_step() {
        let mut watch = ClockWatch::new(start());
        assert!(!watch.is_steady(start().plus(CLOCK_STEADY_AFTER / 2)));
        let set = start().plus(CLOCK_STEADY_AFTER).set(HOUR, true);
        assert!(watch.is_steady(start().plus(CLOCK_STEADY_AFTER)));
        watch.look(set);
        assert!(!watch.is_steady(set));
        assert!(watch.is_steady(set.plus(CLOCK_STEADY_AFTER)));
    }

    #[test]
    fn a_clock_at_1970_is_never_steady() {
        let start = Moment { wall: Timestamp(0), ..start() };
        assert!(!ClockWatch::new(start).is_steady(start.plus(HOUR * 1000)));
    }

    #[test]
    fn a_clock_wrong_for_a_moment_is_not_followed() {
        let mut clock = SettledClock::new(start());
        let wrong = start().set(TEN_YEARS, true);
        assert_eq!(clock.read(wrong), i128::from(start().wall.0));
        let second = Duration::from_secs(1);
        assert_eq!(clock.read(wrong.plus(second)), i128::from(start().plus(second).wall.0));
        assert_eq!(clock.read(start().plus(2 * second)), i128::from(start().plus(2 * second).wall.0));
    }

    #[test]
    fn a_clock_that_stays_set_is_followed_after_a_minute() {
        let mut clock = SettledClock::new(start());
        let set = start().set(HOUR, false);
        assert_eq!(clock.read(set), i128::from(start().wall.0));
        let later = set.plus(CLOCK_SETTLED_AFTER);
        assert_eq!(clock.read(later), i128::from(later.wall.0));
    }

    #[test]
    fn a_step_is_named_by_direction_and_size() {
        for milliseconds in [3_599_999, 3_600_400] {
            let step = ClockStep { is_forward: false, size: Duration::from_millis(milliseconds) };
            assert_eq!(step.to_string(), "back by 1h");
            assert_eq!(step.milliseconds().unsigned_abs(), milliseconds);
        }
    }
}
