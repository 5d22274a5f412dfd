//! The intake: datagrams between the kernel's socket and the spool, in a file that outlives the process.
//!
//! What recvmmsg returned and what was encoded since, but is neither acknowledged nor in a segment, lies in one
//! file: in the runtime directory (memory), else in the spool directory. A process that is killed loses nothing
//! of it; the next one takes it up first. A reboot may lose it.
//!
//! | offset | width | part |
//! |---|---|---|
//! | 0 | 4096 | marks: where everything stands ([`marks`]) |
//! | 4096 | 12 MiB at most | slots: what recvmmsg fills ([`slots`]) |
//! | after that | 12 MiB | ring: encoded batches ([`ring`]) |
//!
//! The file is only ever read on the machine, and in the boot, that wrote it; numbers are in the machine's order.

mod control;
mod marks;
mod recvmmsg;
mod ring;
mod slots;

pub(crate) use marks::Marks;
pub(crate) use recvmmsg::ask_for_details;
pub(crate) use ring::{Held, Ring};
pub(crate) use slots::{Entry, Slots};

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags};

use crate::limits::INTAKE_RING;
use crate::sequence::{Position, StreamId};

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
#[derive(Debug)]
pub(crate) struct Left {
    /// Whether it was left in this boot, so that its marks are to be believed.
    pub(crate) same_boot: bool,
    /// The position after the last one given out.
    pub(crate) next: Position,
    /// Acknowledged up to here.
    pub(crate) acknowledged: Position,
}

impl Intake {
    /// Opens the intake at `path` for `stream`, making it if it is not there or belongs to something else. What
    /// is left stays as it is: a start that is cut short here leaves it to the next one.
    pub(crate) fn open(path: &Path, stream: StreamId, boot: [u8; 16]) -> io::Result<(Self, Option<Left>)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
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

    fn lay_out(file: File, stream: StreamId, boot: [u8; 16]) -> io::Result<(Self, Option<Left>)> {
        let slots_at = u64::try_from(marks::LEN).unwrap_or(u64::MAX);
        let slots_len = slots::total_len();
        let ring_at = slots_at + u64::try_from(slots_len).unwrap_or(u64::MAX);
        let size = ring_at + INTAKE_RING;
        let usable = file.metadata()?.len() == size;
        if !usable {
            file.set_len(0)?;
        }
        // Room is taken now, so that no later write can fail for want of it.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)?;
        let marks = Marks::map(&file)?;
        let same_boot = marks.boot() == boot;
        let left = (usable && marks.is_of(stream) && marks.is_sane()).then(|| Left {
            same_boot,
            next: marks.next(),
            acknowledged: marks.acknowledged(),
        });
        marks.claim(stream);
        let mut slots = Slots::map(&file, slots_at)?;
        if left.is_none() {
            slots.clear();
        }
        let ring = Ring::map(Arc::new(file), ring_at, INTAKE_RING)?;
        Ok((Self { marks: Arc::new(marks), slots, ring }, left))
    }

    /// Takes up what an earlier run left in the ring and no segment holds: batches that end above `floor`.
    pub(crate) fn recover_ring(&mut self, stream: StreamId, floor: Position) -> Vec<Held> {
        let held = self.ring.recover(stream, self.marks.ring_tail(), floor);
        self.marks.set_ring_tail(held.first().map_or(self.ring.head(), |first| first.start));
        held
    }

    /// Begins the ring anew: what lies in it is of no use.
    pub(crate) fn forget_ring(&mut self) {
        self.marks.set_ring_tail(self.ring.head());
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
