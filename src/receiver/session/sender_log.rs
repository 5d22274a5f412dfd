//! Log lines caused by messages of an authenticated sender: one of each kind for each sender in
//! `LOG_INTERVAL`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nf_transport_core::sequence::{GapReason, SenderId};
use tokio::time::Instant;

use crate::host::LogLimit;

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
    /// A batch cannot be decoded.
    Unreadable,
    /// A connection named a stream of the sender without its secret.
    NotProven,
    /// A connection was rejected because another sender with the same id was connected.
    InUse,
}

/// Decides which lines about senders are written.
#[derive(Debug, Default)]
pub(crate) struct SenderLog {
    /// A limit for each kind, so that lines of one kind suppress none of another.
    kinds: Mutex<HashMap<SenderLine, LogLimit<SenderId>>>,
}

impl SenderLog {
    /// Returns the number of suppressed lines of this kind about `sender` since the last one, or `None` to
    /// suppress this one as well.
    pub(crate) fn admit(&self, sender: &SenderId, line: SenderLine) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.entry(line).or_default().admit(sender.clone(), Instant::now().into_std())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LOG_INTERVAL, LOG_KEYS_MAX};

    #[tokio::test(start_paused = true)]
    async fn sessions_of_many_senders_suppress_no_loss() {
        let log = SenderLog::default();
        for number in 0..=2 * LOG_KEYS_MAX {
            log.admit(&format!("sender-{number}").parse().unwrap(), SenderLine::Session);
        }
        let victim = "victim".parse().unwrap();
        assert_eq!(log.admit(&victim, SenderLine::Lost(GapReason::SpoolFull)), Some(0));
    }

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
