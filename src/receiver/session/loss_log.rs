//! Log lines about datagrams that a sender lost.

use nf_transport_core::batch::BatchError;
use nf_transport_core::sequence::GapReason;

use crate::host::More;
use crate::host::systemd::messages::receiver;
use crate::receiver::delivery::{Loss, LossCause};
use crate::receiver::session::connection::Connection;
use crate::receiver::session::sender_log::SenderLine;
use crate::status::count_of;

impl Connection<'_> {
    /// Logs lost datagrams. The sender has now lost `in_all`.
    pub(super) fn log_loss(&self, lost: &Loss, in_all: u64) {
        match lost.cause {
            LossCause::Reported(reason) => self.log_reported(lost, reason, in_all),
            LossCause::Unreadable(error) => self.log_unreadable(lost, error, in_all),
        }
    }

    fn log_reported(&self, lost: &Loss, reason: GapReason, in_all: u64) {
        let sender = &self.sender.sender;
        let Some(held_back) = self.shared.sender_log.admit(sender, SenderLine::Lost(reason)) else {
            return;
        };
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
            More(held_back)
        );
    }

    fn log_unreadable(&self, lost: &Loss, error: BatchError, in_all: u64) {
        let sender = &self.sender.sender;
        let Some(held_back) = self.shared.sender_log.admit(sender, SenderLine::Unreadable) else { return };
        tracing::error!(
            %error,
            %sender,
            first = lost.first.0,
            lost = lost.datagrams,
            in_all,
            held_back,
            "lost {} of {sender}, {in_all} since nf-receiver started: cannot decode a batch: {error}{}",
            count_of(lost.datagrams, "datagram"),
            More(held_back)
        );
    }
}
