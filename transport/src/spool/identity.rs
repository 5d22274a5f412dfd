//! The file `stream`: stream id, state of the numbering, and the runs that sent the stream.
//!
//! It is written twice in a run, at start and at an orderly stop, and when the spool begins a new stream. The
//! file holds the same record two times, written in place one after the other, so neither a damaged byte nor
//! a power loss between the two loses anything, and a full disk does not fail the write. The first whole
//! record counts.
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 8 | magic | `NFSTREAM` |
//! | 8 | 4 | CRC32C of the bytes from 12 to the end of the record | |
//! | 12 | 2 | version of the format | 3 |
//! | 14 | 1 | how the last run ended | 0 not orderly (or it still runs), 1 orderly |
//! | 15 | 1 | number of runs, n | 0 to 64 |
//! | 16 | 16 | stream id of the batches in the spool | |
//! | 32 | 8 | acknowledged up to this position | <= next; orderly only, else 0 |
//! | 40 | 8 | orderly: the position of the next datagram; else: where the run began to number | |
//! | 48 | 16 | stream id that the spool is sent as | |
//! | 64 | 16 | stream id that it was sent as before it was rolled back or cloned | zero if it never was |
//! | 80 | 32 | secret behind the stream id at 48 | zero if it is not known |
//! | 112 | 24 n | runs, oldest first: 16 id, 8 position of the first datagram | |
//! | 112 + 24 n | | zero, up to 2048 | 0 |
//!
//! The second record follows at 2048. Versions 1 and 2 are still read. Version 2 had no secret: its runs
//! begin at 80. Version 1 had records of 64 bytes, with zeros from 48 on.

use std::io;

use bytes::{Buf, BufMut};
use zeroize::Zeroizing;

use crate::limits::RUNS_MAX;
use crate::sequence::{Position, RunId, StreamId};
use crate::spool::disk::{Disk, DiskFile};
use crate::spool::lineage::{Lineage, LineageRun, StreamSecret};

const FILE: &str = "stream";
const MAGIC: [u8; 8] = *b"NFSTREAM";
const VERSION: u16 = 3;

/// The version before it, which has no secret.
const VERSION_2: u16 = 2;

const CHECKED_FROM: usize = 12;
const RECORD_LEN: usize = 2048;
const RECORD_LEN_1: usize = 64;
const RUN_LEN: usize = 24;

/// Stands for no stream.
const NO_STREAM: StreamId = StreamId([0; 16]);

/// Stands for no secret.
const NO_SECRET: [u8; 32] = [0; 32];

/// The state in which the last run left the numbering.
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

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The stream of the batches in the spool.
    pub(super) stream: StreamId,
    pub(super) last_run: LastRun,
    pub(super) lineage: Lineage,
}

/// Result of reading the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamFile {
    /// Nothing, or nothing whole.
    Nothing,
    Identity(Identity),
    /// A file of this newer version, which is left alone.
    Newer(u16),
}

impl Identity {
    fn encode(&self) -> Zeroizing<[u8; RECORD_LEN]> {
        const { assert!(112 + RUNS_MAX * RUN_LEN <= RECORD_LEN && RUNS_MAX <= 255) }
        let (orderly, acknowledged, position) = match self.last_run {
            LastRun::Orderly { acknowledged, next } => (1, acknowledged, next),
            LastRun::CutShort { start } => (0, Position(0), start),
        };
        let runs = self.lineage.runs();
        let mut record = Zeroizing::new([0; RECORD_LEN]);
        let mut rest: &mut [u8] = record.as_mut_slice();
        rest.put_slice(&MAGIC);
        rest.put_u32(0);
        rest.put_u16(VERSION);
        rest.put_u8(orderly);
        rest.put_u8(u8::try_from(runs.len()).unwrap_or(u8::MAX));
        rest.put_slice(&self.stream.0);
        rest.put_u64(acknowledged.0);
        rest.put_u64(position.0);
        rest.put_slice(&self.lineage.sent_as().0);
        rest.put_slice(&self.lineage.replaced().unwrap_or(NO_STREAM).0);
        rest.put_slice(self.lineage.secret().map_or(&NO_SECRET, |secret| &*secret.0));
        for run in runs {
            rest.put_slice(&run.id.0);
            rest.put_u64(run.start.0);
        }
        let checksum = record.get(CHECKED_FROM..).map_or(0, crc32c::crc32c);
        if let Some(place) = record.get_mut(MAGIC.len()..CHECKED_FROM) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
        record
    }

