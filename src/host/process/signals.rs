//! The signals that a daemon handles.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::host::DaemonError;

/// Receives signals of this `kind` from now on. Requires a tokio runtime.
pub fn watch_for(kind: SignalKind) -> Result<Signal, DaemonError> {
    signal(kind).map_err(|error| DaemonError::system(format_args!("cannot handle signals: {error}")))
}
