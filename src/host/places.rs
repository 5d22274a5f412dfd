//! Places that connections hold until they are served: few in all and few for each key, such as an address. Where there is no
//! room, one connection of the lowest rank makes room for the next.

use core::hash::Hash;
use core::net::{IpAddr, Ipv6Addr};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The network that counts as one source of connections: an IPv4 address, or a /64 of IPv6, since one host may use all of it.
pub fn source_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Which of several connections of the lowest rank makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The oldest.
    Oldest,
    /// One drawn by lot: each has a chance to be served, however fast others come.
    Lot,
}

/// The places.
#[derive(Debug)]
pub struct Places<K, R = ()> {
    inner: Mutex<Inner<K, R>>,
    in_all: usize,
    per_key: usize,
    choice: Choice,
}

#[derive(Debug)]
struct Inner<K, R> {
    /// By number, so oldest first. No key without a connection.
    by_key: HashMap<K, BTreeMap<u64, Held<R>>>,
    count: usize,
    next: u64,
}

#[derive(Debug)]
struct Held<R> {
    rank: R,
    /// Dropped to close the connection.
    _stay: oneshot::Sender<()>,
}

/// The place of one connection, given back when dropped.
#[derive(Debug)]
pub struct Place<K: Clone + Eq + Hash, R: Copy + Ord = ()> {
    held: Rank<K, R>,
    stay: oneshot::Receiver<()>,
}

/// The rank of the connection in one place.
#[derive(Debug)]
pub struct Rank<K, R> {
    places: Arc<Places<K, R>>,
    key: K,
    number: u64,
}

impl<K: Clone + Eq + Hash, R: Copy + Ord> Places<K, R> {
    /// Places for `in_all` connections, and for `per_key` of each key; at least 1.
    pub fn new(in_all: usize, per_key: usize, choice: Choice) -> Arc<Self> {
        let inner = Mutex::new(Inner { by_key: HashMap::new(), count: 0, next: 0 });
        Arc::new(Self { inner, in_all, per_key, choice })
    }

    fn inner(&self) -> MutexGuard<'_, Inner<K, R>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections hold a place.
    pub fn count(&self) -> usize {
        self.inner().count
    }

    /// Gives a place to a connection; the one that has to make room for it loses its own.
    pub fn enter(self: &Arc<Self>, key: K, rank: R) -> Place<K, R> {
        let (sender, stay) = oneshot::channel();
        let mut inner = self.inner();
        if let Some((key, number)) = self.to_leave(&inner, &key) {
            inner.remove(&key, number);
        }
        let number = inner.next;
        inner.next += 1;
        inner.count += 1;
        inner.by_key.entry(key.clone()).or_default().insert(number, Held { rank, _stay: sender });
        drop(inner);
        Place { held: Rank { places: self.clone(), key, number }, stay }
    }

    /// Which connection has to make room for one more of `key`.
    fn to_leave(&self, inner: &Inner<K, R>, key: &K) -> Option<(K, u64)> {
        let own = inner.by_key.get(key).filter(|own| own.len() >= self.per_key);
        if let Some(own) = own {
            let ranked = own.iter().map(|(number, held)| (held.rank, *number, key)).collect();
            return self.choose(ranked);
        }
        if inner.count < self.in_all {
            return None;
        }
        let of_key = |(key, held): (_, &BTreeMap<u64, Held<R>>)| {
            held.iter().map(|(number, held)| (held.rank, *number, key)).collect::<Vec<_>>()
        };
        self.choose(inner.by_key.iter().flat_map(of_key).collect())
    }

    /// Chooses one of those with the lowest rank.
    fn choose(&self, ranked: Vec<(R, u64, &K)>) -> Option<(K, u64)> {
        let lowest = ranked.iter().map(|(rank, ..)| *rank).min()?;
        let mut candidates: Vec<(u64, &K)> = ranked
            .into_iter()
            .filter(|(rank, ..)| *rank == lowest)
            .map(|(_, number, key)| (number, key))
            .collect();
        candidates.sort_unstable_by_key(|(number, _)| *number);
        let drawn = match self.choice {
            Choice::Oldest => 0,
            // Without randomness, the oldest.
            Choice::Lot => {
                getrandom::u64().unwrap_or(0) % u64::try_from(candidates.len()).unwrap_or(u64::MAX)
            }
        };
        let (number, key) = candidates.get(usize::try_from(drawn).unwrap_or(0))?;
        Some(((*key).clone(), *number))
    }
}

