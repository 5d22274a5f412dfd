//! When the link tries again.

use core::time::Duration;

use crate::config::Reconnect;

/// The place in the reconnect schedule.
#[derive(Debug)]
pub(crate) struct Schedule {
    reconnect: Reconnect,
    /// Attempts in a row that led to no session that worked.
    failures: u32,
}

impl Schedule {
    pub(crate) fn new(reconnect: Reconnect) -> Self {
        Self { reconnect, failures: 0 }
    }

    /// How long to wait after an attempt. One that led to a session that worked begins the schedule again, however that session
    /// ended. A connection that was only accepted does not, nor a session in which data was sent and nothing acknowledged.
    pub(crate) fn after(&mut self, has_worked: bool) -> Duration {
        if has_worked {
            self.reset();
        }
        let delay = self.reconnect.delay(self.failures, chance());
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Begins the schedule again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number drawn by chance, at least 0 and below 1.
fn chance() -> f64 {
    getrandom::u32().map_or(0.0, |drawn| f64::from(drawn) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(schedule: &mut Schedule, attempts: &[bool]) -> Vec<u64> {
        attempts.iter().map(|has_worked| schedule.after(*has_worked).as_secs()).collect()
    }

    fn default_schedule() -> Schedule {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(243));
        Schedule::new(Reconnect { first, factor: 3, longest, jitter: 0.0 })
    }

    #[test]
    fn attempts_that_fail_are_made_after_1_3_9_27_81_and_then_every_243_seconds() {
        assert_eq!(seconds(&mut default_schedule(), &[false; 8]), [1, 3, 9, 27, 81, 243, 243, 243]);
    }

    #[test]
    fn a_session_that_worked_restarts_the_schedule() {
        let attempts = [false, false, false, true, false, false, true, true, false];
        assert_eq!(seconds(&mut default_schedule(), &attempts), [1, 3, 9, 1, 3, 9, 1, 1, 3]);
    }
}
