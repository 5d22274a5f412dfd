use proptest::collection::vec;
use proptest::prelude::*;

use super::description::{DESCRIPTION_LEN_MAX, RowSection, TableShape, WideCell};
use super::*;
use crate::flow_layout::{AddressFamily, FlowAddresses, FlowLayout, FlowRun};

/// Layout of flow records of `length` bytes. From 8 bytes on they end with IPv4 addresses, the destination
/// first.
fn layout(length: u16) -> FlowLayout {
    let addresses = |source| FlowAddresses { source, destination: source - 4, family: AddressFamily::V4 };
    FlowLayout { length, addresses: (length >= 8).then(|| addresses(length - 4)) }
}

/// A record of a batch: length of its head, its bytes, and the stated flow runs.
type RecordWithFlows = (usize, Vec<u8>, Vec<FlowRun>);

prop_compose! {
    /// Addresses that may exceed their record and overlap.
    fn any_addresses()(
        source in 0..24_u16,
        destination in 0..24_u16,
        family in prop_oneof![Just(AddressFamily::V4), Just(AddressFamily::V6)],
    ) -> FlowAddresses {
        FlowAddresses { source, destination, family }
    }
}

prop_compose! {
    /// Runs that may overlap, be out of order and exceed the payload.
    fn any_run()(
        start in 0..300_usize,
        records in 0..40_usize,
        template in 0..3_u16,
        length in 0..20_u16,
        addresses in proptest::option::of(any_addresses()),
    ) -> FlowRun {
        let layout = if template == 0 { FlowLayout { length, addresses } } else { layout(length) };
        FlowRun { start, records, template, layout }
    }
}

/// Bytes of few values, so that equal addresses occur.
fn any_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(0..2_u8, 0..most), vec(any::<u8>(), 0..most)]
}

fn any_record() -> impl Strategy<Value = RecordWithFlows> {
    (prop_oneof![Just(23), Just(47)], any_bytes(400), vec(any_run(), 0..4)).prop_map(
        |(head, payload, runs)| {
            let bytes = [vec![7; head], payload].concat();
            (head, bytes, runs)
        },
    )
}

fn noted(records: &[RecordWithFlows]) -> (Vec<u8>, FlowRows) {
    let mut flows = FlowRows::default();
    let mut bytes = Vec::new();
    for (head, record, runs) in records {
        let start = bytes.len();
        bytes.extend(record);
        flows.add_record(start, *head, bytes.len(), runs);
    }
    (bytes, flows)
}

fn columnar_form(records: &[u8], flows: &FlowRows) -> Vec<u8> {
    let mut form = Vec::new();
    encode_all(records, flows, &mut form).unwrap();
    form
}

proptest! {
    #[test]
    fn records_round_trip_with_any_flow_runs(records in vec(any_record(), 1..30)) {
        let (bytes, flows) = noted(&records);
        let form = columnar_form(&bytes, &flows);
        prop_assert!(form.len() <= max_len(bytes.len()));
        prop_assert_eq!(decode(&form, bytes.len()), Ok(bytes));
    }

    #[test]
    fn tables_of_any_size_round_trip(
        row_len in 1..130_u16,
        rows in 1..40_usize,
        offset in 0..100_u16,
        wide in 1..20_u8,
    ) {
        let cell = WideCell { offset, length: wide };
        let cells = if cell.end() <= usize::from(row_len) { vec![cell] } else { Vec::new() };
        let mut description = Description::new();
        description.tables.push(TableShape::new(row_len, cells));
        description.append_rows(1, rows).unwrap();
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().step_by(7).take(usize::from(row_len) * rows).collect();
        let (mut columns, mut back) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        columns::from_rows(&bytes, &description, &mut columns).unwrap();
        columns::to_rows(&columns, &description, &mut back).unwrap();
        prop_assert_eq!(back, bytes);
    }

    #[test]
    fn arbitrary_bytes_give_the_expected_length(bytes in vec(any::<u8>(), 0..400)) {
        fuzz_columnar(&bytes);
        fuzz_columnar(&[[1, 0, 2, 0, 9, 1, 0, 2, 4, 0, 1, 0, 0, 5, 2].as_slice(), &bytes].concat());
    }

    #[test]
    fn a_damaged_form_gives_the_expected_length(
        records in vec(any_record(), 1..10),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (bytes, flows) = noted(&records);
        let mut form = columnar_form(&bytes, &flows);
        for (place, byte) in damage {
            let place = place.index(form.len());
            form[place] = byte;
        }
        prop_assert!(decode(&form, bytes.len()).map_or(true, |restored| restored.len() == bytes.len()));
    }
}

/// A head of three bytes and five flow records: two pairs of both directions between two hosts, and a single
/// one.
fn small() -> (Vec<u8>, FlowRows) {
    let flow = |source: u8, destination: u8| [destination, 0, 0, 0, source, 0, 0, 0];
    let payload = [flow(1, 2), flow(2, 1), flow(3, 4), flow(5, 6), flow(6, 5)].concat();
    let run = FlowRun { start: 0, records: 5, template: 256, layout: layout(8) };
    noted(&[(3, [b"abc".as_slice(), &payload].concat(), vec![run])])
}

