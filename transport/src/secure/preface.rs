//! The first bytes of a connection, in clear text: the sender says who it is and how it means to speak, the
//! receiver accepts or says why not. Never reads a byte beyond the preface, and never more than 138 bytes.
//!
//! The sender begins with its preface:
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
//! The receiver answers with a reply of 24 bytes, or of 40 if it accepts mode 2:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic | `NFR1` |
//! | 4 | 1 | status | 0 accepted, 1 to 5 refused, see [`Status`] |
//! | 5 | 1 | mode | as in the preface |
//! | 6 | 1 | suite | as in the preface |
//! | 7 | 1 | zero | 0 |
//! | 8 | 16 | challenge: made by chance for this connection; zero without encryption | |
//! | 24 | 16 | only if mode 2 is accepted: the [`Salt`] of keys that are derived from passphrases | |

use crate::secure::key::KEY_ID_LEN;
use crate::secure::passphrase::SALT_LEN;
use crate::secure::{KeyId, Salt, Suite};
use crate::sequence::SenderId;

/// The longest preface in bytes: its fixed part and two ids of 64 bytes.
pub const PREFACE_MAX: usize = HEADER_LEN + 2 * ID_MAX;

/// Bytes of the receiver's reply without a salt.
pub const REPLY_LEN: usize = 24;

/// Bytes of a reply with a salt.
pub const SALTED_REPLY_LEN: usize = REPLY_LEN + SALT_LEN;

/// Bytes of the receiver's challenge.
pub const CHALLENGE_LEN: usize = 16;

const MAGIC: [u8; 4] = *b"NFR1";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 10;
const ID_MAX: usize = 64;
const MODE_NONE: u8 = 0;
const MODE_KEY: u8 = 1;
const MODE_PASSPHRASE: u8 = 2;

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
    /// Encrypted with a key that both sides have.
    Key {
        /// The number of the suite.
        suite: u8,
        /// Which key it is; `None` if the id is none that this version makes.
        key: Option<KeyId>,
    },
    /// Encrypted with a key that both sides derive from a passphrase.
    Passphrase {
        /// The number of the suite.
        suite: u8,
    },
    /// Encrypted in a way that this version does not know.
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
        Self::encode(MODE_NONE, 0, &[], sender)
    }

    /// The preface of a sender that has a key.
    pub fn encode_keyed(sender: &SenderId, key: KeyId, suite: Suite) -> Vec<u8> {
        Self::encode(MODE_KEY, suite.code(), &key.0, sender)
    }

    /// The preface of a sender that has a passphrase.
    pub fn encode_passphrase(sender: &SenderId, suite: Suite) -> Vec<u8> {
        Self::encode(MODE_PASSPHRASE, suite.code(), &[], sender)
    }

    fn encode(mode: u8, suite: u8, key: &[u8], sender: &SenderId) -> Vec<u8> {
        let sender = sender.as_str().as_bytes();
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        let header = [VERSION, mode, suite, 0, length(key), length(sender)];
        [MAGIC.as_slice(), &header, key, sender].concat()
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
            MODE_KEY => Mode::Key { suite, key: key_id(bytes.get(HEADER_LEN..sender_at)) },
            MODE_PASSPHRASE if key_id_len != 0 => return Err(PrefaceError::Malformed),
            MODE_PASSPHRASE => Mode::Passphrase { suite },
            mode => Mode::Unknown(mode),
        };
        Ok(Parsed::Here(Self { mode, sender: sender_id(sender)? }))
    }
}

fn key_id(bytes: Option<&[u8]>) -> Option<KeyId> {
    bytes.and_then(|bytes| <[u8; KEY_ID_LEN]>::try_from(bytes).ok()).map(KeyId)
}

fn sender_id(bytes: &[u8]) -> Result<SenderId, PrefaceError> {
    core::str::from_utf8(bytes).ok().and_then(|id| id.parse().ok()).ok_or(PrefaceError::Malformed)
}

/// How a receiver answers a preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Status {
    /// What follows is in the mode of the preface.
    #[error("accepted")]
    Accepted,
    /// The receiver does not know this version of the preface, or its mode.
    #[error("the receiver does not speak this version of the protocol; update the older side")]
    UnsupportedVersion,
    /// The receiver takes encrypted connections only.
    #[error(
        "the receiver takes no clear text from here: invite this sender there and join it here, give both sides the \
         same key (--key-file), or start the receiver with --plaintext if this network may read the flow data"
    )]
    EncryptionRequired,
    /// The receiver has no key.
    #[error(
        "this sender uses a key and the receiver has none: give it the same key, or invite this sender there"
    )]
    EncryptionNotConfigured,
    /// The receiver does not take this suite.
    #[error("the receiver does not allow this sender's cipher: set 'cipher' to one that its 'ciphers' has")]
    SuiteNotAllowed,
    /// Key and sender do not fit together.
    #[error(
        "the receiver does not know this sender's key: both sides need the same key, for this sender's id"
    )]
    AuthenticationFailed,
}

impl Status {
    /// Every status with its number on the wire.
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

    /// The reply that gives this answer to a preface of this `mode`.
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

    /// The reply that accepts a preface of this `mode`, with the receiver's `salt` if the mode needs it.
    pub fn encode_acceptance(mode: Mode, challenge: [u8; CHALLENGE_LEN], salt: Salt) -> Vec<u8> {
        let reply = Self::Accepted.encode_reply(mode, challenge);
        let salt = if let Mode::Passphrase { .. } = mode { salt.0.as_slice() } else { &[] };
        [reply.as_slice(), salt].concat()
    }

    /// Reads the salt behind an accepting reply.
    pub fn parse_salt(bytes: &[u8]) -> Parsed<Salt> {
        let salt = bytes.get(REPLY_LEN..).and_then(<[u8]>::first_chunk::<SALT_LEN>);
        salt.map_or(Parsed::NeedMore(SALTED_REPLY_LEN), |salt| Parsed::Here(Salt(*salt)))
    }

    /// Reads the reply that `bytes` start with, without a salt; the sender asked for `mode`.
    pub fn parse_reply(mode: Mode, bytes: &[u8]) -> Result<Parsed<Self>, PrefaceError> {
        if !starts_with_magic(bytes)? {
            return Ok(Parsed::NeedMore(REPLY_LEN));
        }
        let Some([_, _, _, _, status, answered, suite, zero, ..]) = bytes.first_chunk::<REPLY_LEN>() else {
            return Ok(Parsed::NeedMore(REPLY_LEN));
        };
        let (asked, asked_suite) = mode.numbers();
        match Self::from_code(*status)? {
            Self::Accepted if *answered != asked => {
                Err(PrefaceError::ModeChanged { asked, answered: *answered })
            }
            Self::Accepted if *suite != asked_suite || *zero != 0 => Err(PrefaceError::Malformed),
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
    #[error(
        "the receiver's answer is for mode {answered}, but this sender asked for mode {asked}: \
         somebody on the way may have changed it"
    )]
    ModeChanged {
        /// What the sender asked for.
        asked: u8,
        /// What the answer is for.
        answered: u8,
    },
}

#[cfg(test)]
mod tests;
