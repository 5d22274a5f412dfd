//! Directories to which only this user may write.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The mode bits by which users other than the owner can create, rename and remove files in a directory.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Errors of a directory that only this user may write to.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The directory belongs to another user.
    #[error(
        "{}: this directory belongs to user id {owner}, and this process runs as user id {ours}: \
         run it as that user, change the owner, or name another directory",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// The user id of this process.
        ours: u32,
    },
    /// Users other than the owner may write to the directory.
    #[error(
        "{}: other users may create, replace and remove files in this directory (its mode is {mode:04o}): \
         chmod go-w {}, or name another directory",
        path.display(),
        path.display()
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// The mode of the directory.
        mode: u32,
    },
    /// The directory or a file in it cannot be created or opened.
    #[error(
        "{}: {operation}, as user id {ours}: {source}: check that this user may write to the directory, or \
         name another one",
        path.display()
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// The failed operation.
        operation: &'static str,
        /// The user id of this process.
        ours: u32,
        /// The system's error.
        source: io::Error,
    },
}

/// Opens the directory `path`, which must belong to this user, who alone may write to it. The check applies
/// to the open directory, so that a later rename cannot evade it.
pub(crate) fn open_private_directory(path: &Path) -> Result<File, DirectoryError> {
    let handle = File::open(path).map_err(unusable(path, "cannot be opened"))?;
    let metadata = handle.metadata().map_err(unusable(path, "cannot be examined"))?;
    let (owner, ours, path) = (metadata.uid(), rustix::process::geteuid().as_raw(), path.to_owned());
    if owner != ours {
        return Err(DirectoryError::Foreign { path, owner, ours });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(DirectoryError::Writable { path, mode });
    }
    Ok(handle)
}

/// Adds path and operation to an error of the system: `result.map_err(unusable(path, "cannot be opened"))`.
pub(super) fn unusable(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> DirectoryError {
    let ours = rustix::process::geteuid().as_raw();
    move |source| DirectoryError::Unusable { path: path.to_owned(), operation, ours, source }
}
