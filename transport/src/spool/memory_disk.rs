//! A disk in memory that fails as real ones do: it loses unsynced data, runs full, tears writes and refuses
//! reads.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use crate::datagram::Timestamp;
use crate::spool::disk::{Disk, DiskFile, FileEntry, Space};

#[derive(Debug, Default)]
struct FileContent {
    bytes: RefCell<Vec<u8>>,
    synced: RefCell<Vec<u8>>,
    modified: Cell<Timestamp>,
    /// Length up to which space is allocated, if that is more than there is content.
    allocated: Cell<u64>,
    /// Reads that touch these bytes fail with EIO.
    unreadable: RefCell<Range<usize>>,
}

type Names = BTreeMap<String, Rc<FileContent>>;

/// A directory that lives in memory. Clones show the same directory.
#[derive(Clone, Debug)]
pub(crate) struct MemoryDisk {
    now: Rc<RefCell<Names>>,
    synced: Rc<RefCell<Names>>,
    capacity: Rc<Cell<u64>>,
    files_max: Rc<Cell<usize>>,
    failing: Rc<Cell<bool>>,
    /// Changes that still succeed.
    changes_left: Rc<Cell<usize>>,
    /// Size of the file system; `None` for the capacity.
    total: Rc<Cell<Option<u64>>>,
    read_only: Rc<Cell<bool>>,
    /// No directory can be made.
    flat: Rc<Cell<bool>>,
    /// Bytes of removed files that do not count as free yet.
    unfreed: Rc<Cell<u64>>,
    frees_late: Rc<Cell<bool>>,
    preallocates: Rc<Cell<bool>>,
    /// Bytes that are reported as free and refused, as by a quota.
    promised: Rc<Cell<u64>>,
    opened: Rc<RefCell<Vec<String>>>,
    wall: Rc<Cell<Timestamp>>,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self {
            now: Rc::default(),
            synced: Rc::default(),
            capacity: Rc::new(Cell::new(u64::MAX)),
            files_max: Rc::new(Cell::new(usize::MAX)),
            failing: Rc::default(),
            changes_left: Rc::new(Cell::new(usize::MAX)),
            total: Rc::default(),
            read_only: Rc::default(),
            flat: Rc::default(),
            unfreed: Rc::default(),
            frees_late: Rc::default(),
            preallocates: Rc::default(),
            promised: Rc::default(),
            opened: Rc::default(),
            wall: Rc::default(),
        }
    }
}

/// An open file of a [`MemoryDisk`].
#[derive(Debug)]
pub(crate) struct MemoryFile {
    content: Rc<FileContent>,
    disk: MemoryDisk,
    is_writable: bool,
}

fn size(length: usize) -> u64 {
    length.try_into().unwrap()
}

fn index(offset: u64) -> usize {
    offset.try_into().unwrap()
}

