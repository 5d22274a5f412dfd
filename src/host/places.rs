//! Places for connections until they are served: few in total and few for each key, such as an address. A new
//! connection evicts one of the lowest rank if there is no free place.

use core::hash::Hash;
use core::net::{IpAddr, Ipv6Addr};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::host::locked;

/// Returns the network that counts as one source of connections: an IPv4 address, or the /64 of an IPv6
/// address, because one host may use all of it.
pub fn source_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The choice between several connections of the lowest rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The oldest.
    Oldest,
    /// A random one: so each has a chance to be served, however fast others arrive.
    Random,
}

/// The places of one kind of connection.
#[derive(Debug)]
pub struct Places<K, R = ()> {
    inner: Mutex<Occupants<K, R>>,
    in_all: usize,
    per_key: usize,
    choice: Eviction,
}

#[derive(Debug)]
struct Occupants<K, R> {
    /// By number, so oldest first. Every key has a connection.
    by_key: HashMap<K, BTreeMap<u64, Occupant<R>>>,
    count: usize,
    next: u64,
}

#[derive(Debug)]
struct Occupant<R> {
    rank: R,
    /// Dropped to close the connection.
    _stay: oneshot::Sender<()>,
}

/// The place of one connection, released when dropped.
#[derive(Debug)]
pub struct ConnectionPlace<K: Clone + Eq + Hash, R: Copy + Ord = ()> {
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
    /// Returns places for `in_all` connections, and for `per_key` of each key; both at least 1.
    pub fn new(in_all: usize, per_key: usize, choice: Eviction) -> Arc<Self> {
        let inner = Mutex::new(Occupants { by_key: HashMap::new(), count: 0, next: 0 });
        Arc::new(Self { inner, in_all, per_key, choice })
    }

    fn inner(&self) -> MutexGuard<'_, Occupants<K, R>> {
        locked(&self.inner)
    }

    /// Returns the number of occupied places.
    pub fn count(&self) -> usize {
        self.inner().count
    }

    /// Assigns a place to a connection, and evicts another one if none is free.
    pub fn enter(self: &Arc<Self>, key: K, rank: R) -> ConnectionPlace<K, R> {
        let (sender, stay) = oneshot::channel();
        let mut inner = self.inner();
        if let Some((key, number)) = self.victim(&inner, &key) {
            inner.remove(&key, number);
        }
        let number = inner.next;
        inner.next += 1;
        inner.count += 1;
        inner.by_key.entry(key.clone()).or_default().insert(number, Occupant { rank, _stay: sender });
        drop(inner);
        ConnectionPlace { held: Rank { places: self.clone(), key, number }, stay }
    }

    /// Returns the connection to evict for one more of `key`.
    fn victim(&self, inner: &Occupants<K, R>, key: &K) -> Option<(K, u64)> {
        let own = inner.by_key.get(key).filter(|own| own.len() >= self.per_key);
        if let Some(own) = own {
            let ranked = own.iter().map(|(number, held)| (held.rank, *number, key)).collect();
            return self.choose(ranked);
        }
        if inner.count < self.in_all {
            return None;
        }
        let of_key = |(key, held): (_, &BTreeMap<u64, Occupant<R>>)| {
            held.iter().map(|(number, held)| (held.rank, *number, key)).collect::<Vec<_>>()
        };
        self.choose(inner.by_key.iter().flat_map(of_key).collect())
    }

    /// Chooses one of the connections with the lowest rank.
    fn choose(&self, ranked: Vec<(R, u64, &K)>) -> Option<(K, u64)> {
        let lowest = ranked.iter().map(|(rank, ..)| *rank).min()?;
        let mut candidates: Vec<(u64, &K)> = ranked
            .into_iter()
            .filter(|(rank, ..)| *rank == lowest)
            .map(|(_, number, key)| (number, key))
            .collect();
        candidates.sort_unstable_by_key(|(number, _)| *number);
        let drawn = match self.choice {
            Eviction::Oldest => 0,
            // If the system has no random numbers, the oldest.
            Eviction::Random => {
                getrandom::u64().unwrap_or(0) % u64::try_from(candidates.len()).unwrap_or(u64::MAX)
            }
        };
        let (number, key) = candidates.get(usize::try_from(drawn).unwrap_or(0))?;
        Some(((*key).clone(), *number))
    }
}

impl<K: Clone + Eq + Hash, R> Occupants<K, R> {
    fn remove(&mut self, key: &K, number: u64) {
        let Some(of_key) = self.by_key.get_mut(key) else { return };
        self.count -= usize::from(of_key.remove(&number).is_some());
        if of_key.is_empty() {
            self.by_key.remove(key);
        }
    }
}

impl<K: Clone + Eq + Hash, R: Copy + Ord> ConnectionPlace<K, R> {
    /// Waits until another connection needs this place.
    pub async fn evicted(&mut self) {
        // Nothing is ever sent: the channel only closes.
        drop((&mut self.stay).await);
    }

    /// Returns a handle that changes the rank.
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

impl<K: Clone + Eq + Hash, R: Copy + Ord> Drop for ConnectionPlace<K, R> {
    fn drop(&mut self) {
        self.held.places.inner().remove(&self.held.key, self.held.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether this connection was evicted.
    fn is_lost<K: Clone + Eq + Hash, R: Copy + Ord>(place: &mut ConnectionPlace<K, R>) -> bool {
        place.stay.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    fn lost<K: Clone + Eq + Hash, R: Copy + Ord>(places: &mut [ConnectionPlace<K, R>]) -> Vec<bool> {
        places.iter_mut().map(is_lost).collect()
    }

    #[test]
    fn a_full_key_evicts_its_oldest_connection() {
        let places = Places::new(100, 2, Eviction::Oldest);
        let mut other = places.enter("b", ());
        let mut own: Vec<_> = (0..3).map(|_| places.enter("a", ())).collect();
        assert_eq!((lost(&mut own), is_lost(&mut other)), (vec![true, false, false], false));
    }

    #[test]
    fn a_full_table_evicts_the_oldest_connection() {
        let places = Places::new(2, 2, Eviction::Oldest);
        let mut all: Vec<_> = ["a", "b", "c"].iter().map(|key| places.enter(*key, ())).collect();
        assert_eq!(lost(&mut all), [true, false, false]);
    }

    #[test]
    fn the_lowest_rank_is_evicted() {
        let places = Places::new(2, 2, Eviction::Random);
        let mut first = places.enter("a", 0);
        first.rank().update(|rank| *rank = 2);
        let mut second = places.enter("b", 1);
        let mut third = places.enter("c", 0);
        assert_eq!([&mut first, &mut second, &mut third].map(is_lost), [false, true, false]);
    }

    #[test]
    fn a_released_place_is_free() {
        let places = Places::new(1, 1, Eviction::Oldest);
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
    fn random_eviction_gives_a_chance_in_a_flood() {
        let survivors = (0..1000).filter(|_| {
            let places = Places::new(100, 8, Eviction::Random);
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
