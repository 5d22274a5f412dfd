//! Errors of stored positions.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nf_transport_core::sequence::SenderId;

use crate::host::is_out_of_files;
use crate::limits::{NEW_STREAMS_BURST, NEW_STREAMS_BURST_PER_SOURCE};
use crate::receiver::accept::known_sources::PeerSource;

/// Reason why a position cannot be opened or stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PositionsError {
    /// A file operation failed.
    #[error("cannot {operation} {}: {cause}; positions of streams are kept there", path.display())]
    Failed {
        /// The operation.
        operation: &'static str,
        /// Its path.
        path: PathBuf,
        /// The cause from the system.
        #[source]
        cause: io::Error,
    },
    /// A sender begins new streams too fast.
    #[error(
        "sender {sender} began more than {NEW_STREAMS_BURST} new streams in a short time, and may begin the \
         next one in {} s; its datagrams stay queued. nf-sender begins a stream when its spool is empty, \
         restored, or without its file 'stream': keep the spool on a disk that survives restarts, and give \
         each machine an id of its own (nf-receiver invite NAME)",
        wait.as_secs() + 1
    )]
    TooManyNew {
        /// The sender.
        sender: SenderId,
        /// Remaining wait.
        wait: Duration,
    },
    /// Too many new streams begin at one address, under ids that several senders may have.
    #[error(
        "more than {NEW_STREAMS_BURST_PER_SOURCE} new streams began at {at} in a short time, and this one \
         may begin in {} s; its datagrams stay queued. Senders with keys of their own \
         (nf-receiver invite NAME) do not count there",
        wait.as_secs() + 1
    )]
    TooManyNewAt {
        /// The address.
        at: PeerSource,
        /// Remaining wait.
        wait: Duration,
    },
}

impl PositionsError {
    /// Returns whether a new stream has to wait.
    pub(crate) fn is_too_many_new(&self) -> bool {
        matches!(self, Self::TooManyNew { .. } | Self::TooManyNewAt { .. })
    }

    /// Returns whether the process ran out of file descriptors.
    pub(crate) fn is_out_of_files(&self) -> bool {
        matches!(self, Self::Failed { cause, .. } if is_out_of_files(cause))
    }

    /// Adds context to an error: `result.map_err(PositionsError::context("open", path))`.
    pub(super) fn context(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Failed { operation, path: path.to_owned(), cause }
    }
}
