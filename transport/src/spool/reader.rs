//! Reads a segment from any position, and skips the smallest damaged piece.
//!
//! Owns an open segment and a place in it. Never writes. Invariant: the items cover every position from the
//! start of the reader up to `end`, in order, each exactly once.

use std::io;

use bytes::{Buf, BytesMut};

use crate::batch::{Batch, BatchError, BatchHeader, HEADER_LEN, MAGIC, NewerBatch};
use crate::datagram::Timestamp;
use crate::sequence::{Position, StreamId};
use crate::spool::disk::DiskFile;
use crate::spool::item::{Damage, Item, Newer};
use crate::spool::segment::{self, SEGMENT_HEADER_LEN};

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

/// Bytes of a block. An unreadable block reads as zeros, which no checksum accepts.
const BLOCK: usize = 4096;

/// The part of the batch magic that all versions share.
const MAGIC_OF_ALL: &[u8] = MAGIC.split_at(3).0;

/// A reader of one segment, with its offset and next position.
#[derive(Debug)]
pub struct SegmentReader<F> {
    pub(super) file: F,
    pub(super) stream: StreamId,
    /// Offset in the file of the first byte in `buffer`; `offset + buffer.len() <= limit`.
    pub(super) offset: u64,
    /// Bytes of the file that are valid.
    pub(super) limit: u64,
    /// The next position to give; `expected <= end` unless the segment holds nothing.
    pub(super) expected: Position,
    pub(super) end: Position,
    pub(super) buffer: BytesMut,
    /// The next item, if it was read already. The buffer starts after it.
    pub(super) found: Option<Item>,
    /// Set if all of the segment is of this newer version.
    pub(super) newer: Option<u16>,
    pub(super) zero_unreadable: bool,
    /// The latest arrival of the batches that were passed by their headers.
    pub(super) newest: Option<Timestamp>,
    /// Dropped datagrams in them.
    pub(super) dropped: u64,
    /// The batch with a damaged body whose header was the last whole one of that kind.
    pub(super) described: Described,
}

/// Fields of the whole header of a damaged batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Described {
    /// The position after it.
    pub(super) end: Position,
    /// The offset after it; beyond the end of the segment if its body is cut off.
    pub(super) offset: u64,
}

impl<F: DiskFile> SegmentReader<F> {
    /// A reader of the positions `first..end`, stored in the first `limit` bytes of `file`.
    pub fn new(file: F, stream: StreamId, first: Position, end: Position, limit: u64) -> Self {
        Self {
            file,
            stream,
            offset: u64::try_from(SEGMENT_HEADER_LEN).unwrap_or(u64::MAX).min(limit),
            limit,
            expected: first,
            end,
            buffer: BytesMut::new(),
            found: None,
            newer: None,
            zero_unreadable: false,
            newest: None,
            dropped: 0,
            described: Described::default(),
        }
    }

    /// Extends the range after the segment has grown.
    pub fn extend(&mut self, end: Position, limit: u64) {
        self.end = self.end.max(end);
        self.limit = self.limit.max(limit);
    }

    /// The next position that this reader gives.
    pub fn position(&self) -> Position {
        self.expected
    }

    /// The offset in the file after the batch that was given last.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Arrival of the newest datagram by the headers that `find_end` has read.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Number of dropped datagrams by the headers that `find_end` has read.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The damaged batch with a whole header that was found last.
    pub(super) fn described(&self) -> Described {
        self.described
    }

    /// Treats unreadable blocks as damage from now on. Before, they are errors, and a later try may succeed.
    pub fn skip_unreadable(&mut self) {
        self.zero_unreadable = true;
    }

    /// Marks the whole segment as written by a newer version.
    pub(super) fn set_newer(&mut self, version: u16) {
        self.newer = Some(version);
    }

