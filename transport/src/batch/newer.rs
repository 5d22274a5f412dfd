//! Undamaged batches of this stream that a newer version wrote and this version cannot read.
//!
//! Every version keeps the offset and the coverage of the header checksum, and the fields up to the length of
//! the body. So this version distinguishes a newer batch from a damaged one and can skip it.

use core::fmt;

use bytes::Buf;

use crate::batch::format::{HEADER_LEN, MAGIC, has_checksum};
use crate::sequence::{Position, StreamId};

/// Feature that a version must support to read a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The batch format with this number or letter.
    Format(char),
    /// The compression with this code.
    Compression(u8),
    /// The sealing with this code.
    Sealing(u8),
    /// A field value that is not defined in this version.
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

/// True if this is the last byte of the magic of a version after the first.
///
/// The versions 3, 5 and 9 do not exist, because one flipped bit turns a 1 into each of them.
pub fn is_newer_than_1(version: u8) -> bool {
    matches!(version, b'2' | b'4' | b'6' | b'7' | b'8' | b'A'..=b'Z')
}

/// The known properties of a batch of a newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewerBatch {
    /// Position of the first datagram.
    pub first: Position,
    /// Position after the last datagram; `first < end`.
    pub end: Position,
    /// Length of the whole batch in bytes.
    pub encoded_len: usize,
    /// Feature that reading it needs.
    pub needs: Needs,
}

impl NewerBatch {
    /// Parses the batch of a newer format at the start of `bytes`; `None` if they start with anything else.
    pub(super) fn of_format(stream: StreamId, bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_LEN)?;
        let (prefix, version) = (MAGIC.get(..3)?, *header.get(3)?);
        let is_newer = header.starts_with(prefix) && is_newer_than_1(version);
        (is_newer && has_checksum(stream, header))
            .then(|| Self::read(header, Needs::Format(char::from(version))))
            .flatten()
    }

    /// Parses the fields that are the same in every version.
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
