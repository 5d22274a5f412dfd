//! The connection that has an entry or waits for it.

use std::net::SocketAddr;
use std::time::SystemTime;

use nf_transport_core::sequence::StreamId;

/// A connection that has the entry, or waits for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    pub(super) number: u64,
    pub(super) peer: SocketAddr,
    pub(super) stream: StreamId,
    pub(super) begun: SystemTime,
    /// True if the connection still has the entry, or waits for it.
    pub(super) is_here: bool,
}

impl Holder {
    /// Fails if this connection exists with another stream, and the stream of the new one did not begin
    /// earlier.
    pub(super) fn check(&self, stream: StreamId, begun: Option<SystemTime>) -> Result<(), Superseded> {
        let gives_way =
            !self.is_here || self.stream == stream || begun.is_some_and(|begun| begun < self.begun);
        if gives_way { Ok(()) } else { Err(Superseded::InUse(self.peer)) }
    }

    /// Returns the reason why a connection with `stream` lost the entry to this one.
    pub(super) fn superseded(&self, stream: StreamId) -> Superseded {
        if self.stream == stream { Superseded::Newer(self.peer) } else { Superseded::KnownLonger(self.peer) }
    }
}

/// Reason why a connection does not get an entry, or lost it to another, with the address of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Superseded {
    #[error(
        "a newer connection of the same sender, from {0}, took over; if this repeats, two machines use the \
         same id and key: give one of them an id of its own"
    )]
    Newer(SocketAddr),
    #[error(
        "another sender with the same id, at {0}, took over, because nf-receiver has known its stream for \
         longer: give each sender an id of its own (nf-receiver invite NAME)"
    )]
    KnownLonger(SocketAddr),
    #[error(
        "its id is in use by another sender, at {0}: give each sender an id of its own (nf-receiver invite \
         NAME). All datagrams stay queued until that one disconnects; if that is an old connection of this \
         sender, it ends after three heartbeats"
    )]
    InUse(SocketAddr),
}
