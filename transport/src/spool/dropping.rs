//! Drops segments to make room.
//!
//! Invariant: segments are dropped only if that makes the needed room. A disk that another program fills
//! costs no queued datagram. Data of a newer version is never dropped: a limit moves it to `newer/`, which
//! frees nothing.

use std::io;

use bytesize::ByteSize;

use crate::sequence::{Gap, GapReason, Position};
use crate::spool::append::AppendError;
use crate::spool::disk::{Disk, Space, is_full};
use crate::spool::extent::Extent;
use crate::spool::policy::WhenFull;
use crate::spool::room::{Idle, Purpose, Room, Yielding};
use crate::spool::state::Spool;

impl<D: Disk> Spool<D> {
    /// Returns the room until an append must drop something. Space allocated ahead of the open segments
    /// counts as free.
    pub fn room(&self) -> io::Result<Room> {
        let space = self.disk.space()?;
        let free = space.free.saturating_add(self.open.preallocated());
        Ok(Room::new(Space { free, ..space }, &self.policy, self.size))
    }

    /// Notes how much is free at this moment.
    pub(super) fn look_at_free(&mut self) {
        self.open.close_unused();
        if let Ok(room) = self.room() {
            self.awaited.free(room.space.free);
        }
    }

    /// Makes room for `length` bytes by the policy. All segments may have `ceiling` bytes, if that is more
    /// than `max-size`.
    pub(super) fn make_room(
        &mut self,
        length: u64,
        in_flight: Position,
        yielding: Yielding,
        ceiling: u64,
    ) -> Result<(), AppendError> {
        self.open.close_unused();
        let room = self.room()?;
        let free = self.awaited.free(room.space.free);
        let excess = self.size.saturating_add(length).saturating_sub(room.max_size.max(ceiling));
        let lacking = room.min_free.saturating_add(length).saturating_sub(free);
        if excess.max(lacking) == 0 {
            return Ok(());
        }
        if room.space.is_read_only {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem).into());
        }
        if lacking > self.droppable(lacking, in_flight, yielding) {
            return Err(AppendError::NoRoom(self.beyond_min_free(&room)));
        }
        if !self.may_drop(yielding, Purpose::Limit) || self.idle_segments(in_flight).next().is_none() {
            return Err(AppendError::Full);
        }
        self.drop_oldest(excess, lacking, in_flight)
    }

    /// Makes room for `length` bytes on a disk that has refused them with `error`.
    pub(super) fn make_room_on_full_disk(
        &mut self,
        error: io::Error,
        length: u64,
        in_flight: Position,
        yielding: Yielding,
    ) -> Result<(), AppendError> {
        if length > self.droppable(length, in_flight, yielding) {
            return Err(AppendError::NoRoom(error));
        }
        self.drop_oldest(0, length, in_flight)
    }

    fn beyond_min_free(&self, room: &Room) -> io::Error {
        let [free, min_free, held] = [room.space.free, room.min_free, self.size].map(ByteSize);
        let text = format!("{free} are free, min-free keeps {min_free}, and the spool holds {held}");
        io::Error::new(io::ErrorKind::StorageFull, text)
    }

    /// True if data may be dropped for `purpose`, with `yielding` as the most that is allowed.
    fn may_drop(&self, yielding: Yielding, purpose: Purpose) -> bool {
        let is_allowed = match yielding {
            Yielding::Nothing => false,
            Yielding::ToMaxSize => purpose == Purpose::Limit,
            Yielding::ToDisk => true,
        };
        is_allowed && self.policy.when_full == WhenFull::DropOldest
    }

    /// Bytes that the disk gains if all droppable segments are dropped, but counted no further than `wanted`.
    fn droppable(&mut self, wanted: u64, in_flight: Position, yielding: Yielding) -> u64 {
        if !self.may_drop(yielding, Purpose::Disk) {
            return 0;
        }
        let segments: Vec<_> = self.idle_segments(in_flight).collect();
        let total = segments.iter().map(|idle| idle.size).sum();
        if total < wanted {
            // The segments need no inspection: data of a newer version only reduces the sum.
            return total;
        }
        let mut freed = 0;
        for idle in segments {
            if freed >= wanted {
                break;
            }
            if self.frees_room(idle.first) {
                freed += idle.size;
            }
        }
        freed
    }

    /// The segments that may be dropped while positions below `in_flight` are on their way, oldest first.
    pub(super) fn idle_segments(&self, in_flight: Position) -> impl Iterator<Item = Idle> {
        self.extents.iter().filter_map(move |(first, extent)| match *extent {
            Extent::Segment { end, size, written, formats } => {
                let may_go = in_flight <= self.acknowledged.max(*first)
                    && formats.may_go(written)
                    && self.is_copied(*first);
                may_go.then_some(Idle { first: *first, end, size, written })
            }
            Extent::Gap { .. } => None,
        })
    }

    /// Drops the oldest droppable segments until the queue has `excess` bytes less and the disk `lacking`
    /// bytes more. Leaves gaps in their place.
    fn drop_oldest(&mut self, excess: u64, lacking: u64, in_flight: Position) -> Result<(), AppendError> {
        let target = self.size.saturating_sub(excess);
        let mut freed = 0;
        while self.size > target || freed < lacking {
            let purpose = if self.size > target { Purpose::Limit } else { Purpose::Disk };
            match self.drop_segment(in_flight, GapReason::SpoolFull, purpose)? {
                Some(bytes) => freed += bytes,
                None => return Err(AppendError::Full),
            }
        }
        Ok(())
    }

    /// Drops the oldest segment that is not in flight, and leaves a gap in its place. Returns how many bytes
    /// that frees: none if a newer version wrote some of it, because it is preserved then; `None` if there is
    /// no such segment. If the disk refuses changes, everything stays as it was.
    pub(super) fn drop_segment(
        &mut self,
        in_flight: Position,
        reason: GapReason,
        purpose: Purpose,
    ) -> io::Result<Option<u64>> {
        let segments: Vec<_> = self.idle_segments(in_flight).collect();
        let oldest = match purpose {
            Purpose::Limit => segments.into_iter().next(),
            Purpose::Disk => segments.into_iter().find(|idle| self.frees_room(idle.first)),
        };
        let Some(Idle { first, end, size, .. }) = oldest else {
            return Ok(None);
        };
        if let Some(needs) = self.newer_in(first)? {
            self.preserve_dropped(first, needs)?;
            return Ok(Some(0));
        }
        let gap = Gap { first: first.max(self.acknowledged), end, reason };
        let is_held = gap.first < gap.end;
        // The record comes before the removal: after a crash between the two the next start finds both.
        let recorded = if is_held { self.put_gap(gap) } else { Ok(()) };
        if let Err(error) = &recorded
            && !is_full(error)
        {
            return recorded.map(|()| None);
        }
        self.remove_segment(first);
        if is_held {
            self.dropped.push(gap);
            // A disk that had no room for one more file has it now.
            let recorded = recorded.or_else(|_| self.put_gap(gap));
            self.note_gap(gap, recorded);
        }
        Ok(Some(size))
    }
}
