//! The end of a session with a receiver, and the next step.

use std::time::Duration;

use nf_transport_core::framing::{Refusal, RefusalCode};
use nf_transport_core::secure::ChannelError;
use nf_transport_core::sequence::Position;
use nf_transport_core::session::SessionError;
use nf_transport_core::spool::Divergence;

use crate::host::secure_stream::StreamError;

/// The reason why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionEnd {
    #[error("the receiver closed the connection")]
    Closed,
    #[error("the receiver ended the session")]
    Goodbye,
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("rejected by the receiver: {0}")]
    Refused(String),
    /// As `Refused`, but the receiver may accept the stream within
    /// [`REFUSED_FOR_NOW_DELAY_MAX`](crate::limits::REFUSED_FOR_NOW_DELAY_MAX).
    #[error("rejected by the receiver: {0}")]
    RefusedForNow(String),
    #[error("{}", session_error(.0))]
    Session(#[from] SessionError),
    #[error("rejected by the receiver: {0}")]
    Superseded(String),
    #[error(
        "the receiver has datagrams of this stream that this spool never sent: it was restored from a \
         backup, or another machine uses a copy of it; sending all that is queued as a new stream"
    )]
    Diverged {
        divergence: Divergence,
        /// The position up to which the receiver has delivered the stream.
        delivered: Position,
    },
    #[error(
        "the receiver asks for positions from {0} on, but has acknowledged them up to {1} before: it may \
         have lost its state"
    )]
    BehindUs(Position, Position),
    #[error(
        "nothing was acknowledged for {} s although the receiver answers: large packets are probably lost \
         on the path (path MTU black hole)",
        .0.as_secs()
    )]
    Stalled(Duration),
    #[error("connecting again")]
    Renewed,
    /// As `Renewed`, on a reconnect request.
    #[error("connecting again")]
    Asked,
    #[error("stopping")]
    Stopped,
}

/// Describes a protocol error, and names the usual causes of a silent receiver.
fn session_error(error: &SessionError) -> String {
    match error {
        SessionError::Silent(silence) => {
            format!("no heartbeat for {} s: host, nf-receiver or network is down", silence.as_secs())
        }
        error => error.to_string(),
    }
}

impl SessionEnd {
    /// Maps a REFUSE message of the receiver to a reason.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        let text = refusal.text().to_owned();
        match refusal.code() {
            RefusalCode::Superseded => Self::Superseded(text),
            RefusalCode::TooManyStreams | RefusalCode::IdInUse => Self::RefusedForNow(text),
            _ => Self::Refused(text),
        }
    }

    /// Returns `true` if this sender ended the session in order.
    pub(crate) fn is_by_us(&self) -> bool {
        matches!(self, Self::Renewed | Self::Asked | Self::Stopped)
    }

    /// Returns `true` if one of the two sides rejected the other.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::RefusedForNow(_)
                | Self::Superseded(_)
                | Self::Stream(StreamError::Channel(ChannelError::Tls(_)))
        )
    }

    /// Returns `true` if the next receiver is tried at once, as the session did not work and another receiver
    /// may accept it.
    pub(crate) fn fails_over(&self, is_agreed: bool, has_worked: bool) -> bool {
        match self {
            Self::Renewed
            | Self::Asked
            | Self::Stopped
            | Self::Superseded(_)
            | Self::Diverged { .. }
            | Self::BehindUs(..) => false,
            Self::Refused(_) | Self::RefusedForNow(_) => !is_agreed,
            Self::Stalled(_) => true,
            Self::Closed | Self::Goodbye | Self::Stream(_) | Self::Session(_) => !has_worked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_receiver_is_described_by_its_causes() {
        let ended = SessionEnd::from(SessionError::Silent(Duration::from_secs(15)));
        assert_eq!(ended.to_string(), "no heartbeat for 15 s: host, nf-receiver or network is down");
    }
}
