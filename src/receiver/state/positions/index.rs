//! Index of the streams that have a file, with the time at which each was last seen.
//!
//! It does no I/O. It is built once from the directory listing and updated by
//! [`crate::receiver::state::positions::Positions`], so that no stream needs another listing.
//!
//! Invariant: a stream is in one of the sets of unused ones exactly if it is known and not in use, with the
//! time that `senders` has of it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use nf_transport_core::sequence::{SenderId, StreamId};

use crate::limits::{STREAM_ESTABLISHED, STREAM_KEPT, STREAMS_FIRST};
use crate::receiver::state::positions::stream_name::StreamName;

/// A known stream of one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownStream {
    pub(super) stream: StreamId,
    seen: SystemTime,
    begun: SystemTime,
    is_used: bool,
}

impl KnownStream {
    /// Returns whether the stream was used long enough to take precedence over those that only began.
    fn is_established(&self) -> bool {
        self.seen.duration_since(self.begun).is_ok_and(|used| used >= STREAM_ESTABLISHED)
    }
}

/// Returns whether a stream that was last seen at `seen` may be forgotten before all others.
fn is_stale(seen: SystemTime, now: SystemTime) -> bool {
    now.duration_since(seen).is_ok_and(|unseen| unseen > STREAM_KEPT)
}

/// All streams that have a file.
#[derive(Debug, Default)]
pub(super) struct StreamIndex {
    senders: HashMap<SenderId, Vec<KnownStream>>,
    /// Streams not in use and not established, least recently seen first.
    unused_brief: BTreeSet<(SystemTime, StreamName)>,
    /// Streams not in use and established, in the same order.
    unused_established: BTreeSet<(SystemTime, StreamName)>,
    length: usize,
}

impl StreamIndex {
    /// Returns the number of known streams.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Returns the time at which this stream began; `None` if it is not known.
    pub(super) fn begun(&self, name: &StreamName) -> Option<SystemTime> {
        self.times(name).map(|(_, begun)| begun)
    }

    /// Returns the times at which this stream was last seen and began; `None` if it is not known.
    pub(super) fn times(&self, name: &StreamName) -> Option<(SystemTime, SystemTime)> {
        let known = self.streams_of(&name.sender).iter().find(|known| known.stream == name.stream)?;
        Some((known.seen, known.begun))
    }

    /// Returns the known streams of one sender.
    pub(super) fn streams_of(&self, sender: &SenderId) -> &[KnownStream] {
        self.senders.get(sender).map_or(&[], Vec::as_slice)
    }

    /// Iterates over the senders that have known streams.
    pub(super) fn senders(&self) -> impl Iterator<Item = &SenderId> {
        self.senders.keys()
    }

    /// Notes that a stream has a file, last seen at `seen`, and whether it is in use. An unknown stream
    /// begins at `seen`.
    pub(super) fn note_file(&mut self, name: StreamName, seen: SystemTime, is_used: bool) {
        let begun = self.begun(&name).unwrap_or(seen);
        self.note_begun(name, seen, begun, is_used);
    }

    /// See [`Self::note_file`]; the stream began at `begun`.
    pub(super) fn note_begun(
        &mut self,
        name: StreamName,
        seen: SystemTime,
        begun: SystemTime,
        is_used: bool,
    ) {
        self.remove(&name);
        let known = KnownStream { stream: name.stream, seen, begun, is_used };
        self.senders.entry(name.sender.clone()).or_default().push(known);
        self.length += 1;
        if !is_used {
            self.unused_like(known).insert((seen, name));
        }
    }

    /// Forgets a stream.
    pub(super) fn remove(&mut self, name: &StreamName) {
        let Some(streams) = self.senders.get_mut(&name.sender) else { return };
        let Some(place) = streams.iter().position(|known| known.stream == name.stream) else { return };
        let known = streams.swap_remove(place);
        if streams.is_empty() {
            self.senders.remove(&name.sender);
        }
        self.length -= 1;
        self.unused_like(known).remove(&(known.seen, name.clone()));
    }

