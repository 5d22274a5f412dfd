//! The room of a spool: how much it may still take, and what is dropped to make more.
//!
//! Always holds: segments are dropped only if that makes the room that is needed. A disk that somebody else fills costs
//! nothing that was queued.

use std::io;

use bytesize::ByteSize;

use crate::sequence::{GapReason, Position};
use crate::spool::disk::{Disk, Space};
use crate::spool::{AppendError, Piece, Policy, Spool, WhenFull};

/// How much a spool may still take, and why not more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can be appended before something must be dropped.
    pub bytes: u64,
    /// Bytes of all segments.
    pub held: u64,
    /// The most that all segments may have together.
    pub max_size: u64,
    /// Bytes that stay free on the file system.
    pub min_free: u64,
    /// The file system.
    pub space: Space,
}

impl Room {
    /// The room on `space` of a spool that holds `held` bytes.
    pub fn new(space: Space, policy: &Policy, held: u64) -> Self {
        let min_free = policy.min_free.bytes(space.total);
        let free = if space.is_read_only { 0 } else { space.free.saturating_sub(min_free) };
        let bytes = policy.max_size.saturating_sub(held).min(free);
        Self { bytes, held, max_size: policy.max_size, min_free, space }
    }
}

/// What an append may drop. The setting `when-full` takes precedence: with `drop-newest` nothing is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yielding {
    /// Nothing.
    Nothing,
    /// What `max-size` requires.
    ToMaxSize,
    /// What `max-size`, `min-free` and a full disk require.
    ToDisk,
}

/// Bytes of removed files that the file system does not report as free yet: XFS and Btrfs free them later.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    bytes: u64,
    /// Free bytes when somebody last looked.
    free: u64,
}

impl Awaited {
    /// Counts a file of so many bytes that is removed now.
    pub(super) fn removed(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Counts bytes that were written.
    pub(super) fn written(&mut self, bytes: u64) {
        self.free = self.free.saturating_sub(bytes);
    }

    /// Bytes that are free, or will be, where `free` are reported.
    fn free(&mut self, free: u64) -> u64 {
        self.bytes = self.bytes.saturating_sub(free.saturating_sub(self.free));
        self.free = free;
        free.saturating_add(self.bytes)
    }
}

impl<D: Disk> Spool<D> {
    /// How much can still be appended before something must be dropped.
    pub fn room(&self) -> io::Result<Room> {
        Ok(Room::new(self.disk.space()?, &self.policy, self.size))
    }

    /// Notes how much is free at this moment.
    pub(super) fn look_at_free(&mut self) {
        if let Ok(space) = self.disk.space() {
            self.awaited.free(space.free);
        }
    }

    /// Makes room for `length` bytes by the policy.
    pub(super) fn make_room(
        &mut self,
        length: u64,
        in_flight: Position,
        yielding: Yielding,
    ) -> Result<(), AppendError> {
        let room = self.room()?;
        let free = self.awaited.free(room.space.free);
        let excess = self.size.saturating_add(length).saturating_sub(room.max_size);
        let lacking = room.min_free.saturating_add(length).saturating_sub(free);
        if excess.max(lacking) == 0 {
            return Ok(());
        }
        if room.space.is_read_only {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem).into());
        }
        if lacking > self.droppable(in_flight, yielding, Yielding::ToDisk) {
            return Err(AppendError::NoRoom(self.beyond_min_free(&room)));
        }
        if self.droppable(in_flight, yielding, Yielding::ToMaxSize) == 0 {
            return Err(AppendError::Full);
        }
        self.drop_oldest(excess.max(lacking), in_flight)
    }

    /// Makes room for `length` bytes on a disk that has refused them with `error`.
    pub(super) fn make_room_on_full_disk(
        &mut self,
        error: io::Error,
        length: u64,
        in_flight: Position,
        yielding: Yielding,
    ) -> Result<(), AppendError> {
        if length > self.droppable(in_flight, yielding, Yielding::ToDisk) {
            return Err(AppendError::NoRoom(error));
        }
        self.drop_oldest(length, in_flight)
    }

    fn beyond_min_free(&self, room: &Room) -> io::Error {
        let [free, min_free, held] = [room.space.free, room.min_free, self.size].map(ByteSize);
        let text = format!("{free} are free, min-free keeps {min_free}, and the spool holds {held}");
        io::Error::new(io::ErrorKind::StorageFull, text)
    }

    /// Bytes of the segments that may be dropped for `purpose`, if as much as `yielding` is allowed.
    fn droppable(&self, in_flight: Position, yielding: Yielding, purpose: Yielding) -> u64 {
        let is_allowed = match yielding {
            Yielding::Nothing => false,
            Yielding::ToMaxSize => purpose == Yielding::ToMaxSize,
            Yielding::ToDisk => true,
        };
        if !is_allowed || self.policy.when_full == WhenFull::DropNewest {
            return 0;
        }
        let sizes = self.pieces.iter().filter_map(|(first, piece)| match piece {
            Piece::Segment { size, .. } if self.may_go(*first, in_flight) => Some(*size),
            _ => None,
        });
        sizes.sum()
    }

    /// Drops the oldest segments that may go, of `bytes` in all, and leaves gaps in their place.
    fn drop_oldest(&mut self, bytes: u64, in_flight: Position) -> Result<(), AppendError> {
        let target = self.size.saturating_sub(bytes);
        while self.size > target {
            if !self.drop_segment(in_flight, GapReason::SpoolFull)? {
                return Err(AppendError::Full);
            }
        }
        Ok(())
    }
}
