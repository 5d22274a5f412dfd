//! The ring: encoded batches that are neither acknowledged nor in a segment.
//!
//! Batches lie one after the other; one that would cross the end starts at the beginning instead. Offsets count
//! bytes since the ring was made; the place in the file is the offset modulo the ring's size. Which batches are
//! live shows in their positions alone: they rise, so what an earlier lap left behind is never taken for newer.

use std::io;

use bytes::Bytes;
use nf_transport_core::batch::{Batch, BatchHeader, MAGIC};
use nf_transport_core::sequence::{Position, StreamId};

use crate::sender::journal::bus_error::Backing;
use crate::sender::journal::mapping::Mapping;
use crate::sender::journal::shared_file::SharedFile;

/// A batch in the ring.
#[derive(Clone, Debug)]
pub(crate) struct RingEntry {
    /// The batch.
    pub(crate) batch: Batch,
    /// While this batch and later ones are held, nothing from this offset on is overwritten. It is the offset of its first
    /// byte, unless a search found a later batch before it.
    pub(crate) start: u64,
    /// Offset after its last byte; `start < end`.
    pub(crate) end: u64,
}

/// The writing end of the ring.
#[derive(Debug)]
pub(crate) struct Ring {
    map: Mapping,
    size: u64,
    /// Offset after the newest batch.
    head: u64,
}

impl Ring {
    /// The ring that starts at `base` in the file and is `size` bytes long.
    pub(super) fn map(file: SharedFile, base: u64, size: u64) -> io::Result<Self> {
        let length = usize::try_from(size).map_err(io::Error::other)?;
        Ok(Self { map: Mapping::of(file, base, length)?, size, head: 0 })
    }

    pub(crate) fn backing(&self) -> Backing {
        self.map.backing()
    }

    pub(crate) fn move_to_memory(&self) -> io::Result<()> {
        self.map.move_to_memory()
    }

    /// Offset after the newest batch.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Where a batch of `length` bytes comes to lie.
    fn start(&self, length: u64) -> u64 {
        let left = self.size - self.head % self.size;
        if length <= left { self.head } else { self.head + left }
    }

    /// Whether `batch` fits while everything from `tail` on must stay.
    pub(crate) fn fits(&self, batch: &Batch, tail: u64) -> bool {
        let length = encoded_len(batch);
        self.start(length) + length - tail <= self.size
    }

    /// Writes `batch`, which must fit; gives it back if it is longer than the ring, which stays as it is. Once this returns
    /// the batch survives the process, however that ends, unless the ring is in memory.
    pub(crate) fn write(&mut self, batch: Batch) -> Result<RingEntry, Batch> {
        let length = encoded_len(&batch);
        let start = self.start(length);
        let place = range(start % self.size, length).and_then(|range| self.map.bytes_mut().get_mut(range));
        let Some(place) = place else { return Err(batch) };
        place.copy_from_slice(batch.bytes());
        self.head = start + length;
        Ok(RingEntry { batch, start, end: self.head })
    }

    /// Recovers the batches of an earlier run that end above `floor`. `marks` are the offset of the oldest batch and the position
    /// after the newest one. Searches the ring without them, and where they do not lead to all batches.
    pub(super) fn recover_all(
        &mut self,
        stream: StreamId,
        marks: Option<(u64, Position)>,
        floor: Position,
    ) -> Vec<RingEntry> {
        let held = marks.map_or_else(Vec::new, |(tail, _)| self.recover(stream, tail, floor));
        match self.salvaged(stream, &held, floor, marks.map(|(_, next)| next)) {
            Some(found) => self.keep_in_place(found),
            None => held,
        }
    }

    /// Reads what an earlier run left: batches from `tail` on that end above `floor`. The ring goes on after them.
    pub(super) fn recover(&mut self, stream: StreamId, tail: u64, floor: Position) -> Vec<RingEntry> {
        let mut held = Vec::new();
        let mut expected = Position(0);
        let mut at = tail;
        while let Some(found) = self.read(stream, at, expected) {
            if found.end - tail > self.size {
                break;
            }
            at = found.end;
            expected = found.batch.end();
            if expected > floor {
                held.push(found);
            }
        }
        self.head = at;
        held
    }

