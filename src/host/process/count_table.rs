//! Counts by key, such as the address of an exporter, in bounded memory.
//!
//! Invariant: the counts of all rows and `others` add up to the total that was added.

use core::cmp::Reverse;
use core::hash::Hash;
use std::collections::HashMap;

use nf_transport_core::datagram::BootTime;

/// Counts by key. A new key replaces the one that was counted longest ago.
#[derive(Debug)]
pub struct CountTable<K> {
    rows: HashMap<K, CountRow>,
    bound: usize,
    others: u64,
}

/// The count of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountRow {
    /// The total.
    pub count: u64,
    /// The time of the last increase.
    pub last: BootTime,
    unlogged: u64,
}

impl<K: Copy + Eq + Hash + Ord> CountTable<K> {
    /// Returns a table of at most `bound` rows.
    pub fn new(bound: usize) -> Self {
        Self { rows: HashMap::new(), bound, others: 0 }
    }

    /// Adds `count` to `key`.
    pub fn add(&mut self, key: K, count: u64, now: BootTime) {
        if self.rows.len() >= self.bound && !self.rows.contains_key(&key) {
            let oldest = self.rows.iter().min_by_key(|(key, row)| (row.last.elapsed, **key));
            if let Some(removed) = oldest.map(|(key, _)| *key).and_then(|oldest| self.rows.remove(&oldest)) {
                self.others += removed.count;
            }
        }
        let row = self.rows.entry(key).or_insert(CountRow { count: 0, last: now, unlogged: 0 });
        row.count += count;
        row.unlogged += count;
        row.last = now;
    }

    /// Returns the total of keys whose rows were replaced.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// Returns the rows, largest count first.
    pub fn rows(&self) -> Vec<(K, CountRow)> {
        let mut rows: Vec<(K, CountRow)> = self.rows.iter().map(|(key, row)| (*key, *row)).collect();
        rows.sort_by_key(|(key, row)| (Reverse(row.count), *key));
        rows
    }

    /// Returns the counts of the keys `of` a log line since the last such line, largest first, and marks them
    /// as logged.
    pub fn take_unlogged(&mut self, of: impl Fn(&K) -> bool) -> Vec<(K, u64)> {
        let wanted = self.rows.iter_mut().filter(|(key, row)| row.unlogged > 0 && of(key));
        let mut taken: Vec<(K, u64)> =
            wanted.map(|(key, row)| (*key, core::mem::take(&mut row.unlogged))).collect();
        taken.sort_by_key(|(key, count)| (Reverse(*count), *key));
        taken
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime { elapsed: Duration::from_secs(seconds), ..BootTime::default() }
    }

    #[test]
    fn a_new_key_replaces_the_oldest() {
        let mut table = CountTable::new(2);
        for (key, count, second) in [('a', 3, 1), ('b', 4, 2), ('a', 1, 3), ('c', 9, 4)] {
            table.add(key, count, at(second));
        }
        let rows: Vec<_> = table.rows().iter().map(|(key, row)| (*key, row.count)).collect();
        assert_eq!((rows, table.others()), (vec![('c', 9), ('a', 4)], 4));
    }

    #[test]
    fn each_count_is_in_one_log_line() {
        let mut table = CountTable::new(8);
        table.add('a', 3, at(1));
        table.add('b', 5, at(1));
        assert_eq!(table.take_unlogged(|key| *key == 'a'), [('a', 3)]);
        table.add('a', 1, at(2));
        assert_eq!(table.take_unlogged(|_| true), [('b', 5), ('a', 1)]);
        assert_eq!(table.take_unlogged(|_| true), []);
    }
}
