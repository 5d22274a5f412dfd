//! Appends batches to the last segment.

use std::io;

use crate::batch::Batch;
use crate::datagram::Moment;
use crate::sequence::Position;
use crate::spool::disk::{Disk, DiskFile, is_full};
use crate::spool::extent::{Extent, LastWrite};
use crate::spool::room::Yielding;
use crate::spool::state::Spool;

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
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        self.make_room(length, in_flight, yielding, ceiling)?;
        match self.write(batch, now) {
            Err(error) if is_full(&error) => {
                self.make_room_on_full_disk(error, length, in_flight, yielding)?;
                let full_again =
                    |error| if is_full(&error) { AppendError::NoRoom(error) } else { error.into() };
                self.write(batch, now).map_err(full_again)
            }
            other => Ok(other?),
        }
    }

    pub(super) fn write(&mut self, batch: &Batch, now: Moment) -> io::Result<()> {
        let (first, file) = self.segment_for(batch, now)?;
        let marked = self.mark_thinned(first, batch);
        let Some(Extent::Segment { end, size, written, .. }) = self.extents.get_mut(&first) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(error) = marked.and_then(|()| file.write_at(batch.bytes(), *size)) {
            // A partly written batch is removed, or it would be damage between two batches.
            if *end == first {
                self.forget_segment(first);
                self.remove_segment_file(first);
            } else if file.truncate(*size).is_err() {
                self.active = None;
            }
            return Err(error);
        }
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        *end = batch.end();
        *size += length;
        *written = LastWrite::ThisRun(now.boot);
        self.size += length;
        self.awaited.written(length);
        self.unsynced.insert(first, file);
        self.note_thinned_batch(first, batch);
        Ok(())
    }
}
