//! Reads batches from the segments of the spool.
//!
//! Owns a position in one segment. Runs in a blocking task, as it reads files. Reports damage to the queue,
//! which counts it and turns it into a gap.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nf_transport_core::batch::Batch;
use nf_transport_core::secure::OpenError;
use nf_transport_core::sequence::Position;
use nf_transport_core::spool::{Damage, Item, SegmentReader};

use crate::limits::READ_AHEAD;
use crate::sender::queue::Queue;
use crate::sender::queue::segments::OpenedSegment;

/// The number of consecutive failed reads after which unreadable data counts as damage.
const FAILED_READS_MAX: u32 = 3;

/// The reason why nothing was read. A later read may succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SegmentSourceError {
    #[error("{0}")]
    Disk(#[from] io::Error),
    #[error("{0}: start with that key as spool.previous-key-file")]
    Sealed(#[from] OpenError),
}

/// A reader of the whole spool.
#[derive(Debug)]
pub(crate) struct SegmentSource {
    queue: Arc<Queue>,
    /// The segment being read, by its first position.
    open: Option<OpenedSegment>,
    failures: u32,
}

impl SegmentSource {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self { queue, open: None, failures: 0 }
    }

    /// Reads batches from `position` on, about `READ_AHEAD` bytes of them. Returns none if damage or a gap
    /// comes first, or if the position is no longer in the spool. The caller then asks the queue again.
    pub(crate) fn read(&mut self, position: Position) -> Result<Vec<Batch>, SegmentSourceError> {
        let outcome = self.read_segment(position);
        match &outcome {
            Ok(_) => self.failures = 0,
            // No retry limit: the data is intact and is read once its key is given.
            Err(SegmentSourceError::Sealed(_)) => self.open = None,
            Err(SegmentSourceError::Disk(_)) => {
                self.failures += 1;
                self.open = None;
            }
        }
        outcome
    }

    fn read_segment(&mut self, position: Position) -> Result<Vec<Batch>, SegmentSourceError> {
        let mut batches = Vec::new();
        if !self.seek(position)? {
            return Ok(batches);
        }
        let Some(OpenedSegment { first: segment, reader, .. }) = &mut self.open else { return Ok(batches) };
        let mut bytes = 0;
        while bytes < READ_AHEAD {
            match reader.next_item()? {
                Some(Item::Batch(batch)) => match self.queue.open(&batch) {
                    Ok(batch) => {
                        bytes += batch.bytes().len();
                        batches.push(batch);
                    }
                    Err(OpenError::Damaged) => {
                        self.queue.quarantine(*segment, as_damage(&batch, reader, position));
                        break;
                    }
                    // Return the batches before it first.
                    Err(OpenError::UnknownKey(_)) if !batches.is_empty() => break,
                    Err(error) => return Err(error.into()),
                },
                Some(Item::Damage(damage)) => {
                    self.queue.quarantine(*segment, damage);
                    break;
                }
                Some(Item::Newer(newer)) => {
                    self.queue.preserve_newer(*segment, &newer)?;
                    break;
                }
                None => break,
            }
        }
        Ok(batches)
    }

    /// Moves to `position`. Returns `false` if no segment holds it.
    fn seek(&mut self, position: Position) -> io::Result<bool> {
        if let Some(segment) = &mut self.open
            && segment.reader.position() == position
            && let Some((end, size)) = self.queue.segment_end(segment, position)
        {
            segment.reader.extend(end, size);
            return Ok(true);
        }
        self.open = match self.queue.reader(position, self.failures >= FAILED_READS_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(damage) = self.queue.rest_of_segment(position) {
                    self.queue.quarantine(position, damage);
                }
                None
            }
            other => other?,
        };
        Ok(self.open.is_some())
    }
}

/// Returns all of `batch`, the last one from `reader`, as damage from `position` on.
fn as_damage(batch: &Batch, reader: &SegmentReader<File>, position: Position) -> Damage {
    let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
    Damage {
        offset: reader.offset().saturating_sub(length),
        length,
        first: batch.first().max(position),
        end: batch.end(),
    }
}
