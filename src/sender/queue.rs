//! The queue between the sockets and the uplink: in memory while the uplink keeps up, in the spool otherwise.
//!
//! Owns the ledger, the tail (batches in memory and in the ring of the receive journal) and the spool. Three
//! threads share it. Ingest pushes batches. The flusher moves batches from the tail into the spool if they
//! stay too long. The uplink reads and acknowledges. No thread waits for the disk while it holds `state`.
//! Always holds: every position from `acknowledged` to `next` is in the tail, in the spool, or in a gap.

pub(crate) mod fair_share;
pub(crate) mod figures;
pub(crate) mod flusher;
pub(crate) mod holdings;
pub(crate) mod last_run;
pub(crate) mod ledger;
pub(crate) mod recovery;
mod replacement;
pub(crate) mod room;
pub(crate) mod segments;
mod sent_stream;
pub(crate) mod state;
mod tail;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use nf_transport_core::batch::Batch;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::secure::{OpenError, SpoolKeys, StreamKey};
use nf_transport_core::sequence::{GapReason, Position, StreamId};
use nf_transport_core::spool::Spool;
use nf_transport_core::spool::disk::Directory;
use tokio::sync::Notify;

use crate::host::{Pulse, ROUND, locked, wait_on_for};
use crate::sender::journal::{Checkpoint, Ring, RingEntry};
use crate::sender::queue::figures::{QueueFigures, SpoolFigures};
use crate::sender::queue::ledger::Ledger;
use crate::sender::queue::state::{Next, QueueState, ShutdownStage};

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    /// A copy of the offset at which the tail starts, so that ingest finds room without a lock.
    tail_start: AtomicU64,
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
    /// The number of times that the state was locked.
    #[cfg(test)]
    state_locks: AtomicU64,
    /// The number of times that ingest and the uplink woke the flusher.
    #[cfg(test)]
    wakeups: AtomicU64,
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
        let (lineage, figures) = (spool.lineage().clone(), SpoolFigures::of(&spool));
        let state = QueueState::new(ledger, entries, lineage, stream_key, figures);
        Self {
            tail_start: AtomicU64::new(state.tail().start()),
            state: Mutex::new(state),
            stream: spool.stream(),
            spool: Mutex::new(spool),
            keys,
            checkpoint: marks,
            work: Condvar::new(),
            room: Condvar::new(),
            arrived: Notify::new(),
            #[cfg(test)]
            state_locks: AtomicU64::new(0),
            #[cfg(test)]
            wakeups: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        #[cfg(test)]
        self.state_locks.fetch_add(1, Ordering::Relaxed);
        locked(&self.state)
    }

    /// Locks the state, to look at it in a test.
    #[cfg(test)]
    pub(crate) fn inspect(&self) -> MutexGuard<'_, QueueState> {
        locked(&self.state)
    }

    /// Returns the number of times that the state was locked.
    #[cfg(test)]
    pub(crate) fn state_locks(&self) -> u64 {
        self.state_locks.load(Ordering::Relaxed)
    }

    /// Returns the number of times that ingest and the uplink woke the flusher.
    #[cfg(test)]
    pub(crate) fn wakeups(&self) -> u64 {
        self.wakeups.load(Ordering::Relaxed)
    }

    fn wake_flusher(&self) {
        #[cfg(test)]
        self.wakeups.fetch_add(1, Ordering::Relaxed);
        self.work.notify_one();
    }

    pub(crate) fn spool(&self) -> MutexGuard<'_, Spool<Directory>> {
        locked(&self.spool)
    }

    /// The position of the next datagram.
    pub(crate) fn next_position(&self) -> Position {
        self.state().next_position()
    }

    /// The position below which everything is acknowledged or dropped.
    pub(crate) fn acknowledged(&self) -> Position {
        self.state().acknowledged()
    }

    /// Returns `true` if every queued batch is in the spool.
    pub(crate) fn is_all_spooled(&self) -> bool {
        self.state().tail().is_empty()
    }

    /// Returns the current problems of the spool.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.state().problems()
    }

    /// Returns the current figures, which are consistent with each other.
    pub(crate) fn figures(&self) -> QueueFigures {
        self.state().figures()
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

    /// Advances to the `next` stage.
    pub(crate) fn advance_to(&self, next: ShutdownStage) {
        self.state().advance_to(next);
        self.work.notify_one();
        self.room.notify_one();
    }
}

