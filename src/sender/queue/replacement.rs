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
use crate::sender::queue::state::NewStream;
use crate::status::count_of;

impl Queue {
    /// Builds the HELLO message for the connection of `binding`.
    pub(crate) fn hello(&self, heartbeat: Heartbeat, binding: ChannelBinding) -> Hello {
        self.state().hello(heartbeat, binding)
    }

    /// Checks that this spool sent all unacknowledged datagrams that the receiver has.
    pub(crate) fn check_lineage(&self, welcome: &Welcome) -> Result<(), Divergence> {
        self.state().check_lineage(welcome)
    }

    /// Counts and logs that the whole queue is sent as a new stream. The file `stream` does not name the old
    /// one, or lacks its secret.
    pub(crate) fn note_abandoned_stream(&self) {
        let NewStream { stream, queued, possible_repeats } = self.state().note_abandoned_stream();
        tracing::warn!(
            message_id = sender::STREAM_REPLACED,
            %stream,
            queued,
            possible_repeats,
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
        let NewStream { queued, possible_repeats, .. } = self.state().replace_stream(lineage, new, delivered);
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
