//! Preserves data of a newer version: removes it from the queue and moves it to `newer/`.
//!
//! Invariant: data that only a newer version reads is not removed before it is in `newer/`. If the disk
//! refuses the move, the file stays in place. Its positions become an `unused` gap all the same, and
//! [`Spool::enforce_limits`] retries.

use std::io;

use crate::sequence::{Gap, GapReason, Position, StreamId};
use crate::spool::disk::{Disk, DiskFile, is_full};
use crate::spool::extent::{Extent, Formats};
use crate::spool::file_totals::FileTotals;
use crate::spool::item::{Damage, Item, Newer};
use crate::spool::name::{self, NEWER};
use crate::spool::preserved::{Preserved, Unmoved};
use crate::spool::segment::{self, NewerSegment, SEGMENT_HEADER_LEN};
use crate::spool::state::Spool;

impl<D: Disk> Spool<D> {
    /// Returns the positions that the spool removed from the queue on its own since the last call.
    pub fn take_preserved(&mut self) -> Vec<Preserved> {
        core::mem::take(&mut self.preservation.kept)
    }

    /// Removes `piece` of the segment that starts at `first` from the queue and preserves it. A whole segment
    /// is moved. Other pieces are copied, and their segment stays in the queue as usual. Returns the
    /// positions that left the queue; `None` if they had left it before.
    pub fn preserve_newer(&mut self, first: Position, piece: Damage) -> io::Result<Option<Gap>> {
        let Some((_, end, _)) = self.segment_at(first).filter(|(found, ..)| *found == first) else {
            return Ok(None);
        };
        if piece.offset == 0 {
            return self.move_newer(first, piece.first).map(Some);
        }
        let gap = Gap { first: piece.first, end: piece.end, reason: GapReason::Unused };
        let kept = if piece.first == first && piece.end == end {
            self.move_mixed(first, first)
        } else {
            self.copy_newer(first, piece).map(|()| gap)
        };
        match kept {
            // A disk without room for the copy may still let the segment move.
            Err(error) if is_full(&error) && self.may_move_from(first, piece.first) => {
                self.move_mixed(first, piece.first).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                self.note_uncopied(first, piece, &error);
                Ok(Some(gap))
            }
            other => other.map(Some),
        }
    }

    /// True if everything in the segment that starts at `first` is sent, except the part from `from` on.
    fn may_move_from(&self, first: Position, from: Position) -> bool {
        let extent = self.extents.get(&first);
        let is_whole =
            matches!(extent, Some(Extent::Segment { written, formats, .. }) if formats.may_go(*written));
        is_whole && from <= self.acknowledged
    }

    /// Preserves the pieces of a newer version that an earlier run has passed: a disk that refused changes
    /// may have kept that run from it. They lie between the acknowledged position and `position`, and are not
    /// in `known`.
    pub fn preserve_passed(&mut self, position: Position, known: &[Gap]) {
        let is_passed = |(first, extent): &(&Position, &Extent)| {
            matches!(extent, Extent::Segment { .. }) && **first < position && extent.end() > self.acknowledged
        };
        let segments: Vec<_> = self.extents.iter().filter(is_passed).map(|(first, _)| *first).collect();
        for first in segments {
            let is_known =
                |piece: &Damage| known.iter().any(|gap| gap.first <= piece.first && piece.end <= gap.end);
            let pieces = self.newer_pieces(first, position).unwrap_or_else(|error| {
                let name = name::segment(first);
                tracing::error!(
                    %error,
                    "cannot search {name:?} of the spool for data of a newer nf-sender: {error}"
                );
                Vec::new()
            });
            for piece in pieces {
                if piece.offset > 0
                    && !is_known(&piece)
                    && let Err(error) = self.copy_newer(first, piece)
                {
                    self.note_uncopied(first, piece, &error);
                }
            }
        }
    }

    /// The pieces up to `position` that a newer version wrote into the segment that starts at `first`.
    fn newer_pieces(&self, first: Position, position: Position) -> io::Result<Vec<Damage>> {
        let mut pieces = Vec::new();
        let Some(mut reader) = self.reader(first.max(self.acknowledged), true)? else { return Ok(pieces) };
        while reader.position() < position
            && let Some(item) = reader.next_item()?
        {
            if let Item::Newer(Newer { place, .. }) = item {
                pieces.push(place);
            }
        }
        Ok(pieces)
    }

    /// Returns the formats that a reader of the unacknowledged part of the segment at `first` must know;
    /// `None` if this version knows them.
    pub(super) fn newer_in(&mut self, first: Position) -> io::Result<Option<String>> {
        if matches!(self.extents.get(&first), Some(Extent::Segment { formats: Formats::Own, .. })) {
            return Ok(None);
        }
        let needs = match self.reader(first.max(self.acknowledged), true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
            Ok(reader) => reader.map(|mut reader| reader.find_newer()).transpose()?.flatten(),
        };
        if let Some(Extent::Segment { formats, .. }) = self.extents.get_mut(&first) {
            *formats = if needs.is_some() { Formats::Newer } else { Formats::Own };
        }
        Ok(needs)
    }

