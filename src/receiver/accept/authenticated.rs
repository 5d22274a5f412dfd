//! Authenticated senders.

use std::net::IpAddr;
use std::sync::Arc;

use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::secure::{AccessPolicy, Credential};
use nf_transport_core::sequence::SenderId;
use tokio::sync::watch;

use crate::receiver::accept::known_sources::PeerSource;
use crate::receiver::state::positions::StreamOwner;

/// An authenticated sender, and the current access policy.
#[derive(Debug)]
pub(crate) struct AuthenticatedSender {
    pub(crate) sender: SenderId,
    pub(crate) credential: Credential,
    pub(crate) policy: watch::Receiver<Arc<AccessPolicy>>,
}

impl AuthenticatedSender {
    /// Returns the exporters whose datagrams it may deliver, by the current policy.
    pub(crate) fn exporters(&self) -> Prefixes {
        self.policy.borrow().exporters_for(&self.sender)
    }

    /// Returns its identity for the limits on connections without a session and on new streams, for a
    /// connection from `peer`.
    pub(crate) fn owner_at(&self, peer: IpAddr) -> StreamOwner {
        let is_alone = self.policy.borrow().is_exclusive(&self.sender, &self.credential);
        StreamOwner { sender: self.sender.clone(), source: (!is_alone).then(|| PeerSource::of(peer)) }
    }

    /// Waits until the access policy no longer accepts this sender.
    pub(crate) async fn access_revoked(&mut self) {
        while self.policy.changed().await.is_ok() {
            if !self.policy.borrow_and_update().still_accepts(&self.sender, &self.credential) {
                return;
            }
        }
        core::future::pending::<()>().await;
    }
}
