//! Reasons for which a collector gets no datagrams now.

use crate::receiver::output::system_error::SystemError;
use crate::receiver::output::watch::WatchError;

/// Reason for which a collector gets no datagrams, or none of one exporter. Its text is a part of log lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DownReason {
    /// No socket listens at its address on this machine.
    #[error("no socket listening")]
    NoSocket,
    /// Its socket on this machine cannot be looked up.
    #[error(transparent)]
    NotWatched(#[from] WatchError),
    /// ICMP or the kernel reports that nothing reaches it.
    #[error("{0}")]
    Unreachable(SystemError),
    /// The kernel does not send datagrams of an exporter.
    #[error("{0}")]
    NotSent(SystemError),
}
