//! Logs internal errors, at most one line per `LOG_INTERVAL`.

use std::time::Instant;

use nf_transport_core::internal_error::{internal_errors, latest_internal_error};

use crate::host::LoggedCount;

/// The log of internal errors.
#[derive(Debug)]
pub struct InternalErrorLog {
    /// The message id in the journal's catalog.
    message_id: &'static str,
    /// The consequence for datagrams, which depends on the daemon.
    consequence: &'static str,
    log: LoggedCount,
}

impl InternalErrorLog {
    /// Returns a log whose lines have the id `message_id` and state the `consequence` for datagrams.
    pub fn new(message_id: &'static str, consequence: &'static str) -> Self {
        Self { message_id, consequence, log: LoggedCount::default() }
    }

    /// Logs internal errors since the last line. Called once a second.
    pub fn look(&mut self) {
        self.log(LoggedCount::due);
    }

    /// Logs the remaining internal errors at the end of the run.
    pub fn finish(mut self) {
        self.log(LoggedCount::rest);
    }

    fn log(&mut self, due: fn(&mut LoggedCount, u64, Instant) -> Option<u64>) {
        let Some(count) = due(&mut self.log, internal_errors(), Instant::now()) else { return };
        tracing::error!(message_id = self.message_id, count, "{}", self.line(count));
    }

    fn line(&self, count: u64) -> String {
        let latest = latest_internal_error().map(|error| error.to_string()).unwrap_or_default();
        let consequence = self.consequence;
        format!("internal errors: {count}, latest: {latest}; {consequence}; please report this bug")
    }
}

#[cfg(test)]
mod tests {
    use nf_transport_core::internal_error::{expecting_internal_errors, note_internal_error};

    use super::*;
    use crate::host::Lines;

    #[test]
    fn internal_errors_before_a_stop_are_logged() {
        let lines = Lines::default();
        let mut log = InternalErrorLog::new("0123", "senders keep the rest");
        tracing::subscriber::with_default(lines.clone().subscriber(), || {
            expecting_internal_errors(|| note_internal_error("the first"));
            log.look();
            expecting_internal_errors(|| note_internal_error("just before the stop"));
            log.look();
            assert_eq!(lines.all().len(), 1, "the second has to wait");
            log.finish();
        });
        let lines = lines.all();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].contains("senders keep the rest; please report this bug"), "{lines:?}");
    }
}
