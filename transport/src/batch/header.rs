//! The batch header: the fields that can be read, checked and skipped without the body.

use bytes::{Buf, BufMut};

use crate::batch::format::{CHECKED_FROM, checksum, has_checksum};
use crate::batch::{BatchError, Compression, HEADER_LEN, MAGIC, Needs, NewerBatch, Sealing};
use crate::datagram::Timestamp;
use crate::internal_error::note_internal_error;
use crate::limits::{BATCH_BODY_MAX, SEAL_OVERHEAD};
use crate::sequence::{Position, StreamId};

/// Length in bytes of the associated data of a seal.
const ASSOCIATED_DATA_LEN: usize = 16 + HEADER_LEN - CHECKED_FROM;

/// The fields of a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Position of the first datagram.
    pub first: Position,
    /// Earliest arrival of a datagram in the batch.
    pub earliest: Timestamp,
    /// Latest arrival of a datagram in the batch; `earliest <= latest`.
    pub latest: Timestamp,
    /// Number of datagrams, one for each position; `1 <= datagrams`.
    pub datagrams: u32,
    /// Number of datagrams that the sender dropped, so that their positions are empty.
    /// `dropped <= datagrams`.
    pub dropped: u16,
    /// Payload bytes of all datagrams together; `payload_bytes <= records_len`.
    pub payload_bytes: u32,
    /// Length of the body as stored; at most `BATCH_BODY_MAX`, plus `SEAL_OVERHEAD` if it is sealed.
    pub body_len: u32,
    /// Length of the decompressed body; `records_len <= BATCH_BODY_MAX`.
    pub records_len: u32,
    /// CRC32C of the body as stored.
    pub body_checksum: u32,
    /// Compression of the body.
    pub compression: Compression,
    /// Sealing of the compressed body.
    pub sealing: Sealing,
}

impl BatchHeader {
    /// Parses the header at the start of `bytes`; `None` means that more bytes are needed.
    pub fn parse(stream: StreamId, bytes: &[u8]) -> Result<Option<Self>, BatchError> {
        let start = bytes.get(..MAGIC.len().min(bytes.len())).unwrap_or_default();
        if !MAGIC.starts_with(start) {
            let newer = NewerBatch::of_format(stream, bytes);
            return Err(newer.map_or(BatchError::Header, BatchError::Newer));
        }
        let Some(bytes) = bytes.get(..HEADER_LEN) else { return Ok(None) };
        match Self::parse_whole(stream, bytes) {
            Some(header) => Ok(Some(header)),
            // The header is not damaged, because its checksum matches. So a newer version wrote it.
            None if has_checksum(stream, bytes) => {
                let newer = NewerBatch::read(bytes, missing_support(bytes));
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

    /// Encodes the header for `stream`.
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

    /// Associated data of a seal of this batch's body: the stream id and then bytes 8 to 55 of the header.
    ///
    /// Length and checksum of the body as stored are zero in it, because they result from the sealing.
    pub fn associated_data(&self, stream: StreamId) -> [u8; ASSOCIATED_DATA_LEN] {
        let bare = Self { body_len: 0, body_checksum: 0, ..*self }.encode(stream);
        let mut associated = [0; ASSOCIATED_DATA_LEN];
        let mut rest: &mut [u8] = &mut associated;
        rest.put_slice(&stream.0);
        rest.put_slice(bare.get(CHECKED_FROM..).unwrap_or_default());
        associated
    }

    /// Position after the last datagram.
    pub fn end(&self) -> Position {
        self.first.plus(u64::from(self.datagrams))
    }

    /// Length of the whole batch in bytes, header and body.
    pub fn encoded_len(&self) -> usize {
        usize::try_from(self.body_len).unwrap_or(usize::MAX).saturating_add(HEADER_LEN)
    }
}

/// Feature that is missing here to read a header whose checksum matches.
fn missing_support(header: &[u8]) -> Needs {
    match (header.get(52).copied(), header.get(53).copied()) {
        (Some(code), _) if Compression::from_code(code).is_none() => Needs::Compression(code),
        (_, Some(code)) if Sealing::from_code(code).is_none() => Needs::Sealing(code),
        _ => Needs::Field,
    }
}
