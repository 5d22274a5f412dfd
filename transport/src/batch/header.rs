//! The fixed part of a batch: what can be known, checked and passed over without its body.

use bytes::{Buf, BufMut};

use crate::batch::{BatchError, Compression, Needs, NewerBatch, Sealing};
use crate::datagram::Timestamp;
use crate::internal_error::note_internal_error;
use crate::limits::{BATCH_BODY_MAX, SEAL_OVERHEAD};
use crate::sequence::{Position, StreamId};

/// Bytes of a batch header.
pub const HEADER_LEN: usize = 56;

/// The four bytes that every batch starts with.
pub const MAGIC: [u8; 4] = *b"NFB1";

/// Where the bytes start that the header's checksum covers.
const CHECKED_FROM: usize = 8;

/// Bytes that say which batch a seal belongs to.
const CONTEXT_LEN: usize = 16 + HEADER_LEN - CHECKED_FROM;

/// The fields of a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Position of the first datagram.
    pub first: Position,
    /// When the earliest of the datagrams arrived.
    pub earliest: Timestamp,
    /// When the latest of the datagrams arrived; `earliest <= latest`.
    pub latest: Timestamp,
    /// How many datagrams, one for each position; `1 <= datagrams`.
    pub datagrams: u32,
    /// How many of them the sender dropped since: their positions are empty; `dropped <= datagrams`.
    pub dropped: u16,
    /// Bytes of all payloads together; `payload_bytes <= records_len`.
    pub payload_bytes: u32,
    /// Bytes of the body as stored; `body_len <= BATCH_BODY_MAX`, and `SEAL_OVERHEAD` more where it is sealed.
    pub body_len: u32,
    /// Bytes of the body once decompressed; `records_len <= BATCH_BODY_MAX`.
    pub records_len: u32,
    /// CRC32C of the body as stored.
    pub body_checksum: u32,
    /// How the body is stored.
    pub compression: Compression,
    /// Whether the body is sealed on top of that.
    pub sealing: Sealing,
}

impl BatchHeader {
    /// Reads the header that `bytes` start with; `None` means that more bytes are needed.
    pub fn parse(stream: StreamId, bytes: &[u8]) -> Result<Option<Self>, BatchError> {
        let start = bytes.get(..MAGIC.len().min(bytes.len())).unwrap_or_default();
        if !MAGIC.starts_with(start) {
            let newer = NewerBatch::of_format(stream, bytes);
            return Err(newer.map_or(BatchError::Header, BatchError::Newer));
        }
        let Some(bytes) = bytes.get(..HEADER_LEN) else { return Ok(None) };
        match Self::parse_whole(stream, bytes) {
            Some(header) => Ok(Some(header)),
            // With the right checksum it is no damage.
            None if has_checksum(stream, bytes) => {
                let newer = NewerBatch::read(bytes, needs(bytes));
                Err(newer.map_or(BatchError::Header, BatchError::Newer))
            }
            None => Err(BatchError::Header),
        }
    }

    fn parse_whole(stream: StreamId, header: &[u8]) -> Option<Self> {
        if !has_checksum(stream, header) {
            return None;
        }
        let mut rest = header.get(CHECKED_FROM..)?;
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
            sealing: Sealing::from_code(rest.try_get_u8().ok()?)?,
            dropped: rest.try_get_u16().ok()?,
        };
        fields.is_within_bounds().then_some(fields)
    }

    pub(super) fn is_within_bounds(&self) -> bool {
        let within = |length: u32, most: usize| usize::try_from(length).is_ok_and(|length| length <= most);
        let overhead = if self.sealing == Sealing::None { 0 } else { SEAL_OVERHEAD };
        self.datagrams >= 1
            && u32::from(self.dropped) <= self.datagrams
            && self.first.0.checked_add(u64::from(self.datagrams)).is_some()
            && self.earliest <= self.latest
            && self.payload_bytes <= self.records_len
            && within(self.body_len, BATCH_BODY_MAX + overhead)
            && within(self.records_len, BATCH_BODY_MAX)
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
        rest.put_u8(self.sealing.code());
        rest.put_u16(self.dropped);
        let checksum = checksum(stream, &header).unwrap_or_else(|| {
            note_internal_error("a batch header is too short for its checksum");
            0
        });
        if let Some(place) = header.get_mut(MAGIC.len()..CHECKED_FROM) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
        header
    }

    /// What a seal of this batch's body is bound to: the stream id, then the header from its position on, with zeros
    /// for the two fields that follow from the body as stored: its length and its checksum.
    pub fn context(&self, stream: StreamId) -> [u8; CONTEXT_LEN] {
        let bare = Self { body_len: 0, body_checksum: 0, ..*self }.encode(stream);
        let mut context = [0; CONTEXT_LEN];
        let mut rest: &mut [u8] = &mut context;
        rest.put_slice(&stream.0);
        rest.put_slice(bare.get(CHECKED_FROM..).unwrap_or_default());
        context
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

/// Whether `header` has its checksum, that of this stream.
pub(super) fn has_checksum(stream: StreamId, header: &[u8]) -> bool {
    let stated = header.get(MAGIC.len()..).and_then(|mut rest| rest.try_get_u32().ok());
    stated.is_some() && stated == checksum(stream, header)
}

/// Why a header with the right checksum cannot be read.
fn needs(header: &[u8]) -> Needs {
    match (header.get(52).copied(), header.get(53).copied()) {
        (Some(code), _) if Compression::from_code(code).is_none() => Needs::Compression(code),
        (_, Some(code)) if Sealing::from_code(code).is_none() => Needs::Sealing(code),
        _ => Needs::Field,
    }
}

fn checksum(stream: StreamId, header: &[u8]) -> Option<u32> {
    Some(crc32c::crc32c_append(crc32c::crc32c(&stream.0), header.get(CHECKED_FROM..HEADER_LEN)?))
}
