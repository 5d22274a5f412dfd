//! Connections that have not come to a channel yet: few in all and few from each source, so that nobody keeps senders
//! out by opening many. Where there is no room, one of those that have shown least goes, drawn by lot.
//!
//! Of all, those from known sources ([`KnownSources`]) are spared while unknown ones are there. The lot gives each a
//! chance to finish its handshake, however fast others come.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::receiver::known_sources::{KnownSources, Source};
use crate::secure::Shown;

/// The strangers of all listeners.
#[derive(Debug)]
pub(crate) struct Strangers {
    inner: Mutex<Inner>,
    /// At the most so many at once, in all and from one source; at least 1.
    in_all: usize,
    per_source: usize,
    known: Arc<KnownSources>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<u64, Stranger>,
    next: u64,
}

#[derive(Debug)]
struct Stranger {
    source: Source,
    shown: Shown,
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

/// What is known of the peer in one place.
#[derive(Debug)]
pub(crate) struct Notes {
    strangers: Arc<Strangers>,
    number: u64,
}

impl Strangers {
    /// Nobody yet; at the most so many at once, in all and from one source.
    pub(crate) fn new(in_all: usize, per_source: usize, known: Arc<KnownSources>) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), in_all, per_source, known })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a place to a connection from `peer`; whoever has to make room for it loses its own.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr) -> Place {
        let source = Source::of(peer);
        let (sender, stay) = oneshot::channel();
        let mut inner = self.inner();
        if let Some(number) = self.to_leave(&inner, source) {
            inner.waiting.remove(&number);
        }
        let number = inner.next;
        inner.next += 1;
        inner.waiting.insert(number, Stranger { source, shown: Shown::Nothing, _stay: sender });
        Place { strangers: self.clone(), number, stay }
    }

    /// Who has to make room for one more from `source`.
    fn to_leave(&self, inner: &Inner, source: Source) -> Option<u64> {
        let own: Vec<(Shown, u64)> = inner
            .waiting
            .iter()
            .filter(|(_, stranger)| stranger.source == source)
            .map(|(number, stranger)| (stranger.shown, *number))
            .collect();
        if own.len() >= self.per_source {
            return one_of_the_least(&own);
        }
        if inner.waiting.len() < self.in_all {
            return None;
        }
        let rank = |stranger: &Stranger| (self.known.has(stranger.source), stranger.shown);
        let all: Vec<_> = inner.waiting.iter().map(|(number, stranger)| (rank(stranger), *number)).collect();
        one_of_the_least(&all)
    }
}

/// Draws one of those with the lowest rank.
fn one_of_the_least<R: Ord + Copy>(ranked: &[(R, u64)]) -> Option<u64> {
    let least = ranked.iter().map(|(rank, _)| *rank).min()?;
    let numbers: Vec<u64> =
        ranked.iter().filter(|(rank, _)| *rank == least).map(|(_, number)| *number).collect();
    // Without randomness, the oldest.
    let drawn = getrandom::u64().unwrap_or(0) % u64::try_from(numbers.len()).unwrap_or(u64::MAX);
    numbers.get(usize::try_from(drawn).unwrap_or(0)).copied()
}

impl Place {
    /// Waits until somebody else needs this place.
    pub(crate) async fn lost(&mut self) {
        // An error is the only message that ever comes.
        drop((&mut self.stay).await);
    }

    /// Where to note what its peer has shown.
    pub(crate) fn notes(&self) -> Notes {
        Notes { strangers: self.strangers.clone(), number: self.number }
    }
}

impl Notes {
    /// What the peer has shown so far.
    pub(crate) fn shows(&self, shown: Shown) {
        if let Some(stranger) = self.strangers.inner().waiting.get_mut(&self.number) {
            stranger.shown = shown;
        }
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

    fn strangers(in_all: usize, per_source: usize) -> Arc<Strangers> {
        Strangers::new(in_all, per_source, Arc::default())
    }

    /// Whether this one has been sent away.
    fn is_lost(place: &mut Place) -> bool {
        place.stay.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    fn count_lost(places: &mut [Place]) -> usize {
        places.iter_mut().map(is_lost).filter(|is_lost| *is_lost).count()
    }

    #[test]
    fn a_stranger_makes_room_for_the_next_of_its_source() {
        let strangers = strangers(100, 2);
        let mut other = strangers.enter(from("192.0.2.2"));
        let mut places: Vec<Place> = (0..3).map(|_| strangers.enter(from("192.0.2.1"))).collect();
        assert_eq!(count_lost(&mut places), 1);
        assert!(!is_lost(&mut places[2]) && !is_lost(&mut other));
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
    fn a_stranger_makes_room_where_there_is_none_in_all() {
        let strangers = strangers(2, 2);
        let mut places: Vec<Place> =
            (1..=3).map(|number| strangers.enter(from(&format!("192.0.2.{number}")))).collect();
        assert_eq!(count_lost(&mut places), 1);
        assert!(!is_lost(&mut places[2]));
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let strangers = strangers(1, 1);
        drop(strangers.enter(from("192.0.2.1")));
        let mut second = strangers.enter(from("192.0.2.1"));
        assert!(!is_lost(&mut second));
        assert_eq!(strangers.inner().waiting.len(), 1);
    }

    #[test]
    fn a_known_source_keeps_its_place_in_a_flood_of_unknown_ones() {
        let strangers = strangers(4, 2);
        strangers.known.note(from("198.51.100.7"), &"edge".parse().unwrap());
        let mut known = strangers.enter(from("198.51.100.7"));
        let flood: Vec<Place> =
            (1..=200).map(|number| strangers.enter(from(&format!("192.0.2.{number}")))).collect();
        assert!(!is_lost(&mut known));
        assert_eq!(strangers.inner().waiting.len(), 4);
        drop(flood);
    }

    #[test]
    fn who_named_a_key_outlives_a_flood_from_its_own_address() {
        for shown in [Shown::TlsHello, Shown::KeyName, Shown::Key] {
            let strangers = strangers(100, 8);
            let mut named = strangers.enter(from("192.0.2.1"));
            named.notes().shows(shown);
            let flood: Vec<Place> = (0..10_000).map(|_| strangers.enter(from("192.0.2.1"))).collect();
            assert!(!is_lost(&mut named), "{shown:?}");
            drop(flood);
        }
    }

    #[test]
    fn the_lot_gives_a_chance_in_a_flood_of_equals() {
        let survivors = (0..1000).filter(|_| {
            let strangers = strangers(100, 8);
            let mut first = strangers.enter(from("192.0.2.1"));
            let flood: Vec<Place> = (0..15).map(|_| strangers.enter(from("192.0.2.1"))).collect();
            let survives = !is_lost(&mut first);
            drop(flood);
            survives
        });
        // (7/8)^8 of them: 344 of 1,000, with a standard deviation of 15.
        let survivors = survivors.count();
        assert!((225..=465).contains(&survivors), "{survivors}");
    }
}
