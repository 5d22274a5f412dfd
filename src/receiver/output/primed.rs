//! Whose templates a collector has been told, and how many of them where the telling was interrupted.

use core::hash::BuildHasher;
use std::collections::{HashMap, HashSet};

use crate::limits::PRIMED_MAX;
use crate::netflow::ExporterKey;

/// What one collector has been told. Of at most [`PRIMED_MAX`] exporters; beyond, all are forgotten.
#[derive(Debug, Default)]
pub(super) struct Primed {
    told: HashMap<ExporterKey, Told>,
    /// How often the collector had changed when `told` was begun.
    changes: u64,
}

/// What of one exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Everything,
    /// The first `count` repeats, of which the last has the hash `last`; `count` is at least 1.
    Some {
        count: usize,
        last: u64,
    },
}

impl Primed {
    /// The collector has changed so often, and has missed what the exporters of `missed` defined since the last call. One
    /// that has changed has nothing.
    pub(super) fn keep_up(&mut self, changes: u64, missed: &HashSet<ExporterKey>) {
        if self.changes != changes || self.told.len().max(missed.len()) >= PRIMED_MAX {
            self.told.clear();
            self.changes = changes;
        }
        for key in missed {
            self.told.remove(key);
        }
    }

    /// Whether the collector has all templates of `key`.
    pub(super) fn has(&self, key: &ExporterKey) -> bool {
        self.told.get(key) == Some(&Told::Everything)
    }

    /// The collector takes the next datagram of `key` for one of an exporter that it does not know.
    pub(super) fn forget(&mut self, key: &ExporterKey) {
        self.told.remove(key);
    }

    /// How many of `repeats`, from the first one on, the collector has. None if they are others than those that it was told.
    pub(super) fn count(&self, key: &ExporterKey, repeats: &[Vec<u8>]) -> usize {
        let Some(Told::Some { count, last }) = self.told.get(key) else { return 0 };
        let is_told = |repeat: &Vec<u8>| self.told.hasher().hash_one(repeat) == *last;
        if repeats.get(count - 1).is_some_and(is_told) { *count } else { 0 }
    }

    /// The first `count` repeats of `key` went to the collector, `last` at the end, while it had changed so often.
    pub(super) fn note_some(&mut self, key: ExporterKey, count: usize, last: &Vec<u8>, changes: u64) {
        let last = self.told.hasher().hash_one(last);
        self.note(key, Told::Some { count, last }, changes);
    }

    /// All repeats of `key` that there are went to the collector while it had changed so often.
    pub(super) fn note_all(&mut self, key: ExporterKey, changes: u64) {
        self.note(key, Told::Everything, changes);
    }

    /// One that has changed since [`Self::keep_up`] may have got some of them only before it did.
    fn note(&mut self, key: ExporterKey, told: Told, changes: u64) {
        if self.changes == changes {
            self.told.insert(key, told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> ExporterKey {
        ExporterKey { address: ([192, 0, 2, 1], port).into(), version: 9, source_id: 0 }
    }

    fn repeats(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn telling_goes_on_where_it_was_interrupted_unless_it_is_another_story() {
        let all = repeats(&["one", "two", "three"]);
        let mut primed = Primed::default();
        assert_eq!(primed.count(&key(1), &all), 0);
        primed.note_some(key(1), 2, &all[1], 0);
        primed.note_some(key(2), 1, &all[0], 0);
        assert!(!primed.has(&key(1)));
        assert_eq!((primed.count(&key(1), &all), primed.count(&key(2), &all)), (2, 1));
        for other in [repeats(&["one", "three"]), repeats(&["two"]), repeats(&[])] {
            assert_eq!(primed.count(&key(1), &other), 0, "{other:?}");
        }
        primed.note_all(key(1), 0);
        assert!(primed.has(&key(1)));
    }

    #[test]
    fn a_collector_that_changed_has_nothing_and_one_that_missed_something_lacks_that() {
        let all = repeats(&["one", "two"]);
        let mut primed = Primed::default();
        primed.note_all(key(1), 0);
        primed.note_some(key(2), 1, &all[0], 0);
        primed.note_all(key(3), 0);
        primed.keep_up(0, &[key(2), key(3)].into());
        assert_eq!([1, 2, 3].map(|port| primed.has(&key(port))), [true, false, false]);
        assert_eq!(primed.count(&key(2), &all), 0);
        primed.note_all(key(2), 1);
        assert!(!primed.has(&key(2)), "it changed while it was told");
        primed.keep_up(1, &HashSet::new());
        assert!(!primed.has(&key(1)));
        primed.note_all(key(1), 1);
        assert!(primed.has(&key(1)));
    }
}
