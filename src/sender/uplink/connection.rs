//! The connection to a receiver: the session and the secure stream that carries it.
//!
//! The uplink task owns it. From WELCOME on it lends the connection to ingest while it waits, and ingest
//! sends the batches that are in memory. To wake the uplink task for each burst would cost more than to send
//! the burst. Only the uplink task sends batches from the spool.

use std::io;
use std::sync::Mutex;

use nf_transport_core::batch::Batch;
use nf_transport_core::framing::Heartbeat;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::limits::LANE_MAX;
use nf_transport_core::sequence::{Position, StreamId};
use nf_transport_core::session::{OutOfOrder, SenderSession};
use tokio::time::Instant;

use crate::host::locked;
use crate::host::secure_stream::{SecureStream, StreamError};
use crate::sender::queue::Queue;
use crate::sender::queue::state::Next;

/// The progress of filling the session with queued batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendProgress {
    /// The session accepts no more now.
    Enough,
    /// The next batch must be read from the spool first.
    AllRead,
    /// The queue is empty.
    All,
}

/// A session and its connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) session: SenderSession,
    pub(crate) stream: SecureStream,
    /// The stream id that the receiver knows.
    sent_as: StreamId,
    sent: SentBatches,
}

impl Connection {
    /// Begins a session over `stream`.
    pub(crate) fn begin(
        queue: &Queue,
        stream: SecureStream,
        heartbeat: Heartbeat,
    ) -> Result<Self, StreamError> {
        let hello = queue.hello(heartbeat, stream.channel().binding()?);
        let session = SenderSession::new(hello, Instant::now().into_std());
        Ok(Self { session, stream, sent_as: hello.stream, sent: SentBatches::default() })
    }

    /// Fills the session and the socket with as much as they accept now. Calls `read` for positions that are
    /// only in the spool. Its second argument is `true` if the batch may reach all collectors that are waited
    /// for.
    pub(crate) fn send_pending(
        &mut self,
        queue: &Queue,
        mut read: impl FnMut(Position, bool) -> Option<Batch>,
    ) -> Result<SendProgress, StreamError> {
        loop {
            let progress = self.fill_session(queue, &mut read).map_err(|error| {
                note_internal_error("the session rejects a batch that it asked for");
                StreamError::Lost(io::Error::other(error))
            })?;
            self.stream.send_at_once(self.session.outbox())?;
            if progress != SendProgress::Enough || self.session.next_position().is_none() {
                return Ok(progress);
            }
        }
    }

    /// Fills the session with as much as it accepts now.
    fn fill_session(
        &mut self,
        queue: &Queue,
        mut read: impl FnMut(Position, bool) -> Option<Batch>,
    ) -> Result<SendProgress, OutOfOrder> {
        while let Some(position) = self.session.next_position() {
            let to_all = self.session.sends_to_all();
            match queue.begin_sending(position, to_all) {
                Next::Batch { batch, is_newest } => {
                    self.send(queue, &batch)?;
                    if is_newest {
                        return Ok(SendProgress::All);
                    }
                }
                Next::Gap(gap) => self.session.send_gap(gap)?,
                Next::InSpool => match read(position, to_all) {
                    Some(batch) => {
                        queue.note_sent(batch.end());
                        self.send(queue, &batch)?;
                    }
                    None => return Ok(SendProgress::AllRead),
                },
                Next::Nothing => return Ok(SendProgress::All),
            }
        }
        Ok(SendProgress::Enough)
    }

    fn send(&mut self, queue: &Queue, batch: &Batch) -> Result<(), OutOfOrder> {
        let restamped = (self.sent_as != queue.stream()).then(|| batch.with_stream(self.sent_as));
        self.session.send_batch(restamped.as_ref().unwrap_or(batch))?;
        self.sent.add(batch.first(), batch.end(), u64::from(batch.payload_bytes()));
        Ok(())
    }

    /// Handles the acknowledgement of everything below `position`. Returns the payload bytes of it that this
    /// connection sent.
    pub(crate) fn acknowledge(&mut self, position: Position) -> u64 {
        self.sent.acknowledge(position)
    }

