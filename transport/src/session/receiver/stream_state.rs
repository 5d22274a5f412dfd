//! Progress of the stream in an open session: which batches are new, requested again, or duplicates.

use bytes::Bytes;

use crate::batch::{Batch, BatchError};
use crate::sequence::{Gap, Position, StreamId};
use crate::session::SessionError;
use crate::session::receiver::event::ReceiverEvent;

/// Progress of the stream in an open session.
#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) stream: StreamId,
    /// Next expected position.
    pub(super) expected: Position,
    /// Position below which everything is delivered and stored; `delivered <= expected`.
    pub(super) delivered: Position,
    /// Position of the last RECEIVED message.
    pub(super) reported_received: Position,
    /// True from the return of a batch or gap until `resume_reading`.
    pub(super) is_paused: bool,
    /// Outstanding part of a RESEND request: next position, and bytes of batches.
    pub(super) requested: Option<(Position, usize)>,
}

impl StreamState {
    pub(super) fn accept_batch(&mut self, bytes: &Bytes) -> Result<ReceiverEvent, SessionError> {
        let batch = Batch::parse_exact(self.stream, bytes)?;
        if batch.is_sealed() {
            return Err(BatchError::Sealed.into());
        }
        let skip = self.expected.since(batch.first());
        if self.accept_resent(batch.first(), batch.end(), batch.bytes().len()).is_some() {
            return Ok(ReceiverEvent::ResentBatch(batch));
        }
        if !self.advance(batch.first(), batch.end())? {
            let datagrams = batch.datagrams().saturating_sub(u32::from(batch.dropped()));
            return Ok(ReceiverEvent::Duplicate { datagrams });
        }
        Ok(ReceiverEvent::Batch { batch, skip: usize::try_from(skip).unwrap_or(usize::MAX) })
    }

    pub(super) fn accept_gap(&mut self, gap: Gap) -> Result<Option<ReceiverEvent>, SessionError> {
        let first = gap.first.max(self.expected);
        if let Some(first) = self.accept_resent(gap.first, gap.end, 0) {
            return Ok(Some(ReceiverEvent::ResentGap(Gap { first, ..gap })));
        }
        let is_new = self.advance(gap.first, gap.end)?;
        Ok(is_new.then_some(ReceiverEvent::Gap(Gap { first, ..gap })))
    }

    /// Advances the outstanding request if the positions `first` to `end` contain its next position.
    ///
    /// Returns that position; `None` if the positions are not a part of the request.
    fn accept_resent(&mut self, first: Position, end: Position, bytes: usize) -> Option<Position> {
        let (next, wanted) = self.requested?;
        if !(first..end).contains(&next) {
            return None;
        }
        if end > self.expected {
            // The batch also contains new positions, so it is handled as a new one. The daemon can request
            // all of it afterwards.
            self.requested = None;
            return None;
        }
        let wanted = wanted.saturating_sub(bytes);
        self.requested = (end < self.expected && wanted > 0).then_some((end, wanted));
        Some(next)
    }

    /// Advances the expected position to `end`. Returns true, and pauses reading, if there are new positions.
    fn advance(&mut self, first: Position, end: Position) -> Result<bool, SessionError> {
        if first > self.expected {
            return Err(SessionError::Hole { expected: self.expected, found: first });
        }
        self.is_paused = end > self.expected;
        self.expected = self.expected.max(end);
        Ok(self.is_paused)
    }
}
