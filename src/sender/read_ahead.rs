//! What the link reads ahead in the spool, while it sends what was read before.
//!
//! Never holds more than twice `READ_AHEAD` bytes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::sender::backlog::{Backlog, BacklogError};
use crate::sender::queue::{Next, Queue};
use crate::sequence::Position;

/// How long after a failed read of the spool the link tries again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Batches with which it is time to read more: half of `READ_AHEAD`, where they are full.
const READ_ON: usize = 4;

/// Batches that were read, and who reads the next ones.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    queue: Arc<Queue>,
    batches: VecDeque<Batch>,
    reader: Reader,
}

/// Who has the spool's reader.
#[derive(Debug)]
enum Reader {
    Idle(Backlog),
    Busy(JoinHandle<(Backlog, Result<Vec<Batch>, BacklogError>)>),
    /// A read failed: not before this time again.
    Resting(Backlog, Instant),
}

impl ReadAhead {
    pub(crate) fn new(queue: &Arc<Queue>) -> Self {
        let reader = Reader::Idle(Backlog::new(queue.clone()));
        Self { queue: queue.clone(), batches: VecDeque::new(), reader }
    }

    /// The batch that holds `position`. What is not read yet will be. The receiver has everything below `taken`.
    pub(crate) fn take(&mut self, position: Position, taken: Position) -> Option<Batch> {
        while self.batches.front().is_some_and(|batch| batch.end() <= position) {
            self.batches.pop_front();
        }
        if self.batches.front().is_none_or(|batch| batch.first() > position) {
            self.batches.clear();
            self.start(position);
            return None;
        }
        let batch = self.batches.pop_front();
        self.read_on(taken);
        batch
    }

    /// The next batches are read while the last ones are sent.
    fn read_on(&mut self, taken: Position) {
        let next = self.batches.back().map(Batch::end).filter(|_| self.batches.len() <= READ_ON);
        if let Some(next) = next
            && matches!(self.reader, Reader::Idle(_))
            && matches!(self.queue.next_to_send(next, taken), Next::InSpool)
        {
            self.start(next);
        }
    }

    fn start(&mut self, position: Position) {
        if !matches!(self.reader, Reader::Idle(_)) {
            return;
        }
        self.reader = match self.take_reader() {
            Reader::Idle(mut backlog) => Reader::Busy(tokio::task::spawn_blocking(move || {
                let outcome = backlog.read(position);
                (backlog, outcome)
            })),
            other => other,
        };
    }

    /// The reader, for another to be put in its place.
    fn take_reader(&mut self) -> Reader {
        core::mem::replace(&mut self.reader, Reader::Idle(Backlog::new(self.queue.clone())))
    }

    /// Waits for a read under way, and says how it ended; for ever if there is none.
    pub(crate) async fn finished(&mut self) -> Result<(), BacklogError> {
        let Reader::Busy(task) = &mut self.reader else { return core::future::pending().await };
        let failed = |error| (Backlog::new(self.queue.clone()), Err(io::Error::other(error).into()));
        let (backlog, outcome) = task.await.unwrap_or_else(failed);
        let (reader, outcome) = match outcome {
            Ok(batches) => {
                self.batches.extend(batches);
                (Reader::Idle(backlog), Ok(()))
            }
            Err(error) => (Reader::Resting(backlog, Instant::now() + READ_AGAIN), Err(error)),
        };
        self.reader = reader;
        outcome
    }

    /// Until when nothing is read, after a read that failed.
    pub(crate) fn resting_until(&self) -> Option<Instant> {
        match self.reader {
            Reader::Resting(_, until) => Some(until),
            Reader::Idle(_) | Reader::Busy(_) => None,
        }
    }

    /// After its time of rest the reader is idle, whether or not it is wanted at once.
    pub(crate) fn end_rest(&mut self) {
        self.reader = match self.take_reader() {
            Reader::Resting(backlog, until) if until <= Instant::now() => Reader::Idle(backlog),
            other => other,
        };
    }
}
