//! The queue between the sockets and the uplink: in memory while the uplink keeps up, in the spool otherwise.
//!
//! Owns the ledger, the tail (batches in memory and in the ring of the receive journal) and the spool. Three
//! threads share it. Ingest pushes batches. The flusher moves batches from the tail into the spool if they
//! stay too long. The uplink reads and acknowledges. No thread waits for the disk while it holds `state`.
//! Always holds: every position from `acknowledged` to `next` is in the tail, in the spool, or in a gap.

pub(crate) mod fair_share;
pub(crate) mod flusher;
pub(crate) mod holdings;
pub(crate) mod last_run;
pub(crate) mod ledger;
pub(crate) mod recovery;
mod replacement;
pub(crate) mod room;
pub(crate) mod state;

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use nf_transport_core::batch::Batch;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::secure::{OpenError, SpoolKeys, StreamKey};
use nf_transport_core::sequence::{Gap, GapReason, Position, StreamId};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{Damage, Newer, Preserved, SegmentReader, Spool};
use tokio::sync::Notify;

use crate::host::systemd::messages::sender;
use crate::host::{Pulse, ROUND, locked, wait_on_for};
use crate::sender::journal::{Checkpoint, Ring, RingEntry};
use crate::sender::queue::ledger::Ledger;
use crate::sender::queue::state::{Next, Oldest, QueueFigures, QueueState, ShutdownStage, SpoolFigures};
use crate::status::count_of;

/// A segment that is being read.
#[derive(Debug)]
pub(crate) struct OpenedSegment {
    /// Its first position.
    pub(crate) first: Position,
    pub(crate) reader: SegmentReader<File>,
    /// The number of thinned segments when it was opened.
    thinnings: u64,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    spool: Mutex<Spool<Directory>>,
    stream: StreamId,
    /// The keys that encrypt the spool, if it is encrypted.
    keys: Arc<SpoolKeys>,
    checkpoint: Arc<Checkpoint>,
    /// Signals the flusher that there may be work.
    work: Condvar,
    /// Signals that the ring has more room.
    room: Condvar,
    /// Signals the uplink that there is something to send.
    arrived: Notify,
}

impl Queue {
    pub(crate) fn new(
        ledger: Ledger,
        spool: Spool<Directory>,
        stream_key: StreamKey,
        entries: Vec<RingEntry>,
        marks: Arc<Checkpoint>,
        keys: Arc<SpoolKeys>,
    ) -> Self {
        let now = Instant::now();
        let ring_head = entries.last().map_or(0, |newest| newest.end);
        let figures = SpoolFigures::of(&spool);
        let state = QueueState {
            in_flight: ledger.acknowledged(),
            lineage: spool.lineage().clone(),
            stream_key,
            highest_sent: ledger.acknowledged(),
            possible_repeats: 0,
            ledger,
            tail: entries.into_iter().map(|entry| (entry, now)).collect(),
            is_full: false,
            write_error: None,
            segment_error: None,
            stage: ShutdownStage::Running,
            spool: figures,
            head: ring_head,
        };
        Self {
            state: Mutex::new(state),
            stream: spool.stream(),
            spool: Mutex::new(spool),
            keys,
            checkpoint: marks,
            work: Condvar::new(),
            room: Condvar::new(),
            arrived: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        locked(&self.state)
    }

    /// Locks the state, to look at it in a test.
    #[cfg(test)]
    pub(crate) fn inspect(&self) -> MutexGuard<'_, QueueState> {
        self.state()
    }