    /// Reads a record of `version`, which is one up to [`VERSION`], from the bytes in its place.
    fn parse(record: &[u8], version: u16) -> Option<Self> {
        let mut rest = record.strip_prefix(&MAGIC)?;
        let checksum = rest.try_get_u32().ok()?;
        if checksum != crc32c::crc32c(rest) || rest.try_get_u16().ok()? != version {
            return None;
        }
        let orderly = rest.try_get_u8().ok()? == 1;
        let runs = rest.try_get_u8().ok()?;
        let stream = stream_id(&mut rest)?;
        let acknowledged = Position(rest.try_get_u64().ok()?);
        let position = Position(rest.try_get_u64().ok()?);
        let last_run = if orderly {
            LastRun::Orderly { acknowledged, next: position }
        } else {
            LastRun::CutShort { start: position }
        };
        let lineage = if version == 1 { Lineage::unknown(stream) } else { lineage(rest, version, runs)? };
        Some(Self { stream, last_run, lineage })
    }

    /// Reads the spool's file. One of which no copy is whole counts as none, and so does one that cannot be
    /// read.
    pub(super) fn read(disk: &impl Disk) -> io::Result<StreamFile> {
        let file = match disk.open(FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StreamFile::Nothing),
            Err(error) => return Err(error),
        };
        let mut bytes = Zeroizing::new(vec![0; 2 * RECORD_LEN]);
        let length = read_all(&file, &mut bytes);
        bytes.truncate(length);
        let mut version_1 = bytes.get(..2 * RECORD_LEN_1).unwrap_or(&bytes).chunks(RECORD_LEN_1);
        let find = |version| bytes.chunks(RECORD_LEN).find_map(|record| Self::parse(record, version));
        let identity = find(VERSION)
            .or_else(|| find(VERSION_2))
            .or_else(|| version_1.find_map(|record| Self::parse(record, 1)));
        Ok(match (identity, version_of(&bytes)) {
            (Some(identity), _) => StreamFile::Identity(identity),
            (None, Some(newer)) if newer > VERSION => StreamFile::Newer(newer),
            (None, _) => StreamFile::Nothing,
        })
    }

    /// Writes the spool's file. Survives power loss once it returns.
    pub(super) fn write(&self, disk: &impl Disk) -> io::Result<()> {
        let file = disk.create(FILE)?;
        if let Err(error) = file.make_private() {
            tracing::warn!(
                %error,
                "cannot make the file '{FILE}' of the spool private: {error}; other users may read the \
                 secret of its stream: change its mode to 0600"
            );
        }
        let record = self.encode();
        let mut offset = 0;
        for _ in 0..2 {
            file.write_at(record.as_slice(), offset)?;
            file.sync()?;
            offset += u64::try_from(RECORD_LEN).unwrap_or(u64::MAX);
        }
        disk.sync_directory()
    }
}

fn stream_id(rest: &mut &[u8]) -> Option<StreamId> {
    Some(StreamId(rest.try_get_u128().ok()?.to_be_bytes()))
}

/// Reads the fields after the numbering: stream ids, from version 3 on a secret, and `count` runs.
fn lineage(mut rest: &[u8], version: u16, count: u8) -> Option<Lineage> {
    let sent_as = stream_id(&mut rest)?;
    let replaced = stream_id(&mut rest).filter(|stream| *stream != NO_STREAM);
    let mut secret = Zeroizing::new(NO_SECRET);
    if version != VERSION_2 {
        rest.try_copy_to_slice(secret.as_mut_slice()).ok()?;
    }
    let secret = Some(StreamSecret(secret)).filter(|secret| *secret.0 != NO_SECRET);
    let mut runs = Vec::new();
    for _ in 0..count {
        let id = RunId(rest.try_get_u128().ok()?.to_be_bytes());
        runs.push(LineageRun { id, start: Position(rest.try_get_u64().ok()?) });
    }
    Some(Lineage::restored(sent_as, secret, replaced, runs))
}

