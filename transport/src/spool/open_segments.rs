//! The segment files that are open for writing, and the space that is allocated ahead of their ends.
//!
//! XFS allocates up to twice the size of a growing file. It releases the rest when the file is closed, or
//! when the disk is full. `statvfs` does not report that space as free. With its figure alone, each write
//! into that space, and each close, looks like the release of a removed file.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sequence::Position;
use crate::spool::disk::DiskFile;

/// The segment files that are open for writing, by first position.
///
/// It also holds the files that a sync still uses, so that only [`Self::close_unused`] closes them. If the
/// thread of the sync closed them, space could be released between two questions about it.
#[derive(Debug)]
pub(super) struct OpenSegments<F> {
    files: BTreeMap<Position, Arc<F>>,
}

impl<F: DiskFile> OpenSegments<F> {
    pub(super) fn insert(&mut self, first: Position, file: Arc<F>) {
        self.files.insert(first, file);
    }

    pub(super) fn remove(&mut self, first: Position) {
        self.files.remove(&first);
    }

    /// Closes the files that nothing else uses: neither appends nor syncs.
    pub(super) fn close_unused(&mut self) {
        self.files.retain(|_, file| Arc::strong_count(file) > 1);
    }

    /// Bytes allocated ahead of the ends of the files. Appends use them, and a full disk takes them back.
    pub(super) fn preallocated(&self) -> u64 {
        // A file that reports nothing counts as one without such space.
        self.files.values().map(|file| file.preallocated().unwrap_or(0)).fold(0, u64::saturating_add)
    }
}

impl<F> Default for OpenSegments<F> {
    fn default() -> Self {
        Self { files: BTreeMap::new() }
    }
}
