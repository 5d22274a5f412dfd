//! The room of a spool, and the values that decide which segments are dropped to make more.

use crate::sequence::Position;
use crate::spool::disk::Space;
use crate::spool::extent::LastWrite;
use crate::spool::policy::Policy;

/// Remaining room of a spool and the values that bound it.
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

/// The data that an append may drop. The setting `when-full` takes precedence: with `drop-newest` nothing is
/// dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yielding {
    /// Nothing.
    Nothing,
    /// As much as `max-size` requires.
    ToMaxSize,
    /// As much as `max-size`, `min-free` and a full disk require.
    ToDisk,
}

/// The purpose of dropping a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A limit of the queue: `max-size` or `max-age`.
    Limit,
    /// Room on the disk.
    Disk,
}

/// A segment that is not in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    pub(super) first: Position,
    pub(super) end: Position,
    pub(super) size: u64,
    pub(super) written: LastWrite,
}

/// Bytes of removed files that the file system does not report as free yet: XFS and Btrfs free them later.
///
/// Any growth of the free space counts as the release of these files. So the readings must include the space
/// allocated ahead of open segments ([`OpenSegments`](super::open_segments::OpenSegments)).
#[derive(Debug, Default)]
pub(super) struct Awaited {
    bytes: u64,
    /// Free bytes at the last reading.
    free: u64,
}

impl Awaited {
    /// Counts a file of `bytes` that is removed now.
    pub(super) fn removed(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Counts bytes that were written.
    pub(super) fn written(&mut self, bytes: u64) {
        self.free = self.free.saturating_sub(bytes);
    }

    /// Bytes that are free, or will be, where `free` are reported.
    pub(super) fn free(&mut self, free: u64) -> u64 {
        self.bytes = self.bytes.saturating_sub(free.saturating_sub(self.free));
        self.free = free;
        free.saturating_add(self.bytes)
    }
}
