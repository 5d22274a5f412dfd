//! What the link reads ahead in the spool, while it sends what was read before.
//!
//! Never holds more than twice `READ_AHEAD` bytes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nf_transport_core::batch::Batch;
use nf_transport_core::sequence::Position;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sender::queue::{Next, Queue};
use crate::sender::uplink::segment_source::{SegmentSource, SegmentSourceError};

/// How long after a failed read of the spool the link tries again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Batches with which it is time to read more: half of `READ_AHEAD`, where they are full.
const READ_ON: usize = 4;

/// The spool's reader, and what it read.
type ReadOutcome = (SegmentSource, Result<Vec<Batch>, SegmentSourceError>);

/// Batches that were read, and what reads the next ones.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    queue: Arc<Queue>,
    batches: VecDeque<Batch>,
    /// The spool's reader, while it does not read.
    idle: Option<SegmentSource>,
    reading: Option<JoinHandle<ReadOutcome>>,
    /// A read failed: not before this time again.
    resting_until: Option<Instant>,
}

impl ReadAhead {
    pub(crate) fn new(queue: &Arc<Queue>) -> Self {
        Self {
            queue: queue.clone(),
            batches: VecDeque::new(),
            idle: Some(SegmentSource::new(queue.clone())),
            reading: None,
            resting_until: None,
        }
    }

    /// The batch that holds `position`. What is not read yet will be. It may reach all collectors that are waited for where
    /// `to_all`.
    pub(crate) fn take(&mut self, position: Position, to_all: bool) -> Option<Batch> {
        while self.batches.front().is_some_and(|batch| batch.end() <= position) {
            self.batches.pop_front();
        }
        if self.batches.front().is_none_or(|batch| batch.first() > position) {
            self.batches.clear();
            self.start(position);
            return None;
        }
        let batch = self.batches.pop_front();
        self.read_on(to_all);
        batch
    }

    /// The next batches are read while the last ones are sent.
    fn read_on(&mut self, to_all: bool) {
        let next = self.batches.back().map(Batch::end).filter(|_| self.batches.len() <= READ_ON);
        if let Some(next) = next
            && self.may_read()
            && matches!(self.queue.next_to_send(next, to_all), Next::InSpool)
        {
            self.start(next);
        }
    }

    fn may_read(&self) -> bool {
        self.idle.is_some() && self.resting_until.is_none()
    }

    fn start(&mut self, position: Position) {
        if self.may_read()
            && let Some(mut backlog) = self.idle.take()
        {
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let outcome = backlog.read(position);
                (backlog, outcome)
            }));
        }
    }

    /// Waits for a read under way, and says how it ended; for ever if there is none.
    pub(crate) async fn finished(&mut self) -> Result<(), SegmentSourceError> {
        let Some(reading) = &mut self.reading else { return core::future::pending().await };
        let failed = |error| (SegmentSource::new(self.queue.clone()), Err(io::Error::other(error).into()));
        let (backlog, outcome) = reading.await.unwrap_or_else(failed);
        (self.reading, self.idle) = (None, Some(backlog));
        match outcome {
            Ok(batches) => self.batches.extend(batches),
            Err(error) => {
                self.resting_until = Some(Instant::now() + READ_AGAIN);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Until when nothing is read, after a read that failed.
    pub(crate) fn resting_until(&self) -> Option<Instant> {
        self.resting_until
    }

    /// After its time of rest the reader may read again, whether or not it is wanted at once.
    pub(crate) fn end_rest(&mut self) {
        self.resting_until = self.resting_until.filter(|until| *until > Instant::now());
    }
}
