//! The time at which a stream began, as a record in its position file.
//!
//! The creation time of the file is not enough: not every file system has it, and a copy has a new one.

use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut};
use nf_transport_core::sequence::StreamId;

use crate::receiver::state::positions::slot::checksum;

/// Bytes of the record.
pub(super) const BEGUN_LEN: usize = 16;

/// Offset of the record: after slot 0, in a sector of its own.
pub(super) const BEGUN_OFFSET: u64 = 2048;

/// First bytes of the record.
const MAGIC: [u8; 4] = *b"NFB1";

/// Encodes the record of `stream`, which began at `begun`.
pub(super) fn encode(stream: StreamId, begun: SystemTime) -> [u8; BEGUN_LEN] {
    let begun = begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let micros = u64::try_from(begun.as_micros()).unwrap_or(u64::MAX).to_be_bytes();
    let mut record = [0; BEGUN_LEN];
    let mut rest: &mut [u8] = &mut record;
    rest.put_slice(&MAGIC);
    rest.put_u32(checksum(stream, &micros));
    rest.put_slice(&micros);
    record
}

/// Returns the time at which `stream` began by this record; `None` if it is absent or damaged.
pub(super) fn parse(stream: StreamId, record: [u8; BEGUN_LEN]) -> Option<SystemTime> {
    let mut rest = record.strip_prefix(&MAGIC)?;
    let expected = rest.try_get_u32().ok()?;
    if checksum(stream, rest) != expected {
        return None;
    }
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(rest.try_get_u64().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId([7; 16]);

    #[test]
    fn a_record_holds_the_time_and_a_damaged_one_none() {
        let begun = SystemTime::UNIX_EPOCH + Duration::from_micros(0x0102_0304_0506_0708);
        let record = encode(STREAM, begun);
        assert_eq!((&record[..4], &record[8..]), (b"NFB1".as_slice(), [1, 2, 3, 4, 5, 6, 7, 8].as_slice()));
        assert_eq!(parse(STREAM, record), Some(begun));
        assert_eq!(parse(StreamId([8; 16]), record), None);
        for bit in 0..BEGUN_LEN * 8 {
            let mut damaged = record;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(STREAM, damaged), None, "bit {bit}");
        }
        assert_eq!(parse(STREAM, [0; BEGUN_LEN]), None);
    }
}
