//! Remembered options data and their repeats.

use std::time::Instant;

use super::memory::{before, collector, deliver, due, learn, memory_of, of_host};
use super::*;
use crate::limits::{OPTION_BYTES_PER_EXPORTER, REPEAT_TARGET};
use crate::netflow::sets::Sets;
use crate::netflow::{Header, TemplateMemory};

/// A v9 options template with the system as scope, and these fields.
fn of_system(id: u16, fields: &[(u16, u16)]) -> Vec<u8> {
    let length = u16::try_from(4 * fields.len()).unwrap();
    let fields = fields.iter().flat_map(|(kind, length)| [*kind, *length]);
    numbers(&[id, 4, length, 1, 4].into_iter().chain(fields).collect::<Vec<_>>())
}

/// A sampler table: number, mode and interval.
fn sampler_template() -> Vec<u8> {
    of_system(257, &[(48, 1), (49, 1), (50, 2)])
}

fn sampler(number: u8, interval: u16) -> Vec<u8> {
    let [high, low] = interval.to_be_bytes();
    vec![0, 0, 0, 0, number, 2, high, low]
}

/// A datagram with these records of the sampler table.
fn samplers(sequence: u32, records: &[Vec<u8>]) -> Vec<u8> {
    v9(7, sequence, &[set(257, &records.concat())])
}

/// The data records in these payloads, each with the id of its template.
fn records(payloads: &[Vec<u8>]) -> Vec<(u16, Vec<u8>)> {
    let sets = payloads.iter().flat_map(|payload| Sets::parse(payload).unwrap());
    sets.filter(|set| set.template_kind().is_none()).map(|set| (set.id, set.body.to_vec())).collect()
}

/// The records that a collector that has nothing gets before flows.
fn repeated(memory: &TemplateMemory) -> Vec<(u16, Vec<u8>)> {
    records(&before(memory, &datagram(1, &v9(7, 100, &[set(300, &[0; 4])]))))
}

/// A memory that knows the sampler table's template, and has noted these.
fn memory_with(payloads: &[Vec<u8>]) -> TemplateMemory {
    memory_of(&[[v9(7, 1, &[set(1, &sampler_template())])].as_slice(), payloads].concat())
}

#[test]
fn options_data_come_behind_their_templates() {
    let memory = memory_with(&[samplers(2, &[sampler(1, 1000)]), v9(7, 3, &[set(0, &template(300, &[4]))])]);
    let payloads = before(&memory, &datagram(1, &v9(7, 10, &[set(300, &[0; 4])])));
    let expected = [
        set(1, &[sampler_template(), vec![0, 0]].concat()),
        set(0, &template(300, &[4])),
        set(257, &sampler(1, 1000)),
    ];
    assert_eq!(payloads, [v9(7, 9, &expected)]);
}

#[test]
fn each_sampler_keeps_its_latest_interval() {
    let memory = memory_with(&[
        samplers(2, &[sampler(1, 1000), sampler(2, 50)]),
        samplers(3, &[sampler(1, 2000)]),
        samplers(4, &[sampler(3, 7)]),
    ]);
    let expected = [sampler(2, 50), sampler(1, 2000), sampler(3, 7)].map(|record| (257, record));
    assert_eq!(repeated(&memory), expected);
}

#[test]
fn records_with_unknown_values_keep_their_order() {
    let mut memory = memory_of(&[v9(7, 1, &[set(1, &of_system(257, &[(9999, 4)]))])]);
    let record = |value: u8| vec![0, 0, 0, 0, 0, 0, 0, value];
    for value in [1, 2, 1] {
        learn(&mut memory, datagram(1, &samplers(2, &[record(value)])));
    }
    assert_eq!(repeated(&memory), [(257, record(2)), (257, record(1))]);
}

#[test]
fn options_data_without_a_change_change_nothing() {
    let mut memory = memory_with(&[samplers(2, &[sampler(1, 1000)])]);
    let bytes = memory.bytes();
    assert!(!learn(&mut memory, datagram(1, &samplers(3, &[sampler(1, 1000)]))));
    assert!(learn(&mut memory, datagram(1, &samplers(3, &[sampler(1, 1001)]))));
    assert_eq!(memory.bytes(), bytes);
}

#[test]
fn redefined_options_drop_their_records() {
    let mut memory = memory_with(&[samplers(2, &[sampler(1, 1000)])]);
    learn(&mut memory, datagram(1, &v9(7, 3, &[set(1, &sampler_template())])));
    assert_eq!(repeated(&memory).len(), 1, "defined as before");
    learn(&mut memory, datagram(1, &v9(7, 4, &[set(1, &of_system(257, &[(50, 4)]))])));
    assert_eq!(repeated(&memory), []);
    assert_eq!(memory.bytes().1, 0);
}

#[test]
fn withdrawn_options_drop_their_records() {
    let mut memory = memory_of(&[ipfix(7, 1, &[set(3, &ipfix_options(257, 2)), set(257, &[1; 6])])]);
    assert_ne!(memory.bytes().1, 0);
    learn(&mut memory, datagram(1, &ipfix(7, 2, &[set(3, &numbers(&[3, 0]))])));
    assert_eq!(memory.bytes(), (0, 0));
}

#[test]
fn ipfix_repeats_count_their_records() {
    let records: Vec<u8> = (0..100).flat_map(|number| [0, 0, 0, number, 1, 1]).collect();
    let memory = memory_of(&[ipfix(7, 1, &[set(3, &ipfix_options(257, 2)), set(257, &records)])]);
    let payloads = before(&memory, &datagram(1, &ipfix(7, 1000, &[set(300, &[0; 4])])));
    assert_eq!(payloads.len(), 1);
    assert_eq!(Header::parse(&payloads[0]).unwrap().sequence.number, 900);
}

