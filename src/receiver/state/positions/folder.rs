//! The directory of the position files, and the operations on it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::receiver::state::positions::error::PositionsError;
use crate::receiver::state::positions::slot_file::read_begun;
use crate::receiver::state::positions::stream_name::StreamName;

/// The directory.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Number of entries read, and of files opened, examined and removed.
    #[cfg(test)]
    operations: AtomicU64,
}

impl Folder {
    /// Opens the directory at `path`, and creates it if needed.
    pub(super) fn open(path: PathBuf) -> Result<Self, PositionsError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(PositionsError::context("make the directory", &path))?;
        Ok(Self {
            path,
            #[cfg(test)]
            operations: AtomicU64::new(0),
        })
    }

    /// Returns the path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a stream's file that is about to be opened.
    pub(super) fn file(&self, name: &StreamName) -> PathBuf {
        self.count();
        self.path.join(name.to_string())
    }

    /// Lists all position files, with the time at which each stream was last seen, and the time at which it
    /// began. The latter comes from the file or, if it lacks it, is the creation time of the file, if the
    /// file system has that. Skips other files.
    pub(super) fn list(&self) -> Result<Vec<(StreamName, SystemTime, Option<SystemTime>)>, PositionsError> {
        let list = || -> io::Result<_> {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(&self.path)? {
                self.count();
                let entry = entry?;
                let name = entry.file_name().into_string().ok();
                let Some(name) = name.and_then(|name| StreamName::parse(&name)) else { continue };
                self.count();
                if let Ok(file) = entry.metadata()
                    && let Ok(seen) = file.modified()
                {
                    let opened = File::open(entry.path()).ok();
                    let begun = opened.and_then(|opened| read_begun(&opened, name.stream));
                    files.push((name, seen, begun.or_else(|| file.created().ok())));
                }
            }
            Ok(files)
        };
        list().map_err(PositionsError::context("list", &self.path))
    }

    /// Removes the file of a stream, if it exists.
    pub(super) fn remove(&self, name: &StreamName) -> Result<(), PositionsError> {
        let path = self.file(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(PositionsError::context("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Syncs the entries of the directory to disk.
    pub(super) fn sync(&self) -> Result<(), PositionsError> {
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(PositionsError::context("sync the directory", &self.path))
    }

    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests count"))]
    fn count(&self) {
        #[cfg(test)]
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of operations.
    #[cfg(test)]
    pub(super) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }
}
