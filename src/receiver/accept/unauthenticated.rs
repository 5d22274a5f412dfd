//! Connections that have not authenticated yet: few in all and few from each source, so that no peer locks
//! senders out by opening many. If there is no room, one of those with least evidence is closed, chosen at
//! random.
//!
//! Connections from known sources ([`KnownSources`]) keep their places in the total while unknown ones exist.

use std::net::IpAddr;
use std::sync::Arc;

use nf_transport_core::secure::Evidence;

use crate::host::{ConnectionPlace, Eviction, Places, Rank};
use crate::receiver::accept::known_sources::{KnownSources, PeerSource};

/// The rank by source (known or not), then by the evidence that the peer has shown.
type UnauthenticatedRank = (bool, Evidence);

/// The unauthenticated connections of all listeners.
#[derive(Debug)]
pub(crate) struct UnauthenticatedConnections {
    places: Arc<Places<PeerSource, UnauthenticatedRank>>,
    known: Arc<KnownSources>,
}

/// The place of one unauthenticated connection, released when dropped.
pub(crate) type UnauthenticatedPlace = ConnectionPlace<PeerSource, UnauthenticatedRank>;

/// Evidence that one unauthenticated peer has shown.
#[derive(Debug)]
pub(crate) struct PeerEvidence(Rank<PeerSource, UnauthenticatedRank>);

impl UnauthenticatedConnections {
    /// Returns an empty set with these bounds: connections in all, and from one source.
    pub(crate) fn new(in_all: usize, per_source: usize, known: Arc<KnownSources>) -> Self {
        Self { places: Places::new(in_all, per_source, Eviction::Random), known }
    }

    /// Gives a place to a connection from `peer`. The connection that makes room for it, if any, loses its
    /// place.
    pub(crate) fn enter(&self, peer: IpAddr) -> UnauthenticatedPlace {
        let source = PeerSource::of(peer);
        self.places.enter(source, (self.known.has(source), Evidence::Nothing))
    }
}

impl PeerEvidence {
    /// Returns the evidence of the peer in `place`.
    pub(crate) fn of(place: &UnauthenticatedPlace) -> Self {
        Self(place.rank())
    }

    /// Records the evidence that the peer has shown so far.
    pub(crate) fn record(&self, shown: Evidence) {
        self.0.update(|rank| rank.1 = shown);
    }
}

#[cfg(test)]
mod tests {
    use core::future::Future;
    use core::pin::pin;
    use core::task::{Context, Waker};

    use super::*;

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn connections(in_all: usize, per_source: usize) -> UnauthenticatedConnections {
        UnauthenticatedConnections::new(in_all, per_source, Arc::default())
    }

    /// Returns whether this connection has lost its place.
    fn is_lost(place: &mut UnauthenticatedPlace) -> bool {
        pin!(place.evicted()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn neighbours_in_one_ipv6_network_are_one_source() {
        let connections = connections(100, 1);
        let mut first = connections.enter(from("2001:db8::1"));
        let mut other = connections.enter(from("2001:db8:0:1::1"));
        let mut second = connections.enter(from("2001:db8::ffff:1"));
        assert_eq!([&mut first, &mut other, &mut second].map(is_lost), [true, false, false]);
    }

    #[test]
    fn a_known_source_survives_a_flood() {
        let connections = connections(4, 2);
        connections.known.note_authenticated(from("198.51.100.7"), &"edge".parse().unwrap());
        let mut known = connections.enter(from("198.51.100.7"));
        let flood: Vec<_> = (1..=200)
            .map(|number| {
                let place = connections.enter(from(&format!("192.0.2.{number}")));
                PeerEvidence::of(&place).record(Evidence::Key);
                place
            })
            .collect();
        assert!(!is_lost(&mut known));
        assert_eq!(connections.places.count(), 4);
        drop(flood);
    }

    #[test]
    fn a_peer_that_named_a_key_survives_a_flood() {
        for shown in [Evidence::TlsHello, Evidence::SenderName, Evidence::KeyName, Evidence::Key] {
            let connections = connections(100, 8);
            let mut named = connections.enter(from("192.0.2.1"));
            PeerEvidence::of(&named).record(shown);
            let flood: Vec<_> = (0..10_000).map(|_| connections.enter(from("192.0.2.1"))).collect();
            assert!(!is_lost(&mut named), "{shown:?}");
            drop(flood);
        }
    }
}
