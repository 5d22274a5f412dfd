//! The format of one record of the log of positions. All numbers are big-endian:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic and version | `NFL1` |
//! | 4 | 4 | CRC32C of bytes 8 to 135 | |
//! | 8 | 16 | stream id | |
//! | 24 | 8 | position after the last datagram delivered | 0: none |
//! | 32 | 16 | run of the sender that sent the latest of them | |
//! | 48 | 8 | position of the collectors set to skip | 0: none |
//! | 56 | 16 | run of the sender that sent the latest of these | |
//! | 72 | 64 | sender id, then zeros | |

use bytes::{Buf, BufMut};
use nf_transport_core::sequence::{Position, RunId, StreamId};

use crate::receiver::state::positions::slot::StoredProgress;
use crate::receiver::state::positions::stream_name::StreamName;

/// Bytes of a record.
pub(super) const RECORD_LEN: usize = 136;

/// Bytes of magic and checksum.
const HEAD_LEN: usize = 8;

const MAGIC: [u8; 4] = *b"NFL1";

/// The positions of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogRecord {
    pub(super) name: StreamName,
    pub(super) delivered: Option<StoredProgress>,
    /// Position of collectors set to skip.
    pub(super) further: Option<StoredProgress>,
}

impl LogRecord {
    /// Appends the record to `log`.
    pub(super) fn encode(&self, log: &mut Vec<u8>) {
        let mut record = [0; RECORD_LEN];
        let (mut head, body) = record.split_at_mut(HEAD_LEN);
        let mut rest: &mut [u8] = body;
        rest.put_slice(&self.name.stream.0);
        for progress in [self.delivered, self.further] {
            rest.put_u64(progress.map_or(0, |progress| progress.position.0));
            rest.put_slice(&progress.map_or(RunId::NONE, |progress| progress.run).0);
        }
        rest.put_slice(self.name.sender.as_str().as_bytes());
        head.put_slice(&MAGIC);
        head.put_u32(crc32c::crc32c(body));
        log.extend_from_slice(&record);
    }

    /// Parses a record; `None` if it is damaged, or of another version.
    pub(super) fn parse(record: &[u8; RECORD_LEN]) -> Option<Self> {
        let mut rest = record.strip_prefix(&MAGIC)?;
        let checksum = rest.try_get_u32().ok()?;
        if crc32c::crc32c(rest) != checksum {
            return None;
        }
        let mut stream = StreamId([0; 16]);
        rest.try_copy_to_slice(&mut stream.0).ok()?;
        let mut progress = || -> Option<StoredProgress> {
            let position = Position(rest.try_get_u64().ok()?);
            let mut run = RunId::NONE;
            rest.try_copy_to_slice(&mut run.0).ok()?;
            Some(StoredProgress { position, run })
        };
        let (delivered, further) = (progress()?, progress()?);
        let present = |progress: StoredProgress| (progress.position.0 > 0).then_some(progress);
        let sender = core::str::from_utf8(rest).ok()?.trim_end_matches('\0').parse().ok()?;
        Some(Self {
            name: StreamName { sender, stream },
            delivered: present(delivered),
            further: present(further),
        })
    }

    /// Takes the higher positions of `other`.
    pub(super) fn raise(&mut self, other: &Self) {
        let higher = |one: Option<StoredProgress>, other: Option<StoredProgress>| {
            one.into_iter().chain(other).max_by_key(|progress| progress.position)
        };
        self.delivered = higher(self.delivered, other.delivered);
        self.further = higher(self.further, other.further);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sender: &str) -> LogRecord {
        let progress =
            |position, run| Some(StoredProgress { position: Position(position), run: RunId([run; 16]) });
        LogRecord {
            name: StreamName { sender: sender.parse().unwrap(), stream: StreamId([7; 16]) },
            delivered: progress(0x0102_0304_0506_0708, 3),
            further: progress(0x0102_0304_0506_0709, 4),
        }
    }

    fn encoded(record: &LogRecord) -> [u8; RECORD_LEN] {
        let mut log = Vec::new();
        record.encode(&mut log);
        log.try_into().unwrap()
    }

    #[test]
    fn a_record_has_the_documented_layout() {
        let bytes = encoded(&record("edge"));
        assert_eq!((&bytes[..4], &bytes[8..24]), (b"NFL1".as_slice(), [7; 16].as_slice()));
        assert_eq!(
            (&bytes[24..32], &bytes[32..48]),
            ([1, 2, 3, 4, 5, 6, 7, 8].as_slice(), [3; 16].as_slice())
        );
        assert_eq!(
            (&bytes[48..56], &bytes[56..72]),
            ([1, 2, 3, 4, 5, 6, 7, 9].as_slice(), [4; 16].as_slice())
        );
        assert_eq!((&bytes[72..76], &bytes[76..]), (b"edge".as_slice(), [0; 60].as_slice()));
        assert_eq!(bytes[4..8], crc32c::crc32c(&bytes[8..]).to_be_bytes());
    }

    #[test]
    fn the_longest_sender_id_fits() {
        let longest = record(&"e".repeat(64));
        assert_eq!(LogRecord::parse(&encoded(&longest)), Some(longest));
        let absent = LogRecord { delivered: None, further: None, ..record("e") };
        assert_eq!(LogRecord::parse(&encoded(&absent)), Some(absent));
    }

    #[test]
    fn a_flipped_bit_invalidates_a_record() {
        let bytes = encoded(&record("edge"));
        for bit in 0..RECORD_LEN * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(LogRecord::parse(&damaged), None, "bit {bit}");
        }
    }
}
