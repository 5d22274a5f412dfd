//! How a session with a receiver ended, and what follows.

use std::time::Duration;

use nf_transport_core::framing::{Refusal, RefusalCode};
use nf_transport_core::secure::ChannelError;
use nf_transport_core::sequence::Position;
use nf_transport_core::session::SessionError;
use nf_transport_core::spool::Divergence;

use crate::host::secure_stream::StreamError;

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionEnd {
    #[error("the receiver closed the connection")]
    Closed,
    #[error("the receiver ended the session")]
    Goodbye,
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("the receiver refuses: {0}")]
    Refused(String),
    /// As `Refused`; the receiver may accept the stream within [`REFUSED_FOR_NOW_DELAY_MAX`](crate::limits::REFUSED_FOR_NOW_DELAY_MAX).
    #[error("the receiver refuses: {0}")]
    RefusedForNow(String),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("the receiver refuses: {0}")]
    Superseded(String),
    #[error(
        "the receiver has datagrams of this stream that this spool never sent: it was restored from a backup, or \
         another machine uses a copy of it; sending all that is queued as a new stream"
    )]
    Diverged {
        divergence: Divergence,
        /// What the receiver has delivered of the stream.
        delivered: Position,
    },
    #[error("the receiver asks for positions from {0} on, which it has acknowledged up to {1}")]
    BehindUs(Position, Position),
    #[error(
        "nothing was acknowledged for {} s although the receiver is heard: large packets are probably lost on the way (path MTU \
         black hole)",
        .0.as_secs()
    )]
    Stalled(Duration),
    #[error("connecting again")]
    Renewed,
    /// As `Renewed`, because somebody asked for it.
    #[error("connecting again")]
    Asked,
    #[error("stopping")]
    Stopped,
}

impl SessionEnd {
    /// The receiver said no.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        let text = refusal.text().to_owned();
        match refusal.code() {
            RefusalCode::Superseded => Self::Superseded(text),
            RefusalCode::TooManyStreams | RefusalCode::IdInUse => Self::RefusedForNow(text),
            _ => Self::Refused(text),
        }
    }

    /// Whether one of the two sides said no.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::RefusedForNow(_)
                | Self::Superseded(_)
                | Self::Stream(StreamError::Channel(ChannelError::Tls(_)))
        )
    }

    /// Whether the next receiver is tried at once: the session came to nothing, and that may be different there.
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
