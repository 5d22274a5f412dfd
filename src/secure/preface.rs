//! The first bytes of a connection, in clear text: the sender says who it is and how it means to speak, the
//! receiver accepts or says why not. Never reads a byte beyond the preface, and never more than 138 bytes.
//!
//! The sender begins with its preface:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic | `NFR1` |
//! | 4 | 1 | version | 1 |
//! | 5 | 1 | mode | 0 no encryption; others mean encryption |
//! | 6 | 1 | suite | 0 without encryption |
//! | 7 | 1 | zero | 0 |
//! | 8 | 1 | length of the key id | 0 to 64; 0 without encryption |
//! | 9 | 1 | length of the sender id | 1 to 64 |
//! | 10 | | key id | |
//! | | | sender id | `A-Z a-z 0-9 . _ -`, not starting with a dot |
//!
//! The receiver answers with a reply of 24 bytes:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic | `NFR1` |
//! | 4 | 1 | status | 0 accepted, 1 to 6 refused, see [`Status`] |
//! | 5 | 1 | mode | 0 |
//! | 6 | 1 | suite | 0 |
//! | 7 | 1 | zero | 0 |
//! | 8 | 16 | zero; not looked at without encryption | 0 |

use crate::sequence::SenderId;

/// The longest preface in bytes: its fixed part and two ids of 64 bytes.
pub const PREFACE_MAX: usize = HEADER_LEN + 2 * ID_MAX;

/// Bytes of the receiver's reply.
pub const REPLY_LEN: usize = 24;

const MAGIC: [u8; 4] = *b"NFR1";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 10;
const ID_MAX: usize = 64;
const MODE_NONE: u8 = 0;

/// Whether enough bytes are there to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// So many bytes, counted from the start, are needed to go on. Who never reads more than this leaves what
    /// follows in the socket.
    NeedMore(usize),
    /// It is here.
    Here(T),
}

/// How a sender means to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In clear text.
    None,
    /// Encrypted in a way that this version does not know.
    Encrypted {
        /// The mode's number; 1 is a shared key.
        mode: u8,
        /// The suite's number.
        suite: u8,
    },
}

impl Mode {
    /// What a receiver that has no key answers.
    pub fn answer_without_keys(self) -> Status {
        match self {
            Self::None => Status::Accepted,
            Self::Encrypted { .. } => Status::EncryptionNotConfigured,
        }
    }
}

/// What a sender says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preface {
    /// How it means to speak.
    pub mode: Mode,
    /// Who it says it is.
    pub sender: SenderId,
}

impl Preface {
    /// The preface of a sender that speaks without encryption.
    pub fn encode_plain(sender: &SenderId) -> Vec<u8> {
        let sender = sender.as_str().as_bytes();
        let length = u8::try_from(sender.len()).unwrap_or(u8::MAX);
        [MAGIC.as_slice(), &[VERSION, MODE_NONE, 0, 0, 0, length], sender].concat()
    }

    /// Reads the preface that `bytes` start with.
    pub fn parse(bytes: &[u8]) -> Result<Parsed<Self>, PrefaceError> {
        if !starts_with_magic(bytes)? {
            return Ok(Parsed::NeedMore(HEADER_LEN));
        }
        if let Some(version) = bytes.get(MAGIC.len()).filter(|version| **version != VERSION) {
            return Err(PrefaceError::Version(*version));
        }
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(Parsed::NeedMore(HEADER_LEN));
        };
        let [_, _, _, _, _, mode, suite, zero, key_id_len, sender_len] = *header;
        let (key_id_len, sender_len) = (usize::from(key_id_len), usize::from(sender_len));
        if zero != 0 || key_id_len > ID_MAX || !(1..=ID_MAX).contains(&sender_len) {
            return Err(PrefaceError::Malformed);
        }
        let sender_at = HEADER_LEN + key_id_len;
        let Some(sender) = bytes.get(sender_at..sender_at + sender_len) else {
            return Ok(Parsed::NeedMore(sender_at + sender_len));
        };
        let mode = match mode {
            MODE_NONE if suite != 0 || key_id_len != 0 => return Err(PrefaceError::Malformed),
            MODE_NONE => Mode::None,
            mode => Mode::Encrypted { mode, suite },
        };
        Ok(Parsed::Here(Self { mode, sender: sender_id(sender)? }))
    }
}

fn sender_id(bytes: &[u8]) -> Result<SenderId, PrefaceError> {
    core::str::from_utf8(bytes).ok().and_then(|id| id.parse().ok()).ok_or(PrefaceError::Malformed)
}

