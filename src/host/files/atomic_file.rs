//! Atomic replacement of files: write a temporary file, sync it, rename it, sync the directory. A failure at
//! any moment leaves the previous file.
//!
//! The programs write keys, settings and small state files by this module. Root may write into directories
//! that belong to the user of a service. Therefore nothing follows symbolic links, and modes and owners are
//! set on open files, never on names.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::User;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::limits::KEY_FILE_MAX;

/// A failed operation on a file or directory. The previous content is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be {operation}: {source}{}", path.display(), hint(source))]
pub struct FileError {
    path: PathBuf,
    operation: &'static str,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => {
            ": run this as root, or name a place that this user may write to (-c names another configuration)"
        }
        io::ErrorKind::AlreadyExists => {
            ": an existing file is never replaced: remove it first, or name another file"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": name a writable place",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": free space there, and try again",
        io::ErrorKind::NotFound => ": create the directory first",
        io::ErrorKind::NotADirectory => ": a file is in the place of a directory: move it away",
        _ => "",
    }
}

fn failed(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { path: path.to_owned(), operation, source }
}

/// The owner of a written file, such as the user that a service runs as. Only root can change the owner.
#[derive(Clone, Copy, Debug)]
pub struct FileOwner(Option<(u32, u32)>);

impl FileOwner {
    /// Returns the user `name`, if it exists and this process is root; else the writing process.
    pub fn named(name: &str) -> Self {
        let user = || User::from_name(name).ok().flatten();
        let user = if rustix::process::geteuid().is_root() { user() } else { None };
        Self(user.map(|user| (user.uid.as_raw(), user.gid.as_raw())))
    }

    /// Returns the writing process. Root keeps the owner of a file that it replaces.
    pub fn writer() -> Self {
        Self(None)
    }

    /// Returns this owner, or else the present owner of `file` if this process can change owners.
    fn or_current_owner(self, file: Option<&File>) -> io::Result<Self> {
        match (self.0, file) {
            (None, Some(file)) if rustix::process::geteuid().is_root() => {
                let metadata = file.metadata()?;
                Ok(Self(Some((metadata.uid(), metadata.gid()))))
            }
            _ => Ok(self),
        }
    }

    /// Sets mode and owner of `file`, which may be a directory, if they differ.
    fn apply(self, file: &File, mode: u32) -> io::Result<()> {
        let metadata = file.metadata()?;
        if let Some((user, group)) = self.0
            && (metadata.uid(), metadata.gid()) != (user, group)
        {
            fchown(file, Some(user), Some(group))?;
        }
        if metadata.mode() & 0o7777 != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    fn has(self, file: &File, mode: u32) -> io::Result<bool> {
        let metadata = file.metadata()?;
        let is_owned = self.0.is_none_or(|owner| owner == (metadata.uid(), metadata.gid()));
        Ok(is_owned && metadata.mode() & 0o7777 == mode)
    }
}

/// Writes `content` to `path` with this mode and owner, so that it survives a power loss. Returns false if
/// the file already had all of these.
pub fn write(path: &Path, content: &[u8], mode: u32, owner: FileOwner) -> Result<bool, FileError> {
    let existing = open(path).map_err(failed(path, "replaced"))?;
    let is_unchanged = |file: &File| -> io::Result<bool> {
        Ok(owner.has(file, mode)? && content_of(file, content.len())?.as_slice() == content)
    };
    if existing.as_ref().is_some_and(|file| is_unchanged(file).unwrap_or(false)) {
        return Ok(false);
    }
    replace(path, existing.as_ref(), mode, owner, |file| file.write_all(content))?;
    Ok(true)
}

/// Replaces the file at `path` by the output of `fill`, with this mode: for content that is too large for
/// memory.
pub fn write_with(
    path: &Path,
    mode: u32,
    owner: FileOwner,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), FileError> {
    let existing = open(path).map_err(failed(path, "replaced"))?;
    replace(path, existing.as_ref(), mode, owner, fill)
}

/// Renames `from` to `to` in the same directory, which replaces a file of that name, so that it survives a
/// power loss.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory_of(to)
}

/// Replaces the file `existing` at `path`, if any, by the output of `fill`.
fn replace(
    path: &Path,
    existing: Option<&File>,
    mode: u32,
    owner: FileOwner,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), FileError> {
    let replace = || -> io::Result<()> {
        let owner = owner.or_current_owner(existing)?;
        write_temporary(path, mode, owner, fill)?.persist(path)?;
        sync_directory_of(path)
    };
    replace().map_err(failed(path, "written"))
}

/// Writes `content` to a new file. Fails if the file exists.
pub fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let create = || -> io::Result<()> {
        write_temporary(path, mode, FileOwner::writer(), |file| file.write_all(content))?
            .persist_noclobber(path)?;
        sync_directory_of(path)
    };
    create().map_err(failed(path, "written"))
}

/// Prefix of the names of temporary files.
const UNFINISHED: &str = ".new-";

/// Removes the temporary files of a killed run in `directory`, to which only this process writes.
pub fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes a temporary file next to `path` and syncs it. It is removed when dropped, unless it is persisted.
fn write_temporary(
    path: &Path,
    mode: u32,
    owner: FileOwner,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    let mut temporary = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory_of(path))?;
    fill(temporary.as_file_mut())?;
    owner.apply(temporary.as_file(), mode)?;
    temporary.as_file().sync_all()?;
    Ok(temporary)
}

/// Reads the file at `path`, if it exists: at most as much as a key file may have, and one byte more if it is
/// longer.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let read = || open(path)?.map(|file| content_of(&file, KEY_FILE_MAX)).transpose();
    read().map_err(failed(path, "read"))
}

/// Opens the regular file at `path`, if it exists.
fn open(path: &Path) -> io::Result<Option<File>> {
    match open_regular(OpenOptions::new().read(true), path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Opens the regular file at `path` with these `options`. It does not follow a symbolic link, nor wait for
/// the other end of a pipe.
pub(crate) fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = match options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && path.is_symlink() => {
            return Err(io::Error::other(
                "it is a symbolic link, but must be a file: put the file itself there",
            ));
        }
        opened => opened?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file: move it away"));
    }
    Ok(file)
}

/// Reads `file`, up to one byte more than `most`.
fn content_of(file: &File, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Allocated in full, so that growing does not leave a copy of a secret in memory.
    let mut content = Zeroizing::new(Vec::with_capacity(2 * most + 64));
    file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut content)?;
    Ok(content)
}

/// Creates the directory `path` with mode 0755 if it does not exist.
pub fn make_directory(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make_directory(above)?;
    }
    // The umask could deny the service's user access.
    make(path, 0o755)
        .and_then(|()| FileOwner::writer().apply(&File::open(path)?, 0o755))
        .map_err(failed(path, "created"))
}

/// Creates the directory `path` if it does not exist, and allows access only to its owner.
pub fn make_secret_directory(path: &Path, owner: FileOwner) -> Result<(), FileError> {
    const MODE: u32 = 0o700;
    let apply = || -> io::Result<()> {
        let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
        owner.apply(&OpenOptions::new().read(true).custom_flags(flags).open(path)?, MODE)
    };
    make_directory(directory_of(path))?;
    let made = if path.is_dir() { Ok(()) } else { make(path, MODE) };
    made.and_then(|()| apply()).map_err(failed(path, "created for its owner alone"))
}

fn make(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    sync_directory_of(path)
}

/// Removes a file, so that it stays removed after a power loss. Returns whether it existed.
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory_of(path).map_err(failed(path, "removed")).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path, "removed")(error)),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

#[cfg(test)]
mod tests;
