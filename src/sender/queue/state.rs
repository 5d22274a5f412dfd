//! The state of the queue under its lock. Each method is one act of ingest, the uplink or the flusher.

use std::time::Instant;

use nf_transport_core::batch::Batch;
use nf_transport_core::framing::{Heartbeat, Hello, Welcome};
use nf_transport_core::secure::{ChannelBinding, StreamKey};
use nf_transport_core::sequence::{Gap, GapReason, Position, StreamId};
use nf_transport_core::spool::{Divergence, FileTotals, Lineage, Thinned};

use crate::sender::journal::RingEntry;
use crate::sender::queue::figures::{Oldest, QueueFigures, SpoolFigures};
use crate::sender::queue::ledger::Ledger;
use crate::sender::queue::sent_stream::SentStream;
use crate::sender::queue::tail::Tail;

/// The content of the queue at a position.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// A batch that holds the position.
    Batch {
        batch: Batch,
        /// Nothing is queued after it.
        is_newest: bool,
    },
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

/// The queue that became another stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewStream {
    pub(super) stream: StreamId,
    pub(super) queued: u64,
    /// The queued datagrams that the receiver may have had already.
    pub(super) possible_repeats: u64,
}

/// The state of the queue under its lock.
#[derive(Debug)]
pub(crate) struct QueueState {
    ledger: Ledger,
    tail: Tail,
    /// Positions below may be in flight to all collectors that are waited for: on the network, or held by
    /// the receiver.
    in_flight: Position,
    stream: SentStream,
    /// The spool had no room. New batches that do not fit into the ring are dropped.
    is_full: bool,
    /// The reason why the spool cannot store batches; `None` if it can.
    write_error: Option<String>,
    /// The reason why no new segment can be created; `None` if it can.
    segment_error: Option<String>,
    stage: ShutdownStage,
    spool: SpoolFigures,
    /// The flusher waits for the next batch.
    is_flusher_idle: bool,
}

impl QueueState {
    /// The state of a queue whose ring holds `entries` of the last run.
    pub(super) fn new(
        ledger: Ledger,
        entries: Vec<RingEntry>,
        lineage: Lineage,
        stream_key: StreamKey,
        spool: SpoolFigures,
    ) -> Self {
        Self {
            tail: Tail::recovered(entries, Instant::now()),
            in_flight: ledger.acknowledged(),
            stream: SentStream::new(lineage, stream_key, ledger.acknowledged()),
            ledger,
            is_full: false,
            write_error: None,
            segment_error: None,
            stage: ShutdownStage::Running,
            spool,
            is_flusher_idle: false,
        }
    }

    /// The position below which everything is acknowledged or dropped.
    pub(super) fn acknowledged(&self) -> Position {
        self.ledger.acknowledged()
    }

    /// The position of the next datagram.
    pub(super) fn next_position(&self) -> Position {
        self.ledger.next()
    }

    /// Positions below may be in flight to all collectors that are waited for.
    pub(crate) fn in_flight(&self) -> Position {
        self.in_flight
    }

    pub(super) fn stage(&self) -> ShutdownStage {
        self.stage
    }

    /// The size of the spool in bytes, as of the last round of the flusher.
    pub(super) fn spool_size(&self) -> u64 {
        self.spool.size
    }

    /// Returns `true` if all of the spool, as of the last round of the flusher, is acknowledged. Its files
    /// can be removed at once then.
    pub(super) fn is_spool_acknowledged(&self) -> bool {
        self.spool.size > 0 && self.spool.end.is_some_and(|end| end <= self.acknowledged())
    }

    /// The gaps within `from..to`, cut to that range.
    pub(super) fn gaps_within(&self, from: Position, to: Position) -> impl Iterator<Item = Gap> {
        self.ledger.gaps_within(from, to)
    }

    /// Returns the content at `position`.
    pub(crate) fn next(&self, position: Position) -> Next {
        if let Some(gap) = self.ledger.gap_at(position) {
            return Next::Gap(gap);
        }
        match self.tail.batch_at(position) {
            Some(batch) => Next::Batch { batch: batch.clone(), is_newest: batch.end() == self.ledger.next() },
            None if position < self.ledger.next() => Next::InSpool,
            None => Next::Nothing,
        }
    }

    /// The batches that are not in the spool.
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }
}

/// Ingest: received data.
impl QueueState {
    /// Returns `true` if batches that do not fit into the ring are dropped.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Adds a received batch, which is in the ring.
    pub(super) fn push(&mut self, entry: RingEntry) {
        let batch = &entry.batch;
        self.ledger.receive(u64::from(batch.datagrams()), u64::from(batch.payload_bytes()));
        self.tail.push(entry);
    }

