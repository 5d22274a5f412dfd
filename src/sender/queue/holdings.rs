//! The bytes and datagrams of each exporter in the spool, by segment.
//!
//! Bytes are bytes on disk: those of a batch are divided among its datagrams by their lengths.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use nf_transport_core::batch::{Batch, BatchError, record_len};
use nf_transport_core::datagram::Datagram;
use nf_transport_core::sequence::Position;

use crate::limits::HOLDINGS_MAX;

/// The datagrams and bytes that one exporter holds or lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

impl Holding {
    /// Returns the share of `datagram` in `batch`, which occupies `length` bytes on disk.
    pub(crate) fn of(datagram: &Datagram<'_>, batch: &Batch, length: u64) -> Self {
        let record = u64::try_from(record_len(datagram)).unwrap_or(u64::MAX);
        let records_len = u64::from(batch.header().records_len).max(1);
        Self { datagrams: 1, bytes: length.saturating_mul(record).div_ceil(records_len) }
    }
}

/// The holdings of all exporters in one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shares(HashMap<IpAddr, Holding>);

impl Shares {
    /// Computes the shares of a batch that occupies `length` bytes on disk.
    pub(crate) fn of(batch: &Batch, length: u64) -> Result<Self, BatchError> {
        let mut shares = Self::default();
        for datagram in batch.records()?.iter() {
            shares.add(datagram.exporter.ip(), Holding::of(&datagram, batch, length));
        }
        Ok(shares)
    }

    pub(crate) fn add(&mut self, exporter: IpAddr, more: Holding) {
        let held = self.0.entry(exporter).or_default();
        held.datagrams += more.datagrams;
        held.bytes += more.bytes;
    }

    pub(crate) fn add_all(&mut self, others: &Self) {
        others.iter().for_each(|(exporter, held)| self.add(exporter, held));
    }

