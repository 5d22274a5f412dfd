//! The file `stream`: which stream this spool numbers, and where the numbering stands.
//!
//! It is written twice in a run, at start and at an orderly stop, never in between. The file holds the same
//! record two times, written in place one after the other, so that neither a damaged byte nor a power loss
//! between the two loses anything, and a full disk does not stand in the way. The first whole record counts.
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 8 | magic | `NFSTREAM` |
//! | 8 | 4 | CRC32C of bytes 12 to 63 | |
//! | 12 | 2 | version of the format | 1 |
//! | 14 | 1 | how the last run ended | 0 not orderly (or it still runs), 1 orderly |
//! | 15 | 1 | zero | 0 |
//! | 16 | 16 | stream id | |
//! | 32 | 8 | acknowledged up to this position | <= next; orderly only, else 0 |
//! | 40 | 8 | orderly: the position of the next datagram; else: where the run began to number | |
//! | 48 | 16 | zero | 0 |

use std::io;

use bytes::{Buf, BufMut};

use crate::sequence::{Position, StreamId};
use crate::spool::disk::{Disk, DiskFile};

const FILE: &str = "stream";
const MAGIC: [u8; 8] = *b"NFSTREAM";
const VERSION: u16 = 1;
const CHECKED_FROM: usize = 12;
const RECORD_LEN: usize = 64;

/// How the last run left the numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRun {
    /// It stopped in order, and wrote down where it stood.
    Orderly {
        /// Acknowledged up to here.
        acknowledged: Position,
        /// The position of the next datagram.
        next: Position,
    },
    /// It was killed or lost power. It began to number at `start`.
    CutShort {
        /// The position that its first datagram had.
        start: Position,
    },
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) stream: StreamId,
    pub(super) last_run: LastRun,
}

impl Identity {
    fn encode(&self) -> [u8; RECORD_LEN] {
        let (orderly, acknowledged, position) = match self.last_run {
            LastRun::Orderly { acknowledged, next } => (1, acknowledged, next),
            LastRun::CutShort { start } => (0, Position(0), start),
        };
        let mut record = [0; RECORD_LEN];
        let mut rest: &mut [u8] = &mut record;
        rest.put_slice(&MAGIC);
        rest.put_u32(0);
        rest.put_u16(VERSION);
        rest.put_u8(orderly);
        rest.put_u8(0);
        rest.put_slice(&self.stream.0);
        rest.put_u64(acknowledged.0);
        rest.put_u64(position.0);
        let checksum = record.get(CHECKED_FROM..).map_or(0, crc32c::crc32c);
        if let Some(place) = record.get_mut(MAGIC.len()..CHECKED_FROM) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
        record
    }

    fn parse(record: &[u8]) -> Option<Self> {
        let mut rest = record.get(..RECORD_LEN)?.strip_prefix(&MAGIC)?;
        let checksum = rest.try_get_u32().ok()?;
        if checksum != crc32c::crc32c(rest) || rest.try_get_u16().ok()? != VERSION {
            return None;
        }
        let orderly = rest.try_get_u8().ok()? == 1;
        rest.try_get_u8().ok()?;
        let stream = StreamId(rest.try_get_u128().ok()?.to_be_bytes());
        let acknowledged = Position(rest.try_get_u64().ok()?);
        let position = Position(rest.try_get_u64().ok()?);
        let last_run = if orderly {
            LastRun::Orderly { acknowledged, next: position }
        } else {
            LastRun::CutShort { start: position }
        };
        Some(Self { stream, last_run })
    }

    /// What the spool's file says; `None` if there is none or both copies are damaged or cannot be read.
    pub(super) fn read(disk: &impl Disk) -> io::Result<Option<Self>> {
        let file = match disk.open(FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut copies = [0; 2 * RECORD_LEN];
        let mut length = 0;
        while let Some(rest) = copies.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, u64::try_from(length).unwrap_or(u64::MAX)) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) => {
                    tracing::error!(
                        %error,
                        "the file {FILE:?} of the spool cannot be read: {error}; the segments tell \
                         the stream"
                    );
                    break;
                }
            }
        }
        Ok(copies.chunks(RECORD_LEN).find_map(Self::parse))
    }

    /// Writes the spool's file. Survives power loss once it returns.
    pub(super) fn write(&self, disk: &impl Disk) -> io::Result<()> {
        let file = disk.create(FILE)?;
        let record = self.encode();
        let mut offset = 0;
        for _ in 0..2 {
            file.write_at(&record, offset)?;
            file.sync()?;
            offset += u64::try_from(RECORD_LEN).unwrap_or(u64::MAX);
        }
        disk.sync_directory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::memory_disk::MemoryDisk;

    const ORDERLY: Identity = Identity {
        stream: StreamId([9; 16]),
        last_run: LastRun::Orderly { acknowledged: Position(5), next: Position(8) },
    };

    #[test]
    fn what_is_written_is_read_after_power_loss() {
        let disk = MemoryDisk::default();
        assert_eq!(Identity::read(&disk).unwrap(), None);
        ORDERLY.write(&disk).unwrap();
        disk.lose_power();
        assert_eq!(Identity::read(&disk).unwrap(), Some(ORDERLY));
    }

    #[test]
    fn any_one_damaged_byte_loses_nothing() {
        let disk = MemoryDisk::default();
        ORDERLY.write(&disk).unwrap();
        for byte in 0..2 * RECORD_LEN {
            let damaged = disk.copy();
            damaged.flip(FILE, byte, 0xFF);
            assert_eq!(Identity::read(&damaged).unwrap(), Some(ORDERLY), "byte {byte}");
        }
    }

    #[test]
    fn a_full_disk_does_not_stand_in_the_way() {
        let disk = MemoryDisk::default();
        ORDERLY.write(&disk).unwrap();
        disk.set_capacity(disk.used());
        let next = Identity { last_run: LastRun::CutShort { start: Position(8) }, ..ORDERLY };
        next.write(&disk).unwrap();
        assert_eq!(Identity::read(&disk).unwrap(), Some(next));
    }
}
