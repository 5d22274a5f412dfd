//! The delays between connection attempts.

use core::time::Duration;

use crate::config::Reconnect;

/// The position in the reconnect delays.
#[derive(Debug)]
pub(crate) struct Backoff {
    reconnect: Reconnect,
    /// Consecutive attempts without a working session.
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(reconnect: Reconnect) -> Self {
        Self { reconnect, failures: 0 }
    }

    /// Returns the delay after an attempt. A session that worked resets the backoff, no matter why it ended.
    /// An accepted connection does not reset it, nor a session in which data was sent and nothing
    /// acknowledged.
    pub(crate) fn delay_after(&mut self, has_worked: bool) -> Duration {
        if has_worked {
            self.reset();
        }
        let delay = self.reconnect.delay(self.failures, random_fraction());
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Begins with the first delay again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Returns a random number, at least 0 and below 1.
fn random_fraction() -> f64 {
    getrandom::u32().map_or(0.0, |drawn| f64::from(drawn) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(backoff: &mut Backoff, attempts: &[bool]) -> Vec<u64> {
        attempts.iter().map(|has_worked| backoff.delay_after(*has_worked).as_secs()).collect()
    }

    fn default_backoff() -> Backoff {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(243));
        Backoff::new(Reconnect { first, factor: 3, longest, jitter: 0.0 })
    }

    #[test]
    fn failed_attempts_are_1_3_9_27_81_243_s_apart() {
        assert_eq!(seconds(&mut default_backoff(), &[false; 8]), [1, 3, 9, 27, 81, 243, 243, 243]);
    }

    #[test]
    fn a_working_session_resets_the_backoff() {
        let attempts = [false, false, false, true, false, false, true, true, false];
        assert_eq!(seconds(&mut default_backoff(), &attempts), [1, 3, 9, 1, 3, 9, 1, 1, 3]);
    }
}
