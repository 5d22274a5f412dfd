//! The orderly end of a session.

use tokio::time::Instant;

use crate::limits::{RECONNECT_GRACE, STOP_GRACE};
use crate::sender::uplink::ended::Ended;

/// The orderly end of a session, while it is still waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    pub(crate) why: Why,
    /// When it is not waited for any more.
    pub(crate) until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The program stops: all that is queued is sent before.
    Stop,
    /// Another connection follows: nothing new is sent, so that all that was sent is acknowledged before.
    Renew,
    /// As `Renew`, because somebody asked for it.
    Asked,
}

impl Closing {
    pub(crate) fn new(why: Why) -> Self {
        let grace = if why == Why::Stop { STOP_GRACE } else { RECONNECT_GRACE };
        Self { why, until: Instant::now() + grace }
    }

    pub(crate) fn ended(self) -> Ended {
        match self.why {
            Why::Stop => Ended::Stopped,
            Why::Renew => Ended::Renewed,
            Why::Asked => Ended::Asked,
        }
    }
}
