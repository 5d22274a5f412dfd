//! Keeps apart what a newer version wrote: takes it out of the queue and moves it to `newer/`.
//!
//! Always holds: nothing that only a newer version reads is removed before it is in `newer/`. What the disk does not let
//! move stays where it is, its positions are an `unused` gap all the same, and [`Spool::tend`] tries again.

use std::collections::BTreeMap;
use std::io;

use crate::sequence::{Gap, GapReason, Position, StreamId};
use crate::spool::age::LastWrite;
use crate::spool::disk::{Disk, DiskFile};
use crate::spool::name::{self, NEWER};
use crate::spool::segment::{self, NewerSegment, SEGMENT_HEADER_LEN};
use crate::spool::{Aside, Damage, Item, Newer, Piece, Spool, is_full};

/// Positions that were taken out of the queue, as a newer version wrote what they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptApart {
    /// The positions.
    pub gap: Gap,
    /// What must be understood to read them, in words.
    pub needs: String,
}

/// What wrote the batches of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Formats {
    /// Nobody has looked.
    Unknown,
    /// This version reads all of them.
    Own,
    /// A newer version wrote some.
    Newer,
}

impl Formats {
    /// Whether a segment that was last written to at `written` may leave the queue whole: one that this run continued has
    /// datagrams that no newer version has seen.
    pub(super) fn may_go(self, written: LastWrite) -> bool {
        self == Self::Own || matches!(written, LastWrite::Earlier(_))
    }
}

/// What is on its way to `newer/`.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// Segments that have left the queue and could not be moved, by first position.
    unmoved: BTreeMap<Position, Unmoved>,
    /// Pieces of which no copy could be made, by the first position of their segment. It may have left the queue, too.
    uncopied: BTreeMap<Position, Vec<Damage>>,
    /// What was taken out of the queue since somebody last asked.
    kept: Vec<KeptApart>,
    /// The log says that the disk refuses.
    is_told: bool,
}

/// A segment that has to be moved.
#[derive(Debug)]
struct Unmoved {
    to: String,
    size: u64,
}

impl<D: Disk> Spool<D> {
    /// What was taken out of the queue without being asked for since the last call.
    pub fn take_kept_apart(&mut self) -> Vec<KeptApart> {
        core::mem::take(&mut self.apart.kept)
    }

