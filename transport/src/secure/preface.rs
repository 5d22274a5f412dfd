//! The first bytes of a connection, in clear text.
//!
//! The sender states its id and the mode of the connection. The receiver accepts or rejects it with a reason.
//! The receiver never reads a byte beyond the preface, and at most 138 bytes.
//!
//! Preface of the sender:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic | `NFR1` |
//! | 4 | 1 | version | 1 |
//! | 5 | 1 | mode | 0 no encryption, 1 a shared key, 2 a shared passphrase |
//! | 6 | 1 | suite | 0 without encryption; 1 blowfish, 2 chacha20-poly1305, 3 aes-256-gcm |
//! | 7 | 1 | zero | 0 |
//! | 8 | 1 | length of the key id | 8 for a shared key; else 0; never more than 64 |
//! | 9 | 1 | length of the sender id | 1 to 64 |
//! | 10 | | key id | see [`KeyId`] |
//! | | | sender id | `A-Z a-z 0-9 . _ -`, not starting with a dot |
//!
//! Reply of the receiver, 24 bytes long, or 40 if it accepts mode 2:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic | `NFR1` |
//! | 4 | 1 | status | 0 accepted, 1 to 5 rejected, see [`ReplyStatus`] |
//! | 5 | 1 | mode | as in the preface |
//! | 6 | 1 | suite | as in the preface |
//! | 7 | 1 | zero | 0 |
//! | 8 | 16 | random challenge for this connection; 0 in a rejection | |
//! | 24 | 16 | only if mode 2 is accepted: [`Salt`] for keys derived from passphrases | |

use crate::secure::key::KEY_ID_LEN;
use crate::secure::passphrase::SALT_LEN;
use crate::secure::{KeyId, Salt, Suite};
use crate::sequence::SenderId;

/// Length of the longest preface in bytes: its fixed part and two ids of 64 bytes.
pub const PREFACE_MAX: usize = HEADER_LEN + 2 * ID_MAX;

/// Length of a reply without a salt in bytes.
pub const REPLY_LEN: usize = 24;

/// Length of a reply with a salt in bytes.
pub const SALTED_REPLY_LEN: usize = REPLY_LEN + SALT_LEN;

/// Length of the receiver's challenge in bytes.
pub const CHALLENGE_LEN: usize = 16;

const MAGIC: [u8; 4] = *b"NFR1";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 10;
const ID_MAX: usize = 64;
const MODE_NONE: u8 = 0;
const MODE_KEY: u8 = 1;
const MODE_PASSPHRASE: u8 = 2;

/// Result of parsing bytes that may be incomplete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partial<T> {
    /// Number of bytes, counted from the start, that are needed to continue.
    ///
    /// A caller that never reads more leaves all later bytes in the socket.
    NeedMore(usize),
    /// A complete value.
    Complete(T),
}

/// Mode of a connection, as the sender requests it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Clear text.
    None,
    /// Encryption with a shared key.
    Key {
        /// Number of the suite.
        suite: u8,
        /// Id of the key; `None` if the id has another length than in this version.
        key: Option<KeyId>,
    },
    /// Encryption with a key that both sides derive from a shared passphrase.
    Passphrase {
        /// Number of the suite.
        suite: u8,
    },
    /// A mode that this version does not define.
    Unknown(u8),
}

impl Mode {
    fn numbers(self) -> (u8, u8) {
        match self {
            Self::None => (MODE_NONE, 0),
            Self::Key { suite, .. } => (MODE_KEY, suite),
            Self::Passphrase { suite } => (MODE_PASSPHRASE, suite),
            Self::Unknown(mode) => (mode, 0),
        }
    }
}

/// The first message of a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preface {
    /// Requested mode.
    pub mode: Mode,
    /// Claimed id of the sender.
    pub sender: SenderId,
}

impl Preface {
    /// Encodes the preface of a sender without encryption.
    pub fn encode_plain(sender: &SenderId) -> Vec<u8> {
        Self::encode(MODE_NONE, 0, &[], sender)
    }

    /// Encodes the preface of a sender with a key.
    pub fn encode_keyed(sender: &SenderId, key: KeyId, suite: Suite) -> Vec<u8> {
        Self::encode(MODE_KEY, suite.code(), &key.0, sender)
    }

    /// Encodes the preface of a sender with a passphrase.
    pub fn encode_passphrase(sender: &SenderId, suite: Suite) -> Vec<u8> {
        Self::encode(MODE_PASSPHRASE, suite.code(), &[], sender)
    }

