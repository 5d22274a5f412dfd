//! Log lines that an authenticated sender's messages cause: one of each kind for each sender in `LOG_INTERVAL`.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::sequence::{GapReason, SenderId};
use crate::service::LogLimit;

/// A kind of log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SenderLine {
    /// A session began or ended.
    Session,
    /// A session failed.
    Failed,
    /// The sender began a new stream.
    Replaced,
    /// The sender lost datagrams for this reason.
    Lost(GapReason),
    /// A batch cannot be read.
    Unreadable,
    /// A connection named a stream of the sender without its secret.
    NotProven,
}

/// Decides which lines about senders are written.
#[derive(Debug, Default)]
pub(crate) struct SenderLog(Mutex<LogLimit<(SenderId, SenderLine)>>);

impl SenderLog {
    /// Returns how many lines of this kind about `sender` were suppressed since the last one, or `None` to suppress this
    /// one, too.
    pub(crate) fn admit(&self, sender: &SenderId, line: SenderLine) -> Option<u64> {
        let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limit.admit((sender.clone(), line), Instant::now().into_std())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOG_INTERVAL;

    #[tokio::test(start_paused = true)]
    async fn each_sender_has_one_line_of_each_kind() {
        let log = SenderLog::default();
        let [edge, other]: [SenderId; 2] = ["edge", "other"].map(|id| id.parse().unwrap());
        let lost = SenderLine::Lost(GapReason::SpoolFull);
        let lines: Vec<_> = (0..10_000).filter_map(|_| log.admit(&edge, lost)).collect();
        assert_eq!(lines, [0]);
        assert_eq!(log.admit(&other, lost), Some(0));
        assert_eq!(log.admit(&edge, SenderLine::Unreadable), Some(0));
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(log.admit(&edge, lost), Some(9_999));
    }
}