    pub(crate) fn spool(&self) -> MutexGuard<'_, Spool<Directory>> {
        locked(&self.spool)
    }

    /// The position of the next datagram.
    pub(crate) fn next_position(&self) -> Position {
        self.state().ledger.next()
    }

    /// Adds a batch, which starts at `next_position`. Once this returns, the batch survives a kill of the
    /// process. Waits for room until the flusher has tried to make some. If there is none then, drops the
    /// batch and returns it.
    pub(crate) fn push(&self, batch: Batch, ring: &mut Ring, pulse: &Pulse) -> Option<Batch> {
        let (datagrams, bytes) = (u64::from(batch.datagrams()), u64::from(batch.payload_bytes()));
        let (first, end) = (batch.first(), batch.end());
        let written = if self.wait_for_room(&batch, ring, pulse) {
            ring.write(batch).map_err(|batch| {
                note_internal_error("the ring rejects a batch that fits into it");
                (batch, GapReason::Corrupt)
            })
        } else {
            Err((batch, GapReason::SpoolFull))
        };
        let mut state = self.state();
        state.ledger.receive(datagrams, bytes);
        let refused = match written {
            Ok(entry) => {
                state.head = entry.end;
                state.tail.push_back((entry, Instant::now()));
                // Otherwise the flusher wakes by itself before a batch in the tail gets too old.
                if state.is_pressing() || state.stage > ShutdownStage::Running {
                    self.work.notify_one();
                }
                None
            }
            Err((batch, reason)) => {
                state.ledger.lose(Gap { first, end, reason });
                Some(batch)
            }
        };
        drop(state);
        self.checkpoint.set_next(end);
        refused
    }

    /// Notes datagrams that were received and lost before they were in a batch.
    pub(crate) fn note_lost(&self, datagrams: u64) {
        let mut state = self.state();
        let first = state.ledger.next();
        state.ledger.receive(datagrams, 0);
        let end = state.ledger.next();
        state.ledger.lose(Gap { first, end, reason: GapReason::Corrupt });
        drop(state);
        self.checkpoint.set_next(end);
    }

    /// Wakes the uplink after a push.
    pub(crate) fn announce(&self) {
        self.arrived.notify_one();
    }

    /// Waits until `batch` fits into the ring. Returns `false` if it must be dropped.
    fn wait_for_room(&self, batch: &Batch, ring: &Ring, pulse: &Pulse) -> bool {
        let mut state = self.state();
        loop {
            let tail = state.tail.front().map_or(ring.head(), |(oldest, _)| oldest.start);
            if ring.fits(batch, tail) {
                return true;
            }
            if state.is_full {
                return false;
            }
            self.announce();
            state = wait_on_for(&self.room, state, ROUND);
            pulse.beat();
        }
    }

    /// Returns the content at `position` for the uplink, which sends it or reads it from the spool to be
    /// sent. With `to_all`, the content may reach all collectors that are waited for. It counts as in flight
    /// from now on, so that it is not dropped to make room.
    pub(crate) fn next_to_send(&self, position: Position, to_all: bool) -> Next {
        let mut state = self.state();
        let next = state.next(position);
        if !to_all {
            return next;
        }
        let end = match &next {
            Next::Batch(batch) => batch.end(),
            Next::Gap(gap) => gap.end,
            // One position in flight protects the whole segment.
            Next::InSpool => position.plus(1),
            Next::Nothing => position,
        };
        state.in_flight = state.in_flight.max(end);
        next
    }

    /// Waits for a push since the last call.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Sets the position below which datagrams may be in flight.
    pub(crate) fn set_in_flight(&self, position: Position) {
        self.state().in_flight = position;
    }

    /// Lowers the in-flight position to `position`: positions from there on reach the collectors that are
    /// waited for only if they are sent once more.
    pub(crate) fn bound_in_flight(&self, position: Position) {
        let mut state = self.state();
        state.in_flight = state.in_flight.min(position);
    }

    /// Raises the in-flight position to `position`.
    pub(crate) fn raise_in_flight(&self, position: Position) {
        let mut state = self.state();
        state.in_flight = state.in_flight.max(position);
    }

    /// Notes that positions below `position` were sent.
    pub(crate) fn note_sent(&self, position: Position) {
        let mut state = self.state();
        state.highest_sent = state.highest_sent.max(position);
    }

    /// Handles the acknowledgement of everything below `position`, of which this process sent `bytes` of
    /// payload.
    pub(crate) fn acknowledge(&self, position: Position, bytes: u64) {
        let mut state = self.state();
        state.ledger.acknowledge(position, bytes);
        let acknowledged = state.ledger.acknowledged();
        self.checkpoint.set_acknowledged(acknowledged);
        self.pop_tail(&mut state, acknowledged);
        let spool_has_some = state.spool.size > 0;
        drop(state);
        if spool_has_some {
            self.work.notify_one();
        }
    }

    /// Removes batches below `position` from the tail.
    fn pop_tail(&self, state: &mut QueueState, position: Position) {
        let mut popped = false;
        while state.tail.front().is_some_and(|(entry, _)| entry.batch.end() <= position) {
            state.tail.pop_front();
            popped = true;
        }
        if popped {
            let tail = state.tail.front().map_or(state.head, |(oldest, _)| oldest.start);
            self.checkpoint.set_ring_tail(tail);
            self.room.notify_one();
        }
    }

    /// Wakes the thread that waits for room in the ring.
    pub(crate) fn room_changed(&self) {
        self.room.notify_one();
    }

    /// Opens a segment reader at `position`. Returns `None` if no segment holds the position any more.
    /// Unreadable blocks are errors, or damage if `skip_unreadable`.
    pub(crate) fn reader(
        &self,
        position: Position,
        skip_unreadable: bool,
    ) -> io::Result<Option<OpenedSegment>> {
        let spool = self.spool();
        let Some((first, _, _)) = spool.segment_at(position) else { return Ok(None) };
        let thinnings = spool.thinnings();
        let reader = spool.reader(position, skip_unreadable)?;
        Ok(reader.map(|reader| OpenedSegment { first, reader, thinnings }))
    }

    /// The stream id of batches in the queue.
    pub(crate) fn stream(&self) -> StreamId {
        self.stream
    }

    /// Encrypts `batch` for the spool, if the spool is encrypted.
    pub(crate) fn seal(&self, batch: &Batch) -> io::Result<Batch> {
        self.keys.seal(self.stream, batch).map_err(io::Error::other)
    }

    /// Decrypts a batch of the spool.
    pub(crate) fn open(&self, batch: &Batch) -> Result<Batch, OpenError> {
        self.keys.open(self.stream, batch)
    }

    /// Returns the current end of `segment`, which holds `position`, and its size in bytes. Returns `None` if
    /// it may have been thinned since it was opened.
    pub(crate) fn segment_end(&self, segment: &OpenedSegment, position: Position) -> Option<(Position, u64)> {
        let spool = self.spool();
        let (found, end, size) = spool.segment_at(position)?;
        (found == segment.first && spool.thinnings() == segment.thinnings).then_some((end, size))
    }

    /// Returns all positions from `position` to the end of its segment, which cannot be read.
    pub(crate) fn rest_of_segment(&self, position: Position) -> Option<Damage> {
        let (_, end, _) = self.spool().segment_at(position)?;
        Some(Damage { offset: 0, length: 0, first: position, end })
    }

    /// Quarantines a damaged piece of the segment that starts at `segment`: counts it and moves a copy to
    /// `damaged/`.
    pub(crate) fn quarantine(&self, segment: Position, damage: Damage) {
        let (set_aside, aside) = {
            let mut spool = self.spool();
            let set_aside = if damage.length > 0 {
                spool.copy_damaged(segment, damage.offset, damage.length)
            } else {
                Ok(())
            };
            (set_aside, spool.damaged())
        };
        let gap = Gap { first: damage.first, end: damage.end, reason: GapReason::Corrupt };
        let mut state = self.state();
        state.spool.damaged = aside;
        let lost = state.ledger.lose(gap);
        drop(state);
        if lost == 0 && damage.length == 0 {
            // Positions of a gap whose record was replaced by a segment.
            return;
        }
        tracing::error!(
            message_id = sender::SPOOL_DAMAGED,
            segment = segment.0,
            offset = damage.offset,
            bytes = damage.length,
            lost,
            "a piece of the spool is damaged: {} in it are lost; it is kept in the directory 'damaged', and \
             the rest is delivered; check the disk",
            count_of(lost, "datagram")
        );
        if let Err(error) = set_aside {
            tracing::warn!(%error, "cannot keep a copy of the damaged piece in the directory 'damaged': \
             {error}");
        }
    }

    /// Removes a piece that a newer version wrote from the queue and keeps it in `newer/`. The receiver is
    /// informed that its positions are unused. Its datagrams get new positions once a version can read it.
    pub(crate) fn preserve_newer(&self, segment: Position, newer: &Newer) -> io::Result<()> {
        let (gap, aside) = {
            let mut spool = self.spool();
            (spool.preserve_newer(segment, newer.place)?, spool.newer())
        };
        // If it has left the queue since it was read, the flusher accounts for it.
        let Some(gap) = gap else { return Ok(()) };
        let mut state = self.state();
        state.spool.newer = aside;
        let kept = state.ledger.keep_apart(gap);
        drop(state);
        log_newer(format_args!("{} in the spool", count_of(kept, "datagram")), NEWER_DIRECTORY, &newer.needs);
        Ok(())
    }

    /// Accounts for pieces of newer versions that the spool has kept apart.
    pub(crate) fn note_kept_apart(&self, kept: Vec<Preserved>) {
        for Preserved { gap, needs } in kept {
            self.state().ledger.keep_apart(gap);
            let data = format_args!("datagrams in the spool, from position {} on,", gap.first.0);
            log_newer(data, NEWER_DIRECTORY, &needs);
        }
    }

    /// Returns `true` if every queued batch is in the spool.
    pub(crate) fn is_all_spooled(&self) -> bool {
        self.state().tail.is_empty()
    }

    /// Advances to the `next` stage.
    pub(crate) fn advance_to(&self, next: ShutdownStage) {
        let mut state = self.state();
        state.stage = state.stage.max(next);
        drop(state);
        self.work.notify_one();
        self.room.notify_one();
    }

    /// The position below which everything is acknowledged or dropped.
    pub(crate) fn acknowledged(&self) -> Position {
        self.state().ledger.acknowledged()
    }

    /// Returns the current problems of the spool.
    pub(crate) fn problems(&self) -> Vec<String> {
        let state = self.state();
        let segment_error = state
            .segment_error
            .as_ref()
            .map(|reason| format!("cannot create a segment of the spool: {reason}"));
        state.write_error.iter().cloned().chain(segment_error).collect()
    }

    /// Returns the current figures, which are consistent with each other.
    pub(crate) fn figures(&self) -> QueueFigures {
        let state = self.state();
        let in_memory = state.tail.front().map(|(_, since)| Oldest::InMemory(*since));
        let queued = state.ledger.queued();
        QueueFigures {
            counts: state.ledger.counts(),
            queued,
            bytes: if queued == 0 { 0 } else { state.spool.size + state.tail_bytes() },
            segments: state.spool.segments,
            oldest: state.spool.oldest.map(Oldest::Segment).or(in_memory).filter(|_| queued > 0),
            room: state.spool.room,
            stream: state.lineage.sent_as(),
            replaced: state.lineage.replaced(),
            possible_repeats: state.possible_repeats,
            damaged: state.spool.damaged,
            newer: state.spool.newer,
        }
    }
}

/// The place of data from newer versions, for messages.
pub(crate) const NEWER_DIRECTORY: &str = "the directory 'newer'";

/// Logs that `data` of a newer version is kept in `place`, and the version it needs.
pub(crate) fn log_newer(data: impl core::fmt::Display, place: impl core::fmt::Display, needs: &str) {
    tracing::error!(
        message_id = sender::NEWER_FORMAT,
        needs,
        "{data} come from a newer nf-sender ({needs}): they are kept in {place} and not sent; start a \
         version that reads them, which queues them again"
    );
}
