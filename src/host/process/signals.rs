//! The signals that a daemon handles.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::host::DaemonError;

/// The request that a signal makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalRequest {
    /// Stop: SIGTERM or SIGINT.
    Stop,
    /// Read the settings again: SIGHUP.
    Reload,
}

/// A source of requests to a daemon.
pub(crate) trait Requests {
    /// Waits for the next request. Cancel safe.
    fn next(&mut self) -> impl Future<Output = SignalRequest> + Send;
}

/// The handled signals. Their default action, which ends the process, is off from the construction on, also
/// after this value is dropped.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Handles signals from now on. Requires a tokio runtime.
    pub fn handle() -> Result<Self, DaemonError> {
        let handle = |kind| {
            signal(kind).map_err(|error| DaemonError::system(format_args!("cannot handle signals: {error}")))
        };
        Ok(Self {
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            hangup: handle(SignalKind::hangup())?,
        })
    }
}

impl Requests for Signals {
    async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.terminate.recv() => SignalRequest::Stop,
            _ = self.interrupt.recv() => SignalRequest::Stop,
            _ = self.hangup.recv() => SignalRequest::Reload,
        }
    }
}
