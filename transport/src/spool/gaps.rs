//! Records of gaps.

use std::io;

use crate::sequence::Gap;
use crate::spool::disk::Disk;
use crate::spool::extent::Extent;
use crate::spool::name;
use crate::spool::state::Spool;

impl<D: Disk> Spool<D> {
    /// Records that the positions of `gap` are gone. If no extent covers them yet, they follow the end. A
    /// record that cannot be written is kept in memory, and its write is retried.
    pub fn record_gap(&mut self, gap: Gap) {
        let recorded = self.put_gap(gap);
        self.note_gap(gap, recorded);
    }

    /// The gap of the same reason that `gap` extends.
    pub(super) fn gap_before(&self, gap: Gap) -> Option<Gap> {
        match self.extents.range(..gap.first).next_back() {
            Some((first, Extent::Gap { end, reason })) if *end == gap.first && *reason == gap.reason => {
                Some(Gap { first: *first, end: *end, reason: *reason })
            }
            _ => None,
        }
    }

    /// Writes the record of `gap` to disk.
    pub(super) fn put_gap(&mut self, gap: Gap) -> io::Result<()> {
        let old = self.gap_before(gap);
        let name = name::gap(&Gap { first: old.map_or(gap.first, |old| old.first), ..gap });
        let renamed = match old {
            Some(old) => self.disk.rename(&name::gap(&old), &name),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match renamed {
            // No record exists to extend.
            Err(error) if error.kind() == io::ErrorKind::NotFound => drop(self.disk.create(&name)?),
            other => other?,
        }
        self.unremoved.remove(&name);
        self.names_unsynced = true;
        Ok(())
    }

    /// Adds `gap` to the extents. Its record is on disk if `recorded`.
    pub(super) fn note_gap(&mut self, gap: Gap, recorded: io::Result<()>) {
        if self.active.as_ref().is_some_and(|active| active.first <= gap.first) {
            self.active = None;
        }
        let Err(error) = recorded else {
            let first = self.gap_before(gap).map_or(gap.first, |old| old.first);
            self.extents.insert(first, Extent::Gap { end: gap.end, reason: gap.reason });
            return;
        };
        // The gap gets a record of its own, because the one before it cannot be extended.
        self.extents.insert(gap.first, Extent::Gap { end: gap.end, reason: gap.reason });
        if self.gaps_unrecorded.is_empty() {
            tracing::warn!(
                first = gap.first.0,
                end = gap.end.0,
                %error,
                "cannot record a gap in the spool: {error}; trying again"
            );
        }
        self.gaps_unrecorded.insert(gap.first);
    }
}
