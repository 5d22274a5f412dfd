//! Why a session cannot go on.

use core::time::Duration;

use crate::batch::BatchError;
use crate::framing::{FramingError, RefusalCode};
use crate::sequence::Position;

/// What ends a session. The connection is of no more use; all that is not acknowledged is sent again on the next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The bytes are no message.
    #[error("the other side sent {0}")]
    Framing(FramingError),
    /// A HELLO in a version that is not spoken here.
    #[error(transparent)]
    Version(FramingError),
    /// A message that has no place at this moment.
    #[error("the other side sent {message} {moment}")]
    Unexpected {
        /// The message's name.
        message: &'static str,
        /// When it came.
        moment: &'static str,
    },
    /// DATA that is not a batch of the session's stream.
    #[error("the other side sent DATA that is damaged: {0}")]
    Batch(#[from] BatchError),
    /// The sender left positions out without a GAP.
    #[error("the other side left out positions {expected} to {found} without a GAP")]
    Hole {
        /// The position that was to come.
        expected: Position,
        /// The position that came.
        found: Position,
    },
    /// The receiver acknowledged what was never sent.
    #[error("the other side acknowledged position {acknowledged}, but only positions below {sent} were sent")]
    AcknowledgedTooMuch {
        /// The position that it acknowledged.
        acknowledged: Position,
        /// The end of what was sent; `sent < acknowledged`.
        sent: Position,
    },
    /// The receiver has received what was never sent.
    #[error("the other side received up to position {taken}, but only positions below {sent} were sent")]
    TakenTooMuch {
        /// The position up to which it has everything.
        taken: Position,
        /// The end of what was sent, in this session or before it; `sent < taken`.
        sent: Position,
    },
    /// The receiver wants something once more that was never sent, or that it has acknowledged.
    #[error("the other side asks again for position {wanted}; only positions below {sent} were sent")]
    NotSent {
        /// The position that it wants.
        wanted: Position,
        /// The end of what was sent.
        sent: Position,
    },
    /// Not one byte came for too long.
    #[error(
        "nothing was heard from the other side for {0:?}: its host, its service or the way there is down"
    )]
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
    /// The code with which a receiver tells the sender; `None` if nobody hears it.
    pub(super) fn refusal_code(&self) -> Option<RefusalCode> {
        match self {
            Self::Version(_) => Some(RefusalCode::UnsupportedVersion),
            Self::Silent(_) => None,
            _ => Some(RefusalCode::BrokenProtocol),
        }
    }
}

/// What was to be sent does not hold the position that is wanted. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("positions {first} to {end} do not hold the position to be sent next")]
pub struct OutOfTurn {
    /// The first position of what was to be sent.
    pub first: Position,
    /// The position after its last one.
    pub end: Position,
}