#[test]
fn records_of_variable_length_are_kept() {
    // The scope is an interface; its name follows.
    let template = numbers(&[257, 2, 1, 10, 4, 82, 65_535]);
    let record = |interface: u8, name: &str| {
        [&[0, 0, 0, interface, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()
    };
    let body = [record(1, "eth0"), record(2, "uplink"), record(1, "lan")].concat();
    let memory = memory_of(&[ipfix(7, 1, &[set(3, &template), set(257, &body)])]);
    let payloads = before(&memory, &datagram(1, &ipfix(7, 1000, &[set(300, &[0; 4])])));
    assert_eq!(records(&payloads), [(257, record(2, "uplink")), (257, record(1, "lan"))]);
}

#[test]
fn padding_is_no_record() {
    let memory = memory_of(&[
        v9(7, 1, &[set(1, &of_system(257, &[(50, 1)]))]),
        v9(7, 2, &[set(257, &[0, 0, 0, 0, 9, 0, 0, 0])]),
    ]);
    let expected = [0, 0, 0, 0, 9, 0, 0, 0].to_vec();
    assert_eq!(repeated(&memory), [(257, expected)], "padded as before");
}

#[test]
fn repeats_of_many_records_have_bounded_lengths() {
    let names = of_system(257, &[(10, 4), (83, 60)]);
    let row = |number: u8| [vec![0, 0, 0, 0, 0, 0, 0, number], vec![b'x'; 60]].concat();
    let rows: Vec<_> = (0..200).map(row).collect();
    let mut memory = memory_of(&[v9(7, 1, &[set(1, &names)])]);
    for rows in rows.chunks(20) {
        learn(&mut memory, datagram(1, &samplers(2, rows)));
    }
    let payloads = before(&memory, &datagram(1, &v9(7, 1000, &[set(300, &[0; 4])])));
    assert!(payloads.iter().all(|payload| payload.len() <= REPEAT_TARGET));
    assert_eq!(records(&payloads), rows.into_iter().map(|row| (257, row)).collect::<Vec<_>>());
    let numbers: Vec<_> =
        payloads.iter().map(|payload| Header::parse(payload).unwrap().sequence.number).collect();
    let first = 1000 - u32::try_from(payloads.len()).unwrap();
    assert_eq!(numbers, (first..1000).collect::<Vec<_>>());
}

#[test]
fn the_largest_table_makes_room() {
    let unknown = of_system(258, &[(9999, 4)]);
    let mut memory = memory_with(&[samplers(2, &[sampler(1, 1000)]), v9(7, 3, &[set(1, &unknown)])]);
    for number in 0..20_000_u32 {
        let record = [[0; 4], number.to_be_bytes()].concat();
        learn(&mut memory, datagram(1, &v9(7, 4, &[set(258, &record)])));
    }
    assert!(memory.bytes().1 <= OPTION_BYTES_PER_EXPORTER);
    let repeated = repeated(&memory);
    assert!(repeated.contains(&(257, sampler(1, 1000))));
    assert_eq!(repeated.last().unwrap().1[4..], 19_999_u32.to_be_bytes());
}

#[test]
fn the_exporter_with_old_options_makes_room() {
    let mut memory = TemplateMemory::default();
    let table = |memory: &mut TemplateMemory, exporter| {
        learn(memory, of_host(exporter, &v9(7, 1, &[set(1, &of_system(257, &[(9999, 4)]))])));
        for first in (0..4000_u32).step_by(100) {
            let rows = (first..first + 100).flat_map(|row| [[0; 4], row.to_be_bytes()].concat());
            learn(memory, of_host(exporter, &v9(7, 4, &[set(257, &rows.collect::<Vec<_>>())])));
        }
    };
    (1..=40).for_each(|exporter| table(&mut memory, exporter));
    assert!(memory.bytes().1 <= crate::limits::OPTION_MEMORY);
    let has_records = |exporter| {
        let flows = v9(7, 100, &[set(300, &[0; 4])]);
        !records(&before(&memory, &of_host(exporter, &flows))).is_empty()
    };
    assert_eq!([1, 2, 39, 40].map(has_records), [false, false, true, true]);
}

#[test]
fn a_collector_gets_only_the_lacking_records() {
    let mut memory = memory_with(&[samplers(2, &[sampler(1, 1000), sampler(2, 50)])]);
    let (flows, now) = (v9(7, 100, &[set(300, &[0; 4])]), Instant::now());
    deliver(&mut memory, &datagram(1, &flows), &collector(1), now);
    learn(&mut memory, datagram(1, &samplers(3, &[sampler(1, 2000), sampler(2, 50)])));
    let due = due(&memory, &datagram(1, &flows), &collector(1));
    assert_eq!(records(&due), [(257, sampler(1, 2000))]);
}

#[test]
fn options_data_are_stored_with_their_template() {
    let memory = memory_with(&[samplers(2, &[sampler(1, 1000)])]);
    let kept = memory.kept_options().next().unwrap();
    let mut restored = TemplateMemory::default();
    restored.restore_options(&kept);
    assert_eq!(restored.bytes(), (0, 0), "its template is not known");
    memory.kept_templates().for_each(|kept| restored.restore_templates(&kept));
    restored.restore_options(&kept);
    assert_eq!(repeated(&restored), repeated(&memory));

    let mut redefined = memory_of(&[v9(7, 1, &[set(1, &of_system(257, &[(50, 4)]))])]);
    redefined.restore_options(&kept);
    assert_eq!(repeated(&redefined), []);
}
