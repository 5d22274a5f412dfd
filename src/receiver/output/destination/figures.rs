//! Live figures of a destination.

use tokio::time::Instant;

use crate::receiver::output::figures::OutputCounts;
use crate::status::CollectorState;

#[derive(Debug)]
pub(super) struct DestinationFigures {
    pub(super) state: CollectorState,
    pub(super) counts: OutputCounts,
    /// Start of the current hold and time of the last attempt by any task; `None` while nothing is held.
    pub(super) held: Option<(Instant, Instant)>,
    /// Generation and collector socket of the last datagram that was sent.
    pub(super) last: Option<(u64, Option<[u8; 8]>)>,
}

impl DestinationFigures {
    /// Notes that a task which has been waiting since `began` still waits.
    pub(super) fn waits(&mut self, began: Instant) {
        self.held = Some((self.held.map_or(began, |(since, _)| since), Instant::now()));
    }
}
