//! The ring: encoded batches that are neither acknowledged nor in a segment.
//!
//! Batches are stored one after the other. A batch that would cross the end starts at the beginning instead.
//! Offsets count bytes since the ring was created; the place in the file is the offset modulo the size. Only
//! the positions show which batches are live. They rise, so batches of an earlier lap are never mistaken for
//! newer ones.

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
    pub(crate) batch: Batch,
    /// While this batch and later ones are held, nothing from this offset on is overwritten. It is the offset
    /// of the first byte, unless a search found a later batch before it.
    pub(crate) start: u64,
    /// The offset after the last byte; `start < end`.
    pub(crate) end: u64,
}

/// The writer of the ring.
#[derive(Debug)]
pub(crate) struct Ring {
    map: Mapping,
    size: u64,
    /// The offset after the newest batch.
    head: u64,
}

impl Ring {
    /// Maps the ring of `size` bytes that starts at `base` in the file.
    pub(super) fn map(file: SharedFile, base: u64, size: u64) -> io::Result<Self> {
        let length = usize::try_from(size).map_err(io::Error::other)?;
        Ok(Self { map: Mapping::map(file, base, length)?, size, head: 0 })
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

    /// Returns the offset for a batch of `length` bytes.
    fn start(&self, length: u64) -> u64 {
        let left = self.size - self.head % self.size;
        if length <= left { self.head } else { self.head + left }
    }

    /// Returns `true` if `batch` fits while everything from `tail` on stays.
    pub(crate) fn fits(&self, batch: &Batch, tail: u64) -> bool {
        let length = encoded_len(batch);
        self.start(length) + length - tail <= self.size
    }

    /// Writes `batch`, which must fit. Returns it if it is longer than the ring, which then stays unchanged.
    /// A written batch survives a kill of the process unless the ring is in memory.
    pub(crate) fn write(&mut self, batch: Batch) -> Result<RingEntry, Batch> {
        let length = encoded_len(&batch);
        let start = self.start(length);
        let place = range(start % self.size, length).and_then(|range| self.map.bytes_mut().get_mut(range));
        let Some(place) = place else { return Err(batch) };
        place.copy_from_slice(batch.bytes());
        self.head = start + length;
        Ok(RingEntry { batch, start, end: self.head })
    }

    /// Recovers the batches of an earlier run that end above `floor`. `marks` are the offset of the oldest
    /// batch and the position after the newest one. Without them, and if they do not lead to all batches,
    /// searches the ring.
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

    /// Reads the batches of an earlier run from `tail` on that end above `floor`. The ring continues after
    /// them.
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

    /// Searches the ring if the recovered batches in `held` lack a position between `floor` and `next`, or if
    /// `next` is unknown. Returns the batches that end above `floor` if these are more than in `held`.
    pub(super) fn salvaged(
        &self,
        stream: StreamId,
        held: &[RingEntry],
        floor: Position,
        next: Option<Position>,
    ) -> Option<Vec<RingEntry>> {
        // After a damaged batch near the end, reading continues at the start of the ring, where batches are
        // newer.
        let contiguous_end = held
            .iter()
            .map(|held| &held.batch)
            .try_fold(floor, |end, batch| (batch.first() <= end).then(|| batch.end().max(end)));
        if next.is_some_and(|next| contiguous_end.is_some_and(|end| end >= next)) {
            return None;
        }
        Some(self.searched(stream, floor)).filter(|found| found.len() > held.len())
    }

    /// Searches the whole ring for intact batches that end above `floor`. Their offsets are those of the
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

    /// Continues after the newest of the batches found by a search. They stay in place, so that a kill at any
    /// moment loses none of them.
    fn keep_in_place(&mut self, mut found: Vec<RingEntry>) -> Vec<RingEntry> {
        let newest_end = found.last().map_or(0, |newest| newest.end);
        self.head = newest_end + self.size;
        // Batches behind the newest one belong to the previous lap.
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

    /// Finds the next possible start of a batch, from `at` on.
    fn find_magic(&self, at: usize) -> Option<usize> {
        let rest = self.map.bytes().get(at..)?;
        rest.windows(MAGIC.len()).position(|window| window == MAGIC).map(|found| at + found)
    }

    /// Reads the batch at offset `at`, or else at the beginning of the ring.
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

/// Returns the byte range from `start` on.
fn range(start: u64, length: u64) -> Option<core::ops::Range<usize>> {
    Some(usize::try_from(start).ok()?..usize::try_from(start + length).ok()?)
}

fn encoded_len(batch: &Batch) -> u64 {
    u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX)
}