    /// Takes what a newer version wrote out of the queue and keeps it: `piece` of the segment that starts at `first`. All of
    /// a segment is moved; of other pieces a copy is kept, and the segment goes as it would without them. Returns the
    /// positions that are gone from the queue; `None` if they were before.
    pub fn keep_newer(&mut self, first: Position, piece: Damage) -> io::Result<Option<Gap>> {
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

    /// Whether the segment that starts at `first` holds nothing that is still to be sent, but for what follows `from`.
    fn may_move_from(&self, first: Position, from: Position) -> bool {
        let piece = self.pieces.get(&first);
        let is_whole =
            matches!(piece, Some(Piece::Segment { written, formats, .. }) if formats.may_go(*written));
        is_whole && from <= self.acknowledged
    }

    /// Keeps the pieces of a newer version that an earlier run has passed, and may not have kept as the disk refused:
    /// those from the acknowledged position on, up to `position`, that are not in `known`.
    pub fn keep_passed(&mut self, position: Position, known: &[Gap]) {
        let is_passed = |(first, piece): &(&Position, &Piece)| {
            matches!(piece, Piece::Segment { .. }) && **first < position && piece.end() > self.acknowledged
        };
        let segments: Vec<_> = self.pieces.iter().filter(is_passed).map(|(first, _)| *first).collect();
        for first in segments {
            let is_known =
                |piece: &Damage| known.iter().any(|gap| gap.first <= piece.first && piece.end <= gap.end);
            let pieces = self.newer_pieces(first, position).unwrap_or_else(|error| {
                let name = name::segment(first);
                tracing::error!(%error, "cannot look for what a newer nf-sender wrote in {name:?} of the spool: {error}");
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

    /// The pieces of the segment that starts at `first` which a newer version wrote, up to `position`.
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

    /// Says what must be understood to read all of the segment that starts at `first`, as far as it is not acknowledged;
    /// `None` if this version does.
    pub(super) fn newer_in(&mut self, first: Position) -> io::Result<Option<String>> {
        if matches!(self.pieces.get(&first), Some(Piece::Segment { formats: Formats::Own, .. })) {
            return Ok(None);
        }
        let needs = match self.reader(first.max(self.acknowledged), true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
            Ok(reader) => reader.map(|mut reader| reader.find_newer()).transpose()?.flatten(),
        };
        if let Some(Piece::Segment { formats, .. }) = self.pieces.get_mut(&first) {
            *formats = if needs.is_some() { Formats::Newer } else { Formats::Own };
        }
        Ok(needs)
    }

    /// Whether the disk has more room once the segment that starts at `first` is dropped.
    pub(super) fn frees_room(&mut self, first: Position) -> bool {
        let is_newer =
            matches!(self.pieces.get(&first), Some(Piece::Segment { formats: Formats::Newer, .. }));
        !is_newer && matches!(self.newer_in(first), Ok(None))
    }

    /// Keeps the segment that starts at `first`, and `needs` a newer version, instead of dropping it. A disk that refuses
    /// changes leaves everything as it was.
    pub(super) fn keep_dropped_apart(&mut self, first: Position, needs: String) -> io::Result<()> {
        let from = first.max(self.acknowledged);
        let gap = match self.newer_header(first) {
            Some(_) if self.disk.space()?.is_read_only => {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
            Some(_) => self.move_newer(first, from)?,
            None => self.move_mixed(first, from)?,
        };
        self.apart.kept.push(KeptApart { gap, needs });
        Ok(())
    }

    /// Takes the segment that starts at `first`, whose header is of a newer version, out of the queue and moves it to
    /// `newer/`, now or later: what it holds from `from` on was not delivered. Returns the positions that are gone from
    /// the queue.
    fn move_newer(&mut self, first: Position, from: Position) -> io::Result<Gap> {
        let Some((_, end, size)) = self.segment_at(first) else { return Err(io::ErrorKind::NotFound.into()) };
        let gap = Gap { first, end, reason: GapReason::Unused };
        // The record comes before the move: a start that finds both moves the segment.
        let recorded = self.put_gap(gap);
        self.move_file(first, Unmoved { to: name::newer(from, self.stream), size })?;
        Ok(self.leave_queue(gap, recorded))
    }

    /// As [`Self::move_newer`] for a segment with a header of this version. As nothing but its batches shows what it is, it
    /// stays in the queue if the disk refuses. It takes the place of copies that were made of its pieces.
    fn move_mixed(&mut self, first: Position, from: Position) -> io::Result<Gap> {
        let Some((_, end, _)) = self.segment_at(first) else { return Err(io::ErrorKind::NotFound.into()) };
        self.rename_apart(&name::segment(first), &name::newer(from, self.stream))?;
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

    /// Takes the segment that starts at `first` out of the queue, as all of it is acknowledged; before, everything below
    /// `before` was. One that a newer version wrote was skipped, and is kept.
    pub(super) fn retire_segment(&mut self, first: Position, before: Position) {
        if self.apart.uncopied.contains_key(&first) {
            self.forget_segment(first);
            self.forget_thinned(first);
            return;
        }
        let Some(Piece::Segment { end, size, formats, .. }) = self.pieces.get(&first).copied() else {
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
            self.apart.kept.push(KeptApart { gap, needs: segment::needs(newer.version) });
        }
    }

    /// Notes that the newest segments, from `first` on, were kept apart at the start, as they are of a newer `version`.
    pub(super) fn note_newest_apart(&mut self, first: Position, version: u16) {
        let gap = Gap { first, end: first.plus(1), reason: GapReason::Unused };
        self.apart.kept.push(KeptApart { gap, needs: segment::needs(version) });
    }

    /// Moves a segment that is not in the queue, or is about to leave it: it is of `stream`, and all of it was not delivered.
    pub(super) fn move_stray(&mut self, first: Position, stream: StreamId, size: u64) -> io::Result<()> {
        self.move_file(first, Unmoved { to: name::newer(first, stream), size })
    }

    /// Moves the segment that starts at `first`, or notes that it has to be moved. Fails if it is gone.
    fn move_file(&mut self, first: Position, unmoved: Unmoved) -> io::Result<()> {
        match self.rename_apart(&name::segment(first), &unmoved.to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.tell_refused(first, &error);
                self.apart.unmoved.insert(first, unmoved);
                Ok(())
            }
            other => other,
        }
    }

    fn rename_apart(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.names_unsynced = true;
        match self.disk.rename(from, to) {
            // The directory is missing, and there is no inode for it but that of the spare file.
            Err(error) if is_full(&error) && !self.apart.is_told && core::mem::take(&mut self.has_spare) => {
                self.disk.remove(name::SPARE).and_then(|()| self.disk.rename(from, to)).map_err(|_| error)
            }
            other => other,
        }
    }

    /// Removes the copies of pieces of a segment that is in `newer/` itself now, with all that lies between these positions.
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
            // Part of a copy is of no use, and takes room.
            let _stays = self.disk.remove(&kept);
        }
        self.names_unsynced = true;
        self.count_newer();
        copied
    }

    fn note_uncopied(&mut self, first: Position, piece: Damage, error: &io::Error) {
        self.tell_refused(first, error);
        let pieces = self.apart.uncopied.entry(first).or_default();
        if !pieces.contains(&piece) {
            pieces.push(piece);
        }
    }

    /// Logs once that the disk refuses.
    fn tell_refused(&mut self, first: Position, error: &io::Error) {
        if !core::mem::replace(&mut self.apart.is_told, true) {
            tracing::error!(
                %error,
                "cannot move what a newer nf-sender wrote from {:?} of the spool to 'newer': {error}; it stays where it \
                 is and is not sent, the rest is delivered; trying again until the disk allows it: make it writable \
                 before a newer version is started",
                name::segment(first)
            );
        }
    }

    /// Tries again to move and to copy what the disk has refused.
    pub(super) fn keep_apart_again(&mut self) {
        if !self.apart.is_told {
            return;
        }
        for (first, unmoved) in core::mem::take(&mut self.apart.unmoved) {
            if let Err(error) = self.move_file(first, unmoved) {
                tracing::error!(%error, "{:?} of the spool, which a newer nf-sender wrote, is gone", name::segment(first));
            }
        }
        self.count_newer();
        for (first, mut pieces) in core::mem::take(&mut self.apart.uncopied) {
            pieces.retain(|piece| self.copy_newer(first, *piece).is_err());
            if !pieces.is_empty() {
                self.apart.uncopied.insert(first, pieces);
            } else if !self.pieces.contains_key(&first) {
                self.remove_file(&name::segment(first));
            }
        }
        if self.apart.unmoved.is_empty() && self.apart.uncopied.is_empty() {
            self.apart.is_told = false;
            tracing::info!(
                "what a newer nf-sender wrote is in 'newer' of the spool: the disk takes it again"
            );
        }
    }

    /// Whether nothing of the segment that starts at `first` waits for the disk to let it be copied.
    pub(super) fn is_copied(&self, first: Position) -> bool {
        !self.apart.uncopied.contains_key(&first)
    }

    /// Whether the name of a segment that starts at `first` belongs to one that could not be moved yet.
    pub(super) fn is_place_taken(&self, first: Position) -> bool {
        self.apart.unmoved.contains_key(&first)
    }

    /// The segments that are no longer in the queue, and not yet in `newer/`.
    pub(super) fn unmoved(&self) -> Aside {
        let bytes = self.apart.unmoved.values().map(|unmoved| unmoved.size).sum();
        Aside { files: u64::try_from(self.apart.unmoved.len()).unwrap_or(u64::MAX), bytes }
    }
}
