//! Each kind of loss and disorder, with the right figure.

use core::time::Duration;

use super::*;
use crate::datagram::{BootTime, Timestamp};

/// A moment, in milliseconds.
fn at(milliseconds: u64) -> Seen {
    let boot = BootTime { elapsed: Duration::from_millis(milliseconds), ..BootTime::default() };
    Seen { boot, arrival: Timestamp(0) }
}

/// The contents of a NetFlow v9 datagram with this many records.
fn records(count: u32) -> Contents {
    Contents { announced: Some(count), ..Contents::flows(count) }
}

fn after(format: ExportFormat, numbers: impl IntoIterator<Item = (u32, Contents)>) -> Missing {
    let mut missing = Missing::new(format);
    for (number, contents) in numbers {
        missing.follow(number, &contents, at(1));
    }
    missing
}

/// Missing of an exporter that counts datagrams.
fn v9(numbers: impl IntoIterator<Item = u32>) -> Result<u64, Unusable> {
    after(ExportFormat::V9, numbers.into_iter().map(|number| (number, records(1)))).count()
}

/// The count after an exporter has sent these datagrams, each of which adds `adds` to its number, and some
/// are lost.
fn counting(
    format: ExportFormat,
    datagrams: &[Contents],
    adds: impl Fn(&Contents) -> u32,
    is_lost: impl Fn(usize) -> bool,
) -> Missing {
    let mut number = 1000_u32;
    let mut missing = Missing::new(format);
    for (place, contents) in datagrams.iter().enumerate() {
        if !is_lost(place) {
            missing.follow(number, contents, at(1));
        }
        number = number.wrapping_add(adds(contents));
    }
    missing
}

/// Messages of 1 to 30 flows; each tenth has templates too, each seventh options.
fn messages(count: u32) -> Vec<Contents> {
    let message = |place: u32| Contents {
        flows: Some(1 + place * 7 % 30),
        options: Some(if place % 7 == 3 { 4 } else { 0 }),
        templates: if place.is_multiple_of(10) { 2 } else { 0 },
        announced: None,
    };
    (0..count).map(message).collect()
}

#[test]
fn nothing_is_missing_from_a_whole_run() {
    assert_eq!(v9(100..200), Ok(0));
    assert_eq!(v9((0..100).map(|number: u32| number.wrapping_sub(50))), Ok(0));
}

#[test]
fn a_gap_counts_at_once() {
    assert_eq!(v9([7, 8, 12]), Ok(3));
    assert_eq!(v9([u32::MAX - 1, 2]), Ok(3));
    assert_eq!(v9((0..1000).chain([1561])), Ok(561));
}

#[test]
fn overtaken_datagrams_are_not_missing() {
    assert_eq!(v9([1, 2, 4, 3, 5]), Ok(0));
    assert_eq!(v9([u32::MAX - 1, 0, u32::MAX, 1]), Ok(0));
    assert_eq!(v9([1, 5, 2, 6]), Ok(2));
}

#[test]
fn reordering_by_200_datagrams_loses_nothing() {
    let reversed = (0..10).flat_map(|block| (0..200).rev().map(move |number| block * 200 + number));
    assert_eq!(v9(reversed), Ok(0));
    let mut delayed: Vec<u32> = (0..2000).collect();
    delayed.sort_by_key(|number| number + if number % 2 == 0 { 0 } else { 400 });
    assert_eq!(v9(delayed), Ok(0), "each other one by 200 places");
}

#[test]
fn losses_among_reordered_datagrams_count() {
    let reversed = (0..10).flat_map(|block| (0..200).rev().map(move |number| block * 200 + number));
    assert_eq!(v9(reversed.filter(|number| ![3, 77, 500, 501, 502].contains(number))), Ok(5));
}