    /// Subtracts `others`, which are part of this.
    pub(crate) fn remove_all(&mut self, others: &Self) {
        for (exporter, less) in others.iter() {
            if let Some(held) = self.0.get_mut(&exporter) {
                held.datagrams = held.datagrams.saturating_sub(less.datagrams);
                held.bytes = held.bytes.saturating_sub(less.bytes);
                if held.datagrams == 0 {
                    self.0.remove(&exporter);
                }
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, Holding)> {
        self.0.iter().map(|(exporter, held)| (*exporter, *held))
    }

    /// Returns the holding of `exporter`.
    pub(crate) fn get(&self, exporter: IpAddr) -> Holding {
        self.0.get(&exporter).copied().unwrap_or_default()
    }

    /// Returns the number of exporters that hold something.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The holdings of all exporters by segment and in total.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    segments: BTreeMap<Position, Shares>,
    totals: Shares,
    /// The rows of all segments together: at most `HOLDINGS_MAX`. Further segments are unknown.
    rows: usize,
}

impl Holdings {
    /// Returns the total of all known segments.
    pub(crate) fn totals(&self) -> &Shares {
        &self.totals
    }

    /// Returns the smallest holding of the largest exporters. These are the first ones by size that together
    /// hold one of `parts` parts, and those that hold at least three quarters of the last of them.
    pub(crate) fn least_of_largest(&self, parts: u64) -> u64 {
        let mut held: Vec<u64> = self.totals.iter().map(|(_, holding)| holding.bytes).collect();
        held.sort_unstable_by_key(|bytes| core::cmp::Reverse(*bytes));
        let wanted = held.iter().sum::<u64>() / parts;
        let mut sum = 0;
        let last = held.into_iter().find(|bytes| {
            sum += bytes;
            sum >= wanted
        });
        last.map_or(u64::MAX, |last| last - last / 4)
    }

    /// Returns the holdings in the segment that starts at `first`, if known.
    pub(crate) fn of_segment(&self, first: Position) -> Option<&Shares> {
        self.segments.get(&first)
    }

    /// Sets the holdings of the segment that starts at `first`.
    pub(crate) fn set(&mut self, first: Position, shares: Shares) {
        self.take(first);
        if self.rows + shares.len() <= HOLDINGS_MAX {
            self.totals.add_all(&shares);
            self.rows += shares.len();
            self.segments.insert(first, shares);
        }
    }

    /// Adds `more` to the segment that starts at `first`, if its holdings are known.
    pub(crate) fn append(&mut self, first: Position, more: &Shares) {
        let Some(shares) = self.segments.get_mut(&first) else { return };
        let before = shares.len();
        shares.add_all(more);
        self.rows += shares.len() - before;
        self.totals.add_all(more);
        if self.rows > HOLDINGS_MAX {
            self.take(first);
        }
    }

    /// Removes the segment that starts at `first`, which was dropped or is not known any more. Returns its
    /// holdings.
    pub(crate) fn take(&mut self, first: Position) -> Option<Shares> {
        let shares = self.segments.remove(&first)?;
        self.totals.remove_all(&shares);
        self.rows -= shares.len();
        Some(shares)
    }

    /// Forgets the segments below `position`.
    pub(crate) fn forget_below(&mut self, position: Position) {
        while let Some((first, _)) = self.segments.first_key_value().filter(|(first, _)| **first < position) {
            let first = *first;
            self.take(first);
        }
    }

    /// Returns the known segments that start in `from..to`.
    pub(crate) fn within(&self, from: Position, to: Position) -> Vec<Position> {
        self.segments.range(from..to.max(from)).map(|(first, _)| *first).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(rows: &[(u8, u64)]) -> Shares {
        let mut shares = Shares::default();
        for (exporter, datagrams) in rows {
            let holding = Holding { datagrams: *datagrams, bytes: datagrams * 100 };
            shares.add([192, 0, 2, *exporter].into(), holding);
        }
        shares
    }

    #[test]
    fn the_largest_hold_a_part_of_all() {
        let mut holdings = Holdings::default();
        assert_eq!(holdings.least_of_largest(4), u64::MAX);
        for (segment, rows, least) in [
            (0, vec![(1, 60), (2, 20), (3, 20)], 4500),
            // All hold the same: all are among the largest.
            (1, vec![(2, 40), (3, 40)], 4500),
            (2, vec![(1, 900), (2, 500)], 72_000),
        ] {
            holdings.set(Position(segment), shares(&rows));
            assert_eq!(holdings.least_of_largest(4), least, "segment {segment}");
        }
    }

    proptest! {
        #[test]
        fn totals_are_what_the_segments_hold(
            steps in proptest::collection::vec((0_u8..4, 0_u64..6, proptest::collection::vec((0_u8..5, 1_u64..9), 1..5)), 1..60),
        ) {
            let mut holdings = Holdings::default();
            let mut expected: BTreeMap<u64, Shares> = BTreeMap::new();
            for (step, segment, rows) in steps {
                let more = shares(&rows);
                match step {
                    0 => {
                        holdings.set(Position(segment), more.clone());
                        expected.insert(segment, more);
                    }
                    1 => {
                        holdings.append(Position(segment), &more);
                        expected.entry(segment).and_modify(|held| held.add_all(&more));
                    }
                    2 => {
                        prop_assert_eq!(holdings.take(Position(segment)), expected.remove(&segment));
                    }
                    _ => {
                        holdings.forget_below(Position(segment));
                        expected = expected.split_off(&segment);
                    }
                }
                let mut totals = Shares::default();
                for held in expected.values() {
                    totals.add_all(held);
                }
                prop_assert_eq!(holdings.totals(), &totals);
                prop_assert_eq!(holdings.rows, expected.values().map(Shares::len).sum::<usize>());
                for segment in 0..6 {
                    prop_assert_eq!(holdings.of_segment(Position(segment)), expected.get(&segment));
                }
            }
        }
    }
}