    /// Searches the ring if `held`, the recovered batches, lack a position between `floor` and `next`, or `next` is not known.
    /// Returns the batches that end above `floor` if there are more of them than in `held`.
    pub(super) fn salvaged(
        &self,
        stream: StreamId,
        held: &[RingEntry],
        floor: Position,
        next: Option<Position>,
    ) -> Option<Vec<RingEntry>> {
        // A damaged batch before the end of the ring leads to its start, where batches are newer.
        let contiguous_end = held
            .iter()
            .map(|held| &held.batch)
            .try_fold(floor, |end, batch| (batch.first() <= end).then(|| batch.end().max(end)));
        if next.is_some_and(|next| contiguous_end.is_some_and(|end| end >= next)) {
            return None;
        }
        Some(self.searched(stream, floor)).filter(|found| found.len() > held.len())
    }

    /// Searches all of the ring for whole batches that end above `floor`, wherever they are. Their offsets are those in the
    /// first lap.
    pub(super) fn searched(&self, stream: StreamId, floor: Position) -> Vec<RingEntry> {
        let mut found: Vec<RingEntry> = Vec::new();
        let mut at = 0;
        while let Some(place) = self.find_magic(at) {
            let start = u64::try_from(place).unwrap_or(u64::MAX);
            let batch = self.read_at(stream, start);
            at = place + batch.as_ref().map_or(1, |batch| batch.bytes().len());
            if let Some(batch) = batch.filter(|batch| batch.end() > floor) {
                let end = start + encoded_len(&batch);
                found.push(RingEntry { batch, start, end });
            }
        }
        found.sort_by_key(|held| held.batch.first());
        let mut expected = Position(0);
        found.retain(|held| {
            let is_next = held.batch.first() >= expected;
            if is_next {
                expected = held.batch.end();
            }
            is_next
        });
        found
    }

    /// Goes on after the newest of the batches that a search found. They stay where they are: a kill at any moment finds all
    /// of them there.
    fn keep_in_place(&mut self, mut found: Vec<RingEntry>) -> Vec<RingEntry> {
        let newest_end = found.last().map_or(0, |newest| newest.end);
        self.head = newest_end + self.size;
        // What lies behind the newest one is of the lap before.
        for held in found.iter_mut().filter(|held| held.start < newest_end) {
            held.start += self.size;
            held.end += self.size;
        }
        let mut start = self.head;
        for held in found.iter_mut().rev() {
            start = start.min(held.start);
            held.start = start;
        }
        found
    }

    /// Where the next batch can start, from `at` on.
    fn find_magic(&self, at: usize) -> Option<usize> {
        let rest = self.map.bytes().get(at..)?;
        rest.windows(MAGIC.len()).position(|window| window == MAGIC).map(|found| at + found)
    }

    /// The batch at offset `at`, or at the beginning of the ring if it is not there.
    fn read(&self, stream: StreamId, at: u64, expected: Position) -> Option<RingEntry> {
        let wrapped = at + (self.size - at % self.size);
        [at, wrapped].into_iter().find_map(|start| {
            let batch = self.read_at(stream, start).filter(|batch| batch.first() >= expected)?;
            let end = start + encoded_len(&batch);
            Some(RingEntry { batch, start, end })
        })
    }

    fn read_at(&self, stream: StreamId, start: u64) -> Option<Batch> {
        let place = usize::try_from(start % self.size).ok()?;
        let bytes = self.map.bytes().get(place..)?;
        let header = BatchHeader::parse(stream, bytes).ok()??;
        let bytes = bytes.get(..header.encoded_len())?;
        Batch::parse_exact(stream, &Bytes::copy_from_slice(bytes)).ok()
    }
}

/// The bytes from `start` on.
fn range(start: u64, length: u64) -> Option<core::ops::Range<usize>> {
    Some(usize::try_from(start).ok()?..usize::try_from(start + length).ok()?)
}

fn encoded_len(batch: &Batch) -> u64 {
    u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX)
}