/// The version that the first record claims; `None` if it is not one of this program.
fn version_of(bytes: &[u8]) -> Option<u16> {
    let mut rest = bytes.strip_prefix(&MAGIC)?.get(CHECKED_FROM - MAGIC.len()..)?;
    rest.try_get_u16().ok()
}

/// Fills `bytes` as far as the file can be read; returns how far.
fn read_all(file: &impl DiskFile, bytes: &mut [u8]) -> usize {
    let mut length = 0;
    while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(length).unwrap_or(u64::MAX)) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) => {
                tracing::error!(
                    %error,
                    "cannot read the file {FILE:?} of the spool: {error}; using the stream id of the segments"
                );
                break;
            }
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::spool::disk::Directory;
    use crate::spool::lineage::own_stream;
    use crate::spool::memory_disk::MemoryDisk;

    const LAST_RUN: LastRun = LastRun::Orderly { acknowledged: Position(5), next: Position(8) };

    fn orderly() -> Identity {
        let mut lineage = Lineage::new(own_stream(8));
        lineage.replace_stream(own_stream(7));
        for number in 0..100 {
            lineage.begin(RunId([number; 16]), Position(number.into()), Position(0));
        }
        Identity { stream: StreamId([9; 16]), last_run: LAST_RUN, lineage }
    }

    fn read(disk: &MemoryDisk) -> StreamFile {
        Identity::read(disk).unwrap()
    }

    #[test]
    fn the_stream_file_survives_power_loss() {
        let disk = MemoryDisk::default();
        assert_eq!(read(&disk), StreamFile::Nothing);
        orderly().write(&disk).unwrap();
        disk.lose_power();
        assert_eq!(read(&disk), StreamFile::Identity(orderly()));
    }

    #[test]
    fn any_one_damaged_byte_loses_nothing() {
        let disk = MemoryDisk::default();
        orderly().write(&disk).unwrap();
        for byte in 0..2 * RECORD_LEN {
            let damaged = disk.copy();
            damaged.flip(FILE, byte, 0xFF);
            assert_eq!(read(&damaged), StreamFile::Identity(orderly()), "byte {byte}");
        }
    }

    #[test]
    fn the_stream_file_is_rewritten_on_a_full_disk() {
        let disk = MemoryDisk::default();
        orderly().write(&disk).unwrap();
        disk.set_capacity(disk.used());
        let next = Identity { last_run: LastRun::CutShort { start: Position(8) }, ..orderly() };
        next.write(&disk).unwrap();
        assert_eq!(read(&disk), StreamFile::Identity(next));
    }

    #[test]
    fn a_file_of_version_1_names_no_runs() {
        let disk = MemoryDisk::default();
        disk.put(FILE, include_bytes!("golden/v1.stream").to_vec());
        let StreamFile::Identity(identity) = read(&disk) else { panic!("not readable") };
        assert_eq!(identity.lineage, Lineage::unknown(identity.stream));
    }

    #[test]
    fn other_users_cannot_read_the_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, include_bytes!("golden/v2.stream")).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        orderly().write(&Directory::open(directory.path()).unwrap()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_of_version_2_has_runs_and_no_secret() {
        let disk = MemoryDisk::default();
        disk.put(FILE, include_bytes!("golden/v2.stream").to_vec());
        let StreamFile::Identity(identity) = read(&disk) else { panic!("not readable") };
        assert!(identity.lineage.secret().is_none() && !identity.lineage.runs().is_empty());
    }

    #[test]
    fn a_file_of_a_newer_version_is_no_damage() {
        let disk = MemoryDisk::default();
        let newer = [&MAGIC[..], &[0; 4], &4_u16.to_be_bytes(), &[9; 100]].concat();
        disk.put(FILE, newer);
        assert_eq!(read(&disk), StreamFile::Newer(4));
    }
}