    /// Returns the next item; `None` at the end.
    pub fn next_item(&mut self) -> io::Result<Option<Item>> {
        if let Some(item) = self.found.take() {
            return Ok(Some(self.give(item)));
        }
        if self.expected >= self.end {
            return Ok(None);
        }
        if let Some(version) = self.newer {
            return Ok(Some(self.give_all_as_newer(version)));
        }
        let start = self.offset;
        let (damaged_to, found) = self.find_batch()?;
        let lost_to = match &found {
            SearchEnd::Batch(batch) => batch.first().max(self.expected),
            SearchEnd::Newer(newer) => newer.first.max(self.expected),
            SearchEnd::End => self.end,
        };
        let length = damaged_to.saturating_sub(start);
        let is_whole = length == 0 && lost_to == self.expected;
        match found {
            SearchEnd::Batch(batch) if is_whole => return Ok(Some(self.give(Item::Batch(batch)))),
            SearchEnd::Newer(_) if is_whole => return self.take_newer().map(Some),
            SearchEnd::End if is_whole => return Ok(None),
            SearchEnd::Batch(batch) => self.found = Some(Item::Batch(batch)),
            // The reader has not moved past it.
            SearchEnd::Newer(_) | SearchEnd::End => {}
        }
        let damage = Damage { offset: start, length, first: self.expected, end: lost_to };
        self.expected = lost_to;
        Ok(Some(Item::Damage(damage)))
    }

    fn give(&mut self, item: Item) -> Item {
        match &item {
            Item::Batch(batch) => self.expected = batch.end(),
            Item::Damage(damage) | Item::Newer(Newer { place: damage, .. }) => self.expected = damage.end,
        }
        item
    }

    fn give_all_as_newer(&mut self, version: u16) -> Item {
        let place = Damage { offset: 0, length: self.limit, first: self.expected, end: self.end };
        let needs = segment::needs(version);
        self.give(Item::Newer(Newer { place, needs }))
    }

    /// Skips the batches of a newer version at the reader's offset.
    fn take_newer(&mut self) -> io::Result<Item> {
        let (start, first) = (self.offset, self.expected);
        let mut needs = String::new();
        while let Some(newer) = self.newer_here()?
            && (newer.first <= self.expected && self.expected < newer.end)
        {
            needs = newer.needs.to_string();
            self.expected = newer.end;
            self.skip_bytes(newer.encoded_len);
        }
        debug_assert!(self.offset > start, "the search has ended at one");
        let place = Damage { offset: start, length: self.offset - start, first, end: self.expected };
        Ok(Item::Newer(Newer { place, needs }))
    }

    /// The batch of a newer version at the reader's offset, if all of it is within the segment.
    pub(super) fn newer_here(&mut self) -> io::Result<Option<NewerBatch>> {
        let Some(Err(BatchError::Newer(newer))) = self.header(HEADER_LEN)? else { return Ok(None) };
        let after = self.offset.saturating_add(u64::try_from(newer.encoded_len).unwrap_or(u64::MAX));
        Ok((after <= self.limit && newer.end <= self.end).then_some(newer))
    }

    pub(super) fn skip_bytes(&mut self, count: usize) {
        self.offset += u64::try_from(count).unwrap_or(u64::MAX);
        self.buffer.clear();
    }

    /// Moves past the next batch with wanted positions. Also returns the end of the damage in front of it,
    /// which equals the start if there is none.
    fn find_batch(&mut self) -> io::Result<(u64, SearchEnd)> {
        let mut damaged_to = self.offset;
        loop {
            let at = self.offset;
            match self.take_batch()? {
                BatchHere::Batch(batch) if batch.first() >= self.end => {
                    return Ok((damaged_to, SearchEnd::End));
                }
                BatchHere::Batch(batch) if batch.end() > self.expected => {
                    return Ok((damaged_to, SearchEnd::Batch(batch)));
                }
                BatchHere::Batch(_) if damaged_to == at => damaged_to = self.offset,
                BatchHere::Batch(_) => {}
                BatchHere::Newer(newer) if newer.first >= self.end => {
                    return Ok((damaged_to, SearchEnd::End));
                }
                BatchHere::Newer(newer) if newer.end > self.expected => {
                    return Ok((damaged_to, SearchEnd::Newer(newer)));
                }
                BatchHere::Newer(newer) => {
                    self.skip_bytes(newer.encoded_len);
                    if damaged_to == at {
                        damaged_to = self.offset;
                    }
                }
                BatchHere::BadBody => damaged_to = self.offset,
                BatchHere::BadHeader => {
                    self.resync()?;
                    damaged_to = self.offset;
                }
                BatchHere::End => return Ok((damaged_to, SearchEnd::End)),
            }
        }
    }