#[test]
fn reordered_large_messages_lose_nothing() {
    let large: Vec<_> = (0..400_u32).map(|place| (place * 1400, Contents::flows(1400))).collect();
    let shuffled = large.chunks(100).flat_map(|block| block.iter().rev().copied());
    assert_eq!(after(ExportFormat::Ipfix, shuffled).count(), Ok(0));
    let small_first = [(0, Contents::flows(1)), (3001, Contents::flows(1)), (1, Contents::flows(3000))];
    let rest = (3002..3050).map(|number| (number, Contents::flows(1)));
    assert_eq!(after(ExportFormat::Ipfix, small_first.into_iter().chain(rest)).count(), Ok(0));
}

#[test]
fn restarts_lose_nothing() {
    assert_eq!(v9((500_000..500_100).chain(0..100)), Ok(0), "lower");
    assert_eq!(v9((0..100).chain(900_000_000..900_000_100)), Ok(0), "higher");
    assert_eq!(v9((50..60).chain(0..100)), Ok(0), "soon after the start");
    assert_eq!(v9((3_000_000_000..3_000_000_010).chain(0..5)), Ok(0), "beyond half of all numbers");
}

#[test]
fn losses_before_and_after_a_restart_count() {
    assert_eq!(v9([500_000, 500_003, 0, 1, 2, 5]), Ok(4));
    let lossy = |number: &u32| number % 10 != 5;
    assert_eq!(v9((0..100).filter(lossy).chain(1..40)), Ok(10), "at numbers that were seen before");
    assert_eq!(v9((0..100).filter(lossy).chain((1..100).filter(lossy))), Ok(20));
    assert_eq!(v9((0..100).filter(lossy).chain((5_000_000..5_000_100).filter(lossy))), Ok(20));
}

#[test]
fn a_stray_number_changes_nothing() {
    assert_eq!(v9((0..50).chain([4_000_000_000]).chain(50..100)), Ok(0));
    assert_eq!(v9((5000..5050).chain([17]).chain(5050..5100)), Ok(0));
}

#[test]
fn a_long_gap_counts_once_confirmed() {
    assert_eq!(v9((0..100).chain([20_100])), Ok(0));
    assert_eq!(v9((0..100).chain(20_100..20_103)), Ok(20_000));
    assert_eq!(v9((0..100).chain(20_100..20_103).chain(100..103)), Ok(0), "the old run continues");
}

#[test]
fn a_gap_as_long_as_the_silence_counts() {
    let mut missing = Missing::new(ExportFormat::V9);
    let mut note = |number: u32, milliseconds| {
        missing.follow(number, &records(1), at(milliseconds));
        missing.count()
    };
    // 100 datagrams a second for 10 seconds, then an hour of silence.
    for number in 0..1000_u32 {
        assert_eq!(note(number, u64::from(number) * 10), Ok(0));
    }
    assert_eq!(note(361_000, 3_610_000), Ok(360_000));
    assert_eq!(note(361_001, 3_610_010), Ok(360_000));
}

#[test]
fn an_impossible_jump_is_a_restart() {
    let mut missing = Missing::new(ExportFormat::V9);
    // One datagram a second: 500,000 in ten seconds are not possible.
    for number in 0..100_u32 {
        missing.follow(number, &records(1), at(u64::from(number) * 1000));
    }
    for number in 500_000..500_100_u32 {
        missing.follow(number, &records(1), at(110_000 + u64::from(number - 500_000) * 1000));
    }
    assert_eq!(missing.count(), Ok(0));
}

#[test]
fn time_of_arrival_counts_while_ingest_waits() {
    let mut missing = Missing::new(ExportFormat::V9);
    for number in (0..1000_u32).chain(61_000..61_001) {
        let arrival = Timestamp(u64::from(number) * 10_000_000);
        missing.follow(number, &records(1), Seen { arrival, ..at(1) });
    }
    assert_eq!(missing.count(), Ok(60_000));
}

