//! The current stream of a sender.

use std::sync::Arc;

use nf_transport_core::sequence::{RunId, StreamId};

use crate::receiver::delivery::Delivery;
use crate::receiver::state::positions::{StreamInUse, StreamPosition};

/// The current stream of a sender, and its delivery.
#[derive(Debug)]
pub(crate) struct ActiveStream {
    pub(crate) stream: StreamId,
    pub(crate) stored: Arc<StreamPosition>,
    /// The use of `stored` by the session; `None` between sessions.
    pub(crate) in_use: Option<StreamInUse>,
    pub(crate) delivery: Delivery,
    /// The run that sent the latest received datagrams.
    pub(crate) run: RunId,
}

impl ActiveStream {
    /// Returns whether the stored position describes the complete state.
    pub(super) fn is_settled(&self) -> bool {
        self.delivery.is_even() && self.stored.get().unwrap_or_default() == self.delivery.position()
    }
}
