//! Sums up the increases of a counter for its log lines: the first increase is logged at once, later ones
//! together at intervals. Unlike with [`LogLimit`](crate::host::LogLimit), nothing is suppressed: the numbers
//! in the log add up to the counter.

use std::time::Instant;

use crate::host::process::log_interval::LogInterval;

/// The part of a counter that is in the log.
#[derive(Debug, Default)]
pub struct LoggedCount {
    logged: u64,
    interval: LogInterval,
}

impl LoggedCount {
    /// Returns the part of `total` to log now; `None` if there is none or if it has to wait. Callers repeat
    /// this, even if the counter no longer grows.
    pub fn due(&mut self, total: u64, now: Instant) -> Option<u64> {
        if self.interval.is_over(now) { self.rest(total, now) } else { None }
    }

    /// Returns the part of `total` that is not in the log, without regard to the interval: for the end of a
    /// run.
    pub fn rest(&mut self, total: u64, now: Instant) -> Option<u64> {
        let unlogged = total.checked_sub(self.logged).filter(|unlogged| *unlogged > 0)?;
        self.logged = total;
        self.interval.begin(now);
        Some(unlogged)
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::limits::LOG_INTERVAL;

    #[test]
    fn every_count_is_logged_once() {
        let mut log = LoggedCount::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(log.due(0, start), None);
        assert_eq!(log.due(5, start), Some(5));
        assert_eq!(log.due(13_741, start + second), None);
        assert_eq!(log.due(13_741, start + LOG_INTERVAL), Some(13_736));
        assert_eq!(log.due(13_741, start + 2 * LOG_INTERVAL), None);
        assert_eq!(log.due(13_742, start + 2 * LOG_INTERVAL), Some(1));
        assert_eq!(log.rest(13_750, start + 2 * LOG_INTERVAL), Some(8));
        assert_eq!(log.rest(13_750, start + 2 * LOG_INTERVAL), None);
    }
}
