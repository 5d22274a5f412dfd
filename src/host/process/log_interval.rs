//! The time between two log lines about one subject, at least `LOG_INTERVAL`.

use std::time::Instant;

use crate::limits::LOG_INTERVAL;

/// The interval that begins with the last log line about a subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogInterval {
    logged: Option<Instant>,
}

impl LogInterval {
    /// Returns whether the interval is over at `now`, so that the next line may be written.
    pub fn is_over(&self, now: Instant) -> bool {
        self.logged.is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_INTERVAL)
    }

    /// Begins an interval with a line that is written at `now`.
    pub fn begin(&mut self, now: Instant) {
        self.logged = Some(now);
    }
}
