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

    fn add(&mut self, more: Self) {
        self.datagrams += more.datagrams;
        self.bytes += more.bytes;
    }
}

/// The holdings of all exporters in a batch, a segment or the spool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shares(HashMap<IpAddr, Holding>);

impl Shares {
    /// Computes the shares of a batch that occupies `length` bytes on disk.
    pub(crate) fn of(batch: &Batch, length: u64) -> Result<Self, BatchError> {
        let mut shares = Self::default();
        let mut run: Option<(IpAddr, Holding)> = None;
        for datagram in batch.records()?.iter() {
            let (exporter, holding) = (datagram.exporter.ip(), Holding::of(&datagram, batch, length));
            if let Some((same, held)) = &mut run
                && *same == exporter
            {
                held.add(holding);
            } else if let Some((before, held)) = run.replace((exporter, holding)) {
                shares.add(before, held);
            }
        }
        if let Some((exporter, held)) = run {
            shares.add(exporter, held);
        }
        Ok(shares)
    }

    pub(crate) fn add(&mut self, exporter: IpAddr, more: Holding) {
        self.0.entry(exporter).or_default().add(more);
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

/// Returns the highest level to which all larger holders can be cut down so that `bytes` become free. Holders
/// at or below it lose nothing. `largest_first` are the total bytes of each exporter.
///
/// Returns 0 if all of them hold less than `bytes`, and `u64::MAX` if `bytes` is 0.
pub(crate) fn level(largest_first: &[u64], bytes: u64) -> u64 {
    if bytes == 0 {
        return u64::MAX;
    }
    let (mut sum, mut holders) = (0_u64, 0_u64);
    let following = largest_first.iter().skip(1).copied().chain([0]);
    for (held, next) in largest_first.iter().zip(following) {
        sum = sum.saturating_add(*held);
        holders += 1;
        // These holders, cut down to the next one, free enough.
        if sum.saturating_sub(next.saturating_mul(holders)) >= bytes {
            return (sum - bytes) / holders;
        }
    }
    0
}

/// Divides `count` lost datagrams among the exporters that held `shares`. If they held more than `count`,
/// each loses in proportion to its share. Also returns the number of datagrams of unknown exporters.
pub(crate) fn divide_loss(count: u64, shares: &Shares) -> (Vec<(IpAddr, u64)>, u64) {
    let mut held: Vec<(IpAddr, u64)> =
        shares.iter().map(|(exporter, held)| (exporter, held.datagrams)).collect();
    held.sort_unstable_by_key(|(exporter, datagrams)| (core::cmp::Reverse(*datagrams), *exporter));
    let total: u64 = held.iter().map(|(_, datagrams)| datagrams).sum();
    if total <= count {
        return (held, count - total);
    }
    // Each cumulative sum is rounded, not each part. So the parts add up to `count`.
    let part = |datagrams: u64| u128::from(datagrams) * u128::from(count) / u128::from(total.max(1));
    let (mut sum, mut given) = (0, 0);
    for (_, datagrams) in &mut held {
        sum += *datagrams;
        let up_to_here = u64::try_from(part(sum)).unwrap_or(count);
        *datagrams = up_to_here - given;
        given = up_to_here;
    }
    held.retain(|(_, datagrams)| *datagrams > 0);
    (held, 0)
}

/// The holdings of all exporters by segment and in total.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    segments: BTreeMap<Position, Shares>,
    /// The total of all known segments.
    totals: Shares,
    /// The rows of all segments together: at most `HOLDINGS_MAX`. Further segments are unknown.
    rows: usize,
}

impl Holdings {
    /// Returns the total bytes of each exporter, largest first.
    pub(crate) fn largest_first(&self) -> Vec<u64> {
        let mut held: Vec<u64> = self.totals.iter().map(|(_, holding)| holding.bytes).collect();
        held.sort_unstable_by_key(|bytes| core::cmp::Reverse(*bytes));
        held
    }

    /// Returns the bytes that `exporter` may lose at `level`.
    pub(crate) fn budget(&self, exporter: IpAddr, level: u64) -> u64 {
        self.totals.get(exporter).bytes.saturating_sub(level)
    }

