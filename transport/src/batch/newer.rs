//! Batches that a newer version wrote: whole, of this stream, and not to be understood here.
//!
//! Every version keeps the place of the checksum and what it covers, and the fields up to the length of the body. So a
//! batch of a newer version is known from a damaged one, and can be skipped.

use core::fmt;

use bytes::Buf;

use crate::batch::header::{HEADER_LEN, MAGIC, has_checksum};
use crate::sequence::{Position, StreamId};

/// What must be understood to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The format of this number or letter.
    Format(char),
    /// A compression with this code.
    Compression(u8),
    /// A sealing with this code.
    Sealing(u8),
    /// A field with a value that has no meaning yet.
    Field,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(version) => write!(f, "batch format {version}, this version reads 1"),
            Self::Compression(code) => write!(f, "compression {code}, this version reads 0 to 2"),
            Self::Sealing(code) => write!(f, "sealing {code}, this version reads 0 and 1"),
            Self::Field => write!(f, "fields of a batch that this version does not know"),
        }
    }
}

/// Whether this is the last byte of the magic of a version after the first. No version is called 3, 5 or 9: one flipped bit
/// makes these of a 1.
pub fn is_newer_than_1(version: u8) -> bool {
    matches!(version, b'2' | b'4' | b'6' | b'7' | b'8' | b'A'..=b'Z')
}

/// What can be known of a batch of a newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewerBatch {
    /// Position of the first datagram.
    pub first: Position,
    /// Position after the last one; `first < end`.
    pub end: Position,
    /// Bytes of the whole batch.
    pub encoded_len: usize,
    /// Why it cannot be read.
    pub needs: Needs,
}

impl NewerBatch {
    /// The batch of a newer format that `bytes` start with; `None` if they start with anything else.
    pub(super) fn of_format(stream: StreamId, bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_LEN)?;
        let (prefix, version) = (MAGIC.get(..3)?, *header.get(3)?);
        let is_newer = header.starts_with(prefix) && is_newer_than_1(version);
        (is_newer && has_checksum(stream, header))
            .then(|| Self::read(header, Needs::Format(char::from(version))))
            .flatten()
    }

    /// Reads the fields that are the same in every version.
    pub(super) fn read(header: &[u8], needs: Needs) -> Option<Self> {
        let mut rest = header.get(8..)?;
        let first = Position(rest.try_get_u64().ok()?);
        rest = header.get(32..)?;
        let datagrams = u64::from(rest.try_get_u32().ok()?);
        let end = Position(first.0.checked_add(datagrams)?);
        rest = header.get(40..)?;
        let body = usize::try_from(rest.try_get_u32().ok()?).ok()?;
        (first < end).then_some(Self { first, end, encoded_len: body.checked_add(HEADER_LEN)?, needs })
    }
}
