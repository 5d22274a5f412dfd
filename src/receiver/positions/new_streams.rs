//! How many new streams each owner may begin: `NEW_STREAMS_BURST` at once, then one in each `NEW_STREAM_INTERVAL`.
//!
//! A token bucket for each owner, kept as the time at which it is full again (GCRA, ITU-T I.371). Pure: `now` comes in as an
//! argument. An owner with a full bucket has no entry, and at most `NEW_STREAM_OWNERS` have one: beyond, the bucket that is
//! full soonest counts as full.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::limits::{NEW_STREAM_INTERVAL, NEW_STREAM_OWNERS, NEW_STREAMS_BURST};
use crate::receiver::known_sources::Source;
use crate::sequence::SenderId;

/// Who begins a stream. Where many can have the same sender id, those at other addresses count apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) sender: SenderId,
    /// Where it connects from; `None` if a key or certificate of its own proves the sender id.
    pub(crate) source: Option<Source>,
}

/// The buckets of all owners.
#[derive(Debug, Default)]
pub(super) struct NewStreams {
    full_at: HashMap<Owner, Instant>,
    /// The same, in the order of time.
    by_time: BTreeSet<(Instant, Owner)>,
}

impl NewStreams {
    /// How long `owner` has to wait before it may begin a new stream.
    pub(super) fn wait(&self, owner: &Owner, now: Instant) -> Duration {
        let full_at = self.full_at.get(owner).copied().unwrap_or(now);
        let spare = NEW_STREAM_INTERVAL * (NEW_STREAMS_BURST - 1);
        full_at.saturating_duration_since(now).saturating_sub(spare)
    }

    /// Notes that `owner` begins one.
    pub(super) fn note(&mut self, owner: &Owner, now: Instant) {
        while let Some((full_at, first)) = self.by_time.first()
            && (*full_at <= now || self.full_at.len() >= NEW_STREAM_OWNERS)
        {
            self.full_at.remove(first);
            self.by_time.pop_first();
        }
        let before = self.full_at.get(owner).copied();
        let full_at = before.map_or(now, |before| before.max(now)) + NEW_STREAM_INTERVAL;
        before.map(|before| self.by_time.remove(&(before, owner.clone())));
        self.full_at.insert(owner.clone(), full_at);
        self.by_time.insert((full_at, owner.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The owner of the streams of this sender at this address.
    fn owner_at(name: &str, source: Option<&str>) -> Owner {
        let source = source.map(|source| Source::of(source.parse().unwrap()));
        Owner { sender: name.parse().unwrap(), source }
    }

    fn owner(name: &str) -> Owner {
        owner_at(name, None)
    }

    #[test]
    fn a_burst_passes_then_one_in_each_interval() {
        let (mut streams, edge, start) = (NewStreams::default(), owner("edge"), Instant::now());
        for _ in 0..NEW_STREAMS_BURST {
            assert_eq!(streams.wait(&edge, start), Duration::ZERO);
            streams.note(&edge, start);
        }
        assert_eq!(streams.wait(&edge, start), NEW_STREAM_INTERVAL);
        let later = start + NEW_STREAM_INTERVAL;
        assert_eq!(streams.wait(&edge, later), Duration::ZERO);
        streams.note(&edge, later);
        assert_eq!(streams.wait(&edge, later), NEW_STREAM_INTERVAL);
        assert_eq!(streams.wait(&owner("other"), start), Duration::ZERO);
    }

    #[test]
    fn owners_at_other_addresses_count_apart() {
        let (mut streams, start) = (NewStreams::default(), Instant::now());
        let hostile = owner_at("edge", Some("2001:db8::1"));
        (0..NEW_STREAMS_BURST).for_each(|_| streams.note(&hostile, start));
        let wait = |source| streams.wait(&owner_at("edge", source), start);
        assert_eq!(wait(Some("2001:db8::2")), NEW_STREAM_INTERVAL, "of the same network");
        assert_eq!((wait(Some("192.0.2.1")), wait(None)), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let (mut streams, start) = (NewStreams::default(), Instant::now());
        for number in 0..NEW_STREAM_OWNERS + 5 {
            streams.note(&owner(&format!("edge-{number}")), start);
        }
        assert_eq!((streams.full_at.len(), streams.by_time.len()), (NEW_STREAM_OWNERS, NEW_STREAM_OWNERS));
        streams.note(&owner("edge"), start + NEW_STREAM_INTERVAL);
        assert_eq!((streams.full_at.len(), streams.by_time.len()), (1, 1));
    }
}
