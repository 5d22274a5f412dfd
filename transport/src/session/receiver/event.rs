//! The events that the receiver's side of a session returns.

use crate::batch::Batch;
use crate::framing::Hello;
use crate::sequence::Gap;

/// An event of the receiver's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverEvent {
    /// A sender requests a session. The daemon calls `welcome` or `reject`.
    Hello(Hello),
    /// The next batch. No other batch follows before `resume_reading`.
    ///
    /// When the batch is delivered and that is stored, the daemon calls `acknowledge` with its end.
    Batch {
        /// A whole and undamaged batch, whose records are not parsed yet.
        batch: Batch,
        /// Number of datagrams at its start that were received before; `skip < batch.datagrams()`.
        skip: usize,
    },
    /// The next positions will never be sent. The gap starts at the expected position.
    ///
    /// The daemon calls `resume_reading` and `acknowledge` as for a batch.
    Gap(Gap),
    /// A requested batch, which contains the next requested position.
    ResentBatch(Batch),
    /// A gap in place of requested positions. It starts at the next requested position.
    ResentGap(Gap),
    /// A batch that was completely received before. The daemon only counts it.
    Duplicate {
        /// Number of its datagrams, without dropped ones.
        datagrams: u32,
    },
    /// The sender closed the session regularly.
    Goodbye,
}