impl<K: Clone + Eq + Hash, R> Inner<K, R> {
    fn remove(&mut self, key: &K, number: u64) {
        let Some(of_key) = self.by_key.get_mut(key) else { return };
        self.count -= usize::from(of_key.remove(&number).is_some());
        if of_key.is_empty() {
            self.by_key.remove(key);
        }
    }
}

impl<K: Clone + Eq + Hash, R: Copy + Ord> Place<K, R> {
    /// Waits until another connection needs this place.
    pub async fn lost(&mut self) {
        // An error is the only message that ever comes.
        drop((&mut self.stay).await);
    }

    /// A handle to change the rank by.
    pub fn rank(&self) -> Rank<K, R> {
        Rank { places: self.held.places.clone(), key: self.held.key.clone(), number: self.held.number }
    }
}

impl<K: Clone + Eq + Hash, R: Copy + Ord> Rank<K, R> {
    /// Changes the rank.
    pub fn update(&self, change: impl FnOnce(&mut R)) {
        let mut inner = self.places.inner();
        if let Some(held) = inner.by_key.get_mut(&self.key).and_then(|of_key| of_key.get_mut(&self.number)) {
            change(&mut held.rank);
        }
    }
}

impl<K: Clone + Eq + Hash, R: Copy + Ord> Drop for Place<K, R> {
    fn drop(&mut self) {
        self.held.places.inner().remove(&self.held.key, self.held.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this one has been sent away.
    fn is_lost<K: Clone + Eq + Hash, R: Copy + Ord>(place: &mut Place<K, R>) -> bool {
        place.stay.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    fn lost<K: Clone + Eq + Hash, R: Copy + Ord>(places: &mut [Place<K, R>]) -> Vec<bool> {
        places.iter_mut().map(is_lost).collect()
    }

    #[test]
    fn the_oldest_of_a_key_makes_room_for_its_next() {
        let places = Places::new(100, 2, Choice::Oldest);
        let mut other = places.enter("b", ());
        let mut own: Vec<_> = (0..3).map(|_| places.enter("a", ())).collect();
        assert_eq!((lost(&mut own), is_lost(&mut other)), (vec![true, false, false], false));
    }

    #[test]
    fn the_oldest_of_all_makes_room_where_there_is_none() {
        let places = Places::new(2, 2, Choice::Oldest);
        let mut all: Vec<_> = ["a", "b", "c"].iter().map(|key| places.enter(*key, ())).collect();
        assert_eq!(lost(&mut all), [true, false, false]);
    }

    #[test]
    fn the_lowest_rank_makes_room() {
        let places = Places::new(2, 2, Choice::Lot);
        let mut first = places.enter("a", 0);
        first.rank().update(|rank| *rank = 2);
        let mut second = places.enter("b", 1);
        let mut third = places.enter("c", 0);
        assert_eq!([&mut first, &mut second, &mut third].map(is_lost), [false, true, false]);
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let places = Places::new(1, 1, Choice::Oldest);
        drop(places.enter("a", ()));
        assert_eq!(places.count(), 0);
        let mut second = places.enter("a", ());
        assert!(!is_lost(&mut second));
        let third = places.enter("b", ());
        drop(second);
        assert_eq!((places.count(), places.inner().by_key.len()), (1, 1));
        drop(third);
    }

    #[test]
    fn the_lot_gives_a_chance_in_a_flood_of_equals() {
        let survivors = (0..1000).filter(|_| {
            let places = Places::new(100, 8, Choice::Lot);
            let mut first = places.enter("a", ());
            let flood: Vec<_> = (0..15).map(|_| places.enter("a", ())).collect();
            let survives = !is_lost(&mut first);
            drop(flood);
            survives
        });
        // (7/8)^8 of them: 344 of 1,000, with a standard deviation of 15.
        let survivors = survivors.count();
        assert!((225..=465).contains(&survivors), "{survivors}");
    }
}