#[test]
fn both_directions_of_a_flow_share_a_row() {
    let (bytes, flows) = small();
    let form = columnar_form(&bytes, &flows);
    let tables =
        [[0, 3, 0].as_slice(), &[0, 8, 1, 0, 0, 8], &[0, 16, 4, 0, 0, 4, 0, 4, 4, 0, 8, 4, 0, 12, 4]];
    let sections = [[1, 3, 2, 3].as_slice(), &[0; 4], &[1; 4]];
    let host = |number| [number, 0, 0, 0];
    let cells = [2, 6, 1, 5, 1, 5, 2, 6].map(host).concat();
    let data = [b"abc".as_slice(), &[4, 0, 0, 0, 3, 0, 0, 0], &cells];
    let expected = [[3, 0, 4].as_slice(), &tables.concat(), &sections.concat(), &data.concat()].concat();
    assert_eq!(form, expected);
}

#[test]
fn a_form_of_wrong_length_is_rejected() {
    let (bytes, flows) = small();
    let form = columnar_form(&bytes, &flows);
    for cut in 0..form.len() {
        for records_len in 0..=bytes.len() {
            assert_eq!(decode(&form[..cut], records_len), Err(BatchError::Records), "{cut} bytes");
        }
    }
    assert_eq!(decode(&[form.as_slice(), &[0]].concat(), bytes.len()), Err(BatchError::Records));
    assert_eq!(decode(&[form.as_slice(), &[0]].concat(), bytes.len() + 1), Err(BatchError::Records));
}

/// The form of a record of nine bytes: a table with these wide cells, and one section.
fn form(row_len: u8, wide: &[u8], table: u8, rows: u8) -> Vec<u8> {
    let cells = u8::try_from(wide.len() / 3).unwrap();
    [[1, 0, 1, 0, row_len, cells].as_slice(), wide, &[table, 0, rows], &[9; 9]].concat()
}

#[test]
fn invalid_descriptions_are_rejected() {
    let accepted = |form: Vec<u8>| decode(&form, 9).is_ok();
    assert!(accepted(form(9, &[0, 0, 4, 0, 5, 4], 1, 1)));
    assert!(accepted(form(3, &[], 1, 3)));
    assert!(accepted(form(3, &[], 0, 9)));
    assert!(!accepted(form(0, &[], 0, 9)), "rows of no length");
    assert!(!accepted(form(9, &[0, 0, 4, 0, 6, 4], 1, 1)), "a cell beyond the row");
    assert!(!accepted(form(9, &[0, 0, 4, 0, 3, 4], 1, 1)), "cells over each other");
    assert!(!accepted(form(9, &[0, 4, 4, 0, 0, 4], 1, 1)), "cells in disorder");
    assert!(!accepted(form(9, &[0, 0, 0], 1, 1)), "a cell of no length");
    assert!(!accepted(form(9, &[0, 0, 1, 0, 1, 1, 0, 2, 1, 0, 3, 1, 0, 4, 1], 1, 1)), "five wide cells");
    assert!(!accepted(form(9, &[], 2, 1)), "a table that there is not");
    assert!(!accepted(form(9, &[], 1, 0)), "a section without rows");
    assert!(!accepted(form(9, &[], 1, 2)), "more than there is");
    assert!(!accepted(form(3, &[], 1, 2)), "less than there is");
}

#[test]
fn records_with_too_many_sections_are_not_encoded() {
    let run = |template, records| FlowRun { start: 0, records, template, layout: layout(8) };
    let (bytes, flows) = noted(&(0..100).map(|id| (3, vec![0; 11], vec![run(id, 1)])).collect::<Vec<_>>());
    let form = columnar_form(&bytes, &flows);
    assert!(form.len() < DESCRIPTION_LEN_MAX + bytes.len());
    assert_eq!(decode(&form, bytes.len()), Ok(bytes), "rows beyond the last possible table are unchanged");

    let ways = |number: u8| {
        if number.is_multiple_of(3) { [1; 8] } else { [0, 0, 0, number % 3, 0, 0, 0, 3 - number % 3] }
    };
    let rows: Vec<u8> = (0..240).cycle().take(12_300).flat_map(ways).collect();
    let (bytes, flows) = noted(&[(0, rows, vec![run(1, 12_300)])]);
    assert!(!encode(&bytes, &flows, &mut Vec::new()));
}

#[test]
fn records_with_few_flows_are_not_encoded() {
    let run = FlowRun { start: 0, records: 5, template: 256, layout: layout(8) };
    let (bytes, flows) = noted(&[(3, vec![0; 3 + 40 + 38], vec![run])]);
    assert!(!encode(&bytes, &flows, &mut Vec::new()));
    let (bytes, flows) = noted(&[(3, vec![0; 3 + 40 + 37], vec![run])]);
    assert!(encode(&bytes, &flows, &mut Vec::new()));
}

#[test]
fn a_section_beyond_65535_rows_is_split() {
    let mut description = Description::new();
    description.append_rows(0, 65_600).unwrap();
    assert_eq!(
        description.sections,
        [RowSection { table: 0, rows: 65_535 }, RowSection { table: 0, rows: 65 }]
    );
}
