//! Connections that have not come to a channel yet: few in all and few from each source, so that nobody keeps senders
//! out by opening many. Where there is no room, the oldest stranger goes.
//!
//! A source is an IPv4 address, or the first 64 bits of an IPv6 address. A source from which a sender has proven
//! itself is known; of the known, only their own strangers make room for each other while unknown ones are there.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::limits::KNOWN_SOURCES;

/// Where a connection comes from.
type Source = IpAddr;

fn source_of(peer: IpAddr) -> Source {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// The strangers of all listeners.
#[derive(Debug)]
pub(crate) struct Strangers {
    inner: Mutex<Inner>,
    /// At the most so many at once, in all and from one source; at least 1.
    in_all: usize,
    per_source: usize,
}

#[derive(Debug, Default)]
struct Inner {
    /// By number, so oldest first.
    waiting: BTreeMap<u64, Stranger>,
    next: u64,
    /// Sources of senders that have proven themselves, each with the number of the last stranger then.
    known: HashMap<Source, u64>,
}

#[derive(Debug)]
struct Stranger {
    source: Source,
    /// Dropped to send it away.
    _stay: oneshot::Sender<()>,
}

/// The place of one stranger, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    strangers: Arc<Strangers>,
    number: u64,
    stay: oneshot::Receiver<()>,
}

impl Strangers {
    /// Nobody yet; at the most so many at once, in all and from one source.
    pub(crate) fn new(in_all: usize, per_source: usize) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), in_all, per_source })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a place to a connection from `peer`; whoever has to make room for it loses its own.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr) -> Place {
        let source = source_of(peer);
        let (sender, stay) = oneshot::channel();
        let mut inner = self.inner();
        if let Some(number) = inner.to_leave(source, self.in_all, self.per_source) {
            inner.waiting.remove(&number);
        }
        let number = inner.next;
        inner.next += 1;
        inner.waiting.insert(number, Stranger { source, _stay: sender });
        Place { strangers: self.clone(), number, stay }
    }

    /// A sender has proven itself from `peer`.
    pub(crate) fn know(&self, peer: IpAddr) {
        let mut inner = self.inner();
        let now = inner.next;
        inner.known.insert(source_of(peer), now);
        if inner.known.len() > KNOWN_SOURCES
            && let Some(oldest) = inner.known.iter().min_by_key(|(_, at)| **at).map(|(source, _)| *source)
        {
            inner.known.remove(&oldest);
        }
    }
}

impl Inner {
    /// Who has to make room for one more from `source`.
    fn to_leave(&self, source: Source, in_all: usize, per_source: usize) -> Option<u64> {
        let own: Vec<u64> = self.of_source(|of| *of == source).collect();
        if own.len() >= per_source {
            return own.first().copied();
        }
        if self.waiting.len() < in_all {
            return None;
        }
        let oldest_unknown = self.of_source(|of| !self.known.contains_key(of)).next();
        oldest_unknown.or_else(|| self.waiting.keys().next().copied())
    }

    /// The strangers of these sources, oldest first.
    fn of_source(&self, wanted: impl Fn(&Source) -> bool) -> impl Iterator<Item = u64> {
        let of_them = move |(_, stranger): &(&u64, &Stranger)| wanted(&stranger.source);
        self.waiting.iter().filter(of_them).map(|(number, _)| *number)
    }
}

impl Place {
    /// Waits until somebody else needs this place.
    pub(crate) async fn lost(&mut self) {
        // An error is the only message that ever comes.
        drop((&mut self.stay).await);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.strangers.inner().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Whether this one has been sent away.
    fn is_lost(place: &mut Place) -> bool {
        place.stay.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_oldest_stranger_of_a_source_makes_room_for_its_next() {
        let strangers = Strangers::new(100, 2);
        let mut places: Vec<Place> = (0..3).map(|_| strangers.enter(from("192.0.2.1"))).collect();
        let mut other = strangers.enter(from("192.0.2.2"));
        assert_eq!(places.iter_mut().map(is_lost).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_lost(&mut other));
    }

    #[test]
    fn neighbours_in_one_ipv6_network_are_one_source() {
        let strangers = Strangers::new(100, 1);
        let mut first = strangers.enter(from("2001:db8::1"));
        let mut other = strangers.enter(from("2001:db8:0:1::1"));
        let mut second = strangers.enter(from("2001:db8::ffff:1"));
        assert_eq!([&mut first, &mut other, &mut second].map(is_lost), [true, false, false]);
    }

    #[test]
    fn the_oldest_of_all_makes_room_where_there_is_none() {
        let strangers = Strangers::new(2, 2);
        let mut places: Vec<Place> =
            (1..=3).map(|number| strangers.enter(from(&format!("192.0.2.{number}")))).collect();
        assert_eq!(places.iter_mut().map(is_lost).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let strangers = Strangers::new(1, 1);
        drop(strangers.enter(from("192.0.2.1")));
        let mut second = strangers.enter(from("192.0.2.1"));
        assert!(!is_lost(&mut second));
        assert_eq!(strangers.inner().waiting.len(), 1);
    }

    #[test]
    fn a_known_source_keeps_its_place_in_a_flood_of_unknown_ones() {
        let strangers = Strangers::new(4, 2);
        strangers.know(from("198.51.100.7"));
        let mut known = strangers.enter(from("198.51.100.7"));
        let flood: Vec<Place> =
            (1..=200).map(|number| strangers.enter(from(&format!("192.0.2.{number}")))).collect();
        assert!(!is_lost(&mut known));
        assert_eq!(strangers.inner().waiting.len(), 4);
        drop(flood);
    }

    #[test]
    fn the_sources_that_are_known_are_bounded() {
        let strangers = Strangers::new(1, 1);
        for number in 0..u32::try_from(KNOWN_SOURCES).unwrap() + 10 {
            drop(strangers.enter(from("192.0.2.1")));
            strangers.know(IpAddr::V4(number.into()));
        }
        let inner = strangers.inner();
        assert_eq!(inner.known.len(), KNOWN_SOURCES);
        assert!(!inner.known.contains_key(&IpAddr::V4(9.into())));
        assert!(inner.known.contains_key(&IpAddr::V4(10.into())));
    }
}
