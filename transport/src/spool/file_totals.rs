//! The number and size of the files of one subdirectory of the spool.

use crate::spool::disk::FileEntry;

/// Files of one subdirectory of the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileTotals {
    /// Number of files.
    pub files: u64,
    /// Bytes of all together.
    pub bytes: u64,
}

impl FileTotals {
    pub(super) fn of(files: &[FileEntry]) -> Self {
        let bytes = files.iter().map(|file| file.size).sum();
        Self { files: u64::try_from(files.len()).unwrap_or(u64::MAX), bytes }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }
}
