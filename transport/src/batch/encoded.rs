//! A whole batch in its encoded form.

use bytes::{BufMut, Bytes, BytesMut};

use crate::batch::{BatchError, BatchHeader, HEADER_LEN, Records, Sealing};
use crate::datagram::Timestamp;
use crate::sequence::{Position, StreamId};

/// Result of parsing bytes that may end inside a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedBatch {
    /// Number of bytes, counted from the start of the batch, that are needed to continue.
    NeedMore(usize),
    /// A whole batch.
    Batch(Batch),
}

/// A whole, checked, encoded batch. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub(super) header: BatchHeader,
    /// Header and body.
    pub(super) bytes: Bytes,
}

impl Batch {
    /// Parses the batch at the start of `bytes` and ignores the bytes behind it.
    pub fn parse(stream: StreamId, bytes: &Bytes) -> Result<ParsedBatch, BatchError> {
        let Some(header) = BatchHeader::parse(stream, bytes)? else {
            return Ok(ParsedBatch::NeedMore(HEADER_LEN));
        };
        let Some(body) = bytes.get(HEADER_LEN..header.encoded_len()) else {
            return Ok(ParsedBatch::NeedMore(header.encoded_len()));
        };
        if crc32c::crc32c(body) != header.body_checksum {
            return Err(BatchError::Body);
        }
        Ok(ParsedBatch::Batch(Self { header, bytes: bytes.slice(..header.encoded_len()) }))
    }

    /// Parses `bytes` as exactly one batch.
    pub fn parse_exact(stream: StreamId, bytes: &Bytes) -> Result<Self, BatchError> {
        match Self::parse(stream, bytes)? {
            ParsedBatch::Batch(batch) if batch.bytes.len() == bytes.len() => Ok(batch),
            ParsedBatch::Batch(_) | ParsedBatch::NeedMore(_) => Err(BatchError::Body),
        }
    }

    /// Replaces the body, for example by its sealed form, and adapts length, sealing and checksums.
    ///
    /// Returns `None` if a batch cannot have that body.
    pub fn with_body(&self, stream: StreamId, sealing: Sealing, body: &[u8]) -> Option<Self> {
        let header = BatchHeader {
            body_len: u32::try_from(body.len()).ok()?,
            body_checksum: crc32c::crc32c(body),
            sealing,
            ..self.header
        };
        if !header.is_within_bounds() {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(header.encoded_len());
        bytes.put_slice(&header.encode(stream));
        bytes.put_slice(body);
        Some(Self { header, bytes: bytes.freeze() })
    }

    /// Returns the same batch with the header checksum of `stream`.
    #[must_use]
    pub fn with_stream(&self, stream: StreamId) -> Self {
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        bytes.put_slice(&self.header.encode(stream));
        bytes.put_slice(&self.body());
        Self { header: self.header, bytes: bytes.freeze() }
    }

    /// Returns the same datagrams as a batch of `stream` that starts at `first`.
    ///
    /// Returns `None` if the batch is sealed, because a seal is bound to its positions, or if the positions
    /// would exceed `u64::MAX`.
    pub fn renumbered(&self, stream: StreamId, first: Position) -> Option<Self> {
        let header = BatchHeader { first, ..self.header };
        if self.is_sealed() || !header.is_within_bounds() {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(header.encoded_len());
        bytes.put_slice(&header.encode(stream));
        bytes.put_slice(&self.body());
        Some(Self { header, bytes: bytes.freeze() })
    }

    /// Header fields.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// True if the body is sealed, so that its records cannot be read.
    pub fn is_sealed(&self) -> bool {
        self.header.sealing != Sealing::None
    }

    /// Position of the first datagram.
    pub fn first(&self) -> Position {
        self.header.first
    }

    /// Position after the last datagram.
    pub fn end(&self) -> Position {
        self.header.end()
    }

    /// Number of datagrams, at least 1, including dropped ones.
    pub fn datagrams(&self) -> u32 {
        self.header.datagrams
    }

    /// Number of datagrams that the sender dropped.
    pub fn dropped(&self) -> u16 {
        self.header.dropped
    }

    /// Payload bytes of all datagrams together.
    pub fn payload_bytes(&self) -> u32 {
        self.header.payload_bytes
    }

    /// Earliest arrival of a datagram in the batch.
    pub fn earliest(&self) -> Timestamp {
        self.header.earliest
    }

    /// Latest arrival of a datagram in the batch.
    pub fn latest(&self) -> Timestamp {
        self.header.latest
    }

    /// Encoded form: header and body.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Body as stored.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_LEN..)
    }

    /// Decompresses and checks the datagrams. Fails with [`BatchError::Sealed`] if the body is sealed.
    pub fn records(&self) -> Result<Records, BatchError> {
        Records::decode(&self.header, self.body())
    }
}
