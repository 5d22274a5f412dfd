//! The first bytes of a segment.
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 8 | magic | `NFSPOOL1` |
//! | 8 | 4 | CRC32C of bytes 12 to 63 | |
//! | 12 | 2 | version of the format | 1 |
//! | 14 | 2 | whether the wall clock was steady when the segment was begun | 0 or 1 |
//! | 16 | 16 | stream id | |
//! | 32 | 8 | position of the first datagram | as in the file's name |
//! | 40 | 8 | when the segment was begun, nanoseconds since 1970-01-01 | |
//! | 48 | 8 | boot in which the segment was begun: the first 8 bytes of the boot id | 0 if not known |
//! | 56 | 8 | when the segment was begun, nanoseconds by the boot clock of that boot | |
//!
//! Batches follow, one right after the other (see [`crate::batch`]). Each carries its own position and
//! checksums, so a damaged header loses nothing.

use core::time::Duration;

use bytes::{Buf, BufMut};

use crate::batch::is_newer_than_1;
use crate::datagram::{BootId, BootTime, Timestamp};
use crate::sequence::{Position, StreamId};

/// Bytes of a segment header: where the first batch starts.
pub const SEGMENT_HEADER_LEN: usize = 64;

const MAGIC: [u8; 8] = *b"NFSPOOL1";
const CHECKED_FROM: usize = 12;
const VERSION: u16 = 1;

/// The fields of a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) stream: StreamId,
    pub(super) first: Position,
    pub(super) begun: Begun,
}

/// The start of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// By the wall clock.
    pub wall: Timestamp,
    /// By the boot clock; `None` where an earlier version did not note it.
    pub boot: Option<BootTime>,
    /// True if the wall clock had not been set for a long time.
    pub is_steady: bool,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut header = [0; SEGMENT_HEADER_LEN];
        let mut rest: &mut [u8] = &mut header;
        rest.put_slice(&MAGIC);
        rest.put_u32(0);
        rest.put_u16(VERSION);
        rest.put_u16(u16::from(self.begun.is_steady));
        rest.put_slice(&self.stream.0);
        rest.put_u64(self.first.0);
        rest.put_u64(self.begun.wall.0);
        let boot = self.begun.boot.unwrap_or_default();
        rest.put_u64(boot.boot.0);
        rest.put_u64(Timestamp::from_unix(boot.elapsed).0);
        let checksum = header.get(CHECKED_FROM..).map_or(0, crc32c::crc32c);
        if let Some(place) = header.get_mut(MAGIC.len()..CHECKED_FROM) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
        header
    }

    /// Reads a header; `None` if it is damaged, cut, or of another format.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..SEGMENT_HEADER_LEN)?;
        let mut rest = header.strip_prefix(&MAGIC)?;
        let checksum = rest.try_get_u32().ok()?;
        if checksum != crc32c::crc32c(rest) || rest.try_get_u16().ok()? != VERSION {
            return None;
        }
        let is_steady = rest.try_get_u16().ok()? == 1;
        Some(Self {
            stream: StreamId(rest.try_get_u128().ok()?.to_be_bytes()),
            first: Position(rest.try_get_u64().ok()?),
            begun: Begun {
                wall: Timestamp(rest.try_get_u64().ok()?),
                boot: parse_boot(rest.try_get_u64().ok()?, rest.try_get_u64().ok()?),
                is_steady,
            },
        })
    }
}

/// A segment that a newer version wrote. Every version keeps the places of checksum, version and stream id,
/// and a checksum over bytes 12 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewerSegment {
    pub(super) version: u16,
    pub(super) stream: StreamId,
}

/// The format that a reader of a segment of `version` must know, in words.
pub(super) fn needs(version: u16) -> String {
    format!("segment format {version}, this version reads {VERSION}")
}

impl NewerSegment {
    /// Reads the start of a header; `None` if it is damaged, cut, or not newer.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..SEGMENT_HEADER_LEN)?;
        let (prefix, magic_version) = (MAGIC.get(..7)?, *header.get(7)?);
        let mut rest = header.strip_prefix(prefix)?.get(1..)?;
        if rest.try_get_u32().ok()? != crc32c::crc32c(rest) {
            return None;
        }
        let version = rest.try_get_u16().ok()?;
        rest.try_get_u16().ok()?;
        let stream = StreamId(rest.try_get_u128().ok()?.to_be_bytes());
        (version > VERSION || is_newer_than_1(magic_version)).then_some(Self { version, stream })
    }
}

fn parse_boot(boot: u64, nanos: u64) -> Option<BootTime> {
    (boot != 0).then(|| BootTime { boot: BootId(boot), elapsed: Duration::from_nanos(nanos) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_bit_flips_are_found() {
        let boot = BootTime { boot: BootId(5), elapsed: Duration::from_nanos(6) };
        let begun = Begun { wall: Timestamp(77), boot: Some(boot), is_steady: true };
        let header = SegmentHeader { stream: StreamId([3; 16]), first: Position(9), begun };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::parse(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::parse(&damaged), None, "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert_eq!(SegmentHeader::parse(&bytes[..cut]), None);
        }
    }

    #[test]
    fn a_newer_version_is_not_damage() {
        let stream = StreamId([3; 16]);
        let header = SegmentHeader {
            stream,
            first: Position(9),
            begun: Begun { wall: Timestamp(77), ..Begun::default() },
        };
        let mut bytes = header.encode();
        assert_eq!(NewerSegment::parse(&bytes), None);
        bytes[13] = 2;
        assert_eq!(NewerSegment::parse(&bytes), None, "the checksum is that of another version");
        let checksum = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(SegmentHeader::parse(&bytes), None);
        assert_eq!(NewerSegment::parse(&bytes), Some(NewerSegment { version: 2, stream }));
    }
}
