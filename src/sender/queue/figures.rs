//! The figures of the queue, for the status.

use std::time::{Duration, Instant};

use nf_transport_core::datagram::Moment;
use nf_transport_core::sequence::{Position, StreamId};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{Begun, FileTotals, Room, Spool};

use crate::sender::queue::ledger::LedgerCounts;

/// The figures of the queue at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueFigures {
    pub(crate) counts: LedgerCounts,
    pub(crate) queued: u64,
    /// The bytes that the queue occupies in memory and on disk.
    pub(crate) bytes: u64,
    pub(crate) segments: usize,
    /// The arrival of the oldest queued datagram, to the precision of a segment.
    pub(crate) oldest: Option<Oldest>,
    /// The room left in the spool; `None` if the disk does not report it.
    pub(crate) room: Option<Room>,
    /// The stream that the queue is sent as, and the previous one.
    pub(crate) stream: StreamId,
    pub(crate) replaced: Option<StreamId>,
    /// Datagrams that were queued when the stream was replaced, and that the receiver may have had before.
    pub(crate) possible_repeats: u64,
    /// Copies of damaged pieces.
    pub(crate) damaged: FileTotals,
    /// Data that a newer version wrote.
    pub(crate) newer: FileTotals,
}

/// The arrival of the oldest queued datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Oldest {
    /// It is in a segment, which was begun then.
    Segment(Begun),
    /// It is in memory, and arrived then.
    InMemory(Instant),
}

impl Oldest {
    /// Returns the time since then.
    pub(crate) fn age(self, now: Moment) -> Duration {
        match self {
            Self::Segment(begun) => begun.age(now),
            Self::InMemory(since) => since.elapsed(),
        }
    }
}

/// The space that the spool occupies, as of the last update by the flusher.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpoolFigures {
    pub(crate) size: u64,
    pub(crate) segments: usize,
    pub(crate) oldest: Option<Begun>,
    pub(crate) room: Option<Room>,
    pub(crate) damaged: FileTotals,
    pub(crate) newer: FileTotals,
    /// The position after the last one in the spool.
    pub(crate) end: Option<Position>,
    /// The first position of the spool when `oldest` was read.
    first: Option<Position>,
}

impl SpoolFigures {
    pub(crate) fn of(spool: &Spool<Directory>) -> Self {
        let mut figures = Self::default();
        figures.update(spool);
        figures
    }

    pub(crate) fn update(&mut self, spool: &Spool<Directory>) {
        (self.size, self.end) = (spool.size(), spool.end());
        self.segments = spool.segments();
        self.room = spool.room().ok();
        (self.damaged, self.newer) = (spool.damaged(), spool.newer());
        if self.first != spool.first() {
            self.first = spool.first();
            self.oldest = spool.oldest();
        }
    }
}
