//! Files next to the queue: copies of damaged pieces, within a bound, and segments of a newer version.

use std::io;

use crate::batch::Batch;
use crate::limits::{DAMAGED_BYTES_MAX, DAMAGED_FILES_MAX};
use crate::sequence::{Position, StreamId};
use crate::spool::disk::{Disk, DiskFile};
use crate::spool::file_totals::FileTotals;
use crate::spool::name::{self, DAMAGED, NEWER};
use crate::spool::segment::{Begun, SegmentHeader};
use crate::spool::state::Spool;

impl<D: Disk> Spool<D> {
    /// The copies of damaged pieces.
    pub fn damaged(&self) -> FileTotals {
        self.damaged
    }

    /// The files of a newer version, which a version that reads them imports again.
    pub fn newer(&self) -> FileTotals {
        self.newer
    }

    /// Keeps a copy of damaged bytes of the segment that starts at `first`. Removes the oldest copies to make
    /// room.
    pub fn copy_damaged(&mut self, first: Position, offset: u64, length: u64) -> io::Result<()> {
        self.copy_damaged_of(&name::segment(first), offset, length)
    }

    /// Keeps a copy of damaged bytes of the file `name`, as [`Self::copy_damaged`] does.
    pub(super) fn copy_damaged_of(&mut self, name: &str, offset: u64, length: u64) -> io::Result<()> {
        let length = length.min(DAMAGED_BYTES_MAX);
        let copied = self.copy_of(name, offset, length, &name::damaged(name, offset, length), 0);
        self.bound_damaged();
        copied.map(drop)
    }

    /// Removes the oldest copies of damaged pieces beyond the bound.
    pub(super) fn bound_damaged(&mut self) {
        let Ok(mut files) = self.disk.list_in(DAMAGED) else { return };
        files.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
        let mut kept = FileTotals::of(&files);
        for file in files {
            if kept.files <= DAMAGED_FILES_MAX && kept.bytes <= DAMAGED_BYTES_MAX {
                break;
            }
            match self.disk.remove(&file.name) {
                Ok(()) => tracing::warn!(
                    bytes = file.size,
                    "removed {:?}, the oldest copy of a damaged piece of the spool: \
                     at most {DAMAGED_FILES_MAX} copies of {} MiB together are kept",
                    file.name,
                    DAMAGED_BYTES_MAX >> 20
                ),
                Err(error) => tracing::warn!(%error, "cannot remove {:?} of the spool: {error}", file.name),
            }
            kept.files -= 1;
            kept.bytes = kept.bytes.saturating_sub(file.size);
        }
        self.damaged = kept;
    }

    /// Counts the files of a newer version again.
    pub(super) fn count_newer(&mut self) {
        if let Ok(files) = self.disk.list_in(NEWER) {
            self.newer = FileTotals::of(&files).plus(self.unmoved());
        }
    }

    /// Writes batches of `stream` to `newer/` as a segment.
    pub fn put_newer(&mut self, stream: StreamId, batches: &[Batch]) -> io::Result<()> {
        let (Some(first), Some(oldest)) = (batches.first(), batches.iter().map(Batch::earliest).min()) else {
            return Ok(());
        };
        let file = self.disk.create(&name::newer(first.first(), stream))?;
        let begun = Begun { wall: oldest, ..Begun::default() };
        let header = SegmentHeader { stream, first: first.first(), begun }.encode();
        file.truncate(0)?;
        let mut at = 0;
        for bytes in core::iter::once(&header[..]).chain(batches.iter().map(|batch| &batch.bytes()[..])) {
            file.write_at(bytes, at)?;
            at += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        }
        file.sync()?;
        self.disk.sync_directory()?;
        self.count_newer();
        Ok(())
    }

    /// Copies bytes of the segment that starts at `first` to `at` in the file `name`, which it returns.
    pub(super) fn copy(
        &self,
        first: Position,
        offset: u64,
        length: u64,
        name: &str,
        at: u64,
    ) -> io::Result<D::File> {
        self.copy_of(&name::segment(first), offset, length, name, at)
    }

    fn copy_of(&self, from: &str, offset: u64, length: u64, name: &str, at: u64) -> io::Result<D::File> {
        let segment = self.disk.open(from)?;
        let piece = self.disk.create(name)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut done = 0;
        while done < length {
            let count = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
            let place = buffer.get_mut(..count).unwrap_or_default();
            let read = segment.read_at(place, offset + done)?;
            if read == 0 {
                break;
            }
            piece.write_at(place.get(..read).unwrap_or_default(), at + done)?;
            done += u64::try_from(read).unwrap_or(u64::MAX);
        }
        Ok(piece)
    }
}
