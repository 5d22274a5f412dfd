//! The stream that the queue is sent as.

use nf_transport_core::framing::{Heartbeat, Hello, Welcome};
use nf_transport_core::secure::{ChannelBinding, StreamKey};
use nf_transport_core::sequence::{Position, StreamId};
use nf_transport_core::spool::{Divergence, Lineage};

/// The stream that the queue is sent as, and how far it was sent.
#[derive(Debug)]
pub(super) struct SentStream {
    /// The stream, and the runs that sent it.
    lineage: Lineage,
    /// The secret of the stream.
    key: StreamKey,
    /// The position below which this run has sent. Earlier runs may have sent everything below the start of
    /// its numbering.
    highest_sent: Position,
    /// Datagrams that were queued when the stream was replaced, and that the receiver may have had already.
    possible_repeats: u64,
}

impl SentStream {
    /// The stream of `lineage` and `key`, of which the receiver has acknowledged everything below
    /// `acknowledged`.
    pub(super) fn new(lineage: Lineage, key: StreamKey, acknowledged: Position) -> Self {
        Self { lineage, key, highest_sent: acknowledged, possible_repeats: 0 }
    }

    pub(super) fn id(&self) -> StreamId {
        self.lineage.sent_as()
    }

    /// The stream that this one has replaced.
    pub(super) fn replaced(&self) -> Option<StreamId> {
        self.lineage.replaced()
    }

    pub(super) fn possible_repeats(&self) -> u64 {
        self.possible_repeats
    }

    /// Builds the HELLO message for the connection of `binding`. The queue starts at `first`.
    pub(super) fn hello(&self, first: Position, heartbeat: Heartbeat, binding: ChannelBinding) -> Hello {
        let (run, replaces) = (self.lineage.run(), self.lineage.replaced());
        Hello { stream: self.id(), first, heartbeat, run, replaces, proof: self.key.prove(binding) }
    }

    /// Checks that this spool sent everything that the receiver has.
    pub(super) fn check(&self, welcome: &Welcome) -> Result<(), Divergence> {
        self.lineage.check(welcome.received, welcome.run, self.highest_sent)
    }

    /// Notes that positions below `position` were sent.
    pub(super) fn note_sent(&mut self, position: Position) {
        self.highest_sent = self.highest_sent.max(position);
    }

    /// Counts queued datagrams that the receiver may have had as another stream.
    pub(super) fn add_possible_repeats(&mut self, datagrams: u64) {
        self.possible_repeats += datagrams;
    }

    /// Continues as the stream of `lineage` and `key`, of which nothing from `acknowledged` on was sent.
    pub(super) fn replace(&mut self, lineage: Lineage, key: StreamKey, acknowledged: Position) {
        (self.lineage, self.key, self.highest_sent) = (lineage, key, acknowledged);
    }
}
