//! SIGBUS in the mappings of the journal: a page of the file cannot be accessed.
//!
//! The causes are a truncated file, a copy-on-write file system without room for the new copy of a page, and
//! a failed disk. The handler replaces the whole mapping by memory, filled with all data that can still be
//! read from the file. The thread then continues. Any other SIGBUS ends the process as usual.
//!
//! The handler calls nothing but system calls and atomics (signal-safety(7)).

#![expect(unsafe_code, reason = "a signal handler that changes mappings")]

use core::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap_fixed, munmap};

use crate::limits::JOURNAL_MAPPINGS_MAX;

/// `si_code` of a page that is not in the file (sigaction(2)).
const BUS_ADRERR: c_int = 2;

const PAGE: usize = 4096;

/// The storage behind the pages of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Backing {
    /// The file.
    File,
    /// Memory of this process, with the complete content of the file.
    Memory,
    /// Memory of this process. Unreadable parts of the file are zeros.
    Incomplete,
}

const FREE: u8 = 0;
const CLAIMED: u8 = 1;
const IN_FILE: u8 = 2;
const MOVING: u8 = 3;
const IN_MEMORY: u8 = 4;
const INCOMPLETE: u8 = 5;

/// A mapping that the handler protects.
#[derive(Debug)]
struct MappedArea {
    state: AtomicU8,
    start: AtomicUsize,
    length: AtomicUsize,
    fd: AtomicI32,
    offset: AtomicU64,
}

static AREAS: [MappedArea; JOURNAL_MAPPINGS_MAX] = [const { MappedArea::free() }; JOURNAL_MAPPINGS_MAX];

/// The protection of a mapping, until dropped.
#[derive(Debug)]
pub(super) struct MappingGuard {
    area: &'static MappedArea,
}

impl MappingGuard {
    /// Protects the `length` bytes of memory at `start`, which map `file` from `offset` on.
    ///
    /// # Safety
    ///
    /// The mapping and the file stay unchanged until the guard is dropped, and all of that memory is plain
    /// data.
    pub(super) unsafe fn protect(
        start: *mut u8,
        length: usize,
        file: &File,
        offset: u64,
    ) -> io::Result<Self> {
        install()?;
        let is_claimed = |area: &&MappedArea| {
            area.state.compare_exchange(FREE, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let area = AREAS.iter().find(is_claimed).ok_or(io::ErrorKind::QuotaExceeded)?;
        area.start.store(start.addr(), Ordering::Relaxed);
        area.length.store(length, Ordering::Relaxed);
        area.fd.store(file.as_raw_fd(), Ordering::Relaxed);
        area.offset.store(offset, Ordering::Relaxed);
        area.state.store(IN_FILE, Ordering::Release);
        start.expose_provenance();
        Ok(Self { area })
    }

    /// Returns the current backing of the pages.
    pub(super) fn backing(&self) -> Backing {
        match self.area.state.load(Ordering::Acquire) {
            IN_MEMORY => Backing::Memory,
            INCOMPLETE => Backing::Incomplete,
            _ => Backing::File,
        }
    }

    /// Replaces the pages of the file by memory, unless done before.
    pub(super) fn move_to_memory(&self) -> io::Result<()> {
        self.area.move_to_memory().map_err(io::Error::from)
    }
}

impl Drop for MappingGuard {
    fn drop(&mut self) {
        self.area.state.store(FREE, Ordering::Release);
    }
}

impl MappedArea {
    const fn free() -> Self {
        Self {
            state: AtomicU8::new(FREE),
            start: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
            fd: AtomicI32::new(-1),
            offset: AtomicU64::new(0),
        }
    }

    fn holds(&self, address: usize) -> bool {
        let is_used = self.state.load(Ordering::Acquire) >= IN_FILE;
        let start = self.start.load(Ordering::Relaxed);
        is_used && address.checked_sub(start).is_some_and(|at| at < self.length.load(Ordering::Relaxed))
    }

    /// Signal-safe. Concurrent callers spin until the first one is done.
    fn move_to_memory(&self) -> rustix::io::Result<()> {
        loop {
            match self.state.compare_exchange(IN_FILE, MOVING, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let moved = self.replace();
                    let state = match moved {
                        Ok(true) => IN_MEMORY,
                        Ok(false) => INCOMPLETE,
                        Err(_) => IN_FILE,
                    };
                    self.state.store(state, Ordering::Release);
                    return moved.map(drop);
                }
                Err(MOVING) => core::hint::spin_loop(),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Replaces the mapping. Returns `true` if the memory holds all data of the file.
    fn replace(&self) -> rustix::io::Result<bool> {
        let length = self.length.load(Ordering::Relaxed);
        let place = core::ptr::with_exposed_provenance_mut::<c_void>(self.start.load(Ordering::Relaxed));
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new memory at a place that the kernel chooses.
        let memory = unsafe { mmap_anonymous(core::ptr::null_mut(), length, access, MapFlags::PRIVATE)? };
        // SAFETY: the memory just made is as long, zeroed, and nobody else knows it.
        let bytes = unsafe { core::slice::from_raw_parts_mut(memory.cast::<u8>(), length) };
        let is_whole = self.copy(bytes);
        // SAFETY: the new memory replaces a mapping of the same length. The creator of the guard guarantees
        // that it exists and is plain data. The replacement is atomic.
        let moved = unsafe { mremap_fixed(memory, length, length, MremapFlags::MAYMOVE, place) };
        if let Err(error) = moved {
            // SAFETY: the memory made above, which nothing refers to any more.
            unsafe { munmap(memory, length)? };
            return Err(error);
        }
        Ok(is_whole)
    }

    /// Copies the file into `memory`, without unreadable pages. Returns `true` if everything was read.
    fn copy(&self, memory: &mut [u8]) -> bool {
        // SAFETY: the file stays open for as long as the guard lives.
        let file = unsafe { BorrowedFd::borrow_raw(self.fd.load(Ordering::Relaxed)) };
        let offset = self.offset.load(Ordering::Relaxed);
        let (mut done, mut is_whole) = (0, true);
        while let Some(rest) = memory.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            match rustix::io::pread(file, rest, at) {
                Ok(0) => return false,
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    is_whole = false;
                    done = (done / PAGE + 1) * PAGE;
                }
            }
        }
        is_whole
    }
}

/// Installs the handler for the process, once.
fn install() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut outcome = Ok(());
    INSTALL.call_once(|| {
        // Use the signal stack if the thread has one: its own may be exhausted.
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
        let action = SigAction::new(SigHandler::SigAction(on_bus_error), flags, SigSet::empty());
        // SAFETY: the handler calls nothing that is not signal-safe.
        outcome = unsafe { sigaction(Signal::SIGBUS, &action) }.map(drop);
    });
    outcome.map_err(io::Error::from)
}

extern "C" fn on_bus_error(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo; of SIGBUS with this code it holds an address.
    let address = unsafe { ((*info).si_code == BUS_ADRERR).then(|| (*info).si_addr().addr()) };
    let area = address.and_then(|address| AREAS.iter().find(|area| area.holds(address)));
    if area.is_none_or(|area| area.move_to_memory().is_err()) {
        restore_default_action();
    }
}

/// Restores the default action of the signal, which ends the process after the handler returns.
fn restore_default_action() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler of ours is called any more.
    let _never_fails = unsafe { sigaction(Signal::SIGBUS, &default) };
    let _never_fails = raise(Signal::SIGBUS);
}
