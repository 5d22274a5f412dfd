//! The orderly end of a session.

use tokio::time::Instant;

use crate::host::connection::flush_and_close;
use crate::limits::{RECONNECT_GRACE, STOP_GRACE};
use crate::sender::uplink::connection::Connection;
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

/// Closes the connection of a session that has `ended`.
pub(crate) async fn close(connection: &mut Connection, ended: &SessionEnd) {
    match ended {
        // The receiver has closed: nothing more can be sent.
        SessionEnd::Closed | SessionEnd::Stream(_) => {}
        // GOODBYE would not arrive either.
        SessionEnd::Stalled(_) => {
            if let Err(error) = connection.stream.abort() {
                tracing::debug!(%error, "cannot reset the connection: {error}");
            }
        }
        SessionEnd::Renewed | SessionEnd::Asked | SessionEnd::Stopped => {
            connection.session.goodbye();
            flush_and_close(&mut connection.session, &mut connection.stream).await;
        }
        SessionEnd::Goodbye
        | SessionEnd::Refused(_)
        | SessionEnd::RefusedForNow(_)
        | SessionEnd::Session(_)
        | SessionEnd::Superseded(_)
        | SessionEnd::Diverged { .. }
        | SessionEnd::BehindUs(..) => {
            flush_and_close(&mut connection.session, &mut connection.stream).await;
        }
    }
}
