//! Connections that have not come to a channel yet: few in all and few from each source, so that nobody keeps senders
//! out by opening many. Where there is no room, one of those that have shown least goes, drawn by lot.
//!
//! Of all, those from known sources ([`KnownSources`]) are spared while unknown ones are there.

use std::net::IpAddr;
use std::sync::Arc;

use nf_transport_core::secure::Evidence;

use crate::host::{ConnectionPlace, Eviction, Places, Rank};
use crate::receiver::accept::known_sources::{KnownSources, Source};

/// Whether the source is known, then what the peer has shown.
type Spared = (bool, Evidence);

/// The strangers of all listeners.
#[derive(Debug)]
pub(crate) struct Strangers {
    places: Arc<Places<Source, Spared>>,
    known: Arc<KnownSources>,
}

/// The place of one stranger, given back when dropped.
pub(crate) type StrangersPlace = ConnectionPlace<Source, Spared>;

/// Evidence that one unauthenticated peer has shown.
#[derive(Debug)]
pub(crate) struct Notes(Rank<Source, Spared>);

impl Strangers {
    /// Nobody yet; at the most so many at once, in all and from one source.
    pub(crate) fn new(in_all: usize, per_source: usize, known: Arc<KnownSources>) -> Self {
        Self { places: Places::new(in_all, per_source, Eviction::Random), known }
    }

    /// Gives a place to a connection from `peer`; whoever has to make room for it loses its own.
    pub(crate) fn enter(&self, peer: IpAddr) -> StrangersPlace {
        let source = Source::of(peer);
        self.places.enter(source, (self.known.has(source), Evidence::Nothing))
    }
}

impl Notes {
    /// The notes of the peer in `place`.
    pub(crate) fn of(place: &StrangersPlace) -> Self {
        Self(place.rank())
    }

    /// Records what the peer has shown so far.
    pub(crate) fn shows(&self, shown: Evidence) {
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

    fn strangers(in_all: usize, per_source: usize) -> Strangers {
        Strangers::new(in_all, per_source, Arc::default())
    }

    /// Whether this one has been sent away.
    fn is_lost(place: &mut StrangersPlace) -> bool {
        pin!(place.evicted()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn neighbours_in_one_ipv6_network_are_one_source() {
        let strangers = strangers(100, 1);
        let mut first = strangers.enter(from("2001:db8::1"));
        let mut other = strangers.enter(from("2001:db8:0:1::1"));
        let mut second = strangers.enter(from("2001:db8::ffff:1"));
        assert_eq!([&mut first, &mut other, &mut second].map(is_lost), [true, false, false]);
    }

    #[test]
    fn a_known_source_keeps_its_place_in_a_flood_of_unknown_ones() {
        let strangers = strangers(4, 2);
        strangers.known.note(from("198.51.100.7"), &"edge".parse().unwrap());
        let mut known = strangers.enter(from("198.51.100.7"));
        let flood: Vec<_> = (1..=200)
            .map(|number| {
                let place = strangers.enter(from(&format!("192.0.2.{number}")));
                Notes::of(&place).shows(Evidence::Key);
                place
            })
            .collect();
        assert!(!is_lost(&mut known));
        assert_eq!(strangers.places.count(), 4);
        drop(flood);
    }

    #[test]
    fn who_named_a_key_outlives_a_flood_from_its_own_address() {
        for shown in [Evidence::TlsHello, Evidence::SenderName, Evidence::KeyName, Evidence::Key] {
            let strangers = strangers(100, 8);
            let mut named = strangers.enter(from("192.0.2.1"));
            Notes::of(&named).shows(shown);
            let flood: Vec<_> = (0..10_000).map(|_| strangers.enter(from("192.0.2.1"))).collect();
            assert!(!is_lost(&mut named), "{shown:?}");
            drop(flood);
        }
    }
}
