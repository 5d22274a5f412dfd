//! Removes acknowledged segments and gaps.

use std::io;

use crate::internal_error::note_internal_error;
use crate::sequence::{Gap, Position};
use crate::spool::disk::Disk;
use crate::spool::extent::Extent;
use crate::spool::name;
use crate::spool::state::Spool;

/// Files of removed segments that stay open until the caller closes them. Each takes a file descriptor.
pub(super) const LEFT_OPEN_MAX: usize = 16;

impl<D: Disk> Spool<D> {
    /// Notes that positions below `position` are acknowledged. Removes the segments and gaps that end there
    /// or before.
    ///
    /// Returns open files of removed segments. The kernel frees the space of a file when it is closed, which
    /// takes milliseconds, so close them while nobody waits for the spool.
    pub fn acknowledge(&mut self, position: Position) -> Vec<D::File> {
        let mut removed = Vec::new();
        let before = self.acknowledged;
        self.acknowledged = before.max(position);
        while let Some((&first, extent)) = self.extents.first_key_value()
            && extent.end() <= self.acknowledged
        {
            match *extent {
                Extent::Segment { .. } => {
                    if removed.len() < LEFT_OPEN_MAX {
                        removed.extend(self.disk.open(&name::segment(first)));
                    }
                    self.retire_segment(first, before);
                }
                Extent::Gap { end, reason } => {
                    self.extents.remove(&first);
                    self.remove_file(&name::gap(&Gap { first, end, reason }));
                }
            }
        }
        removed
    }

    /// Removes a segment that is no longer needed.
    pub(super) fn remove_segment(&mut self, first: Position) {
        let before = self.size;
        self.forget_segment(first);
        // Free space is read before and after, so that writes and removals of others do not count.
        self.look_at_free();
        self.remove_segment_file(first);
        self.awaited.removed(before.saturating_sub(self.size));
        self.look_at_free();
    }

    pub(super) fn forget_segment(&mut self, first: Position) {
        if self.active.as_ref().is_some_and(|active| active.first == first) {
            self.active = None;
        }
        self.unsynced.remove(&first);
        self.open.remove(first);
        if let Some(Extent::Segment { size, .. }) = self.extents.remove(&first) {
            self.size = self.size.checked_sub(size).unwrap_or_else(|| {
                note_internal_error("a segment is larger than the spool");
                0
            });
        }
    }

    /// Removes the file of the segment that starts at `first`, and then its marker, if it was thinned:
    /// without it, a start would count the dropped datagrams as queued.
    pub(super) fn remove_segment_file(&mut self, first: Position) {
        let name = name::segment(first);
        self.remove_file(&name);
        if !self.unremoved.contains(&name) {
            self.forget_thinned(first);
        }
    }

    /// Removes a file if it exists. A failed removal is retried, at the latest by the next start. That start
    /// sends the data again, and the receiver drops it.
    pub(super) fn remove_file(&mut self, name: &str) {
        match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                if self.unremoved.is_empty() {
                    tracing::warn!(
                        %error,
                        "cannot remove the file {name:?} of the spool, which is no longer needed: {error}; \
                         trying again until the disk allows it"
                    );
                }
                self.unremoved.insert(name.to_owned());
            }
            _ => {
                self.unremoved.remove(name);
            }
        }
    }
}
