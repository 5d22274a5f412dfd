//! Authenticated connections without a session: between handshake and HELLO, or while the last words are sent. Few of each
//! sender, so that one key does not take the places of all; the newest stay. Where many can have a sender's id, those at other
//! addresses count apart, so that they cannot close a connection of the sender itself.

use std::sync::Arc;

use crate::host::{ConnectionPlace, Eviction, Places};
use crate::limits::WAITING_PER_SENDER;
use crate::receiver::state::positions::Owner;

/// The place of such a connection, given back when dropped.
pub(crate) type WaitingPlace = ConnectionPlace<Owner>;

/// Such connections of all senders.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Places<Owner>>);

impl Default for Waiting {
    fn default() -> Self {
        // All of them together have places that `limits.connections` bounds.
        Self(Places::new(usize::MAX, WAITING_PER_SENDER, Eviction::Oldest))
    }
}

impl Waiting {
    /// Gives a place to a connection of `owner`; with too many, its oldest one loses its own.
    pub(crate) fn enter(&self, owner: &Owner) -> WaitingPlace {
        self.0.enter(owner.clone(), ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::accept::known_sources::Source;

    #[tokio::test]
    async fn other_addresses_take_no_place_of_a_sender() {
        let owner_at = |source: &str| Owner {
            sender: "edge".parse().unwrap(),
            source: Some(Source::of(source.parse().unwrap())),
        };
        let waiting = Waiting::default();
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
