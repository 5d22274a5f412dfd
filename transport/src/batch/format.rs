//! The parts of the batch header that all versions of the format share: magic, length and checksum.

use bytes::Buf;

use crate::sequence::StreamId;

/// Length of a batch header in bytes.
pub const HEADER_LEN: usize = 56;

/// The four bytes at the start of every batch of version 1.
pub const MAGIC: [u8; 4] = *b"NFB1";

/// Offset of the first byte that the header's checksum covers.
pub(super) const CHECKED_FROM: usize = 8;

/// True if `header` contains its own checksum for `stream`.
pub(super) fn has_checksum(stream: StreamId, header: &[u8]) -> bool {
    let stated = header.get(MAGIC.len()..).and_then(|mut rest| rest.try_get_u32().ok());
    stated.is_some() && stated == checksum(stream, header)
}

/// CRC32C of the stream id and the checked bytes of `header`; `None` if `header` is too short.
pub(super) fn checksum(stream: StreamId, header: &[u8]) -> Option<u32> {
    Some(crc32c::crc32c_append(crc32c::crc32c(&stream.0), header.get(CHECKED_FROM..HEADER_LEN)?))
}
