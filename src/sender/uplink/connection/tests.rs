//! The account of sent batches.

use super::*;

#[test]
fn reach_ends_with_the_batch_that_fills_it() {
    let mut sent = SentBatches::default();
    assert_eq!(sent.end_of_first_bytes(1), Position(0));
    for end in 11..20 {
        sent.add(Position(end - 1), Position(end), 100);
    }
    assert_eq!(
        (sent.end_of_first_bytes(1), sent.end_of_first_bytes(100), sent.end_of_first_bytes(101)),
        (Position(11), Position(11), Position(12))
    );
    sent.acknowledge(Position(12));
    assert_eq!((sent.end_of_first_bytes(150), sent.end_of_first_bytes(10_000)), (Position(14), Position(19)));
}

#[test]
fn repeated_batches_count_once() {
    let mut sent = SentBatches::default();
    for end in 10..20 {
        sent.add(Position(end - 1), Position(end), 100);
    }
    for end in 12..18 {
        sent.add(Position(end - 1), Position(end), 100);
    }
    assert_eq!(sent.acknowledge(Position(14)), 500);
    assert_eq!(sent.acknowledge(Position(14)), 0);
    assert_eq!(sent.acknowledge(Position(30)), 500);
}

#[test]
fn earlier_positions_count_when_they_are_sent() {
    let mut sent = SentBatches::default();
    sent.add(Position(60), Position(100), 7);
    sent.add(Position(40), Position(50), 5);
    assert_eq!(sent.acknowledge(Position(50)), 5);
    sent.add(Position(50), Position(60), 6);
    assert_eq!(sent.acknowledge(Position(100)), 13);
}

#[test]
fn merged_batches_are_counted_to_the_byte() {
    let mut sent = SentBatches::default();
    let count = 100_000;
    for end in 1..=count {
        sent.add(Position(end - 1), Position(end), end);
    }
    assert!(sent.0.len() <= SentBatches::ENTRIES_MAX);
    let mut counted = 0;
    for end in 1..=count {
        counted += sent.acknowledge(Position(end));
    }
    assert_eq!(counted, count * (count + 1) / 2);
}

#[test]
fn repeats_of_merged_batches_count_once() {
    let mut sent = SentBatches::default();
    let batch = |number: u64| (Position(10 * number), Position(10 * number + 10));
    let count = 3 * u64::try_from(SentBatches::ENTRIES_MAX).unwrap();
    for number in 0..count {
        let (first, end) = batch(number);
        sent.add(first, end, 1);
    }
    for number in 0..count {
        let (first, end) = batch(number);
        sent.add(first, end, 1);
    }
    assert_eq!(sent.acknowledge(Position(u64::MAX)), count);
}

#[test]
fn a_hole_filled_late_is_counted() {
    let mut sent = SentBatches::default();
    let count = 3 * u64::try_from(SentBatches::ENTRIES_MAX).unwrap();
    let (before, hole, beyond) = (0..100, 100..200, 200..count);
    for number in before.chain(beyond).chain(hole) {
        sent.add(Position(number), Position(number + 1), 1);
    }
    assert_eq!(sent.acknowledge(Position(u64::MAX)), count);
}

#[test]
fn the_number_of_entries_is_bounded() {
    let mut sent = SentBatches::default();
    for number in 0..100_000 {
        sent.add(Position(2 * number), Position(2 * number + 1), 1);
        assert!(sent.0.len() <= SentBatches::ENTRIES_MAX);
    }
    assert_eq!(sent.acknowledge(Position(u64::MAX)), 100_000);
}
