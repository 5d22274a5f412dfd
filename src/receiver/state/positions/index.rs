//! Which streams have a file, and when each of them was seen last.
//!
//! Pure: made once of the directory's listing, and kept up by [`crate::receiver::state::positions::Positions`], so that no stream costs another listing.
//!
//! Always holds: a stream is in `unused` exactly if it is known and not in use, with the time that `senders` has of it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use nf_transport_core::sequence::{SenderId, StreamId};

use crate::limits::STREAM_KEPT;
use crate::receiver::state::positions::StreamName;

/// A known stream of one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) stream: StreamId,
    seen: SystemTime,
    begun: SystemTime,
    is_used: bool,
}

/// All streams that have a file.
#[derive(Debug, Default)]
pub(super) struct Index {
    senders: HashMap<SenderId, Vec<Known>>,
    /// Those not in use; the one unseen longest comes first.
    unused: BTreeSet<(SystemTime, StreamName)>,
    length: usize,
}

impl Index {
    /// Number of known streams.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// When this stream began; `None` if it is not known.
    pub(super) fn begun(&self, name: &StreamName) -> Option<SystemTime> {
        let known = self.of(&name.sender).iter().find(|known| known.stream == name.stream)?;
        Some(known.begun)
    }

    /// The known streams of one sender.
    pub(super) fn of(&self, sender: &SenderId) -> &[Known] {
        self.senders.get(sender).map_or(&[], Vec::as_slice)
    }

    /// The senders that have known streams.
    pub(super) fn senders(&self) -> impl Iterator<Item = &SenderId> {
        self.senders.keys()
    }

    /// Notes that a stream has a file, which was seen at `seen`, and whether it is in use. One that was not known begins then.
    pub(super) fn note(&mut self, name: StreamName, seen: SystemTime, is_used: bool) {
        let begun = self.begun(&name).unwrap_or(seen);
        self.note_begun(name, seen, begun, is_used);
    }

    /// As [`Self::note`], of a stream that began at `begun`.
    pub(super) fn note_begun(
        &mut self,
        name: StreamName,
        seen: SystemTime,
        begun: SystemTime,
        is_used: bool,
    ) {
        self.remove(&name);
        let known = Known { stream: name.stream, seen, begun, is_used };
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

    /// The unused stream that was unseen longest.
    pub(super) fn oldest(&self) -> Option<StreamName> {
        self.unused.first().map(|(_, name)| name.clone())
    }

    /// The stream of `sender` that makes room for another, among those that are `free`: the one unseen longest if that is longer
    /// than [`STREAM_KEPT`] before `now`, or else the one that began last.
    pub(super) fn spare_of(
        &self,
        sender: &SenderId,
        now: SystemTime,
        is_free: impl Fn(&StreamName) -> bool,
    ) -> Option<StreamName> {
        let name = |known: &Known| StreamName { sender: sender.clone(), stream: known.stream };
        let free = || self.of(sender).iter().filter(|known| is_free(&name(known)));
        let is_stale =
            |known: &&Known| now.duration_since(known.seen).is_ok_and(|unseen| unseen > STREAM_KEPT);
        let stale = free().filter(is_stale).min_by_key(|known| (known.seen, known.stream));
        let latest = || free().max_by_key(|known| (known.begun, Reverse(known.seen), known.stream));
        stale.or_else(latest).map(name)
    }

    /// The time of the stream seen last.
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
        let mut index = Index::default();
        for (sender, stream, seen) in [("a", 1, 30), ("b", 2, 10), ("a", 3, 20)] {
            index.note(name(sender, stream), at(seen), false);
        }
        assert_eq!((index.oldest(), index.newest()), (Some(name("b", 2)), Some(at(30))));
        index.note(name("b", 2), at(40), false);
        assert_eq!((index.oldest(), index.len()), (Some(name("a", 3)), 3));
    }

    #[test]
    fn a_stream_in_use_is_never_the_oldest() {
        let mut index = Index::default();
        index.note(name("a", 1), at(1), true);
        assert_eq!(index.oldest(), None);
        index.note(name("a", 1), at(1), false);
        assert_eq!(index.oldest(), Some(name("a", 1)));
    }

    #[test]
    fn the_stream_that_began_last_makes_room() {
        let mut index = Index::default();
        for stream in 1..=3 {
            index.note(name("a", stream), at(stream.into()), false);
        }
        // Seen again, it still began first.
        index.note(name("a", 1), at(9), false);
        let spare = |index: &Index, is_free: &dyn Fn(&StreamName) -> bool| {
            index.spare_of(&"a".parse().unwrap(), at(9), is_free)
        };
        assert_eq!(spare(&index, &|_| true), Some(name("a", 3)));
        assert_eq!(spare(&index, &|free| *free != name("a", 3)), Some(name("a", 2)));
        assert_eq!(spare(&index, &|_| false), None);
    }

    #[test]
    fn a_stream_unseen_for_long_makes_room_first() {
        let (mut index, later) = (Index::default(), at(0) + STREAM_KEPT);
        for stream in 0..3 {
            index.note(name("a", stream), at(stream.into()), false);
        }
        let spare = |now| index.spare_of(&"a".parse().unwrap(), now, |_| true);
        assert_eq!(spare(later), Some(name("a", 2)));
        assert_eq!(spare(later + Duration::from_secs(2)), Some(name("a", 0)));
    }

    #[test]
    fn a_removed_stream_leaves_nothing() {
        let mut index = Index::default();
        index.note(name("a", 1), at(1), false);
        index.remove(&name("a", 1));
        index.remove(&name("a", 1));
        assert_eq!((index.len(), index.oldest(), index.senders().count()), (0, None, 0));
        assert_eq!(index.begun(&name("a", 1)), None);
    }
}
