//! Authenticated connections without a session: between handshake and HELLO, or while they are closed. Each
//! sender has a few places, so that one key does not use up all. The newest connections stay. Where several
//! senders may have the same id, those at other addresses count separately, so that they cannot close a
//! connection of the sender itself.

use std::sync::Arc;

use crate::host::{ConnectionPlace, Eviction, Places};
use crate::limits::WAITING_PER_SENDER;
use crate::receiver::state::positions::StreamOwner;

/// The place of such a connection, released when dropped.
pub(crate) type WaitingPlace = ConnectionPlace<StreamOwner>;

/// Such connections of all senders.
#[derive(Debug)]
pub(crate) struct WaitingForSession(Arc<Places<StreamOwner>>);

impl Default for WaitingForSession {
    fn default() -> Self {
        // Their total is bounded by `limits.connections`.
        Self(Places::new(usize::MAX, WAITING_PER_SENDER, Eviction::Oldest))
    }
}

impl WaitingForSession {
    /// Gives a place to a connection of `owner`. If it has too many, its oldest one loses its place.
    pub(crate) fn enter(&self, owner: &StreamOwner) -> WaitingPlace {
        self.0.enter(owner.clone(), ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::accept::known_sources::PeerSource;

    #[tokio::test]
    async fn other_addresses_take_no_place_of_a_sender() {
        let owner_at = |source: &str| StreamOwner {
            sender: "edge".parse().unwrap(),
            source: Some(PeerSource::of(source.parse().unwrap())),
        };
        let waiting = WaitingForSession::default();
        let mut first = waiting.enter(&owner_at("192.0.2.1"));
        let others: Vec<_> = (0..100).map(|_| waiting.enter(&owner_at("192.0.2.2"))).collect();
        let is_lost = |place: &mut WaitingPlace| {
            let mut context = core::task::Context::from_waker(core::task::Waker::noop());
            let lost = core::pin::pin!(place.evicted());
            Future::poll(lost, &mut context).is_ready()
        };
        assert!(!is_lost(&mut first));
        let kept = others.into_iter().filter_map(|mut place| (!is_lost(&mut place)).then_some(place));
        assert_eq!(kept.count(), WAITING_PER_SENDER);
    }
}
