//! Delays before reconnecting after the link was lost.

use core::time::Duration;

/// An exponential backoff: `first`, then `factor` times as long each time, up to `longest`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reconnect {
    /// The delay before the first attempt; `first <= longest`.
    pub first: Duration,
    /// The ratio between a delay and the one before it; `1 <= factor`.
    pub factor: u32,
    /// The longest delay.
    pub longest: Duration,
    /// The random reduction of a delay, as a share of it, so that a fleet does not reconnect all at once;
    /// `0.0 <= jitter <= 1.0`.
    pub jitter: f64,
}

impl Reconnect {
    /// Returns the delays without jitter, in order, without end.
    pub fn schedule(&self) -> impl Iterator<Item = Duration> + use<> {
        let Self { factor, longest, .. } = *self;
        core::iter::successors(Some(self.first), move |delay| Some(delay.saturating_mul(factor).min(longest)))
    }

    /// Returns the delay before attempt number `attempt`, counted from 0. `random` is a random number,
    /// `0.0 <= random < 1.0`.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        // With a factor of at least 2 the longest delay is reached within 64 doublings; with 1 nothing
        // changes.
        let index = usize::try_from(attempt.min(64)).unwrap_or(64);
        let delay = self.schedule().nth(index).unwrap_or(self.longest);
        delay.mul_f64((1.0 - self.jitter * random).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Reconnect = Reconnect {
        first: Duration::from_secs(1),
        factor: 3,
        longest: Duration::from_secs(243),
        jitter: 0.0,
    };

    #[test]
    fn the_default_schedule_is_that_of_the_original() {
        let seconds: Vec<u64> = DEFAULT.schedule().take(8).map(|delay| delay.as_secs()).collect();
        assert_eq!(seconds, [1, 3, 9, 27, 81, 243, 243, 243]);
        for (attempt, seconds) in (0..).zip(seconds) {
            assert_eq!(DEFAULT.delay(attempt, 0.7), Duration::from_secs(seconds));
        }
        assert_eq!(DEFAULT.delay(u32::MAX, 0.0), Duration::from_secs(243));
    }

    #[test]
    fn the_longest_delay_is_exact() {
        let schedule = Reconnect { factor: 10, longest: Duration::from_secs(30), ..DEFAULT };
        let seconds: Vec<u64> = schedule.schedule().take(4).map(|delay| delay.as_secs()).collect();
        assert_eq!(seconds, [1, 10, 30, 30]);
    }

    #[test]
    fn jitter_only_shortens_delays() {
        let jittery = Reconnect { jitter: 0.5, ..DEFAULT };
        assert_eq!(jittery.delay(2, 0.0), Duration::from_secs(9));
        assert_eq!(jittery.delay(2, 0.5), Duration::from_millis(6_750));
        let whole = Reconnect { jitter: 1.0, ..DEFAULT };
        assert_eq!(whole.delay(2, 1.0), Duration::ZERO);
    }
}
