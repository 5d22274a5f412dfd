//! The orderly end of a session.

use tokio::time::Instant;

use crate::limits::{RECONNECT_GRACE, STOP_GRACE};
use crate::sender::uplink::ended::SessionEnd;

/// A session that is being closed in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    pub(crate) reason: CloseReason,
    /// The deadline of the close.
    pub(crate) until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// Shutdown: everything queued is sent before.
    Shutdown,
    /// Another connection follows. Nothing new is sent, so that everything sent is acknowledged before the
    /// close.
    Renew,
    /// As `Renew`, on a reconnect request.
    Asked,
}

impl Closing {
    pub(crate) fn new(why: CloseReason) -> Self {
        let grace = if why == CloseReason::Shutdown { STOP_GRACE } else { RECONNECT_GRACE };
        Self { reason: why, until: Instant::now() + grace }
    }

    pub(crate) fn ended(self) -> SessionEnd {
        match self.reason {
            CloseReason::Shutdown => SessionEnd::Stopped,
            CloseReason::Renew => SessionEnd::Renewed,
            CloseReason::Asked => SessionEnd::Asked,
        }
    }
}
