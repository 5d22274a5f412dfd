//! Authenticated senders.

use std::net::IpAddr;
use std::sync::Arc;

use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::secure::{Admission, Pass};
use nf_transport_core::sequence::SenderId;
use tokio::sync::watch;

use crate::receiver::accept::known_sources::PeerSource;
use crate::receiver::state::positions::StreamOwner;

/// An authenticated sender, and the current access policy.
#[derive(Debug)]
pub(crate) struct AuthenticatedSender {
    pub(crate) sender: SenderId,
    pub(crate) pass: Pass,
    pub(crate) admission: watch::Receiver<Arc<Admission>>,
}

impl AuthenticatedSender {
    /// Returns the exporters whose datagrams it may deliver, by the current policy.
    pub(crate) fn exporters(&self) -> Prefixes {
        self.admission.borrow().exporters_of(&self.sender)
    }

    /// Returns its identity for the limits on new streams, for a connection from `peer`.
    pub(crate) fn owner_at(&self, peer: IpAddr) -> StreamOwner {
        let is_alone = self.admission.borrow().is_of_its_own(&self.sender, &self.pass);
        StreamOwner { sender: self.sender.clone(), source: (!is_alone).then(|| PeerSource::of(peer)) }
    }

    /// Waits until the access policy no longer accepts this sender.
    pub(crate) async fn access_revoked(&mut self) {
        while self.admission.changed().await.is_ok() {
            if !self.admission.borrow_and_update().still_admits(&self.sender, &self.pass) {
                return;
            }
        }
        core::future::pending::<()>().await;
    }
}
