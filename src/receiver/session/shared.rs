//! State shared by all connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use nf_transport_core::sequence::StreamId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::host::{LogLimit, locked};
use crate::receiver::accept::known_sources::KnownSources;
use crate::receiver::accept::rejected::RejectedPeers;
use crate::receiver::accept::waiting::WaitingForSession;
use crate::receiver::collectors::confusion::Confusion;
use crate::receiver::delivery::collector_offsets::CollectorOffsets;
use crate::receiver::output::Outputs;
use crate::receiver::session::ended::ConnectionEnd;
use crate::receiver::session::senders::Senders;
use crate::receiver::state::positions::{Positions, PositionsError, StreamInUse, StreamOwner};
use crate::receiver::state::templates::Templates;
use crate::status::RefusedStatus;

/// State shared by all connections.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) senders: Senders,
    pub(crate) positions: Positions,
    /// The active collectors.
    pub(crate) outputs: watch::Receiver<Arc<Outputs>>,
    pub(crate) collector_offsets: CollectorOffsets,
    pub(crate) templates: Arc<Templates>,
    pub(crate) log_limit: Mutex<LogLimit<IpAddr>>,
    pub(crate) rejected: Mutex<RejectedPeers>,
    pub(crate) known_sources: Arc<KnownSources>,
    pub(crate) waiting: WaitingForSession,
    pub(crate) confusion: Confusion,
}

impl Shared {
    /// The active collectors.
    pub(crate) fn outputs(&self) -> Arc<Outputs> {
        self.outputs.borrow().clone()
    }

    /// Opens the stored position of a stream on a thread that may block, so that a slow disk delays nothing
    /// else. If the caller is cancelled, its use ends as soon as it is open. Fails without a trace on disk if
    /// another sender uses the id.
    pub(super) async fn position_of(
        self: &Arc<Self>,
        owner: StreamOwner,
        peer: SocketAddr,
        stream: StreamId,
    ) -> Result<StreamInUse, ConnectionEnd> {
        let permit = self.positions.opening_permit().await;
        let shared = self.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let begun = shared.positions.begun(&owner.sender, stream);
            shared.senders.check(&owner.sender, peer, stream, begun)?;
            Ok(shared.open_position(&owner, stream)?)
        });
        opening.await.unwrap_or_else(|error| Err(self.positions.not_opened(error.into()).into()))
    }

    /// Opens the stored position of a stream. If file descriptors run out, it closes exporter sockets and
    /// retries.
    fn open_position(&self, owner: &StreamOwner, stream: StreamId) -> Result<StreamInUse, PositionsError> {
        let now = Instant::now().into_std();
        self.positions.stream(owner, stream, now).or_else(|error| {
            if !error.is_out_of_files() {
                return Err(error);
            }
            self.outputs().shed_sockets();
            self.positions.stream(owner, stream, now)
        })
    }

    /// Admits one log line about `peer`, unless there were too many recently. Returns the number of lines
    /// that were suppressed before it.
    pub(crate) fn admit_log(&self, peer: IpAddr) -> Option<u64> {
        let mut complaints = locked(&self.log_limit);
        complaints.admit(peer, Instant::now().into_std())
    }

    /// Notes for the status that a connection of `peer` was rejected.
    pub(crate) fn note_rejected(&self, peer: SocketAddr, reason: String) {
        locked(&self.rejected).add(peer, reason);
    }

    /// Returns the number of rejected connections, and the latest peers.
    pub(crate) fn rejected(&self) -> (u64, Vec<RefusedStatus>) {
        let refused = locked(&self.rejected);
        (refused.count(), refused.status())
    }
}
