//! The work of one round of the flusher.

use nf_transport_core::batch::Batch;
use nf_transport_core::sequence::{Gap, Position};

use crate::sender::journal::RingEntry;
use crate::sender::queue::state::ShutdownStage;

/// The position up to which to remove data, and the batch to append.
pub(super) struct FlushTask {
    pub(super) acknowledged: Position,
    pub(super) stage: ShutdownStage,
    /// The oldest batch of the tail, if it is due, and the gaps before it.
    pub(super) spill: Option<(RingEntry, Vec<Gap>)>,
}

impl FlushTask {
    /// Returns the task with `batch` in the place of its own batch, if given.
    pub(super) fn with_batch(&self, batch: Option<Batch>) -> Self {
        let spill = self
            .spill
            .clone()
            .map(|(entry, gaps)| (RingEntry { batch: batch.unwrap_or(entry.batch), ..entry }, gaps));
        Self { spill, ..*self }
    }
}
