//! A memory mapping of one part of the journal file. It stays usable if the file fails
//! ([`crate::sender::journal::bus_error`]).

#![expect(unsafe_code, reason = "a mapping is made")]

use std::io;

use memmap2::{MmapOptions, MmapRaw};

use crate::sender::journal::bus_error::{Backing, MappingGuard};
use crate::sender::journal::shared_file::SharedFile;

/// A mapped part of the journal file.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Must be dropped before the mapping, and the file after it. Fields are dropped in order.
    guard: MappingGuard,
    map: MmapRaw,
    /// Holds the file lock, too.
    _file: SharedFile,
}

impl Mapping {
    /// Maps `length` bytes from `offset` on, a multiple of the page size. No other mapping may cover them.
    pub(super) fn map(file: SharedFile, offset: u64, length: usize) -> io::Result<Self> {
        let map = MmapOptions::new().offset(offset).len(length).map_raw(&*file)?;
        // SAFETY: mapping and file live as long as the guard, and hold plain bytes and numbers only.
        let guard = unsafe { MappingGuard::protect(map.as_mut_ptr(), length, &file, offset)? };
        Ok(Self { guard, map, _file: file })
    }

    /// Returns the current backing of the pages.
    pub(super) fn backing(&self) -> Backing {
        self.guard.backing()
    }

    /// Moves the content to memory, as far as the file can be read.
    pub(super) fn move_to_memory(&self) -> io::Result<()> {
        self.guard.move_to_memory()
    }

    pub(super) fn as_mut_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is as long, and lives as long as `self`. The file is ours alone (mode 0600,
        // locked), and this part of it is changed only through `self`. Should another process write to it
        // nevertheless, its content is checked before use.
        unsafe { core::slice::from_raw_parts(self.map.as_ptr(), self.map.len()) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.map.as_mut_ptr(), self.map.len()) }
    }
}
