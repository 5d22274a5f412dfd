//! Reads batches of the spool ahead while the uplink task sends earlier ones.
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

use crate::sender::queue::Queue;
use crate::sender::uplink::segment_source::{SegmentSource, SegmentSourceError};

/// The delay after a failed read of the spool.
const READ_RETRY: Duration = Duration::from_secs(1);

/// The number of read batches below which more are read: half of `READ_AHEAD` if they are full.
const READ_ON: usize = 4;

/// The spool's reader, returned by its task, and the outcome.
type ReadOutcome = (SegmentSource, Result<Vec<Batch>, SegmentSourceError>);

/// Batches that were read from the spool, and the reader of the next ones.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    queue: Arc<Queue>,
    batches: VecDeque<Batch>,
    /// The spool's reader, while no read is running.
    idle: Option<SegmentSource>,
    reading: Option<JoinHandle<ReadOutcome>>,
    /// After a failed read, the earliest time of the next one.
    retry_at: Option<Instant>,
}

impl ReadAhead {
    pub(crate) fn new(queue: &Arc<Queue>) -> Self {
        Self {
            queue: queue.clone(),
            batches: VecDeque::new(),
            idle: Some(SegmentSource::new(queue.clone())),
            reading: None,
            retry_at: None,
        }
    }

    /// Returns the batch that holds `position`, or starts to read it. `to_all` is `true` if the batch may
    /// reach all collectors that are waited for.
    pub(crate) fn get_or_read(&mut self, position: Position, to_all: bool) -> Option<Batch> {
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

    /// Starts to read the next batches while the last ones are sent.
    fn read_on(&mut self, to_all: bool) {
        let next = self.batches.back().map(Batch::end).filter(|_| self.batches.len() <= READ_ON);
        if let Some(next) = next
            && self.can_read()
            && self.queue.begin_reading(next, to_all)
        {
            self.start(next);
        }
    }

    fn can_read(&self) -> bool {
        self.idle.is_some() && self.retry_at.is_none()
    }

    fn start(&mut self, position: Position) {
        if self.can_read()
            && let Some(mut source) = self.idle.take()
        {
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let outcome = source.read(position);
                (source, outcome)
            }));
        }
    }

    /// Waits for the running read and returns its outcome. Never returns while none is running.
    pub(crate) async fn finished(&mut self) -> Result<(), SegmentSourceError> {
        let Some(reading) = &mut self.reading else { return core::future::pending().await };
        let failed = |error| (SegmentSource::new(self.queue.clone()), Err(io::Error::other(error).into()));
        let (source, outcome) = reading.await.unwrap_or_else(failed);
        (self.reading, self.idle) = (None, Some(source));
        match outcome {
            Ok(batches) => self.batches.extend(batches),
            Err(error) => {
                self.retry_at = Some(Instant::now() + READ_RETRY);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The end of the delay after a failed read.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Ends the delay after a failed read once its time has passed.
    pub(crate) fn end_delay(&mut self) {
        self.retry_at = self.retry_at.filter(|until| *until > Instant::now());
    }
}
