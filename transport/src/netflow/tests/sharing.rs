//! Losses of source ids that share a counter or seem to share one.

use core::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::datagram::BootTime;
use crate::netflow::ExporterTable;

/// A table of the exporters of one address, one datagram a millisecond.
#[derive(Default)]
struct SeenTable {
    table: ExporterTable,
    milliseconds: u64,
    /// The largest sum of `missing` shown.
    shown: u64,
}

impl SeenTable {
    fn count(&mut self, payload: &[u8]) {
        let elapsed = Duration::from_millis(self.milliseconds);
        self.milliseconds += 1;
        self.table.count_datagram(&datagram(1, payload), BootTime { elapsed, ..BootTime::default() });
        assert_eq!(self.table.sequence_bytes(), self.table.counted_sequence_bytes());
        if let Some(sum) = self.sum() {
            assert!(sum >= self.shown, "fell from {} to {:?}", self.shown, self.rows());
            self.shown = sum;
        }
    }

    fn v9(&mut self, source: u32, number: u32) {
        self.count(&v9(source, number, &[]));
    }

    /// `missing` by source id; `None` is unusable.
    fn rows(&self) -> Vec<Option<u64>> {
        self.table.figures().map(|row| row.missing.ok()).collect()
    }

    fn sum(&self) -> Option<u64> {
        self.rows().into_iter().sum()
    }
}

/// Two source ids, the second of which has lost 10 before the first is seen.
fn after_a_loss_of_ten() -> SeenTable {
    let mut seen = SeenTable::default();
    (0..50).chain(60..100).for_each(|number| seen.v9(1, number));
    seen
}

#[test]
fn losses_before_a_shared_count_keep_their_row() {
    let mut seen = after_a_loss_of_ten();
    (100..200_u32).filter(|number| *number != 150).for_each(|number| seen.v9(number % 2, number));
    assert_eq!(seen.rows(), [Some(0), Some(10 + 1)]);
}

#[test]
fn ids_that_part_keep_what_they_lost_before() {
    let mut seen = after_a_loss_of_ten();
    (100..200).for_each(|number| seen.v9(number % 2, number));
    for number in (0..100).filter(|number| *number != 50) {
        seen.v9(0, 1_000_000_000 + number);
        seen.v9(1, 2_000_000_000 + number);
    }
    assert_eq!(seen.rows(), [Some(1), Some(10 + 1)]);
}

#[test]
fn an_unusable_shared_count_forgets_no_loss() {
    let mut seen = after_a_loss_of_ten();
    (100..200).for_each(|number| seen.v9(number % 2, number));
    // Neither the own nor the shared numbers make sense.
    for place in 0..40_u32 {
        seen.v9(place % 2, place.wrapping_mul(2_654_435_761) ^ place << 13);
    }
    for number in 0..200 {
        seen.v9(0, 1_000_000_000 + number);
        seen.v9(1, 2_000_000_000 + number);
    }
    assert_eq!(seen.rows(), [Some(0), Some(10)]);
}

#[test]
fn ids_that_part_at_once_keep_what_they_lost() {
    let mut seen = after_a_loss_of_ten();
    // By chance each loses the numbers that the other one sends.
    (100..106).for_each(|number| seen.v9(2 - number % 2, number));
    for number in 0..100 {
        seen.v9(1, 106 + number);
        seen.v9(2, 105 + number);
    }
    assert_eq!(seen.rows(), [Some(10 + 3), Some(2)]);
}

#[test]
fn losses_while_ids_part_are_counted() {
    let mut seen = SeenTable::default();
    (0..100).for_each(|number| seen.v9(number % 2, number));
    for number in (0..100).filter(|number| ![4, 5, 6, 8, 10].contains(number)) {
        seen.v9(0, 1_000_000_000 + number);
        seen.v9(1, 2_000_000_000 + number);
    }
    assert_eq!(seen.rows(), [Some(5), Some(5)]);
}

#[test]
fn a_lower_id_takes_no_losses_of_another() {
    let mut seen = SeenTable::default();
    (0..100_u32).filter(|number| *number != 50).for_each(|number| seen.v9(4 + number % 2, number));
    (100..200).for_each(|number| seen.v9(3 + number % 3, number));
    assert_eq!(seen.rows(), [Some(0), Some(1), Some(0)]);
}

/// A counter of an exporter that counts in datagrams or in data records.
struct TestCounter {
    number: u32,
    lost: u32,
    seen: u32,
}

impl TestCounter {
    fn new(number: u32) -> Self {
        Self { number, lost: 0, seen: 0 }
    }
}

proptest! {
    /// Losses are counted once, with shared and with separate counters, and after any change between them.
    #[test]
    fn losses_of_several_ids_are_counted_exactly(
        is_ipfix in any::<bool>(),
        sources in 2..=3_usize,
        alone in 0..100_u32,
        shared in 0..3_usize,
        apart in 0..3_usize,
        lengths in vec(150..300_u32, 4),
        lost_percent in prop_oneof![Just(0_u8), 0..30_u8],
        in_bursts in any::<bool>(),
        seed in any::<u64>(),
    ) {
        prop_assume!(shared + apart > 0);
        let mut random = SmallRng::seed_from_u64(seed);
        let mut seen = SeenTable::default();
        let mut missing = 0;
        let mut is_known = vec![false; sources];
        for (phase, length) in (0..shared + apart).zip(&lengths) {
            let is_shared = phase < shared;
            let base = u32::try_from(phase).unwrap() * 900_000_000 + 7;
            let first = |place: u32| base.wrapping_add(place * 210_000_000);
            let count = if is_shared { 1 } else { sources };
            let numbers = (0..).take(count).map(first);
            let mut counters: Vec<_> = numbers.map(TestCounter::new).collect();
            let mut source = 0;
            let steps = length * u32::try_from(count).unwrap();
            let alone = if phase == 0 { alone } else { 0 };
            for step in 0..alone + steps {
                if step < alone {
                    source = 0;
                } else if !in_bursts || random.random_bool(0.5) {
                    source = random.random_range(0..sources);
                }
                let counter = &mut counters[if is_shared { 0 } else { source }];
                // Losses at the ends of a counter cannot be seen.
                let may_lose = counter.seen > 4 && step + 40 < alone + steps && is_known[source];
                let adds = if is_ipfix { random.random_range(2..20) } else { 1 };
                if may_lose && random.random_range(0..100) < lost_percent {
                    counter.lost += adds;
                } else {
                    missing += u64::from(counter.lost);
                    (counter.lost, counter.seen) = (0, counter.seen + 1);
                    let id = u32::try_from(source).unwrap();
                    // Losses look like no other way of counting: a datagram of v9 has 24 sets, a message of
                    // IPFIX two records or more.
                    let flows = set(256, &vec![1; 12 * usize::try_from(adds).unwrap()]);
                    let templates = || set(if is_ipfix { 2 } else { 0 }, &template(256, &[8, 4]));
                    let first = (!is_known[source]).then(templates);
                    is_known[source] = true;
                    let length = if is_ipfix { first.iter().count() + 1 } else { 24 };
                    let mut sets: Vec<_> = first.into_iter().collect();
                    sets.resize(length, flows);
                    let write = if is_ipfix { ipfix } else { v9 };
                    let payload = write(id, counter.number, &sets);
                    seen.count(&payload);
                }
                counter.number = counter.number.wrapping_add(adds);
            }
        }
        prop_assert!(seen.sum().is_none_or(|sum| sum == missing), "{:?} of {missing}", seen.rows());
    }
}