    fn encode(mode: u8, suite: u8, key: &[u8], sender: &SenderId) -> Vec<u8> {
        let sender = sender.as_str().as_bytes();
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        let header = [VERSION, mode, suite, 0, length(key), length(sender)];
        [MAGIC.as_slice(), &header, key, sender].concat()
    }

    /// Parses the preface at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Partial<Self>, PrefaceError> {
        if !starts_with_magic(bytes)? {
            return Ok(Partial::NeedMore(HEADER_LEN));
        }
        if let Some(version) = bytes.get(MAGIC.len()).filter(|version| **version != VERSION) {
            return Err(PrefaceError::Version(*version));
        }
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(Partial::NeedMore(HEADER_LEN));
        };
        let [_, _, _, _, _, mode, suite, zero, key_id_len, sender_len] = *header;
        let (key_id_len, sender_len) = (usize::from(key_id_len), usize::from(sender_len));
        if zero != 0 || key_id_len > ID_MAX || !(1..=ID_MAX).contains(&sender_len) {
            return Err(PrefaceError::Malformed);
        }
        let sender_at = HEADER_LEN + key_id_len;
        let Some(sender) = bytes.get(sender_at..sender_at + sender_len) else {
            return Ok(Partial::NeedMore(sender_at + sender_len));
        };
        let mode = match mode {
            MODE_NONE if suite != 0 || key_id_len != 0 => return Err(PrefaceError::Malformed),
            MODE_NONE => Mode::None,
            MODE_KEY => Mode::Key { suite, key: key_id(bytes.get(HEADER_LEN..sender_at)) },
            MODE_PASSPHRASE if key_id_len != 0 => return Err(PrefaceError::Malformed),
            MODE_PASSPHRASE => Mode::Passphrase { suite },
            mode => Mode::Unknown(mode),
        };
        Ok(Partial::Complete(Self { mode, sender: sender_id(sender)? }))
    }
}

fn key_id(bytes: Option<&[u8]>) -> Option<KeyId> {
    bytes.and_then(|bytes| <[u8; KEY_ID_LEN]>::try_from(bytes).ok()).map(KeyId)
}

fn sender_id(bytes: &[u8]) -> Result<SenderId, PrefaceError> {
    core::str::from_utf8(bytes).ok().and_then(|id| id.parse().ok()).ok_or(PrefaceError::Malformed)
}

/// A receiver's answer to a preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyStatus {
    /// The receiver accepts the mode of the preface.
    #[error("accepted")]
    Accepted,
    /// The receiver does not support the version of the preface, or its mode.
    #[error("the receiver does not support this version of the protocol: update the older side")]
    UnsupportedVersion,
    /// The receiver accepts only encrypted connections from this sender.
    #[error(
        "the receiver accepts no clear text from here: invite this sender there and join it here, give both \
         sides the same key (--key-file), or start the receiver with --plaintext if this network may read \
         the flow data"
    )]
    EncryptionRequired,
    /// The receiver has no key.
    #[error(
        "this sender uses a key and the receiver has none: give it the same key, or invite this sender there"
    )]
    EncryptionNotConfigured,
    /// The receiver does not allow the suite.
    #[error(
        "the receiver does not allow this sender's cipher: set 'cipher' to one of the receiver's 'ciphers'"
    )]
    SuiteNotAllowed,
    /// The key is wrong for this sender.
    #[error(
        "the receiver does not know this sender's key: both sides need the same key, for this sender's id"
    )]
    AuthenticationFailed,
}

impl ReplyStatus {
    /// All statuses, each with its number on the wire.
    const ALL: [(Self, u8); 6] = [
        (Self::Accepted, 0),
        (Self::UnsupportedVersion, 1),
        (Self::EncryptionRequired, 2),
        (Self::EncryptionNotConfigured, 3),
        (Self::SuiteNotAllowed, 4),
        (Self::AuthenticationFailed, 5),
    ];

    pub(super) fn code(self) -> u8 {
        Self::ALL.iter().find(|row| row.0 == self).map_or(u8::MAX, |row| row.1)
    }

    pub(super) fn from_code(code: u8) -> Result<Self, PrefaceError> {
        let known = Self::ALL.iter().find(|row| row.1 == code).map(|row| row.0);
        known.ok_or(PrefaceError::UnknownStatus(code))
    }

