//! Errors of decoding messages.

use bytes::TryGetError;

use crate::framing::VERSION;
use crate::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN};
use crate::sequence::Position;

/// Reason why bytes are not a message. No later byte of the same connection can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// This version does not define the type.
    #[error("a message of the unknown type {0}")]
    UnknownType(u8),
    /// The length in the header is not allowed for this type.
    #[error("a {name} message of {length} bytes, where {shortest} to {longest} are allowed")]
    Length {
        /// Name of the type.
        name: &'static str,
        /// Length in the header, in bytes.
        length: usize,
        /// Shortest allowed length.
        shortest: usize,
        /// Longest allowed length.
        longest: usize,
    },
    /// The payload ends inside a field.
    #[error("a message whose payload ends inside a field")]
    Short,
    /// A HELLO has another version. The receiver can still send a refusal.
    #[error("protocol version {0} is not supported, only version {VERSION}: update the older side")]
    Version(u16),
    /// A HELLO requests a heartbeat that is too short or too long.
    #[error(
        "a HELLO message with a heartbeat of {0} ms, where {shortest} to {longest} are allowed: \
         change 'heartbeat' of the sender",
        shortest = HEARTBEAT_MIN.as_millis(),
        longest = HEARTBEAT_MAX.as_millis()
    )]
    Heartbeat(u32),
    /// A WELCOME has an empty window.
    #[error("a WELCOME message with a window of 0 bytes")]
    Window,
    /// A WELCOME states a received position below the resume position.
    #[error("a WELCOME message whose received position {received} is below its resume position {resume}")]
    Received {
        /// Position from which the sender resumes.
        resume: Position,
        /// Position below which everything is received; `received < resume`.
        received: Position,
    },
    /// A RESEND requests no bytes.
    #[error("a RESEND message for 0 bytes")]
    Resend,
    /// A GAP contains no position.
    #[error("a GAP message from position {first} to {end}, which is an empty range")]
    GapRange {
        /// First position in the message.
        first: Position,
        /// End in the message; `end <= first`.
        end: Position,
    },
    /// A GAP has a reason that this version does not define.
    #[error("a GAP message with the unknown reason {0}")]
    GapReason(u8),
    /// A GAP has a count that contradicts its range and reason.
    #[error("a GAP message that counts {count} datagrams instead of {expected} as its range requires")]
    GapCount {
        /// Count in the message.
        count: u64,
        /// Count that results from range and reason.
        expected: u64,
    },
    /// The text of a REFUSE cannot be logged safely.
    #[error("a REFUSE message whose text is not UTF-8 or contains control characters")]
    RefusalText,
}

impl From<TryGetError> for FramingError {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}
