//! The work of one round of the flusher.

use nf_transport_core::batch::Batch;
use nf_transport_core::sequence::{Gap, Position};

use crate::sender::journal::RingEntry;
use crate::sender::queue::state::ShutdownStage;

/// The position up to which to remove data, and the batches to append.
pub(super) struct FlushTask {
    pub(super) acknowledged: Position,
    pub(super) stage: ShutdownStage,
    /// The oldest batches of the tail, if they are due.
    pub(super) spill: Option<Spill>,
}

/// Batches that are due.
#[derive(Clone)]
pub(super) struct Spill {
    /// The oldest batch of the tail.
    pub(super) entry: RingEntry,
    /// The gaps before it.
    pub(super) gaps: Vec<Gap>,
    /// Batches that directly follow it.
    pub(super) next: Vec<RingEntry>,
}

impl FlushTask {
    /// Returns the task with `batch` in the place of its first batch, if given.
    pub(super) fn with_batch(&self, batch: Option<Batch>) -> Self {
        let spill = self.spill.clone().map(|spill| {
            let entry = RingEntry { batch: batch.unwrap_or(spill.entry.batch), ..spill.entry };
            Spill { entry, ..spill }
        });
        Self { spill, ..*self }
    }
}
