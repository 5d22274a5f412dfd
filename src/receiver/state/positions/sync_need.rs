//! The need for a sync, which all positions share.

use std::fs::File;
use std::io;
use std::sync::Mutex;
#[cfg(test)]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::host::locked;
use crate::limits::IDLE_STREAMS_EXAMINED_EVERY;

/// The need for a sync, and the time of the last one.
#[derive(Debug)]
pub(super) struct SyncNeed {
    is_needed: AtomicBool,
    begun: Mutex<Option<Instant>>,
    /// Number of syncs of files and directories.
    #[cfg(test)]
    pub(super) syncs: AtomicU64,
}

impl Default for SyncNeed {
    fn default() -> Self {
        Self {
            is_needed: AtomicBool::new(true),
            begun: Mutex::default(),
            #[cfg(test)]
            syncs: AtomicU64::new(0),
        }
    }
}

impl SyncNeed {
    /// Notes that something changed.
    pub(super) fn set(&self) {
        self.is_needed.store(true, Ordering::Release);
    }

    /// Returns whether a sync is due: after a change, and sometimes without one, for streams in use that have
    /// no new data.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_needed.load(Ordering::Relaxed)
            || locked(&self.begun)
                .is_none_or(|begun| now.saturating_duration_since(begun) >= IDLE_STREAMS_EXAMINED_EVERY)
    }

    /// Begins a sync. Changes from now on need another one.
    pub(super) fn begin(&self, now: Instant) {
        *locked(&self.begun) = Some(now);
        self.is_needed.swap(false, Ordering::AcqRel);
    }

    /// Syncs the data of `file` to disk.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests count"))]
    pub(super) fn sync_data(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        self.syncs.fetch_add(1, Ordering::Relaxed);
        file.sync_data()
    }
}
