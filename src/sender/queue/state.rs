//! The state of the queue under its lock, and the figures that are read from it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nf_transport_core::batch::Batch;
use nf_transport_core::datagram::Moment;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::secure::StreamKey;
use nf_transport_core::sequence::{Gap, Position, StreamId};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{Begun, FileTotals, Lineage, Room, Spool};

use crate::limits::JOURNAL_RING;
use crate::sender::journal::RingEntry;
use crate::sender::queue::ledger::{Ledger, LedgerCounts};

/// The content of the queue at a position.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// A batch that holds the position.
    Batch(Batch),
    /// The position was dropped, like all positions up to the end of the gap.
    Gap(Gap),
    /// It must be read from the spool.
    InSpool,
    /// It is not assigned yet.
    Nothing,
}

/// The stages of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ShutdownStage {
    /// Datagrams are received and sent.
    Running,
    /// Ingest has stopped. The tail moves to the spool, and the uplink still sends.
    Draining,
    /// The uplink has stopped, too.
    Stopped,
}

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
        self.size = spool.size();
        self.segments = spool.segments();
        self.room = spool.room().ok();
        (self.damaged, self.newer) = (spool.damaged(), spool.newer());
        if self.first != spool.first() {
            self.first = spool.first();
            self.oldest = spool.oldest();
        }
    }
}

/// The state of the queue under its lock.
#[derive(Debug)]
pub(crate) struct QueueState {
    pub(crate) ledger: Ledger,
    /// The batches in the ring, oldest first, with their arrival times.
    pub(crate) tail: VecDeque<(RingEntry, Instant)>,
    /// Positions below may be in flight to all collectors that are waited for: on the network, or held by
    /// the receiver.
    pub(crate) in_flight: Position,
    /// The stream that the queue is sent as, and the runs that sent it.
    pub(crate) lineage: Lineage,
    /// The secret of that stream.
    pub(crate) stream_key: StreamKey,
    /// The position below which this run has sent. Earlier runs may have sent everything below the start of
    /// its numbering.
    pub(crate) highest_sent: Position,
    /// Datagrams that were queued when the stream was replaced, and that the receiver may have had already.
    pub(crate) possible_repeats: u64,
    /// The spool had no room at the last attempt, and no batch in the ring may be dropped. Batches that do
    /// not fit into the ring are dropped.
    pub(crate) is_full: bool,
    /// The reason why the spool cannot store batches; `None` if it can.
    pub(crate) write_error: Option<String>,
    /// The reason why no new segment can be created; `None` if it can.
    pub(crate) segment_error: Option<String>,
    pub(crate) stage: ShutdownStage,
    pub(crate) spool: SpoolFigures,
    /// The offset after the newest batch of the ring.
    pub(super) head: u64,
}

impl QueueState {
    /// Returns the content at `position`.
    pub(crate) fn next(&self, position: Position) -> Next {
        if let Some(gap) = self.ledger.gap_at(position) {
            return Next::Gap(gap);
        }
        let index = self.tail.partition_point(|(entry, _)| entry.batch.end() <= position);
        match self.tail.get(index) {
            Some((entry, _)) if entry.batch.first() <= position => Next::Batch(entry.batch.clone()),
            _ if position < self.ledger.next() => Next::InSpool,
            _ => Next::Nothing,
        }
    }

    /// The used bytes of the ring.
    pub(crate) fn tail_bytes(&self) -> u64 {
        self.tail.front().map_or(0, |(oldest, _)| {
            self.head.checked_sub(oldest.start).unwrap_or_else(|| {
                note_internal_error("the tail begins after the head of the ring");
                0
            })
        })
    }

    /// Returns `true` if the ring is so full that the tail must move to the spool at once.
    pub(crate) fn is_pressing(&self) -> bool {
        self.tail_bytes() > JOURNAL_RING / 2
    }
}
