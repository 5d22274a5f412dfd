//! The write schedule of a state file.

use core::time::Duration;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::host::locked;

/// A file that is written when its content has changed, and not too often.
#[derive(Debug, Default)]
pub(super) struct DirtyFile {
    /// True if memory has changes that the file lacks.
    pub(super) is_dirty: AtomicBool,
    /// Time of the last attempt to write it.
    written: Mutex<Option<Instant>>,
}

impl DirtyFile {
    /// Begins an attempt if the file must be written and the last attempt was at least `every` ago. Returns
    /// whether it began. A disk that fails is not retried sooner.
    pub(super) fn begin_if_due(&self, every: Duration) -> bool {
        let is_due = self.is_due(every);
        if is_due {
            *locked(&self.written) = Some(Instant::now());
        }
        is_due
    }

    /// Returns whether the file must be written and the last attempt was at least `every` ago.
    pub(super) fn is_due(&self, every: Duration) -> bool {
        self.is_dirty.load(Ordering::Relaxed)
            && locked(&self.written).is_none_or(|last| last.elapsed() >= every)
    }

    /// Calls `write` if the file is dirty.
    pub(super) fn keep(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if !self.is_dirty.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let outcome = write();
        if outcome.is_err() {
            self.is_dirty.store(true, Ordering::Relaxed);
        }
        outcome
    }
}
