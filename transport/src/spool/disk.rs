//! The file operations that a spool needs, and their implementation for a directory.
//!
//! The rest of the spool uses these traits only, so that tests can tear writes, flip bits and fill disks.

use std::fs::{DirEntry, File, Metadata, OpenOptions, Permissions};
use std::io::IoSlice;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use std::{io, thread};

use rustix::fs::{StatVfs, StatVfsMountFlags};

use crate::datagram::Timestamp;

/// A file of the spool as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// The name inside the spool directory.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Time of the last write.
    pub modified: Timestamp,
}

/// The room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes of the whole file system.
    pub total: u64,
    /// Bytes that this process may still write.
    pub free: u64,
    /// Files that this process may still create; `None` if the file system does not limit them.
    pub free_inodes: Option<u64>,
    /// The file system is mounted read-only.
    pub is_read_only: bool,
}

impl Space {
    /// The room on the file system of `path`, which must exist.
    pub fn query(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&rustix::fs::statvfs(path)?))
    }
}

impl From<&StatVfs> for Space {
    fn from(facts: &StatVfs) -> Self {
        Self {
            total: facts.f_blocks.saturating_mul(facts.f_frsize),
            free: facts.f_bavail.saturating_mul(facts.f_frsize),
            // Btrfs reports 0 of 0.
            free_inodes: (facts.f_files > 0).then_some(facts.f_favail),
            is_read_only: facts.f_flag.contains(StatVfsMountFlags::RDONLY),
        }
    }
}

/// A spool directory.
pub trait Disk: core::fmt::Debug {
    /// An open file of it.
    type File: DiskFile + core::fmt::Debug;

    /// The plain files in it, in no order.
    fn list(&self) -> io::Result<Vec<FileEntry>>;
    /// The plain files in a directory of it, in no order, with names that begin with that of the directory;
    /// none if the directory is missing.
    fn list_in(&self, directory: &str) -> io::Result<Vec<FileEntry>>;
    /// Opens a file for writing. Creates it if it is missing, and keeps its content otherwise.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Renames a file. Replaces another file of that name atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all creations, renames and removals so far survive power loss.
    fn sync_directory(&self) -> io::Result<()>;
    /// The room on its file system.
    fn space(&self) -> io::Result<Space>;
}

/// An open file of a spool directory.
pub trait DiskFile {
    /// Writes all of `bytes` at `offset`. After an error any part of them may be written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all of `pieces`, one after the other, at `offset`. After an error any part of them may be
    /// written.
    fn write_pieces_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes at `offset`; 0 means the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes the file end after `size` bytes.
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Returns how many bytes the file system has allocated to the file in addition to its length.
    fn preallocated(&self) -> io::Result<u64>;
    /// Makes all writes so far survive power loss.
    fn sync(&self) -> io::Result<()>;
    /// Keeps other users from reading the file, independent of its mode so far.
    fn make_private(&self) -> io::Result<()>;
    /// Returns the time of the last write.
    fn modified(&self) -> io::Result<Timestamp>;
    /// Makes it count as last written to at `time`.
    fn set_modified(&self, time: Timestamp) -> io::Result<()>;
}

/// Pieces of one write: Linux accepts as many (`IOV_MAX`).
const PIECES_MAX: usize = 1024;

/// Bytes of a block in `st_blocks`, on each file system.
const STAT_BLOCK: u64 = 512;

/// Threads that list a directory, and the number of files that do not justify another thread.
const LISTERS: usize = 4;
const LISTED_AT_ONCE: usize = 500;

/// A directory of the file system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// Opens the directory at `path`, which must exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        let directory = Self { path: path.to_owned(), handle: File::open(path)? };
        if let Err(error) = directory.create_subdirectories() {
            // The disk may be full or read-only: operations that need the subdirectories retry.
            tracing::debug!("cannot create the subdirectories of the spool: {error}; trying again on demand");
        }
        Ok(directory)
    }
}

impl Disk for Directory {
    type File = File;

    fn list(&self) -> io::Result<Vec<FileEntry>> {
        let files = plain_files(&self.path)?;
        // Most of the time of a start goes into asking for the lengths of thousands of files.
        let most = files.len().div_ceil(LISTERS).max(LISTED_AT_ONCE);
        thread::scope(|scope| {
            let listers: Vec<_> = files.chunks(most).map(|files| scope.spawn(|| entries(files))).collect();
            let failed = |_| Err(io::Error::other("a thread that lists files has failed"));
            let lists: io::Result<Vec<_>> =
                listers.into_iter().map(|lister| lister.join().unwrap_or_else(failed)).collect();
            Ok(lists?.concat())
        })
    }

