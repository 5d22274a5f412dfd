//! Files that are whole at every moment: what is written replaces what was there at once, or not at all.
//!
//! The one place where the programs write keys, settings and state. Root may write here into directories of the
//! user that a service runs as, so nothing follows symbolic links, and modes and owners are given to files that are
//! open, never to names.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::User;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::limits::KEY_FILE_MAX;

/// A file or directory that could not be read, written or removed. What was there before is there still.
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
            ": what is there is never replaced: remove it first, or name another file"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": name a place that can be written",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room there, and try again",
        io::ErrorKind::NotFound => ": make the directory first",
        io::ErrorKind::NotADirectory => ": a file is where a directory must be: move it away",
        _ => "",
    }
}

fn failed(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { path: path.to_owned(), operation, source }
}

/// Who may read a secret: the user that a service runs as. Only root can give files away.
#[derive(Clone, Copy, Debug)]
pub struct Owner(Option<(u32, u32)>);

impl Owner {
    /// The user called `name`, if there is one and this is root; else nobody but who writes the file.
    pub fn named(name: &str) -> Self {
        let user = || User::from_name(name).ok().flatten();
        let user = if rustix::process::geteuid().is_root() { user() } else { None };
        Self(user.map(|user| (user.uid.as_raw(), user.gid.as_raw())))
    }

    /// Whoever writes the file; root leaves a file that it replaces with the owner that it had.
    pub fn writer() -> Self {
        Self(None)
    }

    /// This one, or else who has `file` now, as far as this process can give files away.
    fn or_of(self, file: Option<&File>) -> io::Result<Self> {
        match (self.0, file) {
            (None, Some(file)) if rustix::process::geteuid().is_root() => {
                let metadata = file.metadata()?;
                Ok(Self(Some((metadata.uid(), metadata.gid()))))
            }
            _ => Ok(self),
        }
    }

    /// Gives `file`, which may be a directory, this mode and owner, as far as it has them not.
    fn settle(self, file: &File, mode: u32) -> io::Result<()> {
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

/// Makes sure that `path` holds `content`, readable as `mode` says, even after a power loss. Whether anything had to
/// be written for it.
pub fn write(path: &Path, content: &[u8], mode: u32, owner: Owner) -> Result<bool, FileError> {
    let there = open(path).map_err(failed(path, "replaced"))?;
    let is_so = |file: &File| -> io::Result<bool> {
        Ok(owner.has(file, mode)? && content_of(file, content.len())?.as_slice() == content)
    };
    if there.as_ref().is_some_and(|file| is_so(file).unwrap_or(false)) {
        return Ok(false);
    }
    replace(path, there.as_ref(), mode, owner, |file| file.write_all(content))?;
    Ok(true)
}

/// Replaces the file at `path` by what `fill` writes, readable as `mode` says: for what is too large to be held at once.
pub fn write_with(
    path: &Path,
    mode: u32,
    owner: Owner,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), FileError> {
    let there = open(path).map_err(failed(path, "replaced"))?;
    replace(path, there.as_ref(), mode, owner, fill)
}

/// Gives the file at `from` the name `to` in the same directory, in the place of what has that name, even after a power loss.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory_of(to)
}

/// Puts what `fill` writes in the place of the file `there` at `path`, if there is one.
fn replace(
    path: &Path,
    there: Option<&File>,
    mode: u32,
    owner: Owner,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), FileError> {
    let replace = || -> io::Result<()> {
        let owner = owner.or_of(there)?;
        prepared(path, mode, owner, fill)?.persist(path)?;
        sync_directory_of(path)
    };
    replace().map_err(failed(path, "written"))
}

/// Writes `content` to a file that is made for it; one that is there stays.
pub fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let create = || -> io::Result<()> {
        prepared(path, mode, Owner::writer(), |file| file.write_all(content))?.persist_noclobber(path)?;
        sync_directory_of(path)
    };
    create().map_err(failed(path, "written"))
}

/// What the names of files begin with that are not in their place yet.
const UNFINISHED: &str = ".new-";

/// Removes what a run that was killed left unfinished in `directory`, which this process alone writes to.
pub fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A file beside `path`, complete and on disk; dropped without being kept, it is gone.
fn prepared(
    path: &Path,
    mode: u32,
    owner: Owner,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    let mut beside = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory_of(path))?;
    fill(beside.as_file_mut())?;
    owner.settle(beside.as_file(), mode)?;
    beside.as_file().sync_all()?;
    Ok(beside)
}

/// What the file at `path` holds, if there is one. At most as much as a key file may have, and one byte more, which
/// tells that it is too long.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let read = || open(path)?.map(|file| content_of(&file, KEY_FILE_MAX)).transpose();
    read().map_err(failed(path, "read"))
}

/// The regular file at `path`, if there is one.
fn open(path: &Path) -> io::Result<Option<File>> {
    match open_regular(OpenOptions::new().read(true), path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Opens the regular file at `path` with these `options`; neither follows a symbolic link nor waits for the other end of a
/// pipe.
pub(crate) fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = match options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && path.is_symlink() => {
            return Err(io::Error::other(
                "it is a symbolic link, where a file must be: put the file itself there",
            ));
        }
        opened => opened?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file: move it away"));
    }
    Ok(file)
}

/// What `file` holds, up to one byte more than `most`.
fn content_of(file: &File, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it at once, so that no copy of a secret is left behind when it grows.
    let mut content = Zeroizing::new(Vec::with_capacity(2 * most + 64));
    file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut content)?;
    Ok(content)
}

/// Makes sure that there is a directory at `path`, which everybody may look into if it is made now.
pub fn make_directory(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make_directory(above)?;
    }
    // What the umask takes away, the service's user would miss.
    make(path, 0o755)
        .and_then(|()| Owner::writer().settle(&File::open(path)?, 0o755))
        .map_err(failed(path, "made"))
}

/// Makes sure that there is a directory at `path` that nobody but its owner may look into.
pub fn make_secret_directory(path: &Path, owner: Owner) -> Result<(), FileError> {
    const MODE: u32 = 0o700;
    let settle = || -> io::Result<()> {
        let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
        owner.settle(&OpenOptions::new().read(true).custom_flags(flags).open(path)?, MODE)
    };
    make_directory(directory_of(path))?;
    let made = if path.is_dir() { Ok(()) } else { make(path, MODE) };
    made.and_then(|()| settle()).map_err(failed(path, "made a directory of its owner alone"))
}

fn make(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    sync_directory_of(path)
}

/// Removes a file for good; whether it was there.
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
