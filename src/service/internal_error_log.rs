//! Logs internal errors, at most one line per `LOG_INTERVAL`.

use std::time::Instant;

use crate::internal_error::{internal_errors, latest_internal_error};
use crate::service::CountLog;

/// The log of internal errors.
#[derive(Debug)]
pub struct InternalErrorLog {
    /// The event's id in the journal's catalog.
    message_id: &'static str,
    log: CountLog,
}

impl InternalErrorLog {
    /// A log whose lines have the id `message_id`.
    pub fn new(message_id: &'static str) -> Self {
        Self { message_id, log: CountLog::default() }
    }

    /// Logs internal errors since the last line. Called once a second.
    pub fn look(&mut self) {
        let Some(count) = self.log.due(internal_errors(), Instant::now()) else { return };
        let latest = latest_internal_error().map(|error| error.to_string()).unwrap_or_default();
        tracing::error!(
            message_id = self.message_id,
            count,
            "internal errors of this program: {count}, the latest: {latest}; lost datagrams are counted as corrupt; please \
             report this"
        );
    }
}
