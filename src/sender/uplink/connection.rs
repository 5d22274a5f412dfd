//! The line to a receiver: the session with it, and the connection that this goes over.
//!
//! The link keeps it. From WELCOME on ingest sends by it, too, what lies in memory: to wake the link up for each burst costs
//! more than to send the burst. What lies in the spool only the link sends.

use std::io;
use std::sync::{Arc, PoisonError};

use nf_transport_core::batch::Batch;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::limits::LANE_MAX;
use nf_transport_core::sequence::{Position, StreamId};
use nf_transport_core::session::{OutOfTurn, SenderSession};
use tokio::sync::Mutex;

use crate::host::secure_stream::{Stream, StreamError};
use crate::sender::queue::{Next, Queue};
use crate::sender::uplink::unacknowledged::Unacknowledged;

/// How much the session was handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendProgress {
    /// As much as it takes now.
    Enough,
    /// All that was read from the spool.
    AllRead,
    /// All that there is.
    All,
}

/// A session and its connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) session: SenderSession,
    pub(crate) stream: Stream,
    /// The stream that the session is about.
    sent_as: StreamId,
    /// Ends and payload bytes of batches sent and not acknowledged.
    sent: Unacknowledged,
}

impl Connection {
    pub(crate) fn new(session: SenderSession, stream: Stream, sent_as: StreamId) -> Self {
        Self { session, stream, sent_as, sent: Unacknowledged::default() }
    }

    /// Hands the session, and the socket, all that they take now. What lies in the spool only, `read` has to know: the batch that
    /// holds this position, and whether it may reach all collectors that are waited for.
    pub(crate) fn send_pending(
        &mut self,
        queue: &Queue,
        mut read: impl FnMut(Position, bool) -> Option<Batch>,
    ) -> Result<SendProgress, StreamError> {
        loop {
            let offered = self.fill_session(queue, &mut read).map_err(|error| {
                note_internal_error("the session does not take what it asked for");
                StreamError::Lost(io::Error::other(error))
            })?;
            self.stream.send_at_once(self.session.outbox())?;
            if offered != SendProgress::Enough || self.session.wants().is_none() {
                return Ok(offered);
            }
        }
    }

    /// Hands the session all that it takes now.
    fn fill_session(
        &mut self,
        queue: &Queue,
        mut read: impl FnMut(Position, bool) -> Option<Batch>,
    ) -> Result<SendProgress, OutOfTurn> {
        while let Some(position) = self.session.wants() {
            let to_all = self.session.sends_to_all();
            match queue.next_to_send(position, to_all) {
                Next::Batch(batch) => self.send(queue, &batch)?,
                Next::Gap(gap) => {
                    queue.note_sent(gap.end);
                    self.session.send_gap(gap)?;
                }
                Next::InSpool => match read(position, to_all) {
                    Some(batch) => self.send(queue, &batch)?,
                    None => return Ok(SendProgress::AllRead),
                },
                Next::Nothing => return Ok(SendProgress::All),
            }
        }
        Ok(SendProgress::Enough)
    }

    fn send(&mut self, queue: &Queue, batch: &Batch) -> Result<(), OutOfTurn> {
        queue.note_sent(batch.end());
        let restamped = (self.sent_as != queue.stream()).then(|| batch.of_stream(self.sent_as));
        self.session.send_batch(restamped.as_ref().unwrap_or(batch))?;
        self.sent.add(batch.first(), batch.end(), u64::from(batch.payload_bytes()));
        Ok(())
    }

    /// The receiver has everything below `position`: how many bytes of payload that are which were sent by this line.
    pub(crate) fn acknowledge(&mut self, position: Position) -> u64 {
        self.sent.acknowledge(position)
    }

    /// Where what may be on its way to all collectors that are waited for ends; `None` if that is all that was sent. Else it is
    /// what nf-receiver may hold for them, and what they were sent once more.
    pub(crate) fn in_flight_end(&self) -> Option<Position> {
        let resent = self.session.resent()?;
        Some(resent.max(self.sent.end_of_first_bytes(u64::try_from(LANE_MAX).unwrap_or(u64::MAX))))
    }

    /// Whether something waits to be written.
    fn has_output(&mut self) -> bool {
        !self.session.outbox().is_empty() || self.stream.has_output()
    }
}

/// Where the link leaves its line for ingest.
#[derive(Debug, Default)]
pub(crate) struct SharedConnection {
    connection: std::sync::Mutex<Option<Arc<Mutex<Connection>>>>,
}

impl SharedConnection {
    /// From now on ingest sends by this line, or by none.
    pub(crate) fn set(&self, line: Option<Arc<Mutex<Connection>>>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }

    /// Sends what the queue holds; nothing is waited for. Whether that was all, so that the link has nothing to do.
    pub(crate) fn send_pending(&self, queue: &Queue) -> bool {
        let line = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut line) = line.as_ref().and_then(|line| line.try_lock().ok()) else { return false };
        matches!(line.send_pending(queue, |_, _| None), Ok(SendProgress::All)) && !line.has_output()
    }
}
