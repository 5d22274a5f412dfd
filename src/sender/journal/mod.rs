//! The intake: datagrams between the kernel's socket and the spool, in a file that outlives the process.
//!
//! What recvmmsg returned and what was encoded since, but is neither acknowledged nor in a segment, lies in one
//! file: in the runtime directory (memory), else in the spool directory. A process that is killed loses nothing
//! of it; the next one takes it up first. A reboot may lose it. Where the file fails, the intake goes on in the memory
//! of the process ([`bus_error`], [`place`]).
//!
//! | offset | width | part |
//! |---|---|---|
//! | 0 | 4096 | marks: where everything stands ([`marks`]) |
//! | 4096 | 12 MiB at most | slots: what recvmmsg fills ([`slots`]) |
//! | after that | 12 MiB | ring: encoded batches ([`ring`]) |
//!
//! The file is only ever read on the machine, and in the boot, that wrote it; numbers are in the machine's order.

mod bus_error;
mod checkpoint;
mod control;
mod header;
mod mapping;
pub(crate) mod newer;
mod place;
mod recvmmsg;
mod ring;
mod slots;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

pub(crate) use bus_error::Backing;
use nf_transport_core::sequence::{Position, RunId, StreamId};
pub(crate) use place::Place;
pub(crate) use recvmmsg::{ask_for_details, dropped};
pub(crate) use ring::{Held, Ring};
use rustix::fs::{FallocateFlags, IFlags, MemfdFlags, ioctl_getflags, ioctl_setflags};
pub(crate) use slots::{Entry, Slots};

use crate::host::files::atomic_file::open_regular;
use crate::limits::JOURNAL_RING;
use crate::sender::journal::checkpoint::Kind;
pub(crate) use crate::sender::journal::checkpoint::Marks;

/// The intake's file as its parts share it. Its lock lasts as long as any of them.
type SharedFile = Arc<File>;

/// The intake of a run.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) marks: Arc<Marks>,
    pub(crate) slots: Slots,
    pub(crate) ring: Ring,
}

/// What an earlier run left in the intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing: the intake was made now.
    New,
    /// Marks that are whole, and what they say.
    Left(Left),
    /// A file that was truncated or damaged, or another stream's. Batches may still be found in its ring.
    Damaged,
}

/// What whole marks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Whether it was left in this boot, so that its marks are to be believed.
    pub(crate) same_boot: bool,
    /// The run that left it; `RunId::NONE` if that is not known.
    pub(crate) run: RunId,
    /// The position after the last one given out.
    pub(crate) next: Position,
    /// Acknowledged up to here.
    pub(crate) acknowledged: Position,
}

impl Intake {
    /// Opens the intake at `path` for `stream`, making it if it is not there or belongs to something else. What
    /// is left stays as it is: a start that is cut short here leaves it to the next one.
    pub(crate) fn open(path: &Path, stream: StreamId, boot: [u8; 16]) -> io::Result<(Self, Found)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = open_regular(&mut options, path)?;
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another nf-sender has it in use"));
        }
        Self::lay_out(file, stream, boot)
    }

    /// An intake that ends with the process: better than none where no file can be had.
    pub(crate) fn in_memory(stream: StreamId) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("intake", MemfdFlags::CLOEXEC)?;
        Ok(Self::lay_out(file.into(), stream, [0; 16])?.0)
    }

    /// The intake at `path`, whose file cannot be written, copied into memory with what an earlier run left in it.
    pub(crate) fn copied(path: &Path, stream: StreamId, boot: [u8; 16]) -> io::Result<(Self, Found)> {
        let copy = File::from(rustix::fs::memfd_create("intake", MemfdFlags::CLOEXEC)?);
        io::copy(&mut File::open(path)?, &mut &copy)?;
        Self::lay_out(copy, stream, boot)
    }

    fn lay_out(file: File, stream: StreamId, boot: [u8; 16]) -> io::Result<(Self, Found)> {
        let old_len = file.metadata()?.len();
        prepare(&file, old_len)?;
        let file = Arc::new(file);
        let marks = Marks::map(file.clone())?;
        let found = match marks.kind(stream) {
            _ if old_len == 0 => Found::New,
            // Where part of the ring is cut off, the marks say what is missing.
            Kind::Ours if old_len >= ring_at() && marks.are_whole() => Found::Left(Left {
                same_boot: marks.boot() == boot,
                run: marks.run(),
                next: marks.next(),
                acknowledged: marks.acknowledged(),
            }),
            _ => Found::Damaged,
        };
        marks.claim(stream);
        let mut slots = Slots::map(file.clone(), slots_at())?;
        if !matches!(found, Found::Left(_)) {
            slots.clear();
        }
        let ring = Ring::map(file, ring_at(), JOURNAL_RING)?;
        Ok((Self { marks: Arc::new(marks), slots, ring }, found))
    }

    /// Recovers what an earlier run left in the ring and no segment holds: batches that end above `floor`. Where the
    /// marks are `trusted`, they say where to find these; else, and where that does not lead to all of them, the ring
    /// is searched.
    pub(crate) fn recover_ring(&mut self, stream: StreamId, trusted: bool, floor: Position) -> Vec<Held> {
        let marks = trusted.then(|| (self.marks.ring_tail(), self.marks.next()));
        let held = self.ring.recover_all(stream, marks, floor);
        self.marks.set_ring_tail(held.first().map_or(self.ring.head(), |first| first.start));
        held
    }

    /// Begins the ring anew: what lies in it is of no use.
    pub(crate) fn forget_ring(&mut self) {
        self.marks.set_ring_tail(self.ring.head());
    }
}

/// Gives `file`, which is `old_len` bytes long, its length and its room.
fn prepare(file: &File, old_len: u64) -> io::Result<()> {
    if old_len == 0 {
        // Where the file system copies on write, room that is taken now serves no later write. Most can do without
        // for one file; those that cannot say so.
        let _unsupported = ioctl_getflags(file).and_then(|flags| ioctl_setflags(file, flags | IFlags::NOCOW));
    }
    if old_len != file_len() {
        file.set_len(file_len())?;
    }
    // Room is taken now, so that no later write can fail for want of it.
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, file_len()) {
        // What the last run left is worth more than the room: it is read, and pages that fail are noticed.
        Err(_) if old_len == file_len() => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

fn slots_at() -> u64 {
    u64::try_from(checkpoint::LEN).unwrap_or(u64::MAX)
}

fn ring_at() -> u64 {
    slots_at() + u64::try_from(slots::total_len()).unwrap_or(u64::MAX)
}

/// Bytes of the file.
fn file_len() -> u64 {
    ring_at() + JOURNAL_RING
}

/// The id of this boot of the machine; it changes when memory is lost.
pub(crate) fn boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&hex, 16).map(u128::to_ne_bytes).map_err(io::Error::other)
}

/// Removes the intake after an orderly stop, which has put everything into segments.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests;