#[test]
fn two_counters_behind_one_address_lose_nothing() {
    for distance in [1_000_000, 30_000, 300, 20] {
        let both = |number: u32| [number, number + distance];
        assert_eq!(v9((0..2000).flat_map(both)), Ok(0), "{distance} apart");
    }
    let both = |number: u32| [number, number + 1_000_000];
    assert_eq!(v9((0..200).flat_map(both).filter(|number| number % 100 != 50)), Ok(4));
}

#[test]
fn bursts_of_two_counters_are_no_losses() {
    for distance in [1_000_000, 30_000] {
        let burst = |burst: u32| {
            let numbers = burst * 10..burst * 10 + 10;
            numbers.clone().chain(numbers.map(move |number| number + distance))
        };
        assert_eq!(v9((0..100).flat_map(burst)), Ok(0), "{distance} apart");
    }
}

#[test]
fn equal_counters_of_two_exporters_lose_nothing() {
    assert_eq!(v9((0..500).flat_map(|number| [number, number])), Ok(0));
}

#[test]
fn a_standby_that_takes_over_loses_nothing() {
    let turns = [0..100, 7_000_000..7_000_100, 100..200, 7_000_100..7_000_200];
    assert_eq!(v9(turns.into_iter().flatten()), Ok(0));
}

#[test]
fn v9_that_counts_flows_is_learned() {
    let datagrams: Vec<_> = (0..100).map(|place| records(1 + place * 3 % 20)).collect();
    let all = counting(ExportFormat::V9, &datagrams, |contents| contents.announced.unwrap(), |_| false);
    assert_eq!((all.count(), all.unit()), (Ok(0), Some("records")));
    let lossy =
        counting(ExportFormat::V9, &datagrams, |contents| contents.announced.unwrap(), |place| place == 50);
    assert_eq!(lossy.count(), Ok(u64::from(1 + 50 * 3 % 20_u32)));
}

#[test]
fn v9_is_counted_in_datagrams() {
    let datagrams: Vec<_> = (0..300).map(|place| records(1 + place * 3 % 20)).collect();
    let lossy = counting(ExportFormat::V9, &datagrams, |_| 1, |place| place % 3 == 1);
    assert_eq!((lossy.count(), lossy.unit()), (Ok(100), Some("datagrams")));
}

#[test]
fn counted_and_uncounted_templates_are_learned() {
    let sum = |contents: &Contents, options, templates| {
        let options = if options { contents.options.unwrap() } else { 0 };
        contents.flows.unwrap() + options + if templates { contents.templates } else { 0 }
    };
    for (options, templates) in [(true, false), (true, true), (false, false), (false, true)] {
        let adds = |contents: &Contents| sum(contents, options, templates);
        let whole = counting(ExportFormat::Ipfix, &messages(200), adds, |_| false);
        assert_eq!(whole.count(), Ok(0), "options: {options}, templates: {templates}");
        let lossy = counting(ExportFormat::Ipfix, &messages(200), adds, |place| place == 100);
        assert_eq!(lossy.count(), Ok(u64::from(adds(&messages(101)[100]))));
    }
}

#[test]
fn inclusive_ipfix_numbers_are_learned() {
    let mut number = 0;
    let mut missing = Missing::new(ExportFormat::Ipfix);
    for (place, message) in messages(100).iter().enumerate() {
        number += message.data_records().unwrap();
        if place != 60 {
            missing.follow(number, message, at(1));
        }
    }
    assert_eq!(missing.count(), Ok(u64::from(messages(61)[60].data_records().unwrap())));
}

#[test]
fn a_number_that_never_changes_is_unusable() {
    for format in [ExportFormat::V5, ExportFormat::V9, ExportFormat::Ipfix, ExportFormat::SFlow] {
        let constant = after(format, (0..20).map(|_| (0, records(3))));
        assert_eq!(constant.count(), Err(Unusable::Constant), "{format}");
    }
}