    /// Returns the bytes of `shares` that may be dropped at `level`.
    pub(crate) fn droppable(&self, shares: &Shares, level: u64) -> u64 {
        shares.iter().map(|(exporter, held)| self.budget(exporter, level).min(held.bytes)).sum()
    }

    /// Returns the holdings in the segment that starts at `first`, if known.
    pub(crate) fn of_segment(&self, first: Position) -> Option<&Shares> {
        self.segments.get(&first)
    }

    /// Sets the holdings of the segment that starts at `first`.
    pub(crate) fn set(&mut self, first: Position, shares: Shares) {
        self.remove(first);
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
            self.remove(first);
        }
    }

    /// Removes the segment that starts at `first`, which was dropped or is not known any more. Returns its
    /// holdings.
    pub(crate) fn remove(&mut self, first: Position) -> Option<Shares> {
        let shares = self.segments.remove(&first)?;
        self.totals.remove_all(&shares);
        self.rows -= shares.len();
        Some(shares)
    }

    /// Forgets the segments below `position`.
    pub(crate) fn forget_below(&mut self, position: Position) {
        while let Some((first, _)) = self.segments.first_key_value().filter(|(first, _)| **first < position) {
            let first = *first;
            self.remove(first);
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
    fn the_largest_are_cut_down_to_one_level() {
        for (held, bytes, expected) in [
            (&[][..], 5, 0),
            (&[100], 0, u64::MAX),
            (&[100], 30, 70),
            (&[100], 200, 0),
            // Only the largest loses while it is the largest.
            (&[100, 40, 40], 60, 40),
            (&[100, 40, 40], 66, 38),
            // An exporter just below another one loses nearly as much.
            (&[100, 99, 10], 21, 89),
            (&[100, 99, 10], 1, 99),
            (&[25, 25, 25, 25], 20, 20),
        ] {
            assert_eq!(level(held, bytes), expected, "{bytes} of {held:?}");
        }
    }

    #[test]
    fn shares_of_a_loss_add_up_to_it() {
        let address = |number: u8| IpAddr::from([192, 0, 2, number]);
        let held = shares(&[(1, 60), (2, 30), (3, 10)]);
        for (count, expected, unknown) in [
            (0, vec![], 0),
            (100, vec![(1, 60), (2, 30), (3, 10)], 0),
            (107, vec![(1, 60), (2, 30), (3, 10)], 7),
            (50, vec![(1, 30), (2, 15), (3, 5)], 0),
            (1, vec![(3, 1)], 0),
        ] {
            let expected = expected.into_iter().map(|(number, count)| (address(number), count)).collect();
            assert_eq!(divide_loss(count, &held), (expected, unknown), "{count}");
        }
        assert_eq!(divide_loss(9, &Shares::default()), (vec![], 9));
    }

    proptest! {
        #[test]
        fn the_level_is_the_highest_that_frees_enough(
            mut held in proptest::collection::vec(0_u64..10_000, 0..20),
            bytes in 1_u64..100_000,
        ) {
            held.sort_unstable_by(|one, other| other.cmp(one));
            let level = level(&held, bytes);
            let freed = |level: u64| held.iter().map(|held| held.saturating_sub(level)).sum::<u64>();
            prop_assert!(freed(level) >= bytes.min(held.iter().sum()));
            prop_assert!(level == 0 && freed(0) <= bytes || freed(level + 1) < bytes);
        }

        #[test]
        fn totals_are_the_sum_of_all_segments(
            steps in proptest::collection::vec(
                (0_u8..4, 0_u64..6, proptest::collection::vec((0_u8..5, 1_u64..9), 1..5)),
                1..60,
            ),
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
                        prop_assert_eq!(holdings.remove(Position(segment)), expected.remove(&segment));
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
                prop_assert_eq!(&holdings.totals, &totals);
                prop_assert_eq!(holdings.rows, expected.values().map(Shares::len).sum::<usize>());
                for segment in 0..6 {
                    prop_assert_eq!(holdings.of_segment(Position(segment)), expected.get(&segment));
                }
            }
        }
    }
}
