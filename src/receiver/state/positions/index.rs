//! Index of the streams that have a file, with the time at which each was last seen.
//!
//! It does no I/O. It is built once from the directory listing and updated by
//! [`crate::receiver::state::positions::Positions`], so that no stream needs another listing.
//!
//! Invariant: a stream is in `unused` exactly if it is known and not in use, with the time that `senders` has
//! of it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use nf_transport_core::sequence::{SenderId, StreamId};

use crate::limits::STREAM_KEPT;
use crate::receiver::state::positions::stream_name::StreamName;

/// A known stream of one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownStream {
    pub(super) stream: StreamId,
    seen: SystemTime,
    begun: SystemTime,
    is_used: bool,
}

/// All streams that have a file.
#[derive(Debug, Default)]
pub(super) struct StreamIndex {
    senders: HashMap<SenderId, Vec<KnownStream>>,
    /// Streams not in use, least recently seen first.
    unused: BTreeSet<(SystemTime, StreamName)>,
    length: usize,
}

impl StreamIndex {
    /// Returns the number of known streams.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Returns the time at which this stream began; `None` if it is not known.
    pub(super) fn begun(&self, name: &StreamName) -> Option<SystemTime> {
        let known = self.of(&name.sender).iter().find(|known| known.stream == name.stream)?;
        Some(known.begun)
    }

    /// Returns the known streams of one sender.
    pub(super) fn of(&self, sender: &SenderId) -> &[KnownStream] {
        self.senders.get(sender).map_or(&[], Vec::as_slice)
    }

    /// Iterates over the senders that have known streams.
    pub(super) fn senders(&self) -> impl Iterator<Item = &SenderId> {
        self.senders.keys()
    }

    /// Notes that a stream has a file, last seen at `seen`, and whether it is in use. An unknown stream
    /// begins at `seen`.
    pub(super) fn note(&mut self, name: StreamName, seen: SystemTime, is_used: bool) {
        let begun = self.begun(&name).unwrap_or(seen);
        self.note_begun(name, seen, begun, is_used);
    }

    /// See [`Self::note`]; the stream began at `begun`.
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
            self.unused.insert((seen, name));
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
        self.unused.remove(&(known.seen, name.clone()));
    }

    /// Returns the unused stream that was least recently seen.
    pub(super) fn oldest(&self) -> Option<StreamName> {
        self.unused.first().map(|(_, name)| name.clone())
    }

    /// Returns the stream of `sender` that makes room for another, among those that are `free`. It is the
    /// least recently seen one if that was longer than [`STREAM_KEPT`] before `now`, else the one that began
    /// last.
    pub(super) fn spare_of(
        &self,
        sender: &SenderId,
        now: SystemTime,
        is_free: impl Fn(&StreamName) -> bool,
    ) -> Option<StreamName> {
        let name = |known: &KnownStream| StreamName { sender: sender.clone(), stream: known.stream };
        let free = || self.of(sender).iter().filter(|known| is_free(&name(known)));
        let is_stale =
            |known: &&KnownStream| now.duration_since(known.seen).is_ok_and(|unseen| unseen > STREAM_KEPT);
        let stale = free().filter(is_stale).min_by_key(|known| (known.seen, known.stream));
        let latest = || free().max_by_key(|known| (known.begun, Reverse(known.seen), known.stream));
        stale.or_else(latest).map(name)
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
            index.note(name(sender, stream), at(seen), false);
        }
        assert_eq!((index.oldest(), index.newest()), (Some(name("b", 2)), Some(at(30))));
        index.note(name("b", 2), at(40), false);
        assert_eq!((index.oldest(), index.len()), (Some(name("a", 3)), 3));
    }

    #[test]
    fn a_stream_in_use_is_never_the_oldest() {
        let mut index = StreamIndex::default();
        index.note(name("a", 1), at(1), true);
        assert_eq!(index.oldest(), None);
        index.note(name("a", 1), at(1), false);
        assert_eq!(index.oldest(), Some(name("a", 1)));
    }

    #[test]
    fn the_stream_that_began_last_makes_room() {
        let mut index = StreamIndex::default();
        for stream in 1..=3 {
            index.note(name("a", stream), at(stream.into()), false);
        }
        // It is seen again, and still began first.
        index.note(name("a", 1), at(9), false);
        let spare = |index: &StreamIndex, is_free: &dyn Fn(&StreamName) -> bool| {
            index.spare_of(&"a".parse().unwrap(), at(9), is_free)
        };
        assert_eq!(spare(&index, &|_| true), Some(name("a", 3)));
        assert_eq!(spare(&index, &|free| *free != name("a", 3)), Some(name("a", 2)));
        assert_eq!(spare(&index, &|_| false), None);
    }

    #[test]
    fn a_stream_unseen_for_long_makes_room_first() {
        let (mut index, later) = (StreamIndex::default(), at(0) + STREAM_KEPT);
        for stream in 0..3 {
            index.note(name("a", stream), at(stream.into()), false);
        }
        let spare = |now| index.spare_of(&"a".parse().unwrap(), now, |_| true);
        assert_eq!(spare(later), Some(name("a", 2)));
        assert_eq!(spare(later + Duration::from_secs(2)), Some(name("a", 0)));
    }

    #[test]
    fn a_removed_stream_leaves_nothing() {
        let mut index = StreamIndex::default();
        index.note(name("a", 1), at(1), false);
        index.remove(&name("a", 1));
        index.remove(&name("a", 1));
        assert_eq!((index.len(), index.oldest(), index.senders().count()), (0, None, 0));
        assert_eq!(index.begun(&name("a", 1)), None);
    }
}
