//! The signals that a daemon listens to.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::host::DaemonError;

/// Hears signals of this `kind` from now on, inside a tokio runtime.
pub fn watch_for(kind: SignalKind) -> Result<Signal, DaemonError> {
    signal(kind).map_err(|error| DaemonError::system(format_args!("cannot watch for signals: {error}")))
}
