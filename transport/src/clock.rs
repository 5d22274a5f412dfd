//! Detection of steps of the wall clock, measured with the boot clock.
//!
//! The module reads no clock: callers pass every moment as an argument. Invariant: a step of the wall clock
//! changes no time span that was measured here.

use core::fmt;
use core::time::Duration;

use crate::datagram::{BootTime, Moment, Timestamp, nanoseconds};
use crate::limits::{CLOCK_EARLIEST, CLOCK_SETTLED_AFTER, CLOCK_STEADY_AFTER, CLOCK_STEP};

/// A change of the wall clock against the boot clock by `CLOCK_STEP` or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// True if the clock was set to a later time.
    pub is_forward: bool,
    /// Amount of the change.
    pub size: Duration,
}

impl ClockStep {
    /// Step between two values of [`Moment::wall_ahead`] of one boot; `None` if the difference is below
    /// `CLOCK_STEP`.
    pub fn between(before: i128, after: i128) -> Option<Self> {
        let nanos = u64::try_from((after - before).unsigned_abs()).unwrap_or(u64::MAX);
        let size = Duration::from_nanos(nanos);
        (size >= CLOCK_STEP).then_some(Self { is_forward: after > before, size })
    }

    /// Size in milliseconds, negative for a step back. For the fields of a log line.
    pub fn milliseconds(self) -> i64 {
        let size = i64::try_from(self.size.as_millis()).unwrap_or(i64::MAX);
        if self.is_forward { size } else { -size }
    }
}

impl fmt::Display for ClockStep {
    /// Example: "forward by 1h 30m". Rounded to seconds, because the two clocks are not read at the same
    /// instant.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.is_forward { "forward" } else { "back" };
        let seconds = self.size.saturating_add(Duration::from_millis(500)).as_secs();
        write!(f, "{direction} by {}", humantime::format_duration(Duration::from_secs(seconds)))
    }
}

/// Detects steps of the wall clock when they happen.
#[derive(Clone, Copy, Debug)]
pub struct ClockWatch {
    /// Value of [`Moment::wall_ahead`] after the last step.
    wall_ahead: i128,
    /// Time of the last step, or of the first look if there was none.
    steady_since: BootTime,
}

impl ClockWatch {
    /// Starts watching.
    pub fn new(now: Moment) -> Self {
        Self { wall_ahead: now.wall_ahead(), steady_since: now.boot }
    }

    /// Returns the step since the last detected one, if any. Corrections below `CLOCK_STEP` add up.
    pub fn look(&mut self, now: Moment) -> Option<ClockStep> {
        let step = ClockStep::between(self.wall_ahead, now.wall_ahead())?;
        *self = Self::new(now);
        Some(step)
    }

    /// True if the wall clock may be used to measure ages.
    ///
    /// It must not have been set for `CLOCK_STEADY_AFTER`, and it must show a time after `CLOCK_EARLIEST`.
    pub fn is_steady(&self, now: Moment) -> bool {
        let steady = now.boot.since(self.steady_since).unwrap_or_default();
        steady >= CLOCK_STEADY_AFTER && now.wall >= Timestamp::from_unix(CLOCK_EARLIEST)
    }
}

/// The wall clock without its short-lived steps.
///
/// It follows a step only after the step has lasted for `CLOCK_SETTLED_AFTER`, so it ignores a clock that is
/// wrong for a moment.
#[derive(Clone, Copy, Debug)]
pub struct SettledClock {
    wall_ahead: i128,
    /// Diverging value of the wall clock, and the time since which it shows that value.
    other: Option<(i128, BootTime)>,
}

impl SettledClock {
    /// Starts with the current time of the wall clock.
    pub fn new(now: Moment) -> Self {
        Self { wall_ahead: now.wall_ahead(), other: None }
    }

    /// Current time in nanoseconds since 1970-01-01T00:00:00Z.
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

    /// A moment in 2030, an hour after a boot.
    fn start() -> Moment {
        let wall = Timestamp::from_unix(Duration::from_secs(1_900_000_000));
        Moment { wall, boot: BootTime { boot: BootId(7), elapsed: HOUR } }
    }

    #[test]
    fn a_step_is_detected_once_with_its_size() {
        for is_forward in [true, false] {
            let mut watch = ClockWatch::new(start());
            let now = start().plus(HOUR).set(TEN_YEARS, is_forward);
            assert_eq!(watch.look(start().plus(HOUR)), None, "time passes");
            assert_eq!(watch.look(now), Some(ClockStep { is_forward, size: TEN_YEARS }));
            assert_eq!(watch.look(now.plus(HOUR)), None);
        }
    }

    #[test]
    fn small_corrections_add_up_to_a_step() {
        let mut watch = ClockWatch::new(start());
        let corrected = |count| start().set(Duration::from_millis(400) * count, false);
        assert_eq!([1, 2].map(|count| watch.look(corrected(count))), [None, None]);
        let size = Duration::from_millis(1200);
        assert_eq!(watch.look(corrected(3)), Some(ClockStep { is_forward: false, size }));
    }

    #[test]
    fn a_clock_is_steady_an_hour_after_a_step() {
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
    fn a_lasting_step_is_followed_after_a_minute() {
        let mut clock = SettledClock::new(start());
        let set = start().set(HOUR, false);
        assert_eq!(clock.read(set), i128::from(start().wall.0));
        let later = set.plus(CLOCK_SETTLED_AFTER);
        assert_eq!(clock.read(later), i128::from(later.wall.0));
    }

    #[test]
    fn a_step_displays_its_direction_and_size() {
        for milliseconds in [3_599_999, 3_600_400] {
            let step = ClockStep { is_forward: false, size: Duration::from_millis(milliseconds) };
            assert_eq!(step.to_string(), "back by 1h");
            assert_eq!(step.milliseconds().unsigned_abs(), milliseconds);
        }
    }
}
