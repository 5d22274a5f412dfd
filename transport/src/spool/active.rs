//! The segment that batches are appended to, and the failed attempt to create its successor.

use core::time::Duration;
use std::sync::Arc;

use crate::datagram::{BootTime, Moment};
use crate::sequence::Position;

/// Delay after a failed creation of a file until the retry, while batches have another place.
const CREATE_AGAIN: Duration = Duration::from_secs(1);

/// The segment that batches are appended to.
#[derive(Debug)]
pub(super) struct Active<F> {
    pub(super) first: Position,
    pub(super) file: Arc<F>,
    pub(super) begun: Moment,
    /// True if it has reached its time.
    pub(super) is_over: bool,
}

/// A file that could not be created.
#[derive(Debug)]
pub(super) struct Stuck {
    pub(super) at: BootTime,
    pub(super) reason: String,
}

impl Stuck {
    pub(super) fn may_try(&self, now: Moment) -> bool {
        now.boot.since(self.at).is_none_or(|since| since >= CREATE_AGAIN)
    }
}
