//! The fixed part of a batch: what can be known, checked and passed over without its body.

use bytes::{Buf, BufMut};

use crate::batch::{BatchError, Compression};
use crate::datagram::Timestamp;
use crate::limits::BATCH_BODY_MAX;
use crate::sequence::{Position, StreamId};

/// Bytes of a batch header.
pub const HEADER_LEN: usize = 56;

/// The four bytes that every batch starts with.
pub const MAGIC: [u8; 4] = *b"NFB1";

/// Where the bytes start that the header's checksum covers.
const CHECKED_FROM: usize = 8;

/// The fields of a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Position of the first datagram.
    pub first: Position,
    /// When the earliest of the datagrams arrived.
    pub earliest: Timestamp,
    /// When the latest of the datagrams arrived; `earliest <= latest`.
    pub latest: Timestamp,
    /// How many datagrams; `1 <= datagrams`.
    pub datagrams: u32,
    /// Bytes of all payloads together; `payload_bytes <= records_len`.
    pub payload_bytes: u32,
    /// Bytes of the body as stored; `body_len <= BATCH_BODY_MAX`.
    pub body_len: u32,
    /// Bytes of the body once decompressed; `records_len <= BATCH_BODY_MAX`.
    pub records_len: u32,
    /// CRC32C of the body as stored.
    pub body_checksum: u32,
    /// How the body is stored.
    pub compression: Compression,
}

impl BatchHeader {
    /// Reads the header that `bytes` start with; `None` means that more bytes are needed.
    pub fn parse(stream: StreamId, bytes: &[u8]) -> Result<Option<Self>, BatchError> {
        let start = bytes.get(..MAGIC.len().min(bytes.len())).unwrap_or_default();
        if !MAGIC.starts_with(start) {
            return Err(BatchError::Header);
        }
        let Some(bytes) = bytes.get(..HEADER_LEN) else { return Ok(None) };
        Self::parse_whole(stream, bytes).ok_or(BatchError::Header).map(Some)
    }

    fn parse_whole(stream: StreamId, header: &[u8]) -> Option<Self> {
        let mut rest = header.get(MAGIC.len()..)?;
        if rest.try_get_u32().ok()? != checksum(stream, header)? {
            return None;
        }
        let fields = Self {
            first: Position(rest.try_get_u64().ok()?),
            earliest: Timestamp(rest.try_get_u64().ok()?),
            latest: Timestamp(rest.try_get_u64().ok()?),
            datagrams: rest.try_get_u32().ok()?,
            payload_bytes: rest.try_get_u32().ok()?,
            body_len: rest.try_get_u32().ok()?,
            records_len: rest.try_get_u32().ok()?,
            body_checksum: rest.try_get_u32().ok()?,
            compression: Compression::from_code(rest.try_get_u8().ok()?)?,
        };
        (rest == [0; 3] && fields.is_within_bounds()).then_some(fields)
    }

    fn is_within_bounds(&self) -> bool {
        let bounded = |length: u32| usize::try_from(length).is_ok_and(|length| length <= BATCH_BODY_MAX);
        self.datagrams >= 1
            && self.first.0.checked_add(u64::from(self.datagrams)).is_some()
            && self.earliest <= self.latest
            && self.payload_bytes <= self.records_len
            && bounded(self.body_len)
            && bounded(self.records_len)
    }

    /// The header's bytes.
    pub fn encode(&self, stream: StreamId) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let mut rest: &mut [u8] = &mut header;
        rest.put_slice(&MAGIC);
        rest.put_u32(0);
        rest.put_u64(self.first.0);
        rest.put_u64(self.earliest.0);
        rest.put_u64(self.latest.0);
        rest.put_u32(self.datagrams);
        rest.put_u32(self.payload_bytes);
        rest.put_u32(self.body_len);
        rest.put_u32(self.records_len);
        rest.put_u32(self.body_checksum);
        rest.put_u8(self.compression.code());
        let checksum = checksum(stream, &header).unwrap_or_default();
        if let Some(place) = header.get_mut(MAGIC.len()..CHECKED_FROM) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
        header
    }

    /// Position after the last datagram.
    pub fn end(&self) -> Position {
        self.first.plus(u64::from(self.datagrams))
    }

    /// Bytes of the whole batch, header and body.
    pub fn encoded_len(&self) -> usize {
        usize::try_from(self.body_len).unwrap_or(usize::MAX).saturating_add(HEADER_LEN)
    }
}

fn checksum(stream: StreamId, header: &[u8]) -> Option<u32> {
    Some(crc32c::crc32c_append(crc32c::crc32c(&stream.0), header.get(CHECKED_FROM..HEADER_LEN)?))
}
