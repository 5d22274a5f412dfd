//! Losses by sequence numbers, for exporters of each version.

use super::*;
use crate::datagram::BootTime;
use crate::limits::{EXPORTERS_MAX, RECORD_LENGTHS_PER_EXPORTER, RECORD_LENGTHS_TOTAL};
use crate::netflow::{ExporterFigures, ExporterTable};

/// The amount missing of each exporter after `payloads` of exporter 1: (version, source id, missing).
fn counted(payloads: &[Vec<u8>]) -> Vec<(u16, u32, u64)> {
    let mut table = ExporterTable::default();
    for payload in payloads {
        table.count_datagram(&datagram(1, payload), BootTime::default());
    }
    let row = |row: ExporterFigures| {
        (row.source.format.netflow_version().unwrap(), row.source.id, row.missing.unwrap())
    };
    table.figures().map(row).collect()
}

/// The amount missing of the one exporter that sent `payloads`.
fn missing(payloads: &[Vec<u8>]) -> u64 {
    let counted = counted(payloads);
    assert_eq!(counted.len(), 1);
    counted[0].2
}

fn v5(sequence: u32, flows: u16) -> Vec<u8> {
    let mut payload = numbers(&[5, flows]);
    payload.extend([1; 12]);
    payload.extend(sequence.to_be_bytes());
    payload.extend([0; 4]);
    payload.extend(vec![0; usize::from(flows) * 48]);
    payload
}

/// Defines template 256 with records of 8 bytes, 257 with records of variable length, and options template
/// 258 with records of 6 bytes.
fn defining(sequence: u32) -> Vec<u8> {
    let templates = set(2, &[template(256, &[4, 4]), template(257, &[4, 65_535])].concat());
    ipfix(7, sequence, &[templates, set(3, &ipfix_options(258, 2))])
}

/// A message of `records` data records by template 256.
fn data(sequence: u32, records: usize) -> Vec<u8> {
    ipfix(7, sequence, &[set(256, &vec![9; records * 8])])
}

#[test]
fn v5_counts_flows() {
    assert_eq!(missing(&[v5(0, 30), v5(30, 7), v5(37, 30)]), 0);
    assert_eq!(missing(&[v5(0, 30), v5(60, 30)]), 30);
    assert_eq!(missing(&[v5(u32::MAX - 29, 30), v5(0, 30), v5(40, 1)]), 10, "over the wrap");
    assert_eq!(missing(&[v5(0, 30), v5(60, 30), v5(30, 30), v5(90, 30)]), 0, "overtaken");
    assert_eq!(missing(&[v5(900_000, 30), v5(0, 30), v5(30, 30)]), 0, "the exporter restarts");
}

#[test]
fn v9_counts_datagrams() {
    let v9 = |sequence| v9(7, sequence, &[set(256, &[9; 400])]);
    assert_eq!(missing(&[10, 11, 12].map(v9)), 0);
    assert_eq!(missing(&[10, 11, 14].map(v9)), 2);
    assert_eq!(missing(&[u32::MAX, 0, 2].map(v9)), 1, "over the wrap");
    assert_eq!(missing(&[10, 12, 11, 13].map(v9)), 0, "overtaken");
    assert_eq!(missing(&[900_000, 0, 1].map(v9)), 0, "the exporter restarts");
}

#[test]
fn ipfix_counts_data_records() {
    let after = |messages: &[Vec<u8>]| missing(&[&[defining(100)], messages].concat());
    assert_eq!(after(&[data(100, 3), data(103, 5), data(108, 1)]), 0);
    assert_eq!(after(&[data(100, 3), data(110, 5), data(115, 1)]), 7);
    assert_eq!(after(&[data(102, 3)]), 2, "what came after the templates");
    assert_eq!(after(&[data(100, 3), data(108, 5), data(103, 5), data(113, 1)]), 0, "overtaken");
    assert_eq!(after(&[data(900_000, 1), data(0, 3), data(3, 1)]), 0, "the exporter restarts");
}

#[test]
fn ipfix_numbers_wrap_without_a_gap_and_with_one() {
    let last = u32::MAX - 9;
    assert_eq!(missing(&[defining(last), data(last, 10), data(0, 5), data(5, 1)]), 0);
    assert_eq!(missing(&[defining(last), data(last, 15), data(5, 5), data(13, 1)]), 3);
    assert_eq!(missing(&[defining(last), data(last, 1), data(4, 5)]), 13);
}

#[test]
fn templates_are_no_data_records() {
    let mixed = ipfix(7, 3, &[set(256, &[9; 16]), set(2, &template(300, &[2])), set(300, &[9; 6])]);
    assert_eq!(missing(&[defining(0), data(0, 3), mixed, defining(8), defining(8), data(8, 1)]), 0);
}

#[test]
fn data_records_of_options_count_too() {
    let options = ipfix(7, 0, &[set(258, &[9; 24]), set(256, &[9; 8])]);
    assert_eq!(missing(&[defining(0), options.clone(), data(5, 1)]), 0);
    assert_eq!(missing(&[defining(0), options, data(8, 1)]), 3);
}