    /// Returns `true` while the flusher waits for the next batch.
    #[cfg(test)]
    pub(crate) fn is_flusher_idle(&self) -> bool {
        self.is_flusher_idle
    }

    /// Notes whether the flusher waits for the next batch.
    pub(crate) fn set_flusher_idle(&mut self, is_idle: bool) {
        self.is_flusher_idle = is_idle;
    }

    /// Returns `true` if the flusher waited for this batch, once.
    pub(super) fn take_flusher_idle(&mut self) -> bool {
        core::mem::take(&mut self.is_flusher_idle)
    }

    /// Counts `datagrams` with `bytes` of payload as received and dropped. Returns the position after them.
    pub(super) fn drop_received(&mut self, datagrams: u64, bytes: u64, reason: GapReason) -> Position {
        let first = self.ledger.next();
        self.ledger.receive(datagrams, bytes);
        let end = self.ledger.next();
        self.ledger.lose(Gap { first, end, reason });
        end
    }
}

/// The uplink: data in flight, and acknowledged data.
impl QueueState {
    /// Returns the content at `position`, which the uplink now sends. Counts it as sent, and with `to_all` as
    /// in flight. Content of the spool is only protected: it counts as sent once it is read.
    pub(super) fn begin_sending(&mut self, position: Position, to_all: bool) -> Next {
        let next = self.next(position);
        let end = match &next {
            Next::Batch { batch, .. } => batch.end(),
            Next::Gap(gap) => gap.end,
            Next::InSpool => {
                self.protect_segment(position, to_all);
                return next;
            }
            Next::Nothing => return next,
        };
        self.stream.note_sent(end);
        if to_all {
            self.raise_in_flight(end);
        }
        next
    }

    /// Protects the segment that holds `position`, which is about to be read and sent. One position in flight
    /// protects the whole segment.
    fn protect_segment(&mut self, position: Position, to_all: bool) {
        if to_all {
            self.raise_in_flight(position.plus(1));
        }
    }

    /// Returns `true` if `position` must be read from the spool, and protects its segment.
    pub(super) fn begin_reading(&mut self, position: Position, to_all: bool) -> bool {
        let is_in_spool = matches!(self.next(position), Next::InSpool);
        if is_in_spool {
            self.protect_segment(position, to_all);
        }
        is_in_spool
    }

    /// Notes that positions below `position` were sent.
    pub(super) fn note_sent(&mut self, position: Position) {
        self.stream.note_sent(position);
    }

    pub(super) fn set_in_flight(&mut self, position: Position) {
        self.in_flight = position;
    }

    fn raise_in_flight(&mut self, position: Position) {
        self.in_flight = self.in_flight.max(position);
    }

    pub(super) fn bound_in_flight(&mut self, position: Position) {
        self.in_flight = self.in_flight.min(position);
    }

    /// Handles the acknowledgement of everything below `position`, and raises the in-flight position to
    /// `in_flight`. Returns the position below which everything is acknowledged or dropped now.
    pub(super) fn acknowledge(&mut self, position: Position, bytes: u64, in_flight: Position) -> Position {
        self.ledger.acknowledge(position, bytes);
        self.raise_in_flight(in_flight);
        self.ledger.acknowledged()
    }
}

/// The flusher: the state of the spool, and dropped data.
impl QueueState {
    /// Removes batches below `position` from the tail. Returns `true` if there were some.
    pub(super) fn pop_tail(&mut self, position: Position) -> bool {
        self.tail.pop_below(position)
    }

    /// Replaces `batch`, the oldest of the tail, by `sifted`, the rest of it. Returns `false` if it has left
    /// the tail or is in flight.
    pub(super) fn sift_oldest(&mut self, batch: &Batch, sifted: &Batch) -> bool {
        self.in_flight <= batch.first() && self.tail.replace_oldest(batch, sifted)
    }

    /// Publishes the space that the spool occupies.
    pub(super) fn set_spool(&mut self, figures: SpoolFigures) {
        self.spool = figures;
    }

    /// Notes that the spool stores batches.
    pub(super) fn note_writable(&mut self) {
        self.is_full = false;
        self.write_error = None;
    }

    /// Notes that the spool has rejected a batch. If `is_full`, batches that do not fit into the ring are
    /// dropped.
    pub(super) fn note_rejected(&mut self, reason: String, is_full: bool) {
        self.write_error = Some(reason);
        self.is_full = is_full;
    }

