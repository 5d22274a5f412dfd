//! A batch: a run of datagrams, encoded once. The same bytes lie in a segment and travel in a DATA message.
//!
//! All numbers are big-endian. A batch is a header of 56 bytes and a body:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic | `NFB1` |
//! | 4 | 4 | CRC32C of the stream id (16 bytes) and then bytes 8 to 55 | |
//! | 8 | 8 | position of the first datagram | first + datagrams <= 2^64 - 1 |
//! | 16 | 8 | earliest arrival, nanoseconds since 1970-01-01 | |
//! | 24 | 8 | latest arrival, likewise | earliest <= latest |
//! | 32 | 4 | number of datagrams, one for each position | 1 <= n |
//! | 36 | 4 | payload bytes of all datagrams together | <= length of the records |
//! | 40 | 4 | length of the body as stored | <= 65,600; <= 65,640 if sealed |
//! | 44 | 4 | length of the records, that is of the body once decompressed | <= 65,600 |
//! | 48 | 4 | CRC32C of the body as stored | |
//! | 52 | 1 | compression of the body | 0 none, 1 zstd, 2 zstd of the transposed records ([`transposed`]) |
//! | 53 | 1 | sealing of the body | 0 none, 1 AES-256-GCM ([`crate::secure::at_rest`]); 0 in a DATA message |
//! | 54 | 2 | number of datagrams that the sender dropped from a full spool | <= n |
//!
//! The body holds one record for each datagram, in order of arrival. The record of a dropped one is a single byte 128. Other records:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | 1 | bit 0: the exporter's address is IPv6; bit 1: the local address is IPv6; bit 2: the exporter has a scope id; other bits 0 |
//! | 1 | 2 | length of the payload, 0 to 65,507 |
//! | 3 | 8 | arrival, nanoseconds since 1970-01-01 |
//! | 11 | 4 or 16 | exporter address |
//! | | 2 | exporter port |
//! | | 0 or 4 | the exporter's scope id, with bit 2: not 0, and only of a link-local IPv6 address (`fe80::/10`) |
//! | | 4 or 16 | local address |
//! | | 2 | local port |
//! | | length | payload |
//!
//! The header's checksum covers the stream id so that a payload which looks like a batch is never taken for one
//! when a reader searches damaged bytes for the next whole batch.

mod builder;
mod chunks;
mod compression;
mod fuzz;
mod header;
mod newer;
mod record;
mod sealing;
mod transposed;

pub use builder::{BatchBuilder, PushError};
use bytes::{BufMut, Bytes, BytesMut};
pub use compression::Compression;
pub use fuzz::fuzz_batch;
pub use header::{BatchHeader, HEADER_LEN, MAGIC};
pub use newer::{Needs, NewerBatch, is_newer_than_1};
pub use record::{Records, encoded_len as record_len};
pub use sealing::Sealing;
pub use transposed::fuzz_transposed;

use crate::datagram::Timestamp;
use crate::sequence::{Position, StreamId};

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes do not start with a batch header of this stream.
    #[error("no batch header of this stream")]
    Header,
    /// The header is whole and of this stream, but of a newer version.
    #[error("a batch of a newer version: {}", .0.needs)]
    Newer(NewerBatch),
    /// The header is whole, the body is not: so many bytes of it can be passed over.
    #[error("the batch's body does not match its checksum")]
    Body,
    /// Header and body are whole, but the records in it are not well formed.
    #[error("the batch's records are malformed")]
    Records,
    /// The records are sealed, as they are in an encrypted spool: they have no place anywhere else.
    #[error("the batch is sealed")]
    Sealed,
}

/// Whether enough bytes are there to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// So many bytes, counted from the start of the batch, are needed to go on.
    NeedMore(usize),
    /// A whole batch.
    Batch(Batch),
}

/// A whole, checked, encoded batch. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

impl Batch {
    /// Reads the batch that `bytes` start with; what follows it is left alone.
    pub fn parse(stream: StreamId, bytes: &Bytes) -> Result<Parsed, BatchError> {
        let Some(header) = BatchHeader::parse(stream, bytes)? else {
            return Ok(Parsed::NeedMore(HEADER_LEN));
        };
        let Some(body) = bytes.get(HEADER_LEN..header.encoded_len()) else {
            return Ok(Parsed::NeedMore(header.encoded_len()));
        };
        if crc32c::crc32c(body) != header.body_checksum {
            return Err(BatchError::Body);
        }
        Ok(Parsed::Batch(Self { header, bytes: bytes.slice(..header.encoded_len()) }))
    }

    /// Reads `bytes` as exactly one batch.
    pub fn parse_exact(stream: StreamId, bytes: &Bytes) -> Result<Self, BatchError> {
        match Self::parse(stream, bytes)? {
            Parsed::Batch(batch) if batch.bytes.len() == bytes.len() => Ok(batch),
            Parsed::Batch(_) | Parsed::NeedMore(_) => Err(BatchError::Body),
        }
    }

    /// The same datagrams with `body` in the place of their own, sealed as `sealing` says, and checksums to match.
    /// `None` if no batch can have that body.
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

    /// The same batch as one of `stream`.
    #[must_use]
    pub fn of_stream(&self, stream: StreamId) -> Self {
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        bytes.put_slice(&self.header.encode(stream));
        bytes.put_slice(&self.body());
        Self { header: self.header, bytes: bytes.freeze() }
    }

    /// The same datagrams as a batch of `stream` that starts at `first`. `None` if it is sealed, as a seal is bound to its
    /// place, or if there are no such positions.
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

    /// What can be known without the body.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Whether the body is sealed, so that its records cannot be read.
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

    /// How many datagrams, at least 1. Those that were dropped count, too.
    pub fn datagrams(&self) -> u32 {
        self.header.datagrams
    }

    /// How many of the datagrams the sender dropped.
    pub fn dropped(&self) -> u16 {
        self.header.dropped
    }

    /// Bytes of all payloads together.
    pub fn payload_bytes(&self) -> u32 {
        self.header.payload_bytes
    }

    /// When the earliest of the datagrams arrived.
    pub fn earliest(&self) -> Timestamp {
        self.header.earliest
    }

    /// When the latest of the datagrams arrived.
    pub fn latest(&self) -> Timestamp {
        self.header.latest
    }

    /// The encoded form, header and body.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The body as stored.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_LEN..)
    }

    /// The datagrams, decompressed and checked. An error if they are sealed.
    pub fn records(&self) -> Result<Records, BatchError> {
        Records::decode(&self.header, self.body())
    }
}

#[cfg(test)]
mod tests;