#[test]
fn variable_records_are_counted_one_by_one() {
    let variable = ipfix(7, 0, &[set(257, &[9, 9, 9, 9, 2, 7, 7, 9, 9, 9, 9, 0, 9, 9, 9, 9, 1, 7, 0, 0])]);
    assert_eq!(missing(&[defining(0), variable.clone(), data(3, 1)]), 0);
    assert_eq!(missing(&[defining(0), variable, data(4, 1)]), 1);
}

#[test]
fn uncountable_datagrams_add_nothing_to_missing() {
    let unknown = |sequence| ipfix(7, sequence, &[set(256, &[9; 8]), set(999, &[9; 40])]);
    let cut_short = ipfix(7, 10, &[set(257, &[9, 9, 9, 9, 200, 7])]);
    let damaged = ipfix(7, 10, &[set(256, &[9; 8]), vec![1, 0, 255, 255]]);
    let reserved = ipfix(7, 10, &[set(5, &[9; 8])]);
    assert_eq!(missing(&[data(0, 3), data(500, 3), data(900, 3)]), 0, "templates have not come yet");
    for strange in [unknown(10), cut_short, damaged, reserved] {
        let before = [defining(0), data(0, 4), strange];
        assert_eq!(missing(&before), 6);
        assert_eq!(missing(&[&before[..], &[data(500, 1), data(501, 1)]].concat()), 6);
        assert_eq!(missing(&[&before[..], &[data(500, 1), data(503, 1)]].concat()), 6 + 2);
    }
}

#[test]
fn what_fills_a_message_up_is_no_damage() {
    let padded = ipfix(7, 0, &[set(256, &[9; 8]), vec![0; 6]]);
    assert_eq!(missing(&[defining(0), padded, data(3, 1)]), 2);
}

#[test]
fn withdrawn_templates_do_not_count() {
    let withdrawing = |body: &[u16]| ipfix(7, 0, &[set(2, &numbers(body))]);
    for body in [[256, 0], [2, 0]] {
        let withdrawn = [defining(0), withdrawing(&body), data(0, 3), data(500, 3), data(900, 3)];
        assert_eq!(missing(&withdrawn), 0);
        assert_eq!(missing(&[&withdrawn[..], &[defining(950), data(955, 1)]].concat()), 5);
    }
    assert_eq!(missing(&[defining(0), withdrawing(&[257, 0]), data(0, 3), data(5, 1)]), 2);
}

#[test]
fn a_changed_template_counts_differently() {
    let redefined = ipfix(7, 4, &[set(2, &template(256, &[2])), set(256, &[9; 8])]);
    assert_eq!(missing(&[defining(0), data(0, 4), redefined, data(8, 2), data(16, 1)]), 0);
}

#[test]
fn each_domain_has_its_count_and_templates() {
    let other = |sequence, sets: &[Vec<u8>]| ipfix(8, sequence, sets);
    let told = counted(&[
        defining(0),
        other(50, &[set(2, &template(256, &[1]))]),
        data(0, 2),
        other(50, &[set(256, &[9; 8])]),
        data(3, 2),
        other(60, &[set(256, &[9; 8])]),
        v9(7, 9, &[]),
    ]);
    assert_eq!(told, [(9, 7, 0), (10, 7, 1), (10, 8, 2)]);
}

#[test]
fn too_many_templates_count_by_the_latest_ones() {
    let mut table = ExporterTable::default();
    for id in 256..2000 {
        table.count_datagram(&datagram(1, &ipfix(7, 0, &[set(2, &template(id, &[4]))])), BootTime::default());
        assert!(table.record_length_bytes() <= RECORD_LENGTHS_PER_EXPORTER);
    }
    table.count_datagram(&datagram(1, &ipfix(7, 0, &[set(1999, &[9; 8])])), BootTime::default());
    table.count_datagram(&datagram(1, &ipfix(7, 5, &[])), BootTime::default());
    assert_eq!(table.figures().next().unwrap().missing, Ok(3));
    let long = template(300, &vec![65_535; 9000]);
    table.count_datagram(&datagram(1, &ipfix(7, 5, &[set(2, &long)])), BootTime::default());
    assert_eq!(table.record_length_bytes(), 0);
}

#[test]
fn record_lengths_are_bounded_in_all() {
    let mut table = ExporterTable::default();
    let long = ipfix(7, 0, &[set(2, &template(256, &vec![65_535; 7000]))]);
    let last = u16::try_from(EXPORTERS_MAX).unwrap();
    let mut note = |host: u16, payload: &[u8]| {
        let [high, low] = host.to_be_bytes();
        let exporter = ([10, 0, high, low], 4000).into();
        table.count_datagram(&Datagram { exporter, ..datagram(1, payload) }, BootTime::default());
        table.record_length_bytes()
    };
    (1..=last).for_each(|host| assert!(note(host, &long) <= RECORD_LENGTHS_TOTAL));
    let full = note(1, &long);
    assert!(full + 15_000 > RECORD_LENGTHS_TOTAL);
    assert_eq!(note(1, &long), full);
    for host in 1..=last {
        note(last + host, b"something else");
    }
    assert_eq!(note(1, b"something else"), 0);
}
