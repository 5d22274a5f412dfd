//! Reasons why nothing could be sent.

use std::io;

use tokio::time::Instant;

use crate::receiver::output::down_reason::DownReason;
use crate::receiver::output::source_sockets::is_unreachable;
use crate::receiver::output::system_error::SystemError;
use crate::receiver::output::watch::WatchError;

/// Reason why nothing could be sent.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// The collector's queue is almost full, or the kernel is short of memory.
    Full,
    /// A rate limit allows nothing before this time.
    Paced(Instant),
    /// The collector accepts nothing, for this reason.
    Down(DownReason),
    /// Datagrams of the run's exporter cannot be sent now, for this reason. Those of other exporters may be.
    Held(SystemError),
    /// The kernel refused to send the first datagram, for this reason.
    Refused(SystemError),
    /// The kernel has no buffer for the first datagram, or a filter below IP drops it.
    NoBuffer(SystemError),
    /// The collector, or the exporter's socket, was replaced a moment ago: repeats may be due.
    Changed,
}

impl From<WatchError> for Obstacle {
    fn from(error: WatchError) -> Self {
        Self::Down(error.into())
    }
}

/// Returns whether the error means a temporary lack of room.
pub(super) fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

/// Returns whether the error may belong to an earlier datagram: the next call reports it, sends nothing, and
/// clears it. For a remote collector, only ICMP shows whether it is up, so an unreachable error is always
/// taken at its word.
pub(super) fn may_be_left_behind(error: &io::Error, is_watching: bool) -> bool {
    !is_full(error) && (is_watching || !is_unreachable(error))
}

/// Maps a failure to open an exporter's socket to an obstacle.
pub(super) fn unopened(error: &io::Error) -> Obstacle {
    if concerns_collector(error) {
        Obstacle::Down(DownReason::Unreachable(error.into()))
    } else {
        Obstacle::Held(error.into())
    }
}

/// Returns whether the error means that no exporter's datagrams reach the collector.
pub(super) fn concerns_collector(error: &io::Error) -> bool {
    is_unreachable(error) || error.raw_os_error() == Some(libc::ENETDOWN)
}