    /// True if dropping the segment that starts at `first` frees room on the disk.
    pub(super) fn frees_room(&mut self, first: Position) -> bool {
        let is_newer =
            matches!(self.extents.get(&first), Some(Extent::Segment { formats: Formats::Newer, .. }));
        !is_newer && matches!(self.newer_in(first), Ok(None))
    }

    /// Preserves the segment that starts at `first`, which `needs` a newer version, instead of dropping it.
    /// If the disk refuses changes, everything stays as it was.
    pub(super) fn preserve_dropped(&mut self, first: Position, needs: String) -> io::Result<()> {
        let from = first.max(self.acknowledged);
        let gap = match self.newer_header(first) {
            Some(_) if self.disk.space()?.is_read_only => {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
            Some(_) => self.move_newer(first, from)?,
            None => self.move_mixed(first, from)?,
        };
        self.preservation.kept.push(Preserved { gap, needs });
        Ok(())
    }

    /// Removes the segment that starts at `first`, whose header is of a newer version, from the queue. Moves
    /// it to `newer/`, now or later. Its data from `from` on was not delivered. Returns the positions that
    /// left the queue.
    fn move_newer(&mut self, first: Position, from: Position) -> io::Result<Gap> {
        let Some((_, end, size)) = self.segment_at(first) else { return Err(io::ErrorKind::NotFound.into()) };
        let gap = Gap { first, end, reason: GapReason::Unused };
        // The record comes before the move: a start that finds both moves the segment.
        let recorded = self.put_gap(gap);
        self.move_file(first, Unmoved { to: name::newer(from, self.stream), size })?;
        Ok(self.leave_queue(gap, recorded))
    }

    /// As [`Self::move_newer`] for a segment with a header of this version. Only its batches show the newer
    /// version, so it stays in the queue if the disk refuses. It replaces the copies of its pieces.
    fn move_mixed(&mut self, first: Position, from: Position) -> io::Result<Gap> {
        let Some((_, end, _)) = self.segment_at(first) else { return Err(io::ErrorKind::NotFound.into()) };
        self.rename_into_newer(&name::segment(first), &name::newer(from, self.stream))?;
        self.remove_copies(from, end);
        let gap = Gap { first, end, reason: GapReason::Unused };
        let recorded = self.put_gap(gap);
        Ok(self.leave_queue(gap, recorded))
    }

    /// The segment that starts where `gap` does has left the queue.
    fn leave_queue(&mut self, gap: Gap, recorded: io::Result<()>) -> Gap {
        self.forget_segment(gap.first);
        self.forget_thinned(gap.first);
        self.note_gap(gap, recorded);
        self.count_newer();
        Gap { first: gap.first.max(self.acknowledged), ..gap }
    }

    /// The header of the segment that starts at `first`, if it is one of a newer version.
    fn newer_header(&self, first: Position) -> Option<NewerSegment> {
        self.start_of(&name::segment(first)).ok().as_deref().and_then(NewerSegment::parse)
    }

    /// Removes the segment that starts at `first` from the queue, because all of it is acknowledged. Before,
    /// positions below `before` were. A segment of a newer version was skipped, so it is preserved.
    pub(super) fn retire_segment(&mut self, first: Position, before: Position) {
        if self.preservation.uncopied.contains_key(&first) {
            self.forget_segment(first);
            self.forget_thinned(first);
            return;
        }
        let Some(Extent::Segment { end, size, formats, .. }) = self.extents.get(&first).copied() else {
            return;
        };
        let newer = if formats == Formats::Own { None } else { self.newer_header(first) };
        let Some(newer) = newer else {
            self.remove_segment(first);
            return;
        };
        let unmoved = Unmoved { to: name::newer(first.max(before), newer.stream), size };
        self.forget_segment(first);
        self.forget_thinned(first);
        if self.move_file(first, unmoved).is_ok() {
            self.count_newer();
            let gap = Gap { first, end, reason: GapReason::Unused };
            self.preservation.kept.push(Preserved { gap, needs: segment::needs(newer.version) });
        }
    }

    /// Notes that the start preserved the newest segments, from `first` on, because they are of a newer
    /// `version`.
    pub(super) fn note_newest_preserved(&mut self, first: Position, version: u16) {
        let gap = Gap { first, end: first.plus(1), reason: GapReason::Unused };
        self.preservation.kept.push(Preserved { gap, needs: segment::needs(version) });
    }

    /// Moves a segment of `stream` that is not in the queue, or is about to leave it. None of it was
    /// delivered.
    pub(super) fn move_stray(&mut self, first: Position, stream: StreamId, size: u64) -> io::Result<()> {
        self.move_file(first, Unmoved { to: name::newer(first, stream), size })
    }

    /// Moves the segment that starts at `first`, or notes that it has to be moved. Fails if it is gone.
    fn move_file(&mut self, first: Position, unmoved: Unmoved) -> io::Result<()> {
        match self.rename_into_newer(&name::segment(first), &unmoved.to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.report_refused(first, &error);
                self.preservation.unmoved.insert(first, unmoved);
                Ok(())
            }
            other => other,
        }
    }

