//! Exclusive locks on directories: on the directory itself and on its file `lock`, which contains the process
//! id.
//!
//! The lock on the directory itself writes nothing, so that a service starts even on a full or read-only
//! disk.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::host::files::atomic_file::open_regular;
use crate::host::files::private_directory::{DirectoryError, open_private_directory, unusable};

/// Errors when locking a directory.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryLockError {
    /// Another process holds the lock.
    #[error(
        "{}: {} uses this directory: stop it first, or name another directory",
        path.display(),
        holder(*process)
    )]
    Held {
        /// The directory.
        path: PathBuf,
        /// The process in the file `lock`, if any.
        process: Option<u32>,
    },
    /// The directory cannot be used.
    #[error("{0}")]
    Directory(#[from] DirectoryError),
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |process| format!("process {process}"))
}

/// An exclusive lock on a directory, released when dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _directory: Option<File>,
    _file: Option<File>,
}

impl DirectoryLock {
    /// Locks `directory`, which is created with mode 0700 if it is missing. Fails if other users may write to
    /// it, or to one of the existing directories `within` it.
    pub fn acquire(directory: &Path, within: &[&str]) -> Result<Self, DirectoryLockError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(unusable(directory, "cannot be created"))?;
        let handle = open_private_directory(directory)?;
        for path in within.iter().map(|name| directory.join(name)).filter(|path| path.exists()) {
            open_private_directory(&path)?;
        }
        let path = directory.join("lock");
        let held = || DirectoryLockError::Held { path: directory.to_owned(), process: read_process(&path) };
        let handle = match handle.try_lock() {
            Ok(()) => Some(handle),
            Err(TryLockError::WouldBlock) => return Err(held()),
            // Network file systems can lock files only.
            Err(TryLockError::Error(_)) => None,
        };
        let mut file = match open_lock_file(&path) {
            Err(error) if handle.is_some() && is_refused_by_disk(&error) => {
                tracing::warn!(%error, "{}: locked without the file `lock`, which cannot be written: \
                                        {error}", directory.display());
                return Ok(Self { _directory: handle, _file: None });
            }
            other => other.map_err(unusable(directory, "its file `lock` cannot be opened"))?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held()),
            Err(TryLockError::Error(source)) => {
                return Err(unusable(directory, "its file `lock` cannot be locked")(source).into());
            }
        }
        if let Err(error) = name_this_process(&mut file) {
            // A full disk must not prevent a start: the lock itself is in effect.
            tracing::warn!(%error, "{}: the file `lock` does not contain the process id: \
                                    {error}", directory.display());
        }
        Ok(Self { _directory: handle, _file: Some(file) })
    }
}

/// Opens the lock file, and creates it if it is missing. An existing one on a read-only disk can be locked as
/// well.
fn open_lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match open_regular(options.read(true).write(true).create(true).truncate(false).mode(0o600), path) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            // If the file is missing, the error of the disk is the informative one.
            open_regular(OpenOptions::new().read(true), path).map_err(|_| error)
        }
        other => other,
    }
}

/// Returns whether the disk accepts no writes at all.
fn is_refused_by_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}

fn name_this_process(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn read_process(path: &Path) -> Option<u32> {
    let mut text = String::new();
    open_regular(OpenOptions::new().read(true), path).ok()?.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_second_lock_names_the_first_process() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/spool");
        let first = DirectoryLock::acquire(&directory, &[]).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        let refused = DirectoryLock::acquire(&directory, &[]).unwrap_err().to_string();
        let expected = format!(
            "{}: process {} uses this directory: stop it first, or name another directory",
            directory.display(),
            std::process::id()
        );
        assert_eq!(refused, expected);
        drop(first);
        DirectoryLock::acquire(&directory, &[]).unwrap();
    }

    #[test]
    fn a_directory_of_another_user_is_rejected() {
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
            DirectoryLock::acquire(&foreign, &[]).unwrap_err().to_string(),
            format!(
                "{}: this directory belongs to user id {owner}, and this process runs as user id {ours}: \
                 run it as that user, change the owner, or name another directory",
                foreign.display()
            )
        );
    }

    #[test]
    fn a_path_below_a_file_is_rejected() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = DirectoryLock::acquire(&file.path().join("spool"), &[]).unwrap_err().to_string();
        assert!(refused.contains("cannot be created, as user id "), "{refused}");
        assert!(refused.contains("Not a directory"), "{refused}");
    }

    #[test]
    fn a_directory_others_may_write_to_is_rejected() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o770, 0o720, 0o702, 0o1777, 0o2775] {
            set_mode(directory.path(), mode);
            assert_eq!(
                DirectoryLock::acquire(directory.path(), &[]).unwrap_err().to_string(),
                format!(
                    "{0}: other users may create, replace and remove files in this directory (its mode is \
                     {mode:04o}): chmod go-w {0}, or name another directory",
                    directory.path().display()
                )
            );
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is written there");
        }
        for mode in [0o700, 0o750, 0o755, 0o2750] {
            set_mode(directory.path(), mode);
            DirectoryLock::acquire(directory.path(), &[]).unwrap();
        }
    }

    #[test]
    fn a_writable_subdirectory_is_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("positions");
        fs::create_dir(&below).unwrap();
        set_mode(&below, 0o777);
        let refused =
            DirectoryLock::acquire(directory.path(), &["positions", "absent"]).unwrap_err().to_string();
        assert!(
            refused.ends_with(&format!("chmod go-w {}, or name another directory", below.display())),
            "{refused}"
        );
        set_mode(&below, 0o755);
        DirectoryLock::acquire(directory.path(), &["positions", "absent"]).unwrap();
    }

    #[test]
    fn a_lock_file_that_is_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (precious, absent) = (directory.path().join("precious"), directory.path().join("absent"));
        fs::write(&precious, "secret").unwrap();
        for target in [&precious, &absent] {
            let lock = directory.path().join("lock");
            symlink(target, &lock).unwrap();
            let refused = DirectoryLock::acquire(directory.path(), &[]).unwrap_err().to_string();
            assert!(refused.contains("its file `lock` cannot be opened"), "{refused}");
            assert!(refused.contains("it is a symbolic link"), "{refused}");
            fs::remove_file(lock).unwrap();
        }
        assert_eq!(fs::read(&precious).unwrap(), b"secret");
        assert!(!absent.exists());
    }

    #[test]
    fn a_lock_that_is_not_a_file_is_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let lock = directory.path().join("lock");
        rustix::fs::mknodat(rustix::fs::CWD, &lock, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let refused = DirectoryLock::acquire(directory.path(), &[]).unwrap_err().to_string();
        assert!(refused.contains("it is not a file"), "{refused}");
    }
}
