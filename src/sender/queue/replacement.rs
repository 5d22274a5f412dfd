//! Detects that another copy of the spool was used, and replaces the stream of this one.
//!
//! A receiver may have datagrams that this spool never sent. The spool was restored from a backup, or a
//! second machine uses a copy. Then one position means different datagrams, and no queued datagram may count
//! as delivered. All of them are sent as a new stream.

use nf_transport_core::framing::{Heartbeat, Hello, Welcome};
use nf_transport_core::secure::{ChannelBinding, StreamKey};
use nf_transport_core::sequence::Position;
use nf_transport_core::spool::Divergence;

use crate::host::systemd::messages::sender;
use crate::sender::queue::Queue;
use crate::sender::queue::recovery::own_stream;
use crate::sender::queue::state::QueueState;
use crate::status::count_of;

impl Queue {
    /// Builds the HELLO message for the connection of `binding`.
    pub(crate) fn hello(&self, heartbeat: Heartbeat, binding: ChannelBinding) -> Hello {
        let state = self.state();
        let (lineage, proof) = (&state.lineage, state.stream_key.prove(binding));
        let (stream, run, replaces) = (lineage.sent_as(), lineage.run(), lineage.replaced());
        Hello { stream, first: state.ledger.acknowledged(), heartbeat, run, replaces, proof }
    }

    /// Checks that this spool sent all unacknowledged datagrams that the receiver has.
    pub(crate) fn check_lineage(&self, welcome: &Welcome) -> Result<(), Divergence> {
        let state = self.state();
        if welcome.received <= state.ledger.acknowledged() {
            return Ok(());
        }
        state.lineage.check(welcome.received, welcome.run, state.highest_sent)
    }

    /// Counts and logs that the whole queue is sent as a new stream. The file `stream` does not name the old
    /// one, or lacks its secret.
    pub(crate) fn note_abandoned_stream(&self) {
        let mut state = self.state();
        let queued = state.ledger.queued();
        state.possible_repeats = queued;
        let stream = state.lineage.sent_as();
        drop(state);
        tracing::warn!(
            message_id = sender::STREAM_REPLACED,
            %stream,
            queued,
            possible_repeats = queued,
            "the file 'stream' of the spool is missing or damaged, or an older version wrote it: sending \
             all {} that are queued as the new stream {stream}; what receivers have and did not acknowledge \
             may arrive twice, none is lost",
            count_of(queued, "datagram")
        );
    }

    /// Replaces the stream by `new`. `peer` has datagrams of the old stream from another copy of the spool,
    /// and has delivered them up to `delivered`. Blocks while the change is written to disk.
    pub(crate) fn replace_stream(
        &self,
        new: StreamKey,
        divergence: Divergence,
        delivered: Position,
        peer: &str,
    ) {
        let stream = new.id();
        let mut spool = self.spool();
        let recorded = spool.replace_stream(own_stream(&new));
        let lineage = spool.lineage().clone();
        drop(spool);
        if let Some(common) = divergence.common {
            self.acknowledge(common.min(delivered), 0);
        }
        let mut state = self.state();
        let start = lineage.runs().last().map_or(Position(0), |run| run.start);
        let possible_repeats = queued_below(&state, delivered.min(start));
        let queued = state.ledger.queued();
        state.possible_repeats += possible_repeats;
        state.lineage = lineage;
        state.stream_key = new;
        state.highest_sent = state.ledger.acknowledged();
        drop(state);
        tracing::warn!(
            message_id = sender::STREAM_REPLACED,
            %stream,
            queued,
            possible_repeats,
            "{peer} has datagrams of this stream that this spool never sent: the spool was restored from a \
             backup, or another machine uses a copy of it; sending all {} that are queued as the new stream \
             {stream}; {possible_repeats} of them may arrive twice, none is lost",
            count_of(queued, "datagram")
        );
        if let Err(error) = recorded {
            tracing::warn!(
                %error,
                "cannot record the new stream in the spool: {error}; after a restart queued datagrams may \
                 arrive twice"
            );
        }
    }
}

/// Returns the number of datagrams queued below `position`.
fn queued_below(state: &QueueState, position: Position) -> u64 {
    let acknowledged = state.ledger.acknowledged();
    let gone: u64 =
        state.ledger.gaps_within(acknowledged, position).map(|gap| gap.end.since(gap.first)).sum();
    position.since(acknowledged).saturating_sub(gone)
}
