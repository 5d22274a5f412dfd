//! Fuzzing entry for batches. A malicious sender can give any bytes the right checksums.

use bytes::Bytes;

use crate::batch::{Batch, BatchHeader, Compression, ParsedBatch, Sealing};
use crate::datagram::Timestamp;
use crate::limits::BATCH_BODY_MAX;
use crate::sequence::{Position, StreamId};

const STREAM: StreamId = StreamId([7; 16]);

/// Parses arbitrary `bytes` as a batch, and then as the body of a batch with a matching header.
///
/// For the second run the first 7 bytes choose the compression, the numbers of datagrams and of dropped ones,
/// the length of the records and the number of payload bytes.
///
/// # Panics
///
/// If the records of an accepted batch contradict its header.
pub fn fuzz_batch(bytes: &[u8]) {
    read(&Bytes::copy_from_slice(bytes));
    let Some(([compression, datagrams, dropped, a, b, c, d], body)) = bytes.split_first_chunk() else {
        return;
    };
    let body = body.get(..BATCH_BODY_MAX.min(body.len())).unwrap_or_default();
    let body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let compression = Compression::from_code(compression % 3).unwrap_or_default();
    let header = BatchHeader {
        first: Position(0),
        earliest: Timestamp(0),
        latest: Timestamp(0),
        datagrams: u32::from(*datagrams).max(1),
        dropped: u16::from(*dropped),
        payload_bytes: u32::from(u16::from_be_bytes([*c, *d])),
        body_len,
        records_len: match compression {
            Compression::None => body_len,
            Compression::Zstd | Compression::Columnar => u32::from(u16::from_be_bytes([*a, *b])),
        },
        body_checksum: crc32c::crc32c(body),
        compression,
        sealing: Sealing::None,
    };
    read(&[header.encode(STREAM).as_slice(), body].concat().into());
}

fn read(bytes: &Bytes) {
    let Ok(ParsedBatch::Batch(batch)) = Batch::parse(STREAM, bytes) else { return };
    let Ok(records) = batch.records() else { return };
    assert_eq!(
        u32::try_from(records.by_position().count()),
        Ok(batch.datagrams()),
        "there are more or fewer datagrams"
    );
    assert_eq!(
        records.dropped_in(..),
        u64::from(batch.dropped()),
        "there are more or fewer dropped datagrams"
    );
    let lengths: Vec<usize> = records.iter().map(|datagram| datagram.payload.len()).collect();
    let payload_bytes = lengths.iter().sum::<usize>();
    assert_eq!(u32::try_from(payload_bytes), Ok(batch.payload_bytes()), "the payloads have another length");
}