    /// Returns the set for this stream while it is not in use.
    fn unused_like(&mut self, known: KnownStream) -> &mut BTreeSet<(SystemTime, StreamName)> {
        if known.is_established() { &mut self.unused_established } else { &mut self.unused_brief }
    }

    /// Returns the unused stream that makes room for another of any sender. It is the least recently seen one
    /// of those that are not established, unless an established one was last seen longer than [`STREAM_KEPT`]
    /// before `now`.
    pub(super) fn oldest(&self, now: SystemTime) -> Option<StreamName> {
        let (brief, established) = (self.unused_brief.first(), self.unused_established.first());
        let stale = established.filter(|(seen, _)| is_stale(*seen, now));
        stale.or(brief).or(established).map(|(_, name)| name.clone())
    }

    /// Returns the stream of `sender` that makes room for another, among those that are `free`. It is the
    /// least recently seen one if that was longer than [`STREAM_KEPT`] before `now`. Otherwise it is the one
    /// that began last, except the first [`STREAMS_FIRST`]. If any of these is not established, only such
    /// streams make room; `None` if they are all in use.
    pub(super) fn spare_of(
        &self,
        sender: &SenderId,
        now: SystemTime,
        is_free: impl Fn(&StreamName) -> bool,
    ) -> Option<StreamName> {
        let name = |known: &KnownStream| StreamName { sender: sender.clone(), stream: known.stream };
        let free = || self.streams_of(sender).iter().filter(|known| is_free(&name(known)));
        let order = |known: &KnownStream| (known.begun, Reverse(known.seen), known.stream);
        let is_first = |known: &KnownStream| {
            let before = self.streams_of(sender).iter().filter(|other| order(other) < order(known));
            before.count() < STREAMS_FIRST
        };
        let stale = free().filter(|known| is_stale(known.seen, now));
        if let Some(stale) = stale.min_by_key(|known| (known.seen, known.stream)) {
            return Some(name(stale));
        }
        let is_brief = |known: &KnownStream| !known.is_established() && !is_first(known);
        let has_brief = self.streams_of(sender).iter().any(is_brief);
        let others = free().filter(|known| if has_brief { is_brief(known) } else { !is_first(known) });
        others.max_by_key(|known| order(known)).map(name)
    }