    /// Returns the position below which datagrams may be in flight to all collectors that are waited for. It
    /// covers the datagrams that nf-receiver may hold for them and those that were sent once more. Returns
    /// `None` if everything sent is in flight.
    pub(crate) fn in_flight_end(&self) -> Option<Position> {
        let resent = self.session.resent()?;
        Some(resent.max(self.sent.end_of_first_bytes(u64::try_from(LANE_MAX).unwrap_or(u64::MAX))))
    }

    /// Returns `true` if unsent bytes are left.
    fn has_output(&mut self) -> bool {
        !self.session.outbox().is_empty() || self.stream.has_output()
    }
}

/// The payload bytes of the batches that were sent and are not acknowledged, by end. A merged entry is
/// acknowledged with the last of its batches.
#[derive(Debug, Default)]
struct SentBatches(Vec<SentBatch>);

/// One batch, or several adjacent ones.
#[derive(Clone, Copy, Debug)]
struct SentBatch {
    first: Position,
    end: Position,
    /// Of payload.
    bytes: u64,
}

impl SentBatches {
    /// The largest number of entries. A receiver may accept far more than it acknowledges.
    const ENTRIES_MAX: usize = 4096;

    /// Notes a sent batch. A batch that is sent again does not count twice.
    fn add(&mut self, first: Position, end: Position, bytes: u64) {
        let index = self.0.partition_point(|sent| sent.end < end);
        if self.0.get(index).is_none_or(|next| next.first >= end) {
            self.0.insert(index, SentBatch { first, end, bytes });
        }
        if self.0.len() > Self::ENTRIES_MAX {
            self.merge(|before, after| before == after);
            // With many holes, merge over holes too. Batches sent into a merged hole later are not counted.
            if self.0.len() > Self::ENTRIES_MAX / 4 * 3 {
                self.merge(|_, _| true);
            }
        }
    }

    /// Merges pairs of entries where `may` allows it between the end of one and the start of the next.
    fn merge(&mut self, may: impl Fn(Position, Position) -> bool) {
        let mut is_merged = false;
        self.0.dedup_by(|next, before| {
            is_merged = !is_merged && may(before.end, next.first);
            if is_merged {
                (before.end, before.bytes) = (next.end, before.bytes + next.bytes);
            }
            is_merged
        });
    }

    /// Removes everything below `position`. Returns its bytes.
    fn acknowledge(&mut self, position: Position) -> u64 {
        let count = self.0.partition_point(|sent| sent.end <= position);
        self.0.drain(..count).map(|sent| sent.bytes).sum()
    }

    /// Returns the end of the batch with which the oldest batches reach `bytes`. Returns the end of the last
    /// one if all together have less.
    fn end_of_first_bytes(&self, bytes: u64) -> Position {
        let mut sum = 0;
        let reached = self.0.iter().find(|sent| {
            sum += sent.bytes;
            sum >= bytes
        });
        reached.or(self.0.last()).map_or(Position(0), |sent| sent.end)
    }
}

/// The slot in which the uplink task lends its connection to ingest.
///
/// The uplink task works on its connection outside of the slot, so it holds the lock only to move a pointer.
/// Ingest holds it while it sends at most a window of data, without waiting.
#[derive(Debug, Default)]
pub(crate) struct SharedConnection {
    lent: Mutex<Option<Box<Connection>>>,
}

impl SharedConnection {
    /// Lends `connection` to ingest until the uplink task takes it back.
    pub(crate) fn lend(&self, connection: Box<Connection>) {
        *locked(&self.lent) = Some(connection);
    }

    /// Takes the lent connection back. Waits while ingest sends.
    pub(crate) fn take_back(&self) -> Option<Box<Connection>> {
        locked(&self.lent).take()
    }

    /// Sends the queue without waiting. Returns `true` if everything was sent, so that the uplink task need
    /// not wake up. Returns `false` if no connection is lent: the uplink task may have read the queue before
    /// the last push. The caller then announces the push, and the uplink task sends it.
    pub(crate) fn send_pending(&self, queue: &Queue) -> bool {
        // Lock order: connection, then state of the queue. The uplink task holds no connection lock when it
        // locks that state.
        let mut lent = locked(&self.lent);
        let Some(connection) = lent.as_mut() else { return false };
        matches!(connection.send_pending(queue, |_, _| None), Ok(SendProgress::All))
            && !connection.has_output()
    }
}

#[cfg(test)]
mod tests;
