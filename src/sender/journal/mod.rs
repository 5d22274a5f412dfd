//! The receive journal: datagrams between the sockets of the kernel and the spool, in a file that survives a
//! kill.
//!
//! The file holds received and encoded datagrams that are neither acknowledged nor in a segment. It is in the
//! runtime directory (memory) or else in the spool directory, under the name `intake`. A killed process loses
//! none of these datagrams: the next run recovers them first. A reboot may lose them. If the file fails, the
//! journal continues in the memory of the process ([`bus_error`], [`location`]).
//!
//! | offset | width | part |
//! |---|---|---|
//! | 0 | 4096 | checkpoint: positions and offsets ([`checkpoint`]) |
//! | 4096 | 12 MiB at most | slots: datagrams as recvmmsg returned them ([`slots`]) |
//! | after that | 12 MiB | ring: encoded batches ([`ring`]) |
//!
//! Only the machine and the boot that wrote the file read it. Numbers are in native byte order.

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
pub(crate) use recvmmsg::{enable_ancillary_data, socket_memory};
pub(crate) use ring::{Ring, RingEntry};
use rustix::fs::{FallocateFlags, IFlags, MemfdFlags, ioctl_getflags, ioctl_setflags};
pub(crate) use slots::{SlotEntry, Slots};

use crate::host::files::atomic_file::open_regular;
use crate::limits::JOURNAL_RING;
pub(crate) use crate::sender::journal::checkpoint::Checkpoint;
use crate::sender::journal::checkpoint::JournalKind;
use crate::sender::journal::layout::{file_len, ring_at, slots_at};

/// The receive journal of a run.
#[derive(Debug)]
pub(crate) struct ReceiveJournal {
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) slots: Slots,
    pub(crate) ring: Ring,
}

/// The state in which a run finds the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JournalState {
    /// The journal was created now.
    New,
    /// An intact checkpoint, with its content.
    Intact(PreviousRun),
    /// The file was truncated or damaged, or belongs to another stream. Its ring may still hold batches.
    Damaged,
}

/// The content of an intact checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PreviousRun {
    /// It was written in this boot, so that the checkpoint can be trusted.
    pub(crate) same_boot: bool,
    /// The run that wrote it; `RunId::NONE` if unknown.
    pub(crate) run: RunId,
    /// The position after the last assigned one.
    pub(crate) next: Position,
    /// The position up to which everything is acknowledged.
    pub(crate) acknowledged: Position,
}

impl ReceiveJournal {
    /// Opens the journal at `path` for `stream`. Creates it if it does not exist or belongs to another
    /// stream. The datagrams in it stay as they are, so that an interrupted start leaves them to the next
    /// one.
    pub(crate) fn open(path: &Path, stream: StreamId, boot: [u8; 16]) -> io::Result<(Self, JournalState)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = open_regular(&mut options, path)?;
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another nf-sender uses it"));
        }
        Self::map_parts(file, stream, boot)
    }

    /// Creates a journal in memory, which ends with the process, for use where no file can be created.
    pub(crate) fn in_memory(stream: StreamId) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("intake", MemfdFlags::CLOEXEC)?;
        Ok(Self::map_parts(file.into(), stream, [0; 16])?.0)
    }

    /// Copies the journal at `path`, whose file cannot be written, into memory with its datagrams.
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
        let checkpoint = Checkpoint::map(file.clone())?;
        let found = match checkpoint.kind(stream) {
            _ if old_len == 0 => JournalState::New,
            // If part of the ring is cut off, the checkpoint shows which datagrams are missing.
            JournalKind::Ours if old_len >= ring_at() && checkpoint.is_intact() => {
                JournalState::Intact(PreviousRun {
                    same_boot: checkpoint.boot() == boot,
                    run: checkpoint.run(),
                    next: checkpoint.next(),
                    acknowledged: checkpoint.acknowledged(),
                })
            }
            _ => JournalState::Damaged,
        };
        checkpoint.claim(stream);
        let mut slots = Slots::map(file.clone(), slots_at())?;
        if !matches!(found, JournalState::Intact(_)) {
            slots.clear();
        }
        let ring = Ring::map(file, ring_at(), JOURNAL_RING)?;
        Ok((Self { checkpoint: Arc::new(checkpoint), slots, ring }, found))
    }

    /// Recovers the batches of an earlier run that end above `floor`, which no segment holds. If `trusted`,
    /// the checkpoint shows where they are. Otherwise, and if the checkpoint does not lead to all of them,
    /// searches the ring.
    pub(crate) fn recover_ring(
        &mut self,
        stream: StreamId,
        trusted: bool,
        floor: Position,
    ) -> Vec<RingEntry> {
        let hints = trusted.then(|| (self.checkpoint.ring_tail(), self.checkpoint.next()));
        let entries = self.ring.recover_all(stream, hints, floor);
        self.checkpoint.set_ring_tail(entries.first().map_or(self.ring.head(), |first| first.start));
        entries
    }

    /// Empties the ring, whose batches are not needed.
    pub(crate) fn reset_ring(&mut self) {
        self.checkpoint.set_ring_tail(self.ring.head());
    }
}

/// Sets the length of `file` and allocates its blocks. Its length was `old_len`.
fn prepare(file: &File, old_len: u64) -> io::Result<()> {
    if old_len == 0 {
        // On a copy-on-write file system, allocated blocks do not serve later writes. Most support NOCOW for
        // one file; others return an error.
        let _unsupported = ioctl_getflags(file).and_then(|flags| ioctl_setflags(file, flags | IFlags::NOCOW));
    }
    if old_len != file_len() {
        file.set_len(file_len())?;
    }
    // Allocate now, so that no later write fails for lack of space.
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, file_len()) {
        // Recovering the previous run matters more than the allocation. Pages that fail later are noticed.
        Err(_) if old_len == file_len() => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

/// Reads the boot id of the machine, which changes when memory is lost.
pub(crate) fn boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&hex, 16).map(u128::to_ne_bytes).map_err(io::Error::other)
}

/// Removes the journal after an orderly stop, which has moved everything into segments.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests;
