//! Reads ahead in the spool for the link.
//!
//! Owns a place in one segment. Used from a blocking task: it reads files. Damage that it meets is told to the
//! queue, which counts it and shows it as a gap from then on.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nf_transport_core::batch::Batch;
use nf_transport_core::secure::OpenError;
use nf_transport_core::sequence::Position;
use nf_transport_core::spool::{Damage, Item, SegmentReader};

use crate::limits::READ_AHEAD;
use crate::sender::queue::{OpenedSegment, Queue};

/// After so many failed reads in a row, what cannot be read counts as damage.
const PATIENCE: u32 = 3;

/// Why nothing was read. A later try may succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BacklogError {
    #[error("{0}")]
    Disk(#[from] io::Error),
    #[error("{0}: start with that key as spool.previous-key-file")]
    Sealed(#[from] OpenError),
}

/// A reader of all that the spool holds.
#[derive(Debug)]
pub(crate) struct Backlog {
    queue: Arc<Queue>,
    /// The segment being read, by its first position.
    open: Option<OpenedSegment>,
    failures: u32,
}

impl Backlog {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self { queue, open: None, failures: 0 }
    }

    /// Batches from `position` on, about `READ_AHEAD` bytes of them. None if damage or a gap comes first, or if
    /// the position is no longer in the spool: whoever asks looks at the queue again.
    pub(crate) fn read(&mut self, position: Position) -> Result<Vec<Batch>, BacklogError> {
        let outcome = self.read_segment(position);
        match &outcome {
            Ok(_) => self.failures = 0,
            // However often: the data is whole, and comes as soon as its key does.
            Err(BacklogError::Sealed(_)) => self.open = None,
            Err(BacklogError::Disk(_)) => {
                self.failures += 1;
                self.open = None;
            }
        }
        outcome
    }

    fn read_segment(&mut self, position: Position) -> Result<Vec<Batch>, BacklogError> {
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
                        self.queue.give_up(*segment, whole(&batch, reader, position));
                        break;
                    }
                    // What comes before it is sent first.
                    Err(OpenError::UnknownKey(_)) if !batches.is_empty() => break,
                    Err(error) => return Err(error.into()),
                },
                Some(Item::Damage(damage)) => {
                    self.queue.give_up(*segment, damage);
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

    /// Makes the open segment stand at `position`; false if no segment holds it.
    fn seek(&mut self, position: Position) -> io::Result<bool> {
        if let Some(segment) = &mut self.open
            && segment.reader.position() == position
            && let Some((end, size)) = self.queue.segment_end(segment, position)
        {
            segment.reader.extend(end, size);
            return Ok(true);
        }
        self.open = match self.queue.reader(position, self.failures >= PATIENCE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(damage) = self.queue.rest_of_segment(position) {
                    self.queue.give_up(position, damage);
                }
                None
            }
            other => other?,
        };
        Ok(self.open.is_some())
    }
}

/// All of `batch`, which `reader` has just given, as damage from `position` on.
fn whole(batch: &Batch, reader: &SegmentReader<File>, position: Position) -> Damage {
    let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
    Damage {
        offset: reader.offset().saturating_sub(length),
        length,
        first: batch.first().max(position),
        end: batch.end(),
    }
}
