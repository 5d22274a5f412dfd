//! Moves of a [`SegmentReader`] that read the headers of batches only.

use std::io;

use crate::batch::{BatchHeader, HEADER_LEN, NewerBatch};
use crate::sequence::Position;
use crate::spool::disk::DiskFile;
use crate::spool::item::{Damage, Item, Newer};
use crate::spool::reader::SegmentReader;
use crate::spool::segment;

impl<F: DiskFile> SegmentReader<F> {
    /// Goes to the batch that holds `position`, reading headers only as long as they are whole.
    pub fn skip_to(&mut self, position: Position) -> io::Result<()> {
        if self.newer.is_some() {
            self.expected = position;
            return Ok(());
        }
        while let Some(Ok(header)) = self.header(HEADER_LEN)? {
            if header.end() > position || header.first < self.expected || header.end() > self.end {
                break;
            }
            self.hop(&header);
        }
        while self.expected < position && self.next_before(position)? {}
        Ok(())
    }

    /// Skips one item in front of `position`. Returns false if there is none.
    fn next_before(&mut self, position: Position) -> io::Result<bool> {
        let Some(item) = self.next_item()? else { return Ok(false) };
        match item {
            Item::Batch(batch) if batch.end() > position => {
                self.expected = position;
                self.found = Some(Item::Batch(batch));
                Ok(false)
            }
            Item::Newer(Newer { place, needs }) if place.end > position => {
                self.expected = position;
                let place = Damage { first: position, ..place };
                self.found = Some(Item::Newer(Newer { place, needs }));
                Ok(false)
            }
            Item::Damage(damage) if damage.end > position => {
                self.expected = position;
                Ok(false)
            }
            Item::Batch(_) | Item::Damage(_) | Item::Newer(_) => Ok(true),
        }
    }

    fn hop(&mut self, header: &BatchHeader) {
        self.expected = header.end();
        self.newest = self.newest.max(Some(header.latest));
        if header.first < self.end {
            self.dropped += u64::from(header.dropped);
        }
        self.offset += u64::try_from(header.encoded_len()).unwrap_or(u64::MAX);
        self.buffer.clear();
    }

    /// Returns the real end of the segment: the position after its last complete batch, and the offset after
    /// it. Reads headers only as long as they are whole.
    pub fn find_end(&mut self) -> io::Result<(Position, u64)> {
        let mut good = (self.expected, self.offset);
        while self.pass_batch()?.is_some() {
            good = (self.expected, self.offset);
        }
        Ok(good)
    }

    /// Returns the formats that a reader of the next batch of a newer version must know; `None` if none
    /// follows. Reads headers only as long as they are whole.
    pub(super) fn find_newer(&mut self) -> io::Result<Option<String>> {
        if let Some(version) = self.newer {
            return Ok(Some(segment::needs(version)));
        }
        if let Some(Item::Newer(newer)) = self.found.take() {
            return Ok(Some(newer.needs));
        }
        while let Some(passed) = self.pass_batch()? {
            if let Passed::Newer(newer) = passed {
                return Ok(Some(newer.needs.to_string()));
            }
        }
        Ok(None)
    }

    /// Skips the next complete batch; `None` at the end of the segment.
    fn pass_batch(&mut self) -> io::Result<Option<Passed>> {
        while let Some(header) = self.header(HEADER_LEN)? {
            match header {
                Ok(header) => {
                    let after = self.offset + u64::try_from(header.encoded_len()).unwrap_or(u64::MAX);
                    if after <= self.limit && header.end() >= self.expected {
                        self.hop(&header);
                        return Ok(Some(Passed::Batch));
                    }
                }
                Err(_) => {
                    if let Some(newer) = self.newer_here()?
                        && newer.end >= self.expected
                    {
                        self.expected = newer.end;
                        self.skip_bytes(newer.encoded_len);
                        return Ok(Some(Passed::Newer(newer)));
                    }
                }
            }
            self.resync()?;
        }
        Ok(None)
    }
}

/// A batch that was passed by its header.
enum Passed {
    /// One of this version.
    Batch,
    /// One of a newer version.
    Newer(NewerBatch),
}
