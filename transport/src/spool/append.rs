//! Appends batches to the last segment.

use core::slice;
use std::io;

use crate::batch::Batch;
use crate::datagram::Moment;
use crate::sequence::Position;
use crate::spool::disk::{Disk, DiskFile, is_full};
use crate::spool::extent::{Extent, LastWrite};
use crate::spool::room::Yielding;
use crate::spool::state::Spool;

/// Bytes of several batches in one write: two full ones.
///
/// Larger writes would cost up to an eighth less, but get larger blocks of memory in the page cache. A
/// virtual machine may have returned such blocks to its host, and then the write takes five times as long.
const WRITE_BYTES: u64 = 128 * 1024;

/// The reason why a batch was not appended. The spool is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// `max-size` is reached, and nothing may be dropped for it.
    #[error("the spool is full")]
    Full,
    /// The disk has no room, or `min-free` is reached, and nothing may be dropped for it or dropping
    /// everything would not suffice.
    #[error("no room for the spool: {0}")]
    NoRoom(io::Error),
    /// The disk refused; a later try may succeed.
    #[error("cannot write to the spool: {0}")]
    Disk(#[from] io::Error),
}

impl<D: Disk> Spool<D> {
    /// Appends `batch`, which starts where the spool ends, or anywhere if the spool is empty. Positions below
    /// `in_flight` may be on their way to the receiver and are not dropped to make room.
    pub fn append(&mut self, batch: &Batch, now: Moment, in_flight: Position) -> Result<(), AppendError> {
        self.append_yielding(batch, now, in_flight, Yielding::ToDisk, 0)
    }

    /// As [`Self::append`], but drops only data that `yielding` allows to drop. All segments together may
    /// have up to `ceiling` bytes then, even if `max-size` is less.
    pub fn append_yielding(
        &mut self,
        batch: &Batch,
        now: Moment,
        in_flight: Position,
        yielding: Yielding,
        ceiling: u64,
    ) -> Result<(), AppendError> {
        self.look_at_clocks(now);
        let length = encoded_len(batch);
        self.make_room(length, in_flight, yielding, ceiling)?;
        let batches = slice::from_ref(batch);
        match self.write(batches, now) {
            Err(error) if is_full(&error) => {
                self.make_room_on_full_disk(error, length, in_flight, yielding)?;
                let full_again =
                    |error| if is_full(&error) { AppendError::NoRoom(error) } else { error.into() };
                self.write(batches, now).map_err(full_again).map(drop)
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// Appends `batches`, which follow each other, in few writes. Returns the number of appended ones.
    /// Appends none if something must be dropped for all of them, and only the first ones if the disk refuses
    /// others: [`Self::append_yielding`] decides about the next one then.
    pub fn append_run(&mut self, batches: &[Batch], now: Moment) -> usize {
        self.look_at_clocks(now);
        let length = batches.iter().map(encoded_len).fold(0, u64::saturating_add);
        let mut appended = 0;
        if self.make_room(length, Position(0), Yielding::Nothing, 0).is_ok() {
            while let Some(rest) = batches.get(appended..)
                && let Ok(count @ 1..) = self.write(rest, now)
            {
                appended += count;
            }
        }
        appended
    }

    /// Writes the first of `batches`, as many as fit into `WRITE_BYTES` and the segment of the first one.
    /// Returns their number.
    fn write(&mut self, batches: &[Batch], now: Moment) -> io::Result<usize> {
        let Some(batch) = batches.first() else { return Ok(0) };
        let (first, file) = self.segment_for(batch, now)?;
        let batches = self.fitting(batches, first);
        let marked = batches.iter().try_for_each(|batch| self.mark_thinned(first, batch));
        let Some(Extent::Segment { end, size, written, .. }) = self.extents.get_mut(&first) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let pieces: Vec<&[u8]> = batches.iter().map(|batch| batch.bytes().as_ref()).collect();
        if let Err(error) = marked.and_then(|()| file.write_pieces_at(&pieces, *size)) {
            // A partly written batch is removed, or it would be damage between two batches.
            if *end == first {
                self.forget_segment(first);
                self.remove_segment_file(first);
            } else if file.truncate(*size).is_err() {
                self.active = None;
            }
            return Err(error);
        }
        let length = batches.iter().map(encoded_len).fold(0, u64::saturating_add);
        *end = batches.last().map_or(*end, Batch::end);
        *size += length;
        *written = LastWrite::ThisRun(now.boot);
        self.size += length;
        self.awaited.written(length);
        self.unsynced.insert(first, file);
        for batch in batches {
            self.note_thinned_batch(first, batch);
        }
        Ok(batches.len())
    }

    /// The first of `batches` that one write to the segment at `first` takes: one, and more up to the size of
    /// a segment.
    fn fitting<'a>(&self, batches: &'a [Batch], first: Position) -> &'a [Batch] {
        let Some(Extent::Segment { mut size, .. }) = self.extents.get(&first).copied() else {
            return batches;
        };
        let most = self.policy.segment_size().min(size.saturating_add(WRITE_BYTES));
        let over = batches.iter().position(|batch| {
            size = size.saturating_add(encoded_len(batch));
            size > most
        });
        batches.get(..over.unwrap_or(batches.len()).max(1)).unwrap_or(batches)
    }
}

fn encoded_len(batch: &Batch) -> u64 {
    u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX)
}
