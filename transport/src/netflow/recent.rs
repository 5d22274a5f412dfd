//! Entries by their keys, in the order in which they were touched.
//!
//! Entries are stored in a vector and are chained from the one touched last to the one untouched longest, so that
//! every step costs the same however many there are. Bounds are the owner's business.

use core::hash::Hash;
use std::collections::HashMap;

/// A value that belongs to one key.
pub(super) trait Keyed<K> {
    /// Its key, which never changes as long as the entry is kept.
    fn key(&self) -> K;
}

/// Entries by their keys.
#[derive(Debug)]
pub(super) struct Recent<T, K> {
    /// Where each entry lies in `entries`.
    places: HashMap<K, usize>,
    entries: Vec<Entry<T>>,
    /// The entry touched last.
    newest: Option<usize>,
    /// The entry untouched longest.
    oldest: Option<usize>,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    /// The entry touched next after this one; none after the one touched last.
    newer: Option<usize>,
    /// The entry touched last before this one; none before the one untouched longest.
    older: Option<usize>,
}

impl<T, K> Default for Recent<T, K> {
    fn default() -> Self {
        Self { places: HashMap::new(), entries: Vec::new(), newest: None, oldest: None }
    }
}

impl<T: Keyed<K>, K: Eq + Hash> Recent<T, K> {
    /// Makes the entry of `key` the newest; false if there is none.
    pub(super) fn touch(&mut self, key: &K) -> bool {
        let Some(place) = self.places.get(key).copied() else { return false };
        if self.newest != Some(place) {
            self.unchain(place);
            self.chain_as_newest(place);
        }
        true
    }

    /// Adds `value` as the newest; no entry may have its key yet.
    pub(super) fn add(&mut self, value: T) {
        let place = self.entries.len();
        self.places.insert(value.key(), place);
        self.entries.push(Entry { value, newer: None, older: None });
        self.chain_as_newest(place);
    }

    /// The entry that was touched or added last.
    pub(super) fn newest_mut(&mut self) -> Option<&mut T> {
        self.entries.get_mut(self.newest?).map(|entry| &mut entry.value)
    }

    /// The entry that was untouched longest.
    pub(super) fn oldest_mut(&mut self) -> Option<&mut T> {
        self.entries.get_mut(self.oldest?).map(|entry| &mut entry.value)
    }

    pub(super) fn remove_oldest(&mut self) -> Option<T> {
        self.remove(self.oldest?)
    }

    /// All entries, from the one untouched longest to the one touched last.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let at = |place: Option<usize>| place.and_then(|place| self.entries.get(place));
        core::iter::successors(at(self.oldest), move |entry| at(entry.newer)).map(|entry| &entry.value)
    }

    /// Takes an entry out; the last one of the vector moves to its place.
    fn remove(&mut self, place: usize) -> Option<T> {
        self.unchain(place);
        let last = self.entries.len().checked_sub(1)?;
        let removed = (place <= last).then(|| self.entries.swap_remove(place))?;
        self.places.remove(&removed.value.key());
        if place != last {
            self.moved(place);
        }
        Some(removed.value)
    }

    /// Tells whoever knows where an entry lies that it lies at `place` now.
    fn moved(&mut self, place: usize) {
        let Some(entry) = self.entries.get(place) else { return };
        let (newer, older) = (entry.newer, entry.older);
        self.places.insert(entry.value.key(), place);
        match newer.and_then(|newer| self.entries.get_mut(newer)) {
            Some(newer) => newer.older = Some(place),
            None => self.newest = Some(place),
        }
        match older.and_then(|older| self.entries.get_mut(older)) {
            Some(older) => older.newer = Some(place),
            None => self.oldest = Some(place),
        }
    }

    fn unchain(&mut self, place: usize) {
        let Some(entry) = self.entries.get_mut(place) else { return };
        let (newer, older) = (entry.newer.take(), entry.older.take());
        match newer.and_then(|newer| self.entries.get_mut(newer)) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        match older.and_then(|older| self.entries.get_mut(older)) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn chain_as_newest(&mut self, place: usize) {
        let before = self.newest.replace(place);
        match before.and_then(|before| self.entries.get_mut(before)) {
            Some(before) => before.newer = Some(place),
            None => self.oldest = Some(place),
        }
        if let Some(entry) = self.entries.get_mut(place) {
            entry.older = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Keyed<u16> for u16 {
        fn key(&self) -> u16 {
            *self
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Touch(u16),
        RemoveOldest,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..20_u16).prop_map(Step::Touch),
            2 => Just(Step::RemoveOldest),
        ]
    }

    proptest! {
        #[test]
        fn entries_stay_in_the_order_in_which_they_were_touched(
            steps in proptest::collection::vec(any_step(), 0..200),
        ) {
            let mut recent: Recent<u16, u16> = Recent::default();
            let mut expected: Vec<u16> = Vec::new();
            for step in steps {
                match step {
                    Step::Touch(number) => {
                        prop_assert_eq!(recent.touch(&number.key()), expected.contains(&number));
                        if !expected.contains(&number) {
                            recent.add(number);
                        }
                        expected.retain(|other| *other != number);
                        expected.push(number);
                    }
                    Step::RemoveOldest => {
                        let oldest = (!expected.is_empty()).then(|| expected.remove(0));
                        prop_assert_eq!(recent.remove_oldest(), oldest);
                    }
                }
                prop_assert_eq!(recent.iter().copied().collect::<Vec<_>>(), expected.clone());
                prop_assert_eq!(recent.newest_mut().copied(), expected.last().copied());
                prop_assert_eq!(recent.oldest_mut().copied(), expected.first().copied());
                prop_assert_eq!((recent.entries.len(), recent.places.len()), (expected.len(), expected.len()));
            }
        }
    }
}
