//! One owner for each directory: the process that holds the locks on it and on its file `lock`, which names the process.
//!
//! The lock on the directory itself needs nothing written: a disk that is full or read-only keeps no service from starting.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a directory cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// Another process has it.
    #[error(
        "{}: {} has this directory in use: stop that one first, or name another directory",
        path.display(),
        holder(*process)
    )]
    Held {
        /// The directory.
        path: PathBuf,
        /// The process that has it, as far as it said.
        process: Option<u32>,
    },
    /// It belongs to another user.
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
    /// It cannot be created, or nothing can be created in it.
    #[error(
        "{}: {operation}, as user id {ours}: {source}: check that the directory may be written by that user, \
         or name another one",
        path.display()
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What failed.
        operation: &'static str,
        /// The user id of this process.
        ours: u32,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |process| format!("process {process}"))
}

/// A directory that no other process has while this value lives.
#[derive(Debug)]
pub struct DirectoryLock {
    _directory: Option<File>,
    _file: Option<File>,
}

impl DirectoryLock {
    /// Takes `directory`, which is created with mode 0700 if it is missing.
    pub fn take(directory: &Path) -> Result<Self, OwnershipError> {
        let ours = rustix::process::geteuid().as_raw();
        let unusable = |operation| {
            move |source| OwnershipError::Unusable { path: directory.to_owned(), operation, ours, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(unusable("cannot be created"))?;
        let owner = fs::metadata(directory).map_err(unusable("cannot be looked at"))?.uid();
        if owner != ours {
            return Err(OwnershipError::Foreign { path: directory.to_owned(), owner, ours });
        }
        let path = directory.join("lock");
        let held = || OwnershipError::Held { path: directory.to_owned(), process: read_process(&path) };
        let handle = File::open(directory).map_err(unusable("cannot be opened"))?;
        let handle = match handle.try_lock() {
            Ok(()) => Some(handle),
            Err(TryLockError::WouldBlock) => return Err(held()),
            // Network file systems lock files only.
            Err(TryLockError::Error(_)) => None,
        };
        let mut file = match open_lock_file(&path) {
            Err(error) if handle.is_some() && is_refused_by_disk(&error) => {
                tracing::warn!(%error, "{}: the directory is locked without its file `lock`: {error}", directory.display());
                return Ok(Self { _directory: handle, _file: None });
            }
            other => other.map_err(unusable("its file `lock` cannot be opened"))?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held()),
            Err(TryLockError::Error(source)) => {
                return Err(unusable("its file `lock` cannot be locked")(source));
            }
        }
        if let Err(error) = name_this_process(&mut file) {
            // A full disk must not keep a service from starting: the lock itself holds.
            tracing::warn!(%error, "{}: the lock does not name its holder: {error}", directory.display());
        }
        Ok(Self { _directory: handle, _file: Some(file) })
    }
}

/// Opens the file to be locked, which is made if it is not there; a file on a read-only disk can be locked, too.
fn open_lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            // Without the file the error is that of the disk.
            File::open(path).map_err(|_| error)
        }
        other => other,
    }
}

/// Returns whether the disk takes no writes at all.
fn is_refused_by_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}

fn name_this_process(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn read_process(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_owner_is_told_which_process_has_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/spool");
        let first = DirectoryLock::take(&directory).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        let refused = DirectoryLock::take(&directory).unwrap_err().to_string();
        let expected = format!(
            "{}: process {} has this directory in use: stop that one first, or name another directory",
            directory.display(),
            std::process::id()
        );
        assert_eq!(refused, expected);
        drop(first);
        DirectoryLock::take(&directory).unwrap();
    }

    #[test]
    fn a_directory_of_another_user_is_refused_with_both_users() {
        let directory = tempfile::tempdir().unwrap();
        let ours = rustix::process::geteuid().as_raw();
        let foreign = if ours == 0 {
            std::os::unix::fs::chown(directory.path(), Some(4242), None).unwrap();
            directory.path().to_owned()
        } else {
            PathBuf::from("/usr")
        };
        let owner = fs::metadata(&foreign).unwrap().uid();
        assert_eq!(
            DirectoryLock::take(&foreign).unwrap_err().to_string(),
            format!(
                "{}: this directory belongs to user id {owner}, and this process runs as user id {ours}: \
                 run it as that user, change the owner, or name another directory",
                foreign.display()
            )
        );
    }

    #[test]
    fn a_path_that_can_be_no_directory_is_refused_with_the_reason() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = DirectoryLock::take(&file.path().join("spool")).unwrap_err().to_string();
        assert!(refused.contains("cannot be created, as user id "), "{refused}");
        assert!(refused.contains("Not a directory"), "{refused}");
    }
}
