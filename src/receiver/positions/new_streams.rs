//! How many new streams each sender may begin: `NEW_STREAMS_BURST` at once, then one in each `NEW_STREAM_INTERVAL`.
//!
//! A token bucket for each sender, kept as the time at which it is full again (GCRA, ITU-T I.371). Pure: `now` comes in as an
//! argument. A sender with a full bucket has no entry, and at most `NEW_STREAM_SENDERS` have one: beyond, the bucket that is
//! full soonest counts as full.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::limits::{NEW_STREAM_INTERVAL, NEW_STREAM_SENDERS, NEW_STREAMS_BURST};
use crate::sequence::SenderId;

/// The buckets of all senders.
#[derive(Debug, Default)]
pub(super) struct NewStreams {
    full_at: HashMap<SenderId, Instant>,
    /// The same, in the order of time.
    by_time: BTreeSet<(Instant, SenderId)>,
}

impl NewStreams {
    /// How long `sender` has to wait before it may begin a new stream.
    pub(super) fn wait(&self, sender: &SenderId, now: Instant) -> Duration {
        let full_at = self.full_at.get(sender).copied().unwrap_or(now);
        let spare = NEW_STREAM_INTERVAL * (NEW_STREAMS_BURST - 1);
        full_at.saturating_duration_since(now).saturating_sub(spare)
    }

    /// Notes that `sender` begins one.
    pub(super) fn note(&mut self, sender: &SenderId, now: Instant) {
        while let Some((full_at, first)) = self.by_time.first()
            && (*full_at <= now || self.full_at.len() >= NEW_STREAM_SENDERS)
        {
            self.full_at.remove(first);
            self.by_time.pop_first();
        }
        let before = self.full_at.get(sender).copied();
        let full_at = before.map_or(now, |before| before.max(now)) + NEW_STREAM_INTERVAL;
        before.map(|before| self.by_time.remove(&(before, sender.clone())));
        self.full_at.insert(sender.clone(), full_at);
        self.by_time.insert((full_at, sender.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(name: &str) -> SenderId {
        name.parse().unwrap()
    }

    #[test]
    fn a_burst_passes_then_one_in_each_interval() {
        let (mut streams, edge, start) = (NewStreams::default(), sender("edge"), Instant::now());
        for _ in 0..NEW_STREAMS_BURST {
            assert_eq!(streams.wait(&edge, start), Duration::ZERO);
            streams.note(&edge, start);
        }
        assert_eq!(streams.wait(&edge, start), NEW_STREAM_INTERVAL);
        let later = start + NEW_STREAM_INTERVAL;
        assert_eq!(streams.wait(&edge, later), Duration::ZERO);
        streams.note(&edge, later);
        assert_eq!(streams.wait(&edge, later), NEW_STREAM_INTERVAL);
        assert_eq!(streams.wait(&sender("other"), start), Duration::ZERO);
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let (mut streams, start) = (NewStreams::default(), Instant::now());
        for number in 0..NEW_STREAM_SENDERS + 5 {
            streams.note(&sender(&format!("edge-{number}")), start);
        }
        assert_eq!((streams.full_at.len(), streams.by_time.len()), (NEW_STREAM_SENDERS, NEW_STREAM_SENDERS));
        streams.note(&sender("edge"), start + NEW_STREAM_INTERVAL);
        assert_eq!((streams.full_at.len(), streams.by_time.len()), (1, 1));
    }
}
