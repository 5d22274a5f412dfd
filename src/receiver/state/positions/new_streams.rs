//! Limits of new streams. Each owner may begin `NEW_STREAMS_BURST` at once, then one in each
//! `NEW_STREAM_INTERVAL`. Each address may begin `NEW_STREAMS_BURST_PER_SOURCE` under ids that several
//! senders may have.
//!
//! Each limit is a token bucket, stored as the time at which it is full again (GCRA, ITU-T I.371). There is
//! no I/O, and `now` is an argument. A full bucket has no entry. The number of other buckets is bounded:
//! beyond the bound, the one that is full soonest counts as full.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

use nf_transport_core::sequence::SenderId;

use crate::limits::{
    NEW_STREAM_INTERVAL, NEW_STREAM_OWNERS, NEW_STREAM_SOURCES, NEW_STREAMS_BURST,
    NEW_STREAMS_BURST_PER_SOURCE,
};
use crate::receiver::accept::known_sources::PeerSource;
use crate::receiver::state::positions::PositionsError;

/// Owner of a stream. If several senders may have the same id, those at other addresses count separately.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamOwner {
    pub(crate) sender: SenderId,
    /// Source of the connection; `None` if a key or certificate of its own proves the sender id.
    pub(crate) source: Option<PeerSource>,
}

/// The buckets of all owners, and of all addresses of owners with shared ids.
#[derive(Debug)]
pub(super) struct NewStreams {
    owners: NewStreamBuckets<StreamOwner>,
    sources: NewStreamBuckets<PeerSource>,
}

impl Default for NewStreams {
    fn default() -> Self {
        Self {
            owners: NewStreamBuckets::new(NEW_STREAMS_BURST, NEW_STREAM_OWNERS),
            sources: NewStreamBuckets::new(NEW_STREAMS_BURST_PER_SOURCE, NEW_STREAM_SOURCES),
        }
    }
}

impl NewStreams {
    /// Fails if `owner` has to wait before it may begin a new stream.
    pub(super) fn check(&self, owner: &StreamOwner, now: Instant) -> Result<(), PositionsError> {
        let wait = self.owners.wait(owner, now);
        if !wait.is_zero() {
            return Err(PositionsError::TooManyNew { sender: owner.sender.clone(), wait });
        }
        let wait =
            |source| Some((source, self.sources.wait(&source, now))).filter(|(_, wait)| !wait.is_zero());
        match owner.source.and_then(wait) {
            Some((at, wait)) => Err(PositionsError::TooManyNewAt { at, wait }),
            None => Ok(()),
        }
    }

    /// Notes that `owner` begins a stream.
    pub(super) fn note_begun(&mut self, owner: &StreamOwner, now: Instant) {
        self.owners.charge(owner, now);
        owner.source.inspect(|source| self.sources.charge(source, now));
    }
}

/// Token buckets: `burst` at once, then one in each `NEW_STREAM_INTERVAL`.
#[derive(Debug)]
struct NewStreamBuckets<K> {
    burst: u32,
    /// Bound of the buckets that are not full.
    most: usize,
    full_at: HashMap<K, Instant>,
    /// The same entries, sorted by time.
    by_time: BTreeSet<(Instant, K)>,
}

impl<K: Clone + Ord + Hash> NewStreamBuckets<K> {
    fn new(burst: u32, most: usize) -> Self {
        Self { burst, most, full_at: HashMap::new(), by_time: BTreeSet::new() }
    }

    /// Returns the time until `key` may take a token.
    fn wait(&self, key: &K, now: Instant) -> Duration {
        let full_at = self.full_at.get(key).copied().unwrap_or(now);
        let spare = NEW_STREAM_INTERVAL * (self.burst - 1);
        full_at.saturating_duration_since(now).saturating_sub(spare)
    }

    /// Takes a token of `key`.
    fn charge(&mut self, key: &K, now: Instant) {
        while let Some((full_at, first)) = self.by_time.first()
            && (*full_at <= now || self.full_at.len() >= self.most)
        {
            self.full_at.remove(first);
            self.by_time.pop_first();
        }
        let before = self.full_at.get(key).copied();
        let full_at = before.map_or(now, |before| before.max(now)) + NEW_STREAM_INTERVAL;
        before.map(|before| self.by_time.remove(&(before, key.clone())));
        self.full_at.insert(key.clone(), full_at);
        self.by_time.insert((full_at, key.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The owner of streams of this sender at this address.
    fn owner_at(name: &str, source: Option<&str>) -> StreamOwner {
        let source = source.map(|source| PeerSource::of(source.parse().unwrap()));
        StreamOwner { sender: name.parse().unwrap(), source }
    }

    #[test]
    fn a_burst_passes_then_one_in_each_interval() {
        let (mut buckets, start) = (NewStreamBuckets::new(3, 10), Instant::now());
        for _ in 0..3 {
            assert_eq!(buckets.wait(&1, start), Duration::ZERO);
            buckets.charge(&1, start);
        }
        assert_eq!(buckets.wait(&1, start), NEW_STREAM_INTERVAL);
        let later = start + NEW_STREAM_INTERVAL;
        assert_eq!(buckets.wait(&1, later), Duration::ZERO);
        buckets.charge(&1, later);
        assert_eq!(buckets.wait(&1, later), NEW_STREAM_INTERVAL);
        assert_eq!(buckets.wait(&2, start), Duration::ZERO);
    }

    #[test]
    fn owners_at_other_addresses_count_apart() {
        let (mut streams, start) = (NewStreams::default(), Instant::now());
        let hostile = owner_at("edge", Some("2001:db8::1"));
        (0..NEW_STREAMS_BURST).for_each(|_| streams.note_begun(&hostile, start));
        let check = |source| streams.check(&owner_at("edge", source), start);
        check(Some("2001:db8::2")).unwrap_err();
        check(Some("192.0.2.1")).unwrap();
        check(None).unwrap();
    }

    #[test]
    fn many_ids_at_one_address_are_limited() {
        let (mut streams, start) = (NewStreams::default(), Instant::now());
        for number in 0..NEW_STREAMS_BURST_PER_SOURCE {
            let owner = owner_at(&format!("edge-{number}"), Some("2001:db8::1"));
            streams.check(&owner, start).unwrap();
            streams.note_begun(&owner, start);
        }
        let check = |source, now| streams.check(&owner_at("edge", source), now);
        let error = check(Some("2001:db8::2"), start).unwrap_err().to_string();
        assert!(error.contains("more than 1024 new streams began at 2001:db8::/64"), "{error}");
        assert!(error.contains("this one may begin in 11 s"), "{error}");
        assert!(error.len() <= nf_transport_core::limits::REFUSAL_TEXT_MAX, "{error}");
        check(Some("192.0.2.1"), start).unwrap();
        check(None, start).unwrap();
        check(Some("2001:db8::2"), start + NEW_STREAM_INTERVAL).unwrap();
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let (mut buckets, start) = (NewStreamBuckets::new(3, 10), Instant::now());
        (0..15).for_each(|key| buckets.charge(&key, start));
        assert_eq!((buckets.full_at.len(), buckets.by_time.len()), (10, 10));
        buckets.charge(&1, start + NEW_STREAM_INTERVAL);
        assert_eq!((buckets.full_at.len(), buckets.by_time.len()), (1, 1));
    }
}
