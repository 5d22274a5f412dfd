//! Imports files of a newer version that this version reads: after an upgrade that undoes a downgrade.
//!
//! A file of `newer/` becomes a segment at the end of the queue, with new positions. It is written completely
//! under another name first, so a crash at any moment leaves all of it, exactly once.

use std::io;

use crate::batch::Batch;
use crate::datagram::Timestamp;
use crate::limits::POSITIONS_PER_RUN;
use crate::sequence::{Gap, GapReason, Position, StreamId};
use crate::spool::disk::{Disk, DiskFile, FileEntry};
use crate::spool::extent::{Extent, Formats, LastWrite};
use crate::spool::item::{Damage, Item, Newer};
use crate::spool::name::{self, NEWER};
use crate::spool::reader::SegmentReader;
use crate::spool::segment::{Begun, NewerSegment, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::spool::state::Spool;

const UNFINISHED: &str = ".taken";

/// Damage of a file in `newer/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Broken {
    /// Damaged bytes.
    pub bytes: u64,
    /// Datagrams that are lost with them. A piece with an unknown number of datagrams counts as one.
    pub datagrams: u64,
    /// True if there is such a piece, so more may be lost.
    pub may_be_more: bool,
}

/// The reason why a batch of `newer/` cannot get new positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// A key for it is missing.
    NoKey,
    /// Its ciphertext does not authenticate.
    Damaged,
}

/// Result of the import of one file in `newer/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reimported {
    /// It is a segment now, which ends at this position. Damaged pieces are left out.
    Until(Position, Broken),
    /// It stays: a reader must know these formats.
    Newer(String),
    /// It stays: the spool has no room for it.
    NoRoom,
    /// It stays: a key for it is missing.
    NoKey,
    /// It was moved to `damaged/`, because no batch in it is readable.
    Damaged(Broken),
}

/// A damaged piece of a file of `newer/`.
#[derive(Clone, Copy, Debug)]
struct BrokenPiece {
    offset: u64,
    length: u64,
    /// Positions that it held; more may follow them.
    first: Position,
    end: Position,
    may_be_more: bool,
}

impl BrokenPiece {
    /// The piece that `reader` has just found.
    fn new<F: DiskFile>(damage: Damage, reader: &SegmentReader<F>) -> Self {
        let Damage { offset, length, first, end } = damage;
        // No segment reaches over positions that a start leapt over.
        let is_known = end.since(first) < POSITIONS_PER_RUN;
        if is_known {
            return Self { offset, length, first, end, may_be_more: false };
        }
        let described = reader.described();
        let is_all = described.end > first && described.offset == offset + length;
        Self { offset, length, first, end: described.end.max(first.plus(1)), may_be_more: !is_all }
    }

    /// The number of its positions that are not in `held`.
    fn lost(&self, held: &[Gap]) -> u64 {
        let (mut at, mut lost) = (self.first, 0);
        for gap in held.iter().filter(|gap| gap.end > self.first && gap.first < self.end) {
            lost += gap.first.since(at);
            at = at.max(gap.end);
        }
        lost + self.end.since(at)
    }
}

impl<D: Disk> Spool<D> {
    /// Returns the files of a newer version, oldest first. Completes or removes files that a crash left
    /// unfinished.
    pub fn newer_files(&mut self) -> io::Result<Vec<FileEntry>> {
        let names: Vec<String> = self.disk.list_in(NEWER)?.into_iter().map(|file| file.name).collect();
        for unfinished in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
            let whole = unfinished.strip_suffix(UNFINISHED).unwrap_or(unfinished);
            match self.header_of(unfinished)? {
                Some(header) if !names.iter().any(|name| name == whole) => {
                    self.disk.rename(unfinished, &name::newer(header.first, header.stream))?;
                }
                _ => self.disk.remove(unfinished)?,
            }
        }
        let mut files = self.disk.list_in(NEWER)?;
        files.retain(|file| name::parse_newer(&file.name).is_some());
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn header_of(&self, name: &str) -> io::Result<Option<SegmentHeader>> {
        Ok(SegmentHeader::parse(&self.start_of(name)?))
    }

    pub(super) fn start_of(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut start = vec![0; SEGMENT_HEADER_LEN];
        let read = self.disk.open(name)?.read_at(&mut start, 0)?;
        start.truncate(read);
        Ok(start)
    }

    /// The positions that `file` in `newer/` holds, as far as its batches are whole.
    pub(super) fn held_by(&self, file: &FileEntry) -> io::Result<Vec<Gap>> {
        let mut held = Vec::new();
        let Some((from, stream)) = name::parse_newer(&file.name) else { return Ok(held) };
        let (mut reader, _) = self.newer_reader(file, from, stream)?;
        while let Some(item) = reader.next_item()? {
            let (first, end) = match item {
                Item::Batch(batch) => (batch.first(), batch.end()),
                Item::Newer(Newer { place, .. }) => (place.first, place.end),
                Item::Damage(_) => continue,
            };
            held.push(Gap { first: first.max(from), end, reason: GapReason::Unused });
        }
        Ok(held)
    }

    /// A reader of `file` in `newer/`, which counts from position `from` on, and the header of the file.
    fn newer_reader(
        &self,
        file: &FileEntry,
        from: Position,
        stream: StreamId,
    ) -> io::Result<(SegmentReader<D::File>, Option<SegmentHeader>)> {
        let start = self.start_of(&file.name)?;
        let mut reader =
            SegmentReader::new(self.disk.open(&file.name)?, stream, from, Position(u64::MAX), file.size);
        if let Some(newer) = NewerSegment::parse(&start) {
            reader.set_newer(newer.version);
        }
        Ok((reader, SegmentHeader::parse(&start)))
    }