    fn rename_into_newer(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.names_unsynced = true;
        match self.disk.rename(from, to) {
            // The directory is missing, and there is no inode for it but that of the spare file.
            Err(error)
                if is_full(&error)
                    && !self.preservation.is_reported
                    && core::mem::take(&mut self.has_spare) =>
            {
                self.disk.remove(name::SPARE).and_then(|()| self.disk.rename(from, to)).map_err(|_| error)
            }
            other => other,
        }
    }

    /// Removes the copies of pieces between these positions, because their whole segment is in `newer/` now.
    fn remove_copies(&mut self, from: Position, end: Position) {
        for file in self.disk.list_in(NEWER).unwrap_or_default() {
            let place = name::parse_newer(&file.name).filter(|(_, stream)| *stream == self.stream);
            if place.is_some_and(|(first, _)| from < first && first < end) {
                self.remove_file(&file.name);
            }
        }
    }

    /// Copies `piece` of the segment that starts at `first` to `newer/`.
    fn copy_newer(&mut self, first: Position, piece: Damage) -> io::Result<()> {
        let kept = name::newer(piece.first, self.stream);
        let header = u64::try_from(SEGMENT_HEADER_LEN).unwrap_or(u64::MAX);
        let copied = self
            .copy(first, 0, header, &kept, 0)
            .and_then(|_| self.copy(first, piece.offset, piece.length, &kept, header)?.sync());
        if copied.is_err() {
            // A partial copy is useless and takes room.
            let _stays = self.disk.remove(&kept);
        }
        self.names_unsynced = true;
        self.count_newer();
        copied
    }

    fn note_uncopied(&mut self, first: Position, piece: Damage, error: &io::Error) {
        self.report_refused(first, error);
        let pieces = self.preservation.uncopied.entry(first).or_default();
        if !pieces.contains(&piece) {
            pieces.push(piece);
        }
    }

    /// Logs once that the disk refuses.
    fn report_refused(&mut self, first: Position, error: &io::Error) {
        if !core::mem::replace(&mut self.preservation.is_reported, true) {
            tracing::error!(
                %error,
                "cannot move data of a newer nf-sender from {:?} of the spool to 'newer': {error}; \
                 it stays in place and is not sent, other datagrams are delivered; trying again until the \
                 disk allows it: make it writable before a newer version is started",
                name::segment(first)
            );
        }
    }

    /// Retries the moves and copies that the disk refused.
    pub(super) fn retry_preserving(&mut self) {
        if !self.preservation.is_reported {
            return;
        }
        for (first, unmoved) in core::mem::take(&mut self.preservation.unmoved) {
            if let Err(error) = self.move_file(first, unmoved) {
                tracing::error!(
                    %error,
                    "the segment {:?} of the spool, which a newer nf-sender wrote, is missing: {error}",
                    name::segment(first)
                );
            }
        }
        self.count_newer();
        for (first, mut pieces) in core::mem::take(&mut self.preservation.uncopied) {
            pieces.retain(|piece| self.copy_newer(first, *piece).is_err());
            if !pieces.is_empty() {
                self.preservation.uncopied.insert(first, pieces);
            } else if !self.extents.contains_key(&first) {
                self.remove_file(&name::segment(first));
            }
        }
        if self.preservation.unmoved.is_empty() && self.preservation.uncopied.is_empty() {
            self.preservation.is_reported = false;
            tracing::info!(
                "data of a newer nf-sender is in 'newer' of the spool: the disk accepts writes again"
            );
        }
    }

    /// True if no copy of a piece of the segment that starts at `first` is pending.
    pub(super) fn is_copied(&self, first: Position) -> bool {
        !self.preservation.uncopied.contains_key(&first)
    }

    /// True if a segment that could not be moved yet has the name of a segment that starts at `first`.
    pub(super) fn is_place_taken(&self, first: Position) -> bool {
        self.preservation.unmoved.contains_key(&first)
    }

    /// The segments that are no longer in the queue, and not yet in `newer/`.
    pub(super) fn unmoved(&self) -> FileTotals {
        let bytes = self.preservation.unmoved.values().map(|unmoved| unmoved.size).sum();
        FileTotals { files: u64::try_from(self.preservation.unmoved.len()).unwrap_or(u64::MAX), bytes }
    }
}
