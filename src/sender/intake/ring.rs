//! The ring: encoded batches that are neither acknowledged nor in a segment.
//!
//! Batches lie one after the other; one that would cross the end starts at the beginning instead. Offsets count
//! bytes since the ring was made; the place in the file is the offset modulo the ring's size. Which batches are
//! live shows in their positions alone: they rise, so what an earlier lap left behind is never taken for newer.

use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::SharedFile;
use crate::batch::{Batch, BatchHeader, HEADER_LEN};
use crate::sequence::{Position, StreamId};

/// A batch in the ring.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The batch.
    pub(crate) batch: Batch,
    /// Offset of its first byte.
    pub(crate) start: u64,
    /// Offset after its last byte; `start < end`.
    pub(crate) end: u64,
}

/// The writing end of the ring.
#[derive(Debug)]
pub(crate) struct Ring {
    file: SharedFile,
    /// Where the ring starts in the file.
    base: u64,
    size: u64,
    /// Offset after the newest batch.
    head: u64,
}

impl Ring {
    pub(super) fn new(file: SharedFile, base: u64, size: u64) -> Self {
        Self { file, base, size, head: 0 }
    }

    /// Offset after the newest batch.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Where a batch of `length` bytes comes to lie if the newest ends at `head`.
    fn start(&self, head: u64, length: u64) -> u64 {
        let left = self.size - head % self.size;
        if length <= left { head } else { head + left }
    }

    /// Whether `batch` fits while everything from `tail` on must stay.
    pub(crate) fn fits(&self, batch: &Batch, tail: u64) -> bool {
        let length = encoded_len(batch);
        self.start(self.head, length) + length - tail <= self.size
    }

    /// Writes `batch`, which must fit. Once this returns well it survives the process, however that ends. If it
    /// cannot be written it takes its room all the same, so that the ring bounds what lies in memory.
    pub(crate) fn write(&mut self, batch: Batch) -> (Held, io::Result<()>) {
        let length = encoded_len(&batch);
        let start = self.start(self.head, length);
        let written = self.file.write_all_at(batch.bytes(), self.base + start % self.size);
        self.head = start + length;
        (Held { batch, start, end: self.head }, written)
    }

    /// Reads what an earlier run left: batches from `tail` on that end above `floor`. The ring goes on after them.
    pub(super) fn recover(&mut self, stream: StreamId, tail: u64, floor: Position) -> io::Result<Vec<Held>> {
        let mut held = Vec::new();
        let mut expected = Position(0);
        let mut at = tail;
        while let Some(found) = self.read(stream, at, expected)? {
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
        Ok(held)
    }

    /// The batch at offset `at`, or at the beginning of the ring if it did not fit there.
    fn read(&self, stream: StreamId, at: u64, expected: Position) -> io::Result<Option<Held>> {
        let wrapped = at + (self.size - at % self.size);
        for start in [at, wrapped] {
            if let Some(batch) = self.read_at(stream, start)?
                && batch.first() >= expected
            {
                let end = start + encoded_len(&batch);
                return Ok(Some(Held { batch, start, end }));
            }
        }
        Ok(None)
    }

    fn read_at(&self, stream: StreamId, start: u64) -> io::Result<Option<Batch>> {
        let place = start % self.size;
        let mut header = [0; HEADER_LEN];
        if self.size - place < u64::try_from(HEADER_LEN).unwrap_or(u64::MAX) {
            return Ok(None);
        }
        self.file.read_exact_at(&mut header, self.base + place)?;
        let Ok(Some(header)) = BatchHeader::parse(stream, &header) else { return Ok(None) };
        if self.size - place < u64::try_from(header.encoded_len()).unwrap_or(u64::MAX) {
            return Ok(None);
        }
        let mut bytes = vec![0; header.encoded_len()];
        self.file.read_exact_at(&mut bytes, self.base + place)?;
        Ok(Batch::parse_exact(stream, &Bytes::from(bytes)).ok())
    }
}

fn encoded_len(batch: &Batch) -> u64 {
    u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX)
}