/// Ingest: received data.
impl Queue {
    /// Adds a batch, which starts at `next_position`. Once this returns, the batch survives a kill of the
    /// process. Waits for room until the flusher has tried to make some. If there is none then, drops the
    /// batch and returns it.
    pub(crate) fn push(&self, batch: Batch, ring: &mut Ring, pulse: &Pulse) -> Option<Batch> {
        let (datagrams, bytes) = (u64::from(batch.datagrams()), u64::from(batch.payload_bytes()));
        let (first, end) = (batch.first(), batch.end());
        // The tail only advances, so an old offset at worst leads to a look at the state.
        let tail_start = self.tail_start.load(Ordering::Acquire);
        let written = if ring.fits(&batch, tail_start) || self.wait_for_room(&batch, ring, pulse) {
            ring.write(batch).map_err(|batch| {
                note_internal_error("the ring rejects a batch that fits into it");
                (batch, GapReason::Corrupt)
            })
        } else {
            Err((batch, GapReason::SpoolFull))
        };
        let mut state = self.state();
        if state.next_position() != first {
            note_internal_error("a batch does not start at the next position");
        }
        let dropped = match written {
            Ok(entry) => {
                let was_pressing = state.tail().is_pressing();
                state.push(entry);
                // A flusher that is awake looks again. Otherwise it wakes by itself before a batch in the
                // tail gets too old.
                let is_pressing = state.tail().is_pressing() && !was_pressing;
                let is_awaited = state.take_flusher_idle();
                if is_awaited || is_pressing || state.stage() > ShutdownStage::Running {
                    self.wake_flusher();
                }
                None
            }
            Err((batch, reason)) => {
                state.drop_received(datagrams, bytes, reason);
                Some(batch)
            }
        };
        drop(state);
        self.checkpoint.set_next(end);
        dropped
    }

    /// Counts datagrams that were received and lost before they were in a batch. Returns the position after
    /// them.
    pub(crate) fn note_lost(&self, datagrams: u64) -> Position {
        let end = self.state().drop_received(datagrams, 0, GapReason::Corrupt);
        self.checkpoint.set_next(end);
        end
    }

    /// Waits until `batch` fits into the ring. Returns `false` if it must be dropped.
    fn wait_for_room(&self, batch: &Batch, ring: &Ring, pulse: &Pulse) -> bool {
        let mut state = self.state();
        loop {
            let tail = state.tail().oldest().map_or(ring.head(), |(oldest, _)| oldest.start);
            if ring.fits(batch, tail) {
                return true;
            }
            if state.is_full() {
                return false;
            }
            self.announce();
            state = wait_on_for(&self.room, state, ROUND);
            pulse.beat();
        }
    }

    /// Wakes the uplink after a push.
    pub(crate) fn announce(&self) {
        self.arrived.notify_one();
    }
}

/// The uplink: data to send, in flight, and acknowledged.
impl Queue {
    /// Waits for a push since the last call.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Returns the content at `position`, which the uplink now sends. It counts as sent. With `to_all`, it
    /// may reach all collectors that are waited for, and counts as in flight: it is not dropped to make room.
    /// Content of the spool counts as sent only with [`Self::note_sent`].
    pub(crate) fn begin_sending(&self, position: Position, to_all: bool) -> Next {
        self.state().begin_sending(position, to_all)
    }

    /// Returns `true` if `position` must be read from the spool. Its segment is then protected as by
    /// [`Self::begin_sending`].
    pub(crate) fn begin_reading(&self, position: Position, to_all: bool) -> bool {
        self.state().begin_reading(position, to_all)
    }

    /// Notes that positions below `position` were sent.
    pub(crate) fn note_sent(&self, position: Position) {
        self.state().note_sent(position);
    }

    /// Sets the position below which datagrams may be in flight.
    pub(crate) fn set_in_flight(&self, position: Position) {
        self.state().set_in_flight(position);
    }

    /// Lowers the in-flight position to `position`: positions from there on reach the collectors that are
    /// waited for only if they are sent once more.
    pub(crate) fn bound_in_flight(&self, position: Position) {
        self.state().bound_in_flight(position);
    }

    /// Handles the acknowledgement of everything below `position`, of which this process sent `bytes` of
    /// payload.
    pub(crate) fn acknowledge(&self, position: Position, bytes: u64) {
        self.acknowledge_in_flight(position, bytes, Position(0));
    }

    /// As [`Self::acknowledge`]. Raises the in-flight position to `in_flight`.
    pub(crate) fn acknowledge_in_flight(&self, position: Position, bytes: u64, in_flight: Position) {
        let mut state = self.state();
        let acknowledged = state.acknowledge(position, bytes, in_flight);
        self.checkpoint.set_acknowledged(acknowledged);
        self.pop_tail(&mut state, acknowledged);
        let is_spool_done = state.is_spool_acknowledged();
        drop(state);
        // Before that, the flusher removes files whenever it enforces the limits.
        if is_spool_done {
            self.wake_flusher();
        }
    }

    /// Removes batches below `position` from the tail.
    fn pop_tail(&self, state: &mut QueueState, position: Position) {
        if state.pop_tail(position) {
            let start = state.tail().start();
            self.checkpoint.set_ring_tail(start);
            self.tail_start.store(start, Ordering::Release);
            self.room.notify_one();
        }
    }
}
