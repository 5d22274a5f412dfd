//! Messages as valid values, and their encoding.

use core::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::framing::VERSION;
use crate::framing::message_type::MessageType;
use crate::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN, REFUSAL_TEXT_MAX};
use crate::sequence::{Gap, Position, RunId, StreamId};

/// Value for "no stream" in HELLO.
pub(super) const NO_STREAM: StreamId = StreamId([0; 16]);

/// A message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The sender opens a session: it names its stream and the first position that it holds.
    Hello(Hello),
    /// The receiver accepts the session and names the position from which the sender resumes.
    Welcome(Welcome),
    /// An encoded batch, `1 <= length <= MESSAGE_MAX`. Framing does not parse it.
    Data(Bytes),
    /// Everything below this position is delivered.
    Ack(Position),
    /// Positions that will never be delivered; `first < end`.
    Gap(Gap),
    /// A heartbeat without content.
    Ping,
    /// The receiver ends the session with a reason.
    Refuse(Refusal),
    /// Either side closes the session regularly.
    Goodbye,
    /// The receiver has everything below this position, although not all of it is delivered.
    ///
    /// The sender sends none of it again unless the receiver requests it.
    Received(Position),
    /// The receiver requests batches that it has already received.
    Resend(Resend),
}

/// A receiver's request to send batches again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resend {
    /// First requested position.
    pub first: Position,
    /// Bytes of batches after which the sender stops; it stops earlier if it has no more. `1 <= bytes`.
    pub bytes: u32,
}

/// The message with which a sender opens a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Stream to which the positions in all later messages belong.
    pub stream: StreamId,
    /// First position that the sender still holds.
    pub first: Position,
    /// Longest time between two messages of either side.
    pub heartbeat: Heartbeat,
    /// Current run of the sender.
    pub run: RunId,
    /// Stream that this one replaces, because the spool was rolled back or cloned.
    pub replaces: Option<StreamId>,
    /// Proof that the sender owns the stream.
    pub proof: StreamProof,
}

/// Proof, valid for one connection, that a sender holds the secret behind its stream id. Framing does not
/// verify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamProof {
    /// Ed25519 public key from which the stream id is derived.
    pub public_key: [u8; 32],
    /// Signature for this connection.
    pub signature: [u8; 64],
}

#[cfg(any(test, feature = "testing"))]
impl StreamProof {
    /// An invalid proof, for tests that do not verify it.
    pub const NONE: Self = Self { public_key: [0; 32], signature: [0; 64] };
}

/// Longest time between two messages of either side, in whole milliseconds from `HEARTBEAT_MIN` to
/// `HEARTBEAT_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heartbeat(u32);

impl Heartbeat {
    /// Returns the allowed heartbeat that is nearest to `wanted`.
    pub fn nearest(wanted: Duration) -> Self {
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Self(millis(wanted).clamp(millis(HEARTBEAT_MIN), millis(HEARTBEAT_MAX)))
    }

    pub(super) fn from_millis(millis: u32) -> Option<Self> {
        let heartbeat = Self(millis);
        (Self::nearest(heartbeat.duration()) == heartbeat).then_some(heartbeat)
    }

    /// The heartbeat as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.0))
    }
}

/// A receiver's answer to HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Position from which the sender resumes.
    pub resume: Position,
    /// Bytes of unacknowledged batches that may be in flight; `1 <= window`.
    pub window: u32,
    /// Position below which everything is received, delivered or not; `resume <= received`.
    pub received: Position,
    /// Run that sent the latest of it; [`RunId::NONE`] if unknown.
    pub run: RunId,
}

/// Reason for which a receiver ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The receiver does not support the version of the sender's HELLO.
    UnsupportedVersion,
    /// The sender violated the protocol.
    BrokenProtocol,
    /// The receiver cannot store the position, so it cannot acknowledge anything.
    StorageFailed,
    /// The same sender has opened a newer connection.
    Superseded,
    /// The sender is not authorized, or not any more.
    NotAuthorized,
    /// The receiver has reached its limit of connections.
    TooManyConnections,
    /// The sender did not prove that it owns the stream.
    StreamNotProven,
    /// The sender started too many new streams.
    TooManyStreams,
    /// Another sender with the same id has a session.
    IdInUse,
    /// A reason that only newer versions define.
    Other(u8),
}

