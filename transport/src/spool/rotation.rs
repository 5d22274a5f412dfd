//! Rotation: the choice of the segment for a batch.
//!
//! A new segment is wanted after some time or size, not needed: while no file can be created, because the
//! disk has no inodes left or this process no descriptors, batches are appended to the existing segment.

use std::io;
use std::sync::Arc;

use crate::batch::Batch;
use crate::clock::ClockStep;
use crate::datagram::Moment;
use crate::sequence::{Gap, Position};
use crate::spool::active::{Active, Stuck};
use crate::spool::disk::{Disk, DiskFile};
use crate::spool::extent::{Extent, Formats, LastWrite};
use crate::spool::name;
use crate::spool::segment::SegmentHeader;
use crate::spool::state::Spool;

impl<D: Disk> Spool<D> {
    /// The reason why no new segment can be created, while batches go into the one before it.
    pub fn stuck(&self) -> Option<&str> {
        self.stuck.as_ref().map(|stuck| stuck.reason.as_str())
    }

    /// Ends the active segment if it has reached its time or its size.
    pub(super) fn end_segment_if_due(&mut self, now: Moment) {
        let is_due = self.is_due(0, now);
        if let Some(active) = &mut self.active {
            active.is_over = is_due;
        }
    }

    /// True if the active segment has reached its time, or its size with `length` more bytes. A step of the
    /// wall clock ends it, too, so that its stamps belong together.
    fn is_due(&self, length: u64, now: Moment) -> bool {
        self.active.as_ref().is_some_and(|active| {
            let full = match self.extents.get(&active.first) {
                Some(Extent::Segment { size, .. }) => {
                    size.saturating_add(length) > self.policy.segment_size()
                }
                _ => true,
            };
            let time = now.boot.since(active.begun.boot).unwrap_or_default();
            let step = ClockStep::between(active.begun.wall_ahead(), now.wall_ahead());
            full || active.is_over || time >= self.policy.rotate_every || step.is_some()
        })
    }

    /// The segment that `batch` goes into: the active one, a new one if that is due, or any other that can be
    /// opened.
    pub(super) fn segment_for(&mut self, batch: &Batch, now: Moment) -> io::Result<(Position, Arc<D::File>)> {
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        let goes_on =
            !self.is_due(length, now) || self.stuck.as_ref().is_some_and(|stuck| !stuck.may_try(now));
        if let Some(active) = self.active.as_ref().filter(|_| goes_on) {
            return Ok((active.first, active.file.clone()));
        }
        match self.create_segment(batch.first(), now) {
            Ok(begun) => {
                self.stuck = None;
                Ok(begun)
            }
            Err(error) => {
                let found = self.segment_without_new_file(batch.first(), now);
                if found.is_some() {
                    self.stuck = Some(Stuck { at: now.boot, reason: error.to_string() });
                }
                found.ok_or(error)
            }
        }
    }

    /// A segment for a batch that starts at `first`, where no file can be created.
    fn segment_without_new_file(&mut self, first: Position, now: Moment) -> Option<(Position, Arc<D::File>)> {
        if let Some(active) = &self.active {
            return Some((active.first, active.file.clone()));
        }
        let last = self.last_segment().filter(|(last, _)| self.closed != Some(*last));
        if let Some((last, end)) = last
            && end == first
        {
            return self.reopen(last, now);
        }
        if let Some(begun) = self.begin_in_spare(first, now) {
            return Some(begun);
        }
        let (last, _) = last?;
        let reopened = self.reopen(last, now)?;
        self.span_gaps(last, first);
        Some(reopened)
    }

    /// Creates the spare file, or another one to see whether files can be created again.
    pub(super) fn make_spare(&mut self) {
        if self.has_spare && self.stuck.is_none() {
            return;
        }
        let created = self.disk.create(name::NEW_SPARE).map(drop);
        if created.and_then(|()| self.disk.rename(name::NEW_SPARE, name::SPARE)).is_ok() {
            self.has_spare = true;
            self.stuck = None;
        }
    }

    /// The last segment: its first position, and the position after its last.
    pub(super) fn last_segment(&self) -> Option<(Position, Position)> {
        self.extents.iter().rev().find_map(|(first, extent)| match extent {
            Extent::Segment { end, .. } => Some((*first, *end)),
            Extent::Gap { .. } => None,
        })
    }

    fn create_segment(&mut self, first: Position, now: Moment) -> io::Result<(Position, Arc<D::File>)> {
        let name = name::segment(first);
        if self.is_place_taken(first) {
            return Err(io::Error::other(format!("{name:?} is a segment of a newer version")));
        }
        let file = self.disk.create(&name)?;
        self.unremoved.remove(&name);
        self.begin_segment(file, first, now)
    }

    /// The spare file becomes the segment that starts at `first`.
    fn begin_in_spare(&mut self, first: Position, now: Moment) -> Option<(Position, Arc<D::File>)> {
        if self.is_place_taken(first) || !core::mem::take(&mut self.has_spare) {
            return None;
        }
        self.disk.rename(name::SPARE, &name::segment(first)).ok()?;
        self.create_segment(first, now).ok()
    }

    fn begin_segment(
        &mut self,
        file: D::File,
        first: Position,
        now: Moment,
    ) -> io::Result<(Position, Arc<D::File>)> {
        let header = SegmentHeader { stream: self.stream, first, begun: self.begin_at(now) }.encode();
        if let Err(error) = file.truncate(0).and_then(|()| file.write_at(&header, 0)) {
            self.remove_file(&name::segment(first));
            return Err(error);
        }
        let size = u64::try_from(header.len()).unwrap_or(u64::MAX);
        let file = Arc::new(file);
        let written = LastWrite::ThisRun(now.boot);
        self.extents.insert(first, Extent::Segment { end: first, size, written, formats: Formats::Own });
        self.open.insert(first, file.clone());
        self.active = Some(Active { first, file: file.clone(), begun: now, is_over: false });
        self.size += size;
        self.awaited.written(size);
        self.names_unsynced = true;
        Ok((first, file))
    }

    /// Makes the segment that starts at `first` the active one again.
    fn reopen(&mut self, first: Position, now: Moment) -> Option<(Position, Arc<D::File>)> {
        // From now on it is one of this run, whose formats must be known.
        let _unknown = self.newer_in(first);
        let file = Arc::new(self.disk.create(&name::segment(first)).ok()?);
        self.open.insert(first, file.clone());
        self.active = Some(Active { first, file: file.clone(), begun: now, is_over: true });
        Some((first, file))
    }

    /// The segment that starts at `segment` covers the gaps behind it up to `end`, and is read as one with a
    /// hole. Their records are removed, or the next start would read only up to the first of them.
    fn span_gaps(&mut self, segment: Position, end: Position) {
        let behind = self.extents.range(segment..).filter_map(|(first, extent)| match *extent {
            Extent::Gap { end, reason } => Some(Gap { first: *first, end, reason }),
            Extent::Segment { .. } => None,
        });
        for gap in behind.collect::<Vec<_>>() {
            self.extents.remove(&gap.first);
            self.remove_file(&name::gap(&gap));
        }
        if let Some(Extent::Segment { end: reached, .. }) = self.extents.get_mut(&segment) {
            *reached = end;
        }
    }
}