    /// Counts the datagrams lost with the `pieces` of `file`. Positions in other files of `newer/` are not
    /// lost.
    fn count_pieces(&self, file: &FileEntry, pieces: &[BrokenPiece]) -> io::Result<Broken> {
        let mut held = Vec::new();
        if !pieces.is_empty() {
            let stream = name::parse_newer(&file.name).map(|(_, stream)| stream);
            let others = self.disk.list_in(NEWER)?.into_iter().filter(|other| {
                other.name != file.name && name::parse_newer(&other.name).map(|(_, stream)| stream) == stream
            });
            for other in others {
                held.extend(self.held_by(&other)?);
            }
            held.sort_by_key(|gap| gap.first);
        }
        let mut broken = Broken::default();
        for piece in pieces {
            broken.bytes += piece.length;
            broken.datagrams += piece.lost(&held);
            broken.may_be_more |= piece.may_be_more;
        }
        Ok(broken)
    }

    /// Keeps copies of the damaged `pieces` of `file`.
    fn copy_pieces(&mut self, file: &FileEntry, pieces: &[BrokenPiece]) {
        for piece in pieces {
            if let Err(error) = self.copy_damaged_of(&file.name, piece.offset, piece.length) {
                tracing::warn!(%error, "cannot keep a copy of the damaged piece of {:?}: {error}", file.name);
            }
        }
    }

    /// Imports `file` as the segment that starts at `next`, where the spool ends. `renumber` makes of a batch
    /// of the given stream one of this stream at the given position.
    pub fn reimport(
        &mut self,
        file: &FileEntry,
        next: Position,
        renumber: impl FnMut(StreamId, &Batch, Position) -> Result<Batch, ImportError>,
    ) -> io::Result<Reimported> {
        let Some((from, stream)) = name::parse_newer(&file.name) else { return Ok(Reimported::NoKey) };
        if self.room()?.bytes < file.size || self.is_place_taken(next) {
            return Ok(Reimported::NoRoom);
        }
        let (mut reader, header) = self.newer_reader(file, from, stream)?;
        let unfinished = format!("{}{UNFINISHED}", file.name);
        let mut copy = Renumbering {
            file: self.disk.create(&unfinished)?,
            size: 0,
            end: next,
            newest: Timestamp(0),
            broken: Vec::new(),
        };
        copy.file.truncate(0)?;
        let unknown = Begun { wall: file.modified, ..Begun::default() };
        let begun = header.map_or(unknown, |header| header.begun);
        copy.write(&SegmentHeader { stream: self.stream, first: next, begun }.encode())?;
        match copy.fill(&mut reader, stream, renumber)? {
            Some(stays) => {
                self.disk.remove(&unfinished)?;
                Ok(stays)
            }
            None if copy.end == next => {
                let broken = self.count_pieces(file, &copy.broken)?;
                self.disk.remove(&unfinished)?;
                self.disk.rename(&file.name, &file.name.replacen(NEWER, name::DAMAGED, 1))?;
                self.bound_damaged();
                self.count_newer();
                Ok(Reimported::Damaged(broken))
            }
            None => {
                copy.file.sync()?;
                let broken = self.count_pieces(file, &copy.broken)?;
                self.copy_pieces(file, &copy.broken);
                self.disk.remove(&file.name)?;
                self.disk.rename(&unfinished, &name::segment(next))?;
                self.names_unsynced = true;
                let Renumbering { size, end, newest, .. } = copy;
                let written = LastWrite::Earlier(newest);
                self.extents.insert(next, Extent::Segment { end, size, written, formats: Formats::Own });
                self.size += size;
                self.count_newer();
                Ok(Reimported::Until(end, broken))
            }
        }
    }
}

/// A segment in the making.
struct Renumbering<F> {
    file: F,
    size: u64,
    end: Position,
    newest: Timestamp,
    broken: Vec<BrokenPiece>,
}

impl<F: DiskFile> Renumbering<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.size)?;
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Writes the batches of `reader` with new positions. Returns why the file stays as it is, if it does.
    fn fill(
        &mut self,
        reader: &mut SegmentReader<F>,
        stream: StreamId,
        mut renumber: impl FnMut(StreamId, &Batch, Position) -> Result<Batch, ImportError>,
    ) -> io::Result<Option<Reimported>> {
        while let Some(item) = reader.next_item()? {
            match item {
                Item::Batch(batch) => match renumber(stream, &batch, self.end) {
                    Ok(batch) => {
                        self.write(batch.bytes())?;
                        self.end = batch.end();
                        self.newest = self.newest.max(batch.latest());
                    }
                    Err(ImportError::NoKey) => return Ok(Some(Reimported::NoKey)),
                    Err(ImportError::Damaged) => self.broken.push(whole(&batch, reader.offset())),
                },
                Item::Newer(Newer { needs, .. }) => return Ok(Some(Reimported::Newer(needs))),
                // Between two pieces of one segment, or behind the last one, nothing is missing.
                Item::Damage(damage) if damage.length == 0 => {}
                Item::Damage(damage) => self.broken.push(BrokenPiece::new(damage, reader)),
            }
        }
        Ok(None)
    }
}

/// All of `batch`, which ends at the offset `after`, as a damaged piece.
fn whole(batch: &Batch, after: u64) -> BrokenPiece {
    let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
    let datagrams = u64::from(batch.datagrams()).saturating_sub(u64::from(batch.dropped()));
    BrokenPiece {
        offset: after.saturating_sub(length),
        length,
        first: batch.first(),
        end: batch.first().plus(datagrams),
        may_be_more: false,
    }
}