impl RefusalCode {
    /// All reasons of this version, each with its number on the wire.
    const ALL: [(Self, u8); 9] = [
        (Self::UnsupportedVersion, 1),
        (Self::BrokenProtocol, 2),
        (Self::StorageFailed, 3),
        (Self::Superseded, 4),
        (Self::NotAuthorized, 5),
        (Self::TooManyConnections, 6),
        (Self::StreamNotProven, 7),
        (Self::TooManyStreams, 8),
        (Self::IdInUse, 9),
    ];

    fn code(self) -> u8 {
        match self {
            Self::Other(code) => code,
            known => Self::ALL.iter().find(|row| row.0 == known).map_or(0, |row| row.1),
        }
    }

    pub(super) fn from_code(code: u8) -> Self {
        Self::ALL.iter().find(|row| row.1 == code).map_or(Self::Other(code), |row| row.0)
    }
}

/// A refusal with a text for the operator: at most `REFUSAL_TEXT_MAX` bytes, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: RefusalCode,
    text: String,
}

impl Refusal {
    /// Creates a refusal. Control characters in `text` become spaces, and a text that is too long is cut.
    pub fn new(code: RefusalCode, text: &str) -> Self {
        let mut text = text.replace(char::is_control, " ");
        let cut = (0..=REFUSAL_TEXT_MAX.min(text.len())).rev().find(|cut| text.is_char_boundary(*cut));
        text.truncate(cut.unwrap_or(0));
        Self { code, text }
    }

    /// Reason for programs.
    pub fn code(&self) -> RefusalCode {
        self.code
    }

    /// Reason for operators.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Message {
    /// Name of the message in the protocol.
    pub fn name(&self) -> &'static str {
        self.message_type().name()
    }

    fn message_type(&self) -> MessageType {
        match self {
            Self::Hello(_) => MessageType::Hello,
            Self::Welcome(_) => MessageType::Welcome,
            Self::Data(_) => MessageType::Data,
            Self::Ack(_) => MessageType::Ack,
            Self::Gap(_) => MessageType::Gap,
            Self::Ping => MessageType::Ping,
            Self::Refuse(_) => MessageType::Refuse,
            Self::Goodbye => MessageType::Goodbye,
            Self::Received(_) => MessageType::Received,
            Self::Resend(_) => MessageType::Resend,
        }
    }

    /// Appends the message to `out`, except for the batch of DATA.
    ///
    /// Returns that batch, which must follow `out` on the wire. So it is never copied.
    #[must_use = "the batch of DATA is not in `out`"]
    pub fn encode(self, out: &mut BytesMut) -> Option<Bytes> {
        let start = out.len();
        out.put_u32(0);
        out.put_u8(self.message_type().code());
        let batch = self.put_payload(out);
        let length = out.len() - start - super::HEADER_LEN + batch.as_ref().map_or(0, Bytes::len);
        if let Some(mut place) = out.get_mut(start..) {
            place.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        }
        batch
    }

    fn put_payload(self, out: &mut BytesMut) -> Option<Bytes> {
        match self {
            Self::Hello(hello) => {
                out.put_u16(VERSION);
                out.put_slice(&hello.stream.0);
                out.put_u64(hello.first.0);
                out.put_u32(hello.heartbeat.0);
                out.put_slice(&hello.run.0);
                out.put_slice(&hello.replaces.unwrap_or(NO_STREAM).0);
                out.put_slice(&hello.proof.public_key);
                out.put_slice(&hello.proof.signature);
            }
            Self::Welcome(welcome) => {
                out.put_u64(welcome.resume.0);
                out.put_u32(welcome.window);
                out.put_u64(welcome.received.0);
                out.put_slice(&welcome.run.0);
            }
            Self::Data(batch) => return Some(batch),
            Self::Ack(position) | Self::Received(position) => out.put_u64(position.0),
            Self::Resend(resend) => {
                out.put_u64(resend.first.0);
                out.put_u32(resend.bytes);
            }
            Self::Gap(gap) => {
                out.put_u64(gap.first.0);
                out.put_u64(gap.end.0);
                out.put_u8(gap.reason.code());
                out.put_u64(gap.datagrams());
            }
            Self::Ping | Self::Goodbye => {}
            Self::Refuse(refusal) => {
                out.put_u8(refusal.code.code());
                out.put_slice(refusal.text.as_bytes());
            }
        }
        None
    }
}