#[test]
fn ipfix_templates_alone_add_nothing() {
    let templates = Contents { templates: 2, ..Contents::flows(0) };
    let idle = (0..50).map(|_| (7, templates));
    let then = [(7, Contents::flows(3)), (12, Contents::flows(1))];
    assert_eq!(after(ExportFormat::Ipfix, idle.chain(then)).count(), Ok(2));
}

#[test]
fn half_of_all_datagrams_lost_counts() {
    assert_eq!(v9((0..1000).map(|number| number * 2)), Ok(999));
    assert_eq!(v9((0..1000).map(|number| number * 5)), Ok(999 * 4));
}

#[test]
fn numbers_without_sense_are_unusable() {
    let random = |place: u32| place.wrapping_mul(2_654_435_761) ^ place << 13;
    assert_eq!(v9((0..200).map(random)), Err(Unusable::Erratic));
    let climbing = (0..200_u32).scan(0, |number, place| {
        *number += 2 + place * 17 % 90;
        Some(*number)
    });
    assert_eq!(v9(climbing), Err(Unusable::Erratic));
}

#[test]
fn numbers_that_make_sense_again_are_used_again() {
    let random = |place: u32| place.wrapping_mul(2_654_435_761) ^ place << 13;
    let lossy = (0..100).filter(|number| number % 10 != 5);
    let numbers =
        lossy.chain((0..200).map(random)).chain((0..200).filter(|number| ![50, 51].contains(number)));
    assert_eq!(v9(numbers), Ok(10 + 2));
}

#[test]
fn an_exporter_that_begins_to_count_is_counted() {
    let numbers = core::iter::repeat_n(0, 100).chain(1..200).chain([201]);
    assert_eq!(v9(numbers), Ok(1));
}

#[test]
fn a_changed_way_of_counting_is_learned() {
    let mut missing = Missing::new(ExportFormat::V9);
    let mut number = 0;
    for place in 0..400_u32 {
        let contents = records(5 + place * 3 % 20);
        missing.follow(number, &contents, at(1));
        number += if place < 100 { 1 } else { contents.announced.unwrap() };
    }
    assert_eq!((missing.count(), missing.unit()), (Ok(0), Some("records")));
}

#[test]
fn ipfix_without_templates_is_unusable() {
    let unknown = |number: u32| (number * 20, Contents::default());
    assert_eq!(after(ExportFormat::Ipfix, (0..10).map(unknown)).count(), Ok(0));
    let many = (0..100).map(unknown);
    assert_eq!(after(ExportFormat::Ipfix, many.clone()).count(), Err(Unusable::NoTemplates));
    let known = [(2000, Contents::flows(3)), (2005, Contents::flows(1))];
    assert_eq!(after(ExportFormat::Ipfix, many.chain(known)).count(), Ok(2));
}

#[test]
fn the_count_resumes_after_an_unknown_amount() {
    let mut missing = Missing::new(ExportFormat::Ipfix);
    let mut note = |number, flows: Option<u32>| {
        missing.follow(number, &flows.map_or_else(Contents::default, Contents::flows), at(1));
        missing.count()
    };
    assert_eq!(note(100, None), Ok(0));
    assert_eq!(note(130, Some(10)), Ok(0));
    assert_eq!(note(145, None), Ok(5), "missing before an unknown amount");
    assert_eq!(note(1_000, None), Ok(5));
    assert_eq!(note(2_000, Some(1)), Ok(5));
    assert_eq!(note(2_003, Some(1)), Ok(7));
    assert_eq!(note(2_001, None), Ok(7), "how much came late is not known");
    assert_eq!(note(2_004, Some(1)), Ok(7));
}

#[test]
fn formats_without_numbers_are_unusable() {
    for format in [ExportFormat::V1, ExportFormat::Other] {
        assert_eq!(Missing::new(format).count(), Err(Unusable::NoNumbers(format)));
    }
    let v1 = Unusable::NoNumbers(ExportFormat::V1).to_string();
    assert_eq!(v1, "NetFlow v1 has no sequence numbers");
}
