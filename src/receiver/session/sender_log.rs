//! Log lines caused by messages of an authenticated sender: one of each kind for each sender in
//! `LOG_INTERVAL`.

use std::collections::HashMap;
use std::sync::Mutex;

use nf_transport_core::batch::BatchError;
use nf_transport_core::sequence::{GapReason, SenderId};
use tokio::time::Instant;

use crate::host::systemd::messages::receiver;
use crate::host::{LogLimit, Suppressed, locked};
use crate::receiver::delivery::{Loss, LossCause};
use crate::status::count_of;

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
        let mut kinds = locked(&self.kinds);
        kinds.entry(line).or_default().admit(sender.clone(), Instant::now().into_std())
    }

    /// Logs lost datagrams. `sender` has now lost `in_all`.
    pub(crate) fn log_loss(&self, sender: &SenderId, lost: &Loss, in_all: u64) {
        match lost.cause {
            LossCause::Reported(reason) => self.log_reported(sender, lost, reason, in_all),
            LossCause::Unreadable(error) => self.log_unreadable(sender, lost, error, in_all),
        }
    }

    fn log_reported(&self, sender: &SenderId, lost: &Loss, reason: GapReason, in_all: u64) {
        let Some(held_back) = self.admit(sender, SenderLine::Lost(reason)) else { return };
        let reason = reason.word();
        tracing::warn!(
            message_id = receiver::SENDER_LOST,
            %sender,
            first = lost.first.0,
            lost = lost.datagrams,
            in_all,
            reason,
            held_back,
            "sender {sender} lost {}, {in_all} since nf-receiver started: {reason}{}",
            count_of(lost.datagrams, "datagram"),
            Suppressed(held_back)
        );
    }

    fn log_unreadable(&self, sender: &SenderId, lost: &Loss, error: BatchError, in_all: u64) {
        let Some(held_back) = self.admit(sender, SenderLine::Unreadable) else { return };
        tracing::error!(
            %error,
            %sender,
            first = lost.first.0,
            lost = lost.datagrams,
            in_all,
            held_back,
            "lost {} of {sender}, {in_all} since nf-receiver started: cannot decode a batch: {error}{}",
            count_of(lost.datagrams, "datagram"),
            Suppressed(held_back)
        );
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
