//! Modification times of position files.

use std::time::{Duration, SystemTime};

/// The order in which streams were last seen, as modification times of their files. It continues from the
/// newest file, so a wrong or stepped wall clock does not change the order.
#[derive(Debug)]
pub(super) struct LastSeen(pub(super) SystemTime);

impl LastSeen {
    /// Shortest interval between the times of two files.
    const STEP: Duration = Duration::from_micros(1);

    /// Returns the time for a stream that is seen at `now`.
    pub(super) fn next(&mut self, now: SystemTime) -> SystemTime {
        self.0 = now.max(self.0.checked_add(Self::STEP).unwrap_or(now));
        self.0
    }
}

impl Default for LastSeen {
    fn default() -> Self {
        Self(SystemTime::UNIX_EPOCH)
    }
}