/// How a receiver answers a preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Status {
    /// The session begins.
    #[error("accepted")]
    Accepted,
    /// The receiver does not know this version of the preface.
    #[error("the receiver does not speak this version of the protocol; update the older side")]
    UnsupportedVersion,
    /// The receiver takes encrypted connections only.
    #[error(
        "the receiver takes no plain text from other machines; start it with --plaintext if this network may read the flow data"
    )]
    EncryptionRequired,
    /// The receiver has no key.
    #[error("this sender uses encryption and the receiver has no key; give it the same key")]
    EncryptionNotConfigured,
    /// The receiver does not take this suite.
    #[error("the receiver does not allow this sender's cipher; choose one that it allows")]
    SuiteNotAllowed,
    /// Key and sender do not fit together.
    #[error("the receiver does not know this sender's key; both sides need the same key")]
    AuthenticationFailed,
    /// The receiver carries as many connections as it may.
    #[error("the receiver has too many connections; raise its limits.connections or stop other senders")]
    TooManyConnections,
}

impl Status {
    /// Every status with its number on the wire.
    const ALL: [(Self, u8); 7] = [
        (Self::Accepted, 0),
        (Self::UnsupportedVersion, 1),
        (Self::EncryptionRequired, 2),
        (Self::EncryptionNotConfigured, 3),
        (Self::SuiteNotAllowed, 4),
        (Self::AuthenticationFailed, 5),
        (Self::TooManyConnections, 6),
    ];

    /// The reply that gives this answer, without encryption.
    pub fn encode_reply(self) -> [u8; REPLY_LEN] {
        let code = Self::ALL.iter().find(|row| row.0 == self).map_or(u8::MAX, |row| row.1);
        let mut reply = [0; REPLY_LEN];
        let [m0, m1, m2, m3] = MAGIC;
        if let Some(start) = reply.first_chunk_mut() {
            *start = [m0, m1, m2, m3, code];
        }
        reply
    }

    /// Reads the reply that `bytes` start with; the sender asked for no encryption.
    pub fn parse_reply(bytes: &[u8]) -> Result<Parsed<Self>, PrefaceError> {
        if !starts_with_magic(bytes)? {
            return Ok(Parsed::NeedMore(REPLY_LEN));
        }
        let Some([_, _, _, _, status, mode, suite, zero, ..]) = bytes.first_chunk::<REPLY_LEN>() else {
            return Ok(Parsed::NeedMore(REPLY_LEN));
        };
        let known = Self::ALL.iter().find(|row| row.1 == *status).map(|row| row.0);
        match known.ok_or(PrefaceError::UnknownStatus(*status))? {
            Self::Accepted if *mode != MODE_NONE => Err(PrefaceError::ModeChanged(*mode)),
            Self::Accepted if *suite != 0 || *zero != 0 => Err(PrefaceError::Malformed),
            status => Ok(Parsed::Here(status)),
        }
    }
}

/// `false` if too few bytes are there to know who speaks.
fn starts_with_magic(bytes: &[u8]) -> Result<bool, PrefaceError> {
    match bytes.first_chunk() {
        Some(start) if *start == MAGIC => Ok(true),
        Some(start) => Err(PrefaceError::Foreign(Foreign::recognise(*start))),
        None => Ok(false),
    }
}

/// What speaks on the other side instead of nf-transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// A web client or server.
    #[error("HTTP")]
    Http,
    /// A TLS client (handshake) or server (alert).
    #[error("TLS")]
    Tls,
    /// Something else.
    #[error("an unknown protocol")]
    Other,
}

impl Foreign {
    fn recognise(start: [u8; 4]) -> Self {
        match &start {
            b"GET " | b"POST" | b"HEAD" | b"PUT " | b"OPTI" | b"CONN" | b"HTTP" => Self::Http,
            [0x15 | 0x16, 0x03, ..] => Self::Tls,
            _ => Self::Other,
        }
    }
}

/// Why the first bytes of a connection are no preface or no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// Something else is connected. It would not understand an answer.
    #[error("the other side speaks {0}, not the protocol of nf-transport; check its address and port")]
    Foreign(Foreign),
    /// A sender of another version, to be answered with [`Status::UnsupportedVersion`].
    #[error("the sender's preface has version {0}, only version 1 is spoken here; update the older side")]
    Version(u8),
    /// Fields that contradict their bounds.
    #[error("the first bytes of the connection are damaged: they break the bounds of a preface")]
    Malformed,
    /// A refusal that only a newer receiver knows.
    #[error("the receiver refused for reason {0}, which is not known here; it may be newer")]
    UnknownStatus(u8),
    /// The answer is for another way of speaking than the sender asked for.
    #[error("the receiver answered with mode {0}, but this sender asked for no encryption")]
    ModeChanged(u8),
}

#[cfg(test)]
mod tests;
