//! Errors that end a session.

use core::time::Duration;

use crate::batch::BatchError;
use crate::framing::{FramingError, RefusalCode};
use crate::sequence::Position;

/// Reason why a session ended.
///
/// The connection cannot be used any more. The sender sends all unacknowledged data again on the next
/// connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The bytes are not a message.
    #[error("the other side sent {0}")]
    Framing(FramingError),
    /// A HELLO has an unsupported version.
    #[error(transparent)]
    Version(FramingError),
    /// A message is not allowed in the current state of the session.
    #[error("the other side sent {message} {state}")]
    Unexpected {
        /// Name of the message.
        message: &'static str,
        /// State of the session, as the end of a sentence.
        state: &'static str,
    },
    /// DATA does not contain a valid batch of the session's stream.
    #[error("the other side sent DATA that is damaged: {0}")]
    Batch(#[from] BatchError),
    /// The sender skipped positions without a GAP.
    #[error("the other side skipped positions {expected} to {found} without a GAP")]
    Hole {
        /// Next expected position.
        expected: Position,
        /// First position of the received message.
        found: Position,
    },
    /// The receiver acknowledged positions that were never sent.
    #[error("the other side acknowledged position {acknowledged}, but only positions below {sent} were sent")]
    AcknowledgedTooMuch {
        /// Acknowledged position.
        acknowledged: Position,
        /// Position after the last sent one; `sent < acknowledged`.
        sent: Position,
    },
    /// The receiver reported positions as received that were never sent.
    #[error("the other side received up to position {received}, but only positions below {sent} were sent")]
    ReceivedTooMuch {
        /// Position below which the receiver claims to have everything.
        received: Position,
        /// Position after the last one sent in this session or before it; `sent < received`.
        sent: Position,
    },
    /// The receiver requested positions that were never sent, or that it has acknowledged.
    #[error(
        "the other side requests position {wanted} again; only unacknowledged positions below {sent} \
         were sent"
    )]
    NotSent {
        /// Requested position.
        wanted: Position,
        /// Position after the last sent one.
        sent: Position,
    },
    /// No byte was received for too long.
    #[error("no byte from the other side for {0:?}: its host, its service or the network is down")]
    Silent(Duration),
}

impl From<FramingError> for SessionError {
    fn from(error: FramingError) -> Self {
        match error {
            FramingError::Version(_) => Self::Version(error),
            _ => Self::Framing(error),
        }
    }
}

impl SessionError {
    /// Code of the refusal that a receiver sends; `None` if the sender is unreachable.
    pub(super) fn refusal_code(&self) -> Option<RefusalCode> {
        match self {
            Self::Version(_) => Some(RefusalCode::UnsupportedVersion),
            Self::Silent(_) => None,
            _ => Some(RefusalCode::BrokenProtocol),
        }
    }
}

/// The batch or gap to send does not contain the next position. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("positions {first} to {end} do not contain the next position to send")]
pub struct OutOfOrder {
    /// First position of the batch or gap.
    pub first: Position,
    /// Position after its last one.
    pub end: Position,
}