    /// Notes why no new segment can be created, or that one can.
    pub(super) fn set_segment_error(&mut self, reason: Option<String>) {
        self.segment_error = reason;
    }

    /// Drops the queued datagrams in `gap`. Returns their number.
    pub(super) fn lose(&mut self, gap: Gap) -> u64 {
        self.ledger.lose(gap)
    }

    /// Counts datagrams that were dropped from a segment. Returns the number of those that were queued.
    pub(super) fn lose_thinned(&mut self, thinned: Thinned) -> u64 {
        self.ledger.lose_thinned(thinned)
    }

    /// Drops the damaged datagrams in `gap`. Returns their number. The copies of damaged data are `copies`.
    pub(super) fn lose_damaged(&mut self, gap: Gap, copies: FileTotals) -> u64 {
        self.spool.damaged = copies;
        self.ledger.lose(gap)
    }

    /// Removes the datagrams in `gap`, which a newer version wrote, and which are kept apart. Returns their
    /// number.
    pub(super) fn keep_apart(&mut self, gap: Gap) -> u64 {
        self.ledger.keep_apart(gap)
    }

    /// As [`Self::keep_apart`]. The data that is kept apart is now `totals`.
    pub(super) fn keep_apart_with(&mut self, gap: Gap, totals: FileTotals) -> u64 {
        self.spool.newer = totals;
        self.keep_apart(gap)
    }

    /// Advances to the `next` stage of the shutdown.
    pub(super) fn advance_to(&mut self, next: ShutdownStage) {
        self.stage = self.stage.max(next);
    }
}

/// The stream that the queue is sent as.
impl QueueState {
    /// Builds the HELLO message for the connection of `binding`.
    pub(super) fn hello(&self, heartbeat: Heartbeat, binding: ChannelBinding) -> Hello {
        self.stream.hello(self.acknowledged(), heartbeat, binding)
    }

    /// Checks that this spool sent all unacknowledged datagrams that the receiver has.
    pub(super) fn check_lineage(&self, welcome: &Welcome) -> Result<(), Divergence> {
        if welcome.received <= self.acknowledged() {
            return Ok(());
        }
        self.stream.check(welcome)
    }

    /// Notes that the previous stream is unknown, so that all queued datagrams may be repeats.
    pub(super) fn note_abandoned_stream(&mut self) -> NewStream {
        let queued = self.ledger.queued();
        self.stream.add_possible_repeats(queued);
        NewStream { stream: self.stream.id(), queued, possible_repeats: queued }
    }

    /// Continues as the stream of `lineage` and `key`. The receiver has delivered the old one up to
    /// `delivered`.
    pub(super) fn replace_stream(
        &mut self,
        lineage: Lineage,
        key: StreamKey,
        delivered: Position,
    ) -> NewStream {
        let start = lineage.runs().last().map_or(Position(0), |run| run.start);
        let possible_repeats = self.queued_below(delivered.min(start));
        self.stream.replace(lineage, key, self.acknowledged());
        self.stream.add_possible_repeats(possible_repeats);
        NewStream { stream: self.stream.id(), queued: self.ledger.queued(), possible_repeats }
    }

    /// Returns the number of datagrams queued below `position`.
    fn queued_below(&self, position: Position) -> u64 {
        let acknowledged = self.acknowledged();
        let gone: u64 = self.gaps_within(acknowledged, position).map(|gap| gap.end.since(gap.first)).sum();
        position.since(acknowledged).saturating_sub(gone)
    }
}

/// The status.
impl QueueState {
    /// Returns the current problems of the spool.
    pub(super) fn problems(&self) -> Vec<String> {
        let segment_error = self
            .segment_error
            .as_ref()
            .map(|reason| format!("cannot create a segment of the spool: {reason}"));
        self.write_error.iter().cloned().chain(segment_error).collect()
    }

    /// Returns the current figures.
    pub(super) fn figures(&self) -> QueueFigures {
        let in_memory = self.tail.oldest().map(|(_, since)| Oldest::InMemory(since));
        let queued = self.ledger.queued();
        QueueFigures {
            counts: self.ledger.counts(),
            queued,
            bytes: if queued == 0 { 0 } else { self.spool.size + self.tail.bytes() },
            segments: self.spool.segments,
            oldest: self.spool.oldest.map(Oldest::Segment).or(in_memory).filter(|_| queued > 0),
            room: self.spool.room,
            stream: self.stream.id(),
            replaced: self.stream.replaced(),
            possible_repeats: self.stream.possible_repeats(),
            damaged: self.spool.damaged,
            newer: self.spool.newer,
        }
    }
}