    fn take_batch(&mut self) -> io::Result<BatchHere> {
        let header = match self.header(CHUNK)? {
            Some(Ok(header)) => header,
            Some(Err(_)) => return Ok(self.newer_here()?.map_or(BatchHere::BadHeader, BatchHere::Newer)),
            None => return Ok(BatchHere::End),
        };
        self.fill(header.encoded_len(), CHUNK)?;
        let after = self.offset.saturating_add(u64::try_from(header.encoded_len()).unwrap_or(u64::MAX));
        let described = Described { end: header.end(), offset: after };
        if self.buffer.len() < header.encoded_len() {
            self.described = described;
            return Ok(BatchHere::BadHeader);
        }
        let bytes = self.buffer.split_to(header.encoded_len()).freeze();
        self.offset = after;
        if let Ok(batch) = Batch::parse_exact(self.stream, &bytes) {
            return Ok(BatchHere::Batch(batch));
        }
        self.described = described;
        Ok(BatchHere::BadBody)
    }

    /// The header at the reader's offset, read in chunks of `chunk` bytes; `None` at the end of the segment.
    pub(super) fn header(&mut self, chunk: usize) -> io::Result<Option<Result<BatchHeader, BatchError>>> {
        self.fill(HEADER_LEN, chunk)?;
        if self.buffer.is_empty() {
            return Ok(None);
        }
        Ok(Some(
            BatchHeader::parse(self.stream, &self.buffer).and_then(|header| header.ok_or(BatchError::Header)),
        ))
    }

    /// Moves to the next header that can belong to a wanted batch, or to the end, by at least one byte.
    pub(super) fn resync(&mut self) -> io::Result<()> {
        self.skip(1);
        loop {
            self.fill(HEADER_LEN, CHUNK)?;
            if self.buffer.is_empty() {
                return Ok(());
            }
            match self.buffer.windows(MAGIC_OF_ALL.len()).position(|window| window == MAGIC_OF_ALL) {
                Some(at) => {
                    self.skip(at);
                    let end = match self.header(CHUNK)? {
                        Some(Ok(header)) => Some(header.end()),
                        Some(Err(BatchError::Newer(newer))) => Some(newer.end),
                        _ => None,
                    };
                    if end.is_some_and(|end| end > self.expected && end <= self.end) {
                        return Ok(());
                    }
                    self.skip(1);
                }
                None => self.skip(self.buffer.len().saturating_sub(MAGIC_OF_ALL.len() - 1).max(1)),
            }
        }
    }

    fn skip(&mut self, count: usize) {
        let count = count.min(self.buffer.len());
        self.buffer.advance(count);
        self.offset += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// Fills the buffer with at least `wanted` bytes if the segment has them, reading `chunk` bytes at once.
    fn fill(&mut self, wanted: usize, chunk: usize) -> io::Result<()> {
        while self.buffer.len() < wanted {
            let at = self.offset + length(&self.buffer);
            let left = usize::try_from(self.limit.saturating_sub(at)).unwrap_or(usize::MAX);
            let count = left.min(chunk.max(wanted));
            if count == 0 {
                break;
            }
            let old = self.buffer.len();
            self.buffer.resize(old + count, 0);
            let place = self.buffer.get_mut(old..).unwrap_or_default();
            let read = match self.file.read_at(place, at) {
                Err(_) if self.zero_unreadable => Ok(read_blocks(&self.file, place, at)),
                other => other,
            };
            self.buffer.truncate(old + read.as_ref().map_or(0, |read| *read));
            if read? == 0 {
                self.limit = at;
            }
        }
        Ok(())
    }
}

/// Result of the search for a batch.
enum SearchEnd {
    /// A batch, which the reader has passed.
    Batch(Batch),
    /// A batch of a newer version; the reader stands at it.
    Newer(NewerBatch),
    /// The end of the segment, or of its positions.
    End,
}

/// The content at the reader's offset.
enum BatchHere {
    /// A whole batch, which the reader has passed.
    Batch(Batch),
    /// A batch with a whole header and a damaged body, which the reader has passed.
    BadBody,
    /// A whole header of a newer version; the reader has not moved.
    Newer(NewerBatch),
    /// No whole header, or a body that is cut off; the reader has not moved.
    BadHeader,
    /// The end of the segment.
    End,
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Reads block by block up to the end of `place`, leaving zeros where a block cannot be read.
fn read_blocks(file: &impl DiskFile, place: &mut [u8], mut at: u64) -> usize {
    let mut total = 0;
    for block in place.chunks_mut(BLOCK) {
        let read = file.read_at(block, at).unwrap_or_else(|_| {
            block.fill(0);
            block.len()
        });
        total += read;
        at += u64::try_from(read).unwrap_or(u64::MAX);
        if read < block.len() {
            break;
        }
    }
    total
}
