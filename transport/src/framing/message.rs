//! The messages as values that cannot be wrong, and the way from value to bytes.

use core::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::framing::VERSION;
use crate::framing::kind::Kind;
use crate::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN, REFUSAL_TEXT_MAX};
use crate::sequence::{Gap, Position, RunId, StreamId};

/// Stands for no stream in HELLO.
pub(super) const NO_STREAM: StreamId = StreamId([0; 16]);

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The sender names its stream and what it holds of it.
    Hello(Hello),
    /// The receiver agrees and says where to go on.
    Welcome(Welcome),
    /// A batch, encoded. `1 <= length <= MESSAGE_MAX`; what is in it is not looked at here.
    Data(Bytes),
    /// Everything below this position is delivered.
    Ack(Position),
    /// Positions that will never be delivered; `first < end`.
    Gap(Gap),
    /// Nothing but a sign of life.
    Ping,
    /// The receiver ends the session and says why.
    Refuse(Refusal),
    /// An orderly end.
    Goodbye,
    /// Everything below this position has come and need not come again unless it is asked for. It is not all delivered.
    Taken(Position),
    /// The receiver asks for something once more.
    Again(Again),
}

/// What a receiver asks for once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// The position to begin with.
    pub first: Position,
    /// Batches are to come until they make up as many bytes, or there is no more; `1 <= bytes`.
    pub bytes: u32,
}

/// What a sender opens a session with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The stream whose positions all later messages speak of.
    pub stream: StreamId,
    /// The first position that the sender still holds.
    pub first: Position,
    /// How often both sides send something.
    pub heartbeat: Heartbeat,
    /// The sender's run.
    pub run: RunId,
    /// The stream that this one continues, because the spool was rolled back or cloned.
    pub replaces: Option<StreamId>,
    /// Shows that the stream is the sender's own.
    pub proof: StreamProof,
}

/// Shows, on one connection, that a sender holds the secret behind its stream id. What is in it is not looked at here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamProof {
    /// The public key that the stream id is made of.
    pub public_key: [u8; 32],
    /// Its signature for this connection.
    pub signature: [u8; 64],
}

#[cfg(any(test, feature = "testing"))]
impl StreamProof {
    /// Proves nothing, for tests that do not ask.
    pub const NONE: Self = Self { public_key: [0; 32], signature: [0; 64] };
}

/// How often either side sends something: whole milliseconds, `HEARTBEAT_MIN <= heartbeat <= HEARTBEAT_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heartbeat(u32);

impl Heartbeat {
    /// The heartbeat nearest to `wanted` that is allowed.
    pub fn nearest(wanted: Duration) -> Self {
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Self(millis(wanted).clamp(millis(HEARTBEAT_MIN), millis(HEARTBEAT_MAX)))
    }

    pub(super) fn from_millis(millis: u32) -> Option<Self> {
        let heartbeat = Self(millis);
        (Self::nearest(heartbeat.duration()) == heartbeat).then_some(heartbeat)
    }

    /// The time between two signs of life.
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.0))
    }
}

/// What a receiver answers to HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The position to go on from.
    pub resume: Position,
    /// Bytes of batches that may be under way without an acknowledgement; `1 <= window`.
    pub window: u32,
    /// Everything below has come, delivered or not; `resume <= received`.
    pub received: Position,
    /// The run that sent the latest of that; [`RunId::NONE`] if it is not known.
    pub run: RunId,
}

/// Why a receiver ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// It does not speak the version of the sender's HELLO.
    UnsupportedVersion,
    /// The sender's messages broke the protocol.
    BrokenProtocol,
    /// It cannot store the position, so it can acknowledge nothing.
    StorageFailed,
    /// The same sender opened a newer connection.
    Superseded,
    /// The sender is not let in any more.
    NotAdmitted,
    /// The receiver carries as many connections as it may.
    TooManyConnections,
    /// The sender did not prove that the stream is its own.
    StreamNotProven,
    /// The sender began too many new streams.
    TooManyStreams,
    /// Another sender with the same id has a session.
    IdInUse,
    /// A reason that only a newer receiver knows.
    Other(u8),
}

impl RefusalCode {
    /// Every reason that this version knows, with its number on the wire.
    const ALL: [(Self, u8); 9] = [
        (Self::UnsupportedVersion, 1),
        (Self::BrokenProtocol, 2),
        (Self::StorageFailed, 3),
        (Self::Superseded, 4),
        (Self::NotAdmitted, 5),
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

/// A refusal with a sentence for the operator: at most `REFUSAL_TEXT_MAX` bytes, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: RefusalCode,
    text: String,
}

impl Refusal {
    /// A refusal that says `text`: control characters become spaces, what is too long is cut.
    pub fn new(code: RefusalCode, text: &str) -> Self {
        let mut text = text.replace(char::is_control, " ");
        let cut = (0..=REFUSAL_TEXT_MAX.min(text.len())).rev().find(|cut| text.is_char_boundary(*cut));
        text.truncate(cut.unwrap_or(0));
        Self { code, text }
    }

    /// The reason, for programs.
    pub fn code(&self) -> RefusalCode {
        self.code
    }

    /// The reason, for people.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Message {
    /// The message's name in the protocol.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Data(_) => Kind::Data,
            Self::Ack(_) => Kind::Ack,
            Self::Gap(_) => Kind::Gap,
            Self::Ping => Kind::Ping,
            Self::Refuse(_) => Kind::Refuse,
            Self::Goodbye => Kind::Goodbye,
            Self::Taken(_) => Kind::Taken,
            Self::Again(_) => Kind::Again,
        }
    }

    /// Appends the message to `out`; the batch of DATA is not copied there but given back, to follow.
    #[must_use = "the batch of DATA is not in `out`"]
    pub fn encode(self, out: &mut BytesMut) -> Option<Bytes> {
        let start = out.len();
        out.put_u32(0);
        out.put_u8(self.kind().code());
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
            Self::Ack(position) | Self::Taken(position) => out.put_u64(position.0),
            Self::Again(again) => {
                out.put_u64(again.first.0);
                out.put_u32(again.bytes);
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
