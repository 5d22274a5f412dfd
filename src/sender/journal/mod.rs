//! The intake: datagrams between the kernel's socket and the spool, in a file that outlives the process.
//!
//! What recvmmsg returned and what was encoded since, but is neither acknowledged nor in a segment, lies in one
//! file: in the runtime directory (memory), else in the spool directory. A process that is killed loses nothing
//! of it; the next one takes it up first. A reboot may lose it. Where the file fails, the intake goes on in the memory
//! of the process ([`bus_error`], [`location`]).
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
mod layout;
mod location;
mod mapping;
pub(crate) mod newer;
mod recvmmsg;
mod ring;
mod shared_file;
mod slots;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

pub(crate) use bus_error::Backing;
pub(crate) use location::JournalLocation;
use nf_transport_core::sequence::{Position, RunId, StreamId};
pub(crate) use recvmmsg::{enable_ancillary_data, kernel_drops};
pub(crate) use ring::{Ring, RingEntry};
use rustix::fs::{FallocateFlags, IFlags, MemfdFlags, ioctl_getflags, ioctl_setflags};
pub(crate) use slots::{SlotEntry, Slots};

use crate::host::files::atomic_file::open_regular;
use crate::limits::JOURNAL_RING;
pub(crate) use crate::sender::journal::checkpoint::Checkpoint;
use crate::sender::journal::checkpoint::JournalKind;
use crate::sender::journal::layout::{file_len, ring_at, slots_at};

/// The intake of a run.
#[derive(Debug)]
pub(crate) struct ReceiveJournal {
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) slots: Slots,
    pub(crate) ring: Ring,
}

/// What an earlier run left in the intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JournalState {
    /// Nothing: the intake was made now.
    New,
    /// Marks that are whole, and what they say.
    Intact(PreviousRun),
    /// A file that was truncated or damaged, or another stream's. Batches may still be found in its ring.
    Damaged,
}

/// What whole marks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PreviousRun {
    /// Whether it was left in this boot, so that its marks are to be believed.
    pub(crate) same_boot: bool,
    /// The run that left it; `RunId::NONE` if that is not known.
    pub(crate) run: RunId,
    /// The position after the last one given out.
    pub(crate) next: Position,
    /// Acknowledged up to here.
    pub(crate) acknowledged: Position,
}

impl ReceiveJournal {
    /// Opens the intake at `path` for `stream`, making it if it is not there or belongs to something else. What
    /// is left stays as it is: a start that is cut short here leaves it to the next one.
    pub(crate) fn open(path: &Path, stream: StreamId, boot: [u8; 16]) -> io::Result<(Self, JournalState)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = open_regular(&mut options, path)?;
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another nf-sender has it in use"));
        }
        Self::map_parts(file, stream, boot)
    }

    /// An intake that ends with the process: better than none where no file can be had.
    pub(crate) fn in_memory(stream: StreamId) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("intake", MemfdFlags::CLOEXEC)?;
        Ok(Self::map_parts(file.into(), stream, [0; 16])?.0)
    }

    /// The intake at `path`, whose file cannot be written, copied into memory with what an earlier run left in it.
    pub(crate) fn copy_to_memory(
        path: &Path,
        stream: StreamId,
        boot: [u8; 16],
    ) -> io::Result<(Self, JournalState)> {
        let copy = File::from(rustix::fs::memfd_create("intake", MemfdFlags::CLOEXEC)?);
        io::copy(&mut File::open(path)?, &mut &copy)?;
        Self::map_parts(copy, stream, boot)
    }

    fn map_parts(file: File, stream: StreamId, boot: [u8; 16]) -> io::Result<(Self, JournalState)> {
        let old_len = file.metadata()?.len();
        prepare(&file, old_len)?;
        let file = Arc::new(file);
        let marks = Checkpoint::map(file.clone())?;
        let found = match marks.kind(stream) {
            _ if old_len == 0 => JournalState::New,
            // Where part of the ring is cut off, the marks say what is missing.
            JournalKind::Ours if old_len >= ring_at() && marks.are_whole() => {
                JournalState::Intact(PreviousRun {
                    same_boot: marks.boot() == boot,
                    run: marks.run(),
                    next: marks.next(),
                    acknowledged: marks.acknowledged(),
                })
            }
            _ => JournalState::Damaged,
        };
        marks.claim(stream);
        let mut slots = Slots::map(file.clone(), slots_at())?;
        if !matches!(found, JournalState::Intact(_)) {
            slots.clear();
        }
        let ring = Ring::map(file, ring_at(), JOURNAL_RING)?;
        Ok((Self { checkpoint: Arc::new(marks), slots, ring }, found))
    }

    /// Recovers what an earlier run left in the ring and no segment holds: batches that end above `floor`. Where the
    /// marks are `trusted`, they say where to find these; else, and where that does not lead to all of them, the ring
    /// is searched.
    pub(crate) fn recover_ring(
        &mut self,
        stream: StreamId,
        trusted: bool,
        floor: Position,
    ) -> Vec<RingEntry> {
        let marks = trusted.then(|| (self.checkpoint.ring_tail(), self.checkpoint.next()));
        let held = self.ring.recover_all(stream, marks, floor);
        self.checkpoint.set_ring_tail(held.first().map_or(self.ring.head(), |first| first.start));
        held
    }

    /// Begins the ring anew: what lies in it is of no use.
    pub(crate) fn reset_ring(&mut self) {
        self.checkpoint.set_ring_tail(self.ring.head());
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