    fn list_in(&self, directory: &str) -> io::Result<Vec<FileEntry>> {
        let files = match plain_files(&self.path.join(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let within = |entry: FileEntry| FileEntry { name: format!("{directory}/{}", entry.name), ..entry };
        Ok(entries(&files)?.into_iter().map(within).collect())
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let path = self.path.join(name);
        let opened = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create_subdirectories().and_then(|()| options.open(&path))
            }
            other => other,
        };
        opened.map_err(|error| not_created(error, &self.path))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        File::open(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, path) = (self.path.join(from), self.path.join(to));
        match std::fs::rename(&from, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.contains('/') => {
                let created = self.create_subdirectories().map_err(|error| not_created(error, &self.path));
                created.and_then(|()| std::fs::rename(&from, &path))
            }
            other => other,
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space::from(&rustix::fs::fstatvfs(&self.handle)?))
    }
}

/// The error of a file that could not be created in `directory`, with its cause in words where the number
/// alone misleads.
pub fn not_created(error: io::Error, directory: &Path) -> io::Error {
    let has_no_inodes = || Space::query(directory).is_ok_and(|space| space.free_inodes == Some(0));
    if error.kind() == io::ErrorKind::StorageFull && has_no_inodes() {
        let path = directory.display();
        return io::Error::new(error.kind(), format!("no inodes left on the file system of {path}"));
    }
    error
}

impl Directory {
    /// Creates the subdirectories for damaged and newer files.
    fn create_subdirectories(&self) -> io::Result<()> {
        for name in super::name::SUBDIRECTORIES {
            match std::fs::DirBuilder::new().mode(0o700).create(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn plain_files(directory: &Path) -> io::Result<Vec<DirEntry>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry);
        }
    }
    Ok(files)
}

fn entries(files: &[DirEntry]) -> io::Result<Vec<FileEntry>> {
    let mut entries = Vec::with_capacity(files.len());
    for file in files {
        let Ok(name) = file.file_name().into_string() else { continue };
        let metadata = file.metadata()?;
        entries.push(FileEntry { name, size: metadata.len(), modified: modified_of(&metadata)? });
    }
    Ok(entries)
}

fn modified_of(metadata: &Metadata) -> io::Result<Timestamp> {
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp::from_unix(modified))
}

/// True if the disk, or the quota of this user, has no room left.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn write_pieces_at(&self, pieces: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let count = match rustix::io::pwritev(self, rest.get(..PIECES_MAX).unwrap_or(rest), offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            IoSlice::advance_slices(&mut rest, count);
            offset += u64::try_from(count).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn preallocated(&self) -> io::Result<u64> {
        let metadata = self.metadata()?;
        Ok(metadata.blocks().saturating_mul(STAT_BLOCK).saturating_sub(metadata.len()))
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn make_private(&self) -> io::Result<()> {
        let mode = self.metadata()?.mode();
        let private = mode & 0o700;
        if mode & 0o777 == private { Ok(()) } else { self.set_permissions(Permissions::from_mode(private)) }
    }

    fn modified(&self) -> io::Result<Timestamp> {
        modified_of(&self.metadata()?)
    }

    fn set_modified(&self, time: Timestamp) -> io::Result<()> {
        File::set_modified(self, UNIX_EPOCH + Duration::from_nanos(time.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_written_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let file = Directory::open(directory.path()).unwrap().create("pieces").unwrap();
        let number = |index: usize| u8::try_from(index % 251).unwrap();
        let pieces: Vec<Vec<u8>> = (0..3 * PIECES_MAX).map(|index| vec![number(index); index % 5]).collect();
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        file.write_pieces_at(&[b"header"], 0).unwrap();
        file.write_pieces_at(&slices, 6).unwrap();
        let written = std::fs::read(directory.path().join("pieces")).unwrap();
        assert_eq!(written, [b"header", pieces.concat().as_slice()].concat());
    }

    #[test]
    fn space_allocated_ahead_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let file = Directory::open(directory.path()).unwrap().create("grows").unwrap();
        file.write_pieces_at(&[b"start"], 0).unwrap();
        assert!(file.preallocated().unwrap() < 1 << 20);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 2 << 20).unwrap();
        assert!((1 << 20..3 << 20).contains(&file.preallocated().unwrap()));
    }
}