impl MemoryDisk {
    /// A second disk with the same files, all of them synced.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::default();
        for (name, content) in self.now.borrow().iter() {
            copy.put(name, content.bytes.borrow().clone());
        }
        copy
    }

    /// Puts a synced file there.
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) {
        let content =
            FileContent { bytes: bytes.clone().into(), synced: bytes.into(), ..FileContent::default() };
        self.now.borrow_mut().insert(name.to_owned(), Rc::new(content));
        *self.synced.borrow_mut() = self.now.borrow().clone();
    }

    /// Discards everything that was not synced.
    pub(crate) fn lose_power(&self) {
        *self.now.borrow_mut() = self.synced.borrow().clone();
        for content in self.now.borrow().values() {
            let synced = content.synced.borrow().clone();
            *content.bytes.borrow_mut() = synced;
        }
    }

    /// Limits the disk to `bytes`. A write beyond the limit is torn and fails with ENOSPC.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.capacity.set(bytes);
    }

    /// Limits the number of files. One more fails with ENOSPC.
    pub(crate) fn set_files_max(&self, files: usize) {
        self.files_max.set(files);
    }

    /// Sets the size of the file system, independent of the capacity.
    pub(crate) fn set_total(&self, bytes: u64) {
        self.total.set(Some(bytes));
    }

    /// Makes the disk read-only or writable, as by a remount.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.read_only.set(read_only);
    }

    /// Refuses files in subdirectories, or accepts them again: they are missing, and no inode is left for
    /// them.
    pub(crate) fn set_flat(&self, flat: bool) {
        self.flat.set(flat);
    }

    /// Counts the room of removed files as free only after [`Self::free_now`], as on XFS.
    pub(crate) fn free_late(&self) {
        self.frees_late.set(true);
    }

    /// Allocates space ahead of growing files until they are closed, as XFS does. A full disk still gives it
    /// to writes.
    pub(crate) fn preallocate(&self) {
        self.preallocates.set(true);
    }

    /// Reports `bytes` as free that writes do not get, as with a quota.
    pub(crate) fn promise(&self, bytes: u64) {
        self.promised.set(bytes);
    }

    /// The room of all removed files counts as free.
    pub(crate) fn free_now(&self) {
        self.unfreed.set(0);
    }

    /// Makes every write and read fail with EIO, or succeed again.
    pub(crate) fn set_failing(&self, failing: bool) {
        self.failing.set(failing);
    }

    /// Lets this many changes succeed, and then none.
    pub(crate) fn set_changes_left(&self, changes: usize) {
        self.changes_left.set(changes);
    }

    /// The number of changes that still succeed.
    pub(crate) fn changes_left(&self) -> usize {
        self.changes_left.get()
    }

    /// Makes these bytes of a file unreadable.
    pub(crate) fn set_unreadable(&self, name: &str, bytes: Range<usize>) {
        *self.now.borrow()[name].unreadable.borrow_mut() = bytes;
    }

    /// Bytes of all files.
    pub(crate) fn used(&self) -> u64 {
        self.now.borrow().values().map(|content| size(content.bytes.borrow().len())).sum()
    }

    /// The names of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.now.borrow().keys().cloned().collect()
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        self.now.borrow()[name].bytes.borrow().clone()
    }

    /// Flips the bits of `mask` in one byte.
    pub(crate) fn flip(&self, name: &str, byte: usize, mask: u8) {
        self.now.borrow()[name].bytes.borrow_mut()[byte] ^= mask;
    }

    /// Cuts a file short.
    pub(crate) fn cut(&self, name: &str, length: usize) {
        self.now.borrow()[name].bytes.borrow_mut().truncate(length);
    }

    /// Files that are written to from now on are modified at this time.
    pub(crate) fn set_time(&self, wall: Timestamp) {
        self.wall.set(wall);
    }

    /// The names of the files opened for reading so far.
    pub(crate) fn opened(&self) -> Vec<String> {
        self.opened.borrow().clone()
    }

    /// Bytes that no file has.
    fn unallocated(&self) -> u64 {
        let ahead: u64 = self.now.borrow().values().map(|content| content.ahead()).sum();
        self.capacity.get().saturating_sub(self.used() + ahead + self.unfreed.get())
    }

    fn entries(&self, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<FileEntry>> {
        self.check()?;
        let names = self.now.borrow();
        let entry = |(name, content): (&String, &Rc<FileContent>)| {
            let entry = FileEntry {
                name: name.clone(),
                size: size(content.bytes.borrow().len()),
                modified: content.modified.get(),
            };
            is_wanted(name).then_some(entry)
        };
        Ok(names.iter().filter_map(entry).collect())
    }

    fn check_new(&self, name: &str) -> io::Result<()> {
        self.check_change()?;
        let is_refused = self.flat.get() && name.contains('/');
        if is_refused { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
    }

    fn check_change(&self) -> io::Result<()> {
        self.check()?;
        self.changes_left.set(self.changes_left.get().checked_sub(1).ok_or(rustix::io::Errno::IO)?);
        if self.read_only.get() { Err(rustix::io::Errno::ROFS.into()) } else { Ok(()) }
    }

    fn check(&self) -> io::Result<()> {
        if self.failing.get() { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
    }
}

impl FileContent {
    /// Bytes that are allocated behind the end.
    fn ahead(&self) -> u64 {
        self.allocated.get().saturating_sub(size(self.bytes.borrow().len()))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if self.is_writable {
            self.content.allocated.set(0);
        }
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn list(&self) -> io::Result<Vec<FileEntry>> {
        self.entries(|name| !name.contains('/'))
    }

    fn list_in(&self, directory: &str) -> io::Result<Vec<FileEntry>> {
        self.entries(|name| name.split_once('/').is_some_and(|(first, _)| first == directory))
    }

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        self.check_new(name)?;
        let mut names = self.now.borrow_mut();
        if names.len() >= self.files_max.get() && !names.contains_key(name) {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        let content = names.entry(name.to_owned()).or_default().clone();
        Ok(MemoryFile { content, disk: self.clone(), is_writable: true })
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        self.check()?;
        let content = self.now.borrow().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        self.opened.borrow_mut().push(name.to_owned());
        Ok(MemoryFile { content, disk: self.clone(), is_writable: false })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_new(to)?;
        let content = self.now.borrow_mut().remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.now.borrow_mut().insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_change()?;
        let content = self.now.borrow_mut().remove(name).ok_or(io::ErrorKind::NotFound)?;
        if self.frees_late.get() {
            self.unfreed.set(self.unfreed.get() + size(content.bytes.borrow().len()));
        }
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.check()?;
        *self.synced.borrow_mut() = self.now.borrow().clone();
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        self.check()?;
        let files = self.now.borrow().len();
        Ok(Space {
            total: self.total.get().unwrap_or(self.capacity.get()),
            free: self.unallocated().saturating_add(self.promised.get()),
            free_inodes: Some(size(self.files_max.get().saturating_sub(files))),
            is_read_only: self.read_only.get(),
        })
    }
}

impl DiskFile for MemoryFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.check_change()?;
        let start = index(offset);
        let inside = self.content.bytes.borrow().len().saturating_sub(start);
        let room = self.disk.capacity.get().saturating_sub(self.disk.used());
        let written = bytes.len().min(inside + usize::try_from(room).unwrap_or(usize::MAX >> 1));
        let mut content = self.content.bytes.borrow_mut();
        if content.len() < start + written {
            content.resize(start + written, 0);
        }
        content[start..start + written].copy_from_slice(&bytes[..written]);
        self.content.modified.set(self.disk.wall.get());
        let length = size(content.len());
        drop(content);
        if self.disk.preallocates.get() && length > self.content.allocated.get() {
            self.content.allocated.set(length + length.min(self.disk.unallocated()));
        }
        if written < bytes.len() { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
    }

    fn write_pieces_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_at(&pieces.concat(), offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.check()?;
        let content = self.content.bytes.borrow();
        let rest = content.get(index(offset)..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        let unreadable = self.content.unreadable.borrow();
        if index(offset) < unreadable.end && unreadable.start < index(offset) + count {
            return Err(rustix::io::Errno::IO.into());
        }
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.disk.check_change()?;
        self.content.bytes.borrow_mut().truncate(index(size));
        Ok(())
    }

    fn preallocated(&self) -> io::Result<u64> {
        Ok(self.content.ahead())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.check()?;
        *self.content.synced.borrow_mut() = self.content.bytes.borrow().clone();
        Ok(())
    }

    fn make_private(&self) -> io::Result<()> {
        self.disk.check()
    }

    fn modified(&self) -> io::Result<Timestamp> {
        self.disk.check()?;
        Ok(self.content.modified.get())
    }

    fn set_modified(&self, time: Timestamp) -> io::Result<()> {
        self.disk.check_change()?;
        self.content.modified.set(time);
        Ok(())
    }
}