    /// Returns the time of the most recently seen stream.
    pub(super) fn newest(&self) -> Option<SystemTime> {
        self.senders.values().flatten().map(|known| known.seen).max()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(sender: &str, stream: u8) -> StreamName {
        StreamName { sender: sender.parse().unwrap(), stream: StreamId([stream; 16]) }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_stream_unseen_longest_is_the_oldest() {
        let mut index = StreamIndex::default();
        for (sender, stream, seen) in [("a", 1, 30), ("b", 2, 10), ("a", 3, 20)] {
            index.note_file(name(sender, stream), at(seen), false);
        }
        assert_eq!((index.oldest(at(100)), index.newest()), (Some(name("b", 2)), Some(at(30))));
        index.note_file(name("b", 2), at(40), false);
        assert_eq!((index.oldest(at(100)), index.len()), (Some(name("a", 3)), 3));
    }

    #[test]
    fn a_stream_in_use_is_never_the_oldest() {
        let mut index = StreamIndex::default();
        index.note_file(name("a", 1), at(1), true);
        assert_eq!(index.oldest(at(100)), None);
        index.note_file(name("a", 1), at(1), false);
        assert_eq!(index.oldest(at(100)), Some(name("a", 1)));
    }

    #[test]
    fn the_stream_that_began_last_makes_room() {
        let mut index = StreamIndex::default();
        for stream in 1..=6 {
            index.note_file(name("a", stream), at(stream.into()), false);
        }
        // It is seen again, and still began first.
        index.note_file(name("a", 1), at(9), false);
        let spare = |index: &StreamIndex, is_free: &dyn Fn(&StreamName) -> bool| {
            index.spare_of(&"a".parse().unwrap(), at(9), is_free)
        };
        assert_eq!(spare(&index, &|_| true), Some(name("a", 6)));
        assert_eq!(spare(&index, &|free| *free != name("a", 6)), Some(name("a", 5)));
        assert_eq!(spare(&index, &|free| *free < name("a", 5)), None, "the first four are kept");
        // A stream with long use stays while a later one is in use.
        index.note_file(name("a", 5), at(5000), false);
        assert_eq!(spare(&index, &|free| *free != name("a", 6)), None);
        index.note_file(name("a", 6), at(5000), false);
        assert_eq!(spare(&index, &|free| *free != name("a", 6)), Some(name("a", 5)));
    }

    #[test]
    fn a_stream_unseen_for_long_makes_room_first() {
        let (mut index, later) = (StreamIndex::default(), at(0) + STREAM_KEPT);
        for stream in 0..6 {
            index.note_file(name("a", stream), at(stream.into()), false);
        }
        let spare = |now| index.spare_of(&"a".parse().unwrap(), now, |_| true);
        assert_eq!(spare(later), Some(name("a", 5)));
        assert_eq!(spare(later + Duration::from_secs(2)), Some(name("a", 0)));
    }

    /// The remaining streams of `a` after `newcomers` more began, each in place of a spare one. Each of
    /// `before` began and was last seen at these hours.
    fn left_after(before: &[(u64, u64)], newcomers: u8) -> Vec<u8> {
        let mut index = StreamIndex::default();
        for (stream, (begun, seen)) in (1..).zip(before) {
            index.note_begun(name("a", stream), at(seen * 3600), at(begun * 3600), false);
        }
        for newcomer in 0..newcomers {
            let now = at(100 * 3600 + u64::from(newcomer));
            let spare = index.spare_of(&"a".parse().unwrap(), now, |_| true).unwrap();
            index.remove(&spare);
            index.note_file(name("a", 100 + newcomer), now, false);
        }
        let mut left: Vec<u8> =
            index.streams_of(&"a".parse().unwrap()).iter().map(|known| known.stream.0[0]).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn newcomers_displace_each_other_only() {
        // The first stream, used briefly; later ones were used for longer.
        let later: Vec<_> = [(1, 1)].into_iter().chain((2..9).map(|hour| (hour, hour + 50))).collect();
        assert_eq!(left_after(&later, 20), [1, 2, 3, 4, 5, 6, 7, 119]);
        // The last stream, used for a day; the others were only begun before it.
        let planted: Vec<_> = (1..8).map(|hour| (hour, hour)).chain([(9, 33)]).collect();
        assert_eq!(left_after(&planted, 20), [1, 2, 3, 4, 5, 6, 8, 119]);
    }

    #[test]
    fn streams_of_one_visit_make_room_for_all_senders() {
        let mut index = StreamIndex::default();
        index.note_begun(name("a", 1), at(3600), at(0), false);
        for stream in 2..5 {
            index.note_file(name("b", stream), at(7000 + u64::from(stream)), false);
        }
        for stream in 2..5 {
            assert_eq!(index.oldest(at(8000)), Some(name("b", stream)));
            index.remove(&name("b", stream));
        }
        assert_eq!(index.oldest(at(8000)), Some(name("a", 1)));
        index.note_file(name("b", 5), at(8000), false);
        assert_eq!(index.oldest(at(8000) + STREAM_KEPT), Some(name("a", 1)), "unseen for long");
    }

    #[test]
    fn a_removed_stream_leaves_nothing() {
        let mut index = StreamIndex::default();
        index.note_file(name("a", 1), at(1), false);
        index.remove(&name("a", 1));
        index.remove(&name("a", 1));
        assert_eq!((index.len(), index.oldest(at(100)), index.senders().count()), (0, None, 0));
        assert_eq!(index.begun(&name("a", 1)), None);
    }
}
