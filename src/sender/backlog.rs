//! Reads ahead in the spool for the link.
//!
//! Owns a place in one segment. Used from a blocking task: it reads files. Damage that it meets is told to the
//! queue, which counts it and shows it as a gap from then on.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::batch::Batch;
use crate::limits::READ_AHEAD;
use crate::sender::queue::Queue;
use crate::sequence::Position;
use crate::spool::{Item, SegmentReader};

/// After so many failed reads in a row, what cannot be read counts as damage.
const PATIENCE: u32 = 3;

/// A reader of all that the spool holds.
#[derive(Debug)]
pub(crate) struct Backlog {
    queue: Arc<Queue>,
    /// The segment being read, by its first position.
    open: Option<(Position, SegmentReader<File>)>,
    failures: u32,
}

impl Backlog {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self { queue, open: None, failures: 0 }
    }

    /// Batches from `position` on, about `READ_AHEAD` bytes of them. None if damage or a gap comes first, or if
    /// the position is no longer in the spool: whoever asks looks at the queue again.
    pub(crate) fn read(&mut self, position: Position) -> io::Result<Vec<Batch>> {
        let outcome = self.read_segment(position);
        if outcome.is_ok() {
            self.failures = 0;
        } else {
            self.failures += 1;
            self.open = None;
        }
        outcome
    }

    fn read_segment(&mut self, position: Position) -> io::Result<Vec<Batch>> {
        let mut batches = Vec::new();
        if !self.seek(position)? {
            return Ok(batches);
        }
        let Some((segment, reader)) = &mut self.open else { return Ok(batches) };
        let mut bytes = 0;
        while bytes < READ_AHEAD {
            match reader.next_item()? {
                Some(Item::Batch(batch)) => {
                    bytes += batch.bytes().len();
                    batches.push(batch);
                }
                Some(Item::Damage(damage)) => {
                    self.queue.give_up(*segment, damage);
                    break;
                }
                None => break,
            }
        }
        Ok(batches)
    }

    /// Makes the open segment stand at `position`; false if no segment holds it.
    fn seek(&mut self, position: Position) -> io::Result<bool> {
        if let Some((first, reader)) = &mut self.open
            && reader.position() == position
            && let Some((end, size)) = self.queue.segment_end(*first, position)
        {
            reader.extend(end, size);
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
