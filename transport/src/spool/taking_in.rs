//! Takes in again what a newer version wrote and this one reads: after an upgrade that undoes a downgrade.
//!
//! A file of `newer/` becomes a segment at the end of the queue, with new positions. In between it is written whole under
//! another name; so a crash at any moment leaves all of it, once.

use std::io;

use crate::batch::Batch;
use crate::datagram::Timestamp;
use crate::sequence::{Gap, GapReason, Position, StreamId};
use crate::spool::age::LastWrite;
use crate::spool::apart::Formats;
use crate::spool::disk::{Disk, DiskFile, Entry};
use crate::spool::name::{self, NEWER};
use crate::spool::segment::{NewerSegment, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::spool::{Begun, Item, Newer, Piece, SegmentReader, Spool};

const UNFINISHED: &str = ".taken";

/// What came of one file of `newer/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakenIn {
    /// It is a segment now, which ends at this position.
    Until(Position),
    /// It stays: this must be understood to read it.
    Newer(String),
    /// It stays: the spool has no room for it.
    NoRoom,
    /// It stays: a key for it is missing.
    NoKey,
    /// Nothing in it can be read: it was moved to `damaged/`.
    Damaged,
}

impl<D: Disk> Spool<D> {
    /// The files that a newer version wrote, oldest first, once what a crash left half done is put in order.
    pub fn newer_files(&mut self) -> io::Result<Vec<Entry>> {
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
    pub(super) fn held_by(&self, file: &Entry) -> io::Result<Vec<Gap>> {
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
        file: &Entry,
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

    /// Takes `file` in as the segment that starts at `next`, where the spool ends. `renumber` makes of a batch of the
    /// given stream one of this stream at the given position, or `None` if it has no key for it.
    pub fn take_in(
        &mut self,
        file: &Entry,
        next: Position,
        renumber: impl FnMut(StreamId, &Batch, Position) -> Option<Batch>,
    ) -> io::Result<TakenIn> {
        let Some((from, stream)) = name::parse_newer(&file.name) else { return Ok(TakenIn::NoKey) };
        if self.room()?.bytes < file.size || self.is_place_taken(next) {
            return Ok(TakenIn::NoRoom);
        }
        let (mut reader, header) = self.newer_reader(file, from, stream)?;
        let unfinished = format!("{}{UNFINISHED}", file.name);
        let mut copy =
            Copy { file: self.disk.create(&unfinished)?, size: 0, end: next, newest: Timestamp(0) };
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
                self.disk.remove(&unfinished)?;
                self.disk.rename(&file.name, &file.name.replacen(NEWER, name::DAMAGED, 1))?;
                self.bound_damaged();
                self.count_newer();
                Ok(TakenIn::Damaged)
            }
            None => {
                copy.file.sync()?;
                self.disk.remove(&file.name)?;
                self.disk.rename(&unfinished, &name::segment(next))?;
                self.names_unsynced = true;
                let Copy { size, end, newest, .. } = copy;
                let written = LastWrite::Earlier(newest);
                self.pieces.insert(next, Piece::Segment { end, size, written, formats: Formats::Own });
                self.size += size;
                self.count_newer();
                Ok(TakenIn::Until(end))
            }
        }
    }
}

/// A segment in the making.
struct Copy<F> {
    file: F,
    size: u64,
    end: Position,
    newest: Timestamp,
}

impl<F: DiskFile> Copy<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.size)?;
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Writes what `reader` gives, under new positions. Returns why the file stays as it is, if it does.
    fn fill(
        &mut self,
        reader: &mut SegmentReader<F>,
        stream: StreamId,
        mut renumber: impl FnMut(StreamId, &Batch, Position) -> Option<Batch>,
    ) -> io::Result<Option<TakenIn>> {
        while let Some(item) = reader.next_item()? {
            match item {
                Item::Batch(batch) => {
                    let Some(batch) = renumber(stream, &batch, self.end) else {
                        return Ok(Some(TakenIn::NoKey));
                    };
                    self.write(batch.bytes())?;
                    self.end = batch.end();
                    self.newest = self.newest.max(batch.latest());
                }
                Item::Newer(Newer { needs, .. }) => return Ok(Some(TakenIn::Newer(needs))),
                // Between two pieces of one segment, or behind the last one, nothing is missing.
                Item::Damage(damage) if damage.length == 0 => {}
                Item::Damage(damage) => {
                    tracing::error!(
                        bytes = damage.length,
                        "a piece of a file in 'newer' of the spool is damaged"
                    );
                }
            }
        }
        Ok(None)
    }
}
