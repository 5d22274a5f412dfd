//! What can be wrong with the bytes of a message.

use bytes::TryGetError;

use crate::framing::VERSION;
use crate::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN};
use crate::sequence::Position;

/// Why bytes are not a message. Nothing that follows on the same connection can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The type is none that this version knows.
    #[error("a message of the unknown type {0}")]
    UnknownType(u8),
    /// The header announces a payload that no message of this type has.
    #[error("a {name} message of {length} bytes, where {shortest} to {longest} are allowed")]
    Length {
        /// The type's name.
        name: &'static str,
        /// What the header says.
        length: usize,
        /// The fewest bytes that are allowed.
        shortest: usize,
        /// The most bytes that are allowed.
        longest: usize,
    },
    /// The payload ends inside a field.
    #[error("a message whose payload ends inside a field")]
    Short,
    /// A HELLO speaks another version. The sender can be told so.
    #[error("protocol version {0} is not spoken here, only version {VERSION}")]
    Version(u16),
    /// A HELLO asks for a heartbeat that is too short or too long.
    #[error(
        "a HELLO message with a heartbeat of {0} ms, where {shortest} to {longest} are allowed: change 'heartbeat' of the sender",
        shortest = HEARTBEAT_MIN.as_millis(),
        longest = HEARTBEAT_MAX.as_millis()
    )]
    Heartbeat(u32),
    /// A WELCOME allows not one byte.
    #[error("a WELCOME message with a window of 0 bytes")]
    Window,
    /// A WELCOME has received less than it has delivered.
    #[error("a WELCOME message that has received up to {received} and delivered up to {resume}")]
    Received {
        /// The position to go on from.
        resume: Position,
        /// Up to where everything has come; `received < resume`.
        received: Position,
    },
    /// An AGAIN asks for not one byte.
    #[error("an AGAIN message for 0 bytes")]
    Again,
    /// A GAP holds no position.
    #[error("a GAP message from position {first} to {end}, which is no range")]
    GapRange {
        /// The first position that it names.
        first: Position,
        /// The end that it names; `end <= first`.
        end: Position,
    },
    /// A GAP gives a reason that this version does not know.
    #[error("a GAP message with the unknown reason {0}")]
    GapReason(u8),
    /// A GAP counts other datagrams than its range and reason say.
    #[error("a GAP message that counts {count} datagrams where its range means {expected}")]
    GapCount {
        /// What the message says.
        count: u64,
        /// What its range and reason say.
        expected: u64,
    },
    /// The sentence of a REFUSE is not fit for a log.
    #[error("a REFUSE message whose text is not UTF-8 or holds control characters")]
    RefusalText,
}

impl From<TryGetError> for FramingError {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}
