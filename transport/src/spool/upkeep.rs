//! Upkeep: age limits, retries of failed file operations, and syncs.

use std::io;
use std::sync::Arc;

use crate::datagram::Moment;
use crate::sequence::{Gap, GapReason, Position};
use crate::spool::disk::{Disk, DiskFile};
use crate::spool::extent::Extent;
use crate::spool::name;
use crate::spool::room::Purpose;
use crate::spool::state::Spool;

impl<D: Disk> Spool<D> {
    /// Ends the segment whose time is over, drops segments that are too old, and retries operations that the
    /// disk refused. Callers do this periodically.
    pub fn enforce_limits(&mut self, now: Moment, in_flight: Position) {
        self.look_at_clocks(now);
        self.end_segment_if_due(now);
        self.open.close_unused();
        self.retry();
        if let Some(max_age) = self.policy.max_age {
            while self.is_oldest_too_old(now, in_flight, max_age)
                && matches!(self.drop_segment(in_flight, GapReason::TooOld, Purpose::Limit), Ok(Some(_)))
            {
            }
        }
    }

    /// Retries operations that the disk refused.
    pub(super) fn retry(&mut self) {
        self.make_spare();
        if let Some(last_run) = self.unrecorded
            && self.write_identity(last_run).is_ok()
        {
            tracing::info!("wrote the file 'stream' of the spool: the disk accepts writes again");
        }
        for first in core::mem::take(&mut self.gaps_unrecorded) {
            if let Some(Extent::Gap { end, reason }) = self.extents.get(&first).copied() {
                let written = self.disk.create(&name::gap(&Gap { first, end, reason }));
                self.names_unsynced = true;
                if written.is_err() {
                    self.gaps_unrecorded.insert(first);
                }
            }
        }
        if !self.unremoved.is_empty() {
            let is_there = |name: &String| match self.disk.remove(name) {
                Ok(()) => false,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            };
            self.unremoved = core::mem::take(&mut self.unremoved).into_iter().filter(is_there).collect();
        }
        self.retry_preserving();
    }

    /// Returns the files to sync; `None` if there are none. Syncs the directory itself.
    pub fn sync_job(&mut self) -> io::Result<Option<SyncJob<D::File>>> {
        if self.names_unsynced {
            self.disk.sync_directory()?;
            self.names_unsynced = false;
        }
        let files: Vec<_> = core::mem::take(&mut self.unsynced).into_values().collect();
        Ok((!files.is_empty()).then_some(SyncJob { files }))
    }

    /// Closes the active segment after a failed sync: the kernel may have lost its unwritten pages.
    pub fn sync_failed(&mut self) {
        self.active = None;
        self.closed = self.last_segment().map(|(first, _)| first);
    }
}

/// Files to sync so that all appended batches survive power loss. The job runs without the spool, which stays
/// usable.
#[derive(Debug)]
pub struct SyncJob<F> {
    files: Vec<Arc<F>>,
}

impl<F: DiskFile> SyncJob<F> {
    /// Waits until the disk has stored all files.
    pub fn run(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync())
    }
}