    /// Encodes the reply with this status to a preface of this `mode`.
    pub fn encode_reply(self, mode: Mode, challenge: [u8; CHALLENGE_LEN]) -> [u8; REPLY_LEN] {
        let mut reply = [0; REPLY_LEN];
        let (mode, suite) = mode.numbers();
        let [m0, m1, m2, m3] = MAGIC;
        if let Some((start, rest)) = reply.split_first_chunk_mut() {
            *start = [m0, m1, m2, m3, self.code(), mode, suite, 0];
            rest.copy_from_slice(&challenge);
        }
        reply
    }

    /// Encodes the reply that accepts a preface of this `mode`, with the receiver's `salt` if the mode needs
    /// it.
    pub fn encode_acceptance(mode: Mode, challenge: [u8; CHALLENGE_LEN], salt: Salt) -> Vec<u8> {
        let reply = Self::Accepted.encode_reply(mode, challenge);
        let salt = if let Mode::Passphrase { .. } = mode { salt.0.as_slice() } else { &[] };
        [reply.as_slice(), salt].concat()
    }

    /// Parses the salt behind an accepting reply.
    pub fn parse_salt(bytes: &[u8]) -> Partial<Salt> {
        let salt = bytes.get(REPLY_LEN..).and_then(<[u8]>::first_chunk::<SALT_LEN>);
        salt.map_or(Partial::NeedMore(SALTED_REPLY_LEN), |salt| Partial::Complete(Salt(*salt)))
    }

    /// Parses the reply at the start of `bytes`, without a salt. The sender has requested `mode`.
    pub fn parse_reply(mode: Mode, bytes: &[u8]) -> Result<Partial<Self>, PrefaceError> {
        if !starts_with_magic(bytes)? {
            return Ok(Partial::NeedMore(REPLY_LEN));
        }
        let Some([_, _, _, _, status, answered, suite, zero, ..]) = bytes.first_chunk::<REPLY_LEN>() else {
            return Ok(Partial::NeedMore(REPLY_LEN));
        };
        let (asked, asked_suite) = mode.numbers();
        match Self::from_code(*status)? {
            Self::Accepted if *answered != asked => {
                Err(PrefaceError::ModeChanged { asked, answered: *answered })
            }
            Self::Accepted if *suite != asked_suite || *zero != 0 => Err(PrefaceError::Malformed),
            status => Ok(Partial::Complete(status)),
        }
    }
}

/// Checks the magic. Returns false if more bytes are needed.
fn starts_with_magic(bytes: &[u8]) -> Result<bool, PrefaceError> {
    match bytes.first_chunk() {
        Some(start) if *start == MAGIC => Ok(true),
        Some(start) => Err(PrefaceError::Foreign(Foreign::recognize(*start))),
        None => Ok(false),
    }
}

/// Protocol of a peer that is not nf-transport.
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
    fn recognize(start: [u8; 4]) -> Self {
        match &start {
            b"GET " | b"POST" | b"HEAD" | b"PUT " | b"OPTI" | b"CONN" | b"HTTP" => Self::Http,
            [0x15 | 0x16, 0x03, ..] => Self::Tls,
            _ => Self::Other,
        }
    }
}

/// Reason why the first bytes of a connection are not a valid preface or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// The peer uses another protocol. It gets no answer, because it would not understand one.
    #[error("the other side uses {0}, not the protocol of nf-transport: check address and port")]
    Foreign(Foreign),
    /// The sender's preface has another version. The answer is [`ReplyStatus::UnsupportedVersion`].
    #[error("the sender's preface has version {0}, but only version 1 is supported: update the older side")]
    Version(u8),
    /// A field is out of bounds.
    #[error(
        "the first bytes of the connection are malformed: a field of the preface or reply is out of bounds"
    )]
    Malformed,
    /// The receiver rejected the sender with a status that this version does not define.
    #[error(
        "the receiver rejected this sender for the unknown reason {0}: it may be newer, update this side"
    )]
    UnknownStatus(u8),
    /// The reply is for another mode than the requested one.
    #[error(
        "the receiver's reply is for mode {answered}, but this sender requested mode {asked}: \
         the connection may have been tampered with"
    )]
    ModeChanged {
        /// Requested mode.
        asked: u8,
        /// Mode in the reply.
        answered: u8,
    },
}

#[cfg(test)]
mod tests;
