//! The lanes of a delivery: collectors of one kind, and their pending batches.

use std::collections::VecDeque;
use std::sync::Arc;

use nf_transport_core::datagram::Datagram;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::limits::LANE_MAX;
use nf_transport_core::sequence::Position;

use crate::receiver::delivery::memory::StreamMemory;
use crate::receiver::delivery::pending_batch::{PendingBatch, Settled};
use crate::receiver::output::{DeliveryProgress, ExporterFilter, Output};
use crate::receiver::state::templates::TemplateLearner;

/// The position of one collector in a stream.
#[derive(Debug)]
pub(super) struct CollectorCursor {
    pub(super) output: Arc<Output>,
    pub(super) progress: DeliveryProgress,
    /// Templates that the collector has seen of the sender's exporters up to that position.
    pub(super) learner: Arc<TemplateLearner>,
}

impl CollectorCursor {
    /// Delivers the first of `batches` that the collector does not have completely.
    pub(super) async fn run(&mut self, batches: &VecDeque<Arc<PendingBatch>>) {
        let next = batches.iter().find(|batch| batch.end > self.progress.position);
        let Some(batch) = next else {
            return note_internal_error("a collector waits for a batch that is not queued");
        };
        for (first, datagrams) in batch.runs_from(self.progress.position) {
            self.progress.position = first;
            self.output.deliver(&datagrams, &mut self.progress, &self.learner).await;
        }
        self.progress.position = batch.end;
    }

    /// Skips the rest of `batch` for this collector.
    pub(super) fn skip(&mut self, batch: &PendingBatch) {
        if self.progress.position < batch.end {
            let runs = batch.runs_from(self.progress.position);
            let datagrams: Vec<Datagram<'_>> = runs.into_iter().flat_map(|(_, run)| run).collect();
            self.learner.learn(&datagrams, None);
            self.output.skip(&datagrams);
            self.progress.position = batch.end;
        }
    }
}

/// The collectors of one kind, and the batches that not all of them have.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) cursors: Vec<CollectorCursor>,
    /// In the order of the stream, without omissions.
    pub(super) batches: VecDeque<Arc<PendingBatch>>,
    /// Sum of the bytes of all batches.
    pub(super) bytes: usize,
    /// Position after the last batch that was queued here.
    pub(super) end: Position,
}

impl Lane {
    pub(super) fn has_room(&self, memory: &StreamMemory) -> bool {
        self.batches.is_empty() || (self.bytes < LANE_MAX && !memory.is_spent())
    }

    /// Returns the position below which all of its collectors have the stream; `None` without collectors.
    pub(super) fn position(&self) -> Option<Position> {
        self.cursors.iter().map(|leg| leg.progress.position).min()
    }

    /// Queues the batch that begins at or below `end`.
    pub(super) fn push(&mut self, batch: Arc<PendingBatch>) {
        // Without collectors nothing is missed: `change` may leave such a lane behind.
        if batch.first > self.end && !self.cursors.is_empty() {
            note_internal_error("positions are missing before a batch of a lane");
        }
        self.end = batch.end;
        if !self.cursors.is_empty() {
            self.bytes += batch.bytes();
            self.batches.push_back(batch);
        }
    }

    /// Returns the end of the last whole batch that all of its collectors have.
    pub(super) fn settled(&self) -> Position {
        self.batches.front().map_or(self.end, |oldest| oldest.first)
    }

    /// Removes the first batch if all of its collectors have it.
    pub(super) fn pop(&mut self) -> Option<Arc<PendingBatch>> {
        let position = self.position();
        let is_done = |batch: &&Arc<PendingBatch>| position.is_none_or(|position| batch.end <= position);
        self.batches.front().filter(is_done)?;
        let batch = self.batches.pop_front()?;
        self.bytes -= batch.bytes();
        Some(batch)
    }

    /// Makes room for one more batch: the collectors furthest behind skip the oldest batches.
    pub(super) fn make_room(&mut self, memory: &StreamMemory) {
        while !self.has_room(memory)
            && let Some(oldest) = self.batches.front().cloned()
        {
            self.cursors.iter_mut().for_each(|leg| leg.skip(&oldest));
            self.pop();
        }
    }

    /// Removes all batches. Returns the result for the datagrams that its collectors have.
    pub(super) fn clear(&mut self, collected: &ExporterFilter) -> Settled {
        // Without collectors there are no batches.
        let position = self.position().unwrap_or_default();
        self.bytes = 0;
        self.batches.drain(..).map(|batch| batch.settled_below(position, collected)).collect()
    }

    /// Removes the batches that all of its collectors have. Returns the result for their datagrams.
    pub(super) fn remove_delivered(&mut self, collected: &ExporterFilter) -> Settled {
        core::iter::from_fn(|| self.pop()).map(|batch| batch.settled_below(batch.end, collected)).collect()
    }
}
