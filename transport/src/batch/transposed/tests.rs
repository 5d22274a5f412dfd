use proptest::collection::vec;
use proptest::prelude::*;

use super::description::{LONGEST, Piece, Table, WideCell};
use super::*;
use crate::datagram::{AddressFamily, FlowAddresses, FlowLayout, FlowRun};

/// Flow records of `length` bytes, those of 8 and more with addresses of IPv4 at their end, the destination first.
fn layout(length: u16) -> FlowLayout {
    let addresses = |source| FlowAddresses { source, destination: source - 4, family: AddressFamily::V4 };
    FlowLayout { length, addresses: (length >= 8).then(|| addresses(length - 4)) }
}

/// A record of a batch: its head, its payload, and where flows are said to be.
type Record = (usize, Vec<u8>, Vec<FlowRun>);

prop_compose! {
    /// Addresses that may lie beyond their record and over each other.
    fn any_addresses()(source in 0..24_u16, destination in 0..24_u16, is_v6 in any::<bool>()) -> FlowAddresses {
        FlowAddresses { source, destination, family: if is_v6 { AddressFamily::V6 } else { AddressFamily::V4 } }
    }
}

prop_compose! {
    /// Runs that may lie over each other, in disorder, and beyond the payload.
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

/// Bytes of few values, so that addresses meet.
fn any_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(0..2_u8, 0..most), vec(any::<u8>(), 0..most)]
}

fn any_record() -> impl Strategy<Value = Record> {
    (prop_oneof![Just(23), Just(47)], any_bytes(400), vec(any_run(), 0..4)).prop_map(
        |(head, payload, runs)| {
            let bytes = [vec![7; head], payload].concat();
            (head, bytes, runs)
        },
    )
}

fn noted(records: &[Record]) -> (Vec<u8>, Flows) {
    let mut flows = Flows::default();
    let mut bytes = Vec::new();
    for (head, record, runs) in records {
        let start = bytes.len();
        bytes.extend(record);
        flows.note(start, *head, bytes.len(), runs);
    }
    (bytes, flows)
}

fn transposed(records: &[u8], flows: &Flows) -> Vec<u8> {
    let mut form = Vec::new();
    transpose_all(records, flows, &mut form).unwrap();
    form
}

proptest! {
    #[test]
    fn records_come_back_wherever_flows_are_said_to_be(records in vec(any_record(), 1..30)) {
        let (bytes, flows) = noted(&records);
        let form = transposed(&bytes, &flows);
        prop_assert!(form.len() <= longest(bytes.len()));
        prop_assert_eq!(restore(&form, bytes.len()), Ok(bytes));
    }

    #[test]
    fn tables_of_any_size_come_back(row_len in 1..130_u16, rows in 1..40_usize, offset in 0..100_u16, wide in 1..20_u8) {
        let cell = WideCell { offset, length: wide };
        let cells = if cell.end() <= usize::from(row_len) { vec![cell] } else { Vec::new() };
        let mut description = Description::new();
        description.tables.push(Table::new(row_len, cells));
        description.add(1, rows).unwrap();
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().step_by(7).take(usize::from(row_len) * rows).collect();
        let (mut columns, mut back) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        columns::of_rows(&bytes, &description, &mut columns).unwrap();
        columns::to_rows(&columns, &description, &mut back).unwrap();
        prop_assert_eq!(back, bytes);
    }

    #[test]
    fn bytes_of_any_kind_are_refused_or_give_what_was_asked_for(bytes in vec(any::<u8>(), 0..400)) {
        fuzz_transposed(&bytes);
        fuzz_transposed(&[[1, 0, 2, 0, 9, 1, 0, 2, 4, 0, 1, 0, 0, 5, 2].as_slice(), &bytes].concat());
    }

    #[test]
    fn a_damaged_form_is_refused_or_gives_as_many_bytes(
        records in vec(any_record(), 1..10),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (bytes, flows) = noted(&records);
        let mut form = transposed(&bytes, &flows);
        for (place, byte) in damage {
            let place = place.index(form.len());
            form[place] = byte;
        }
        prop_assert!(restore(&form, bytes.len()).map_or(true, |restored| restored.len() == bytes.len()));
    }
}

/// Two flow records each way between two hosts, one more, and what leads up to them.
fn small() -> (Vec<u8>, Flows) {
    let flow = |source: u8, destination: u8| [destination, 0, 0, 0, source, 0, 0, 0];
    let payload = [flow(1, 2), flow(2, 1), flow(3, 4), flow(5, 6), flow(6, 5)].concat();
    let run = FlowRun { start: 0, records: 5, template: 256, layout: layout(8) };
    noted(&[(3, [b"abc".as_slice(), &payload].concat(), vec![run])])
}

#[test]
fn two_ways_of_a_flow_are_a_row_and_addresses_side_by_side_a_cell() {
    let (bytes, flows) = small();
    let form = transposed(&bytes, &flows);
    let tables =
        [[0, 3, 0].as_slice(), &[0, 8, 1, 0, 0, 8], &[0, 16, 4, 0, 0, 4, 0, 4, 4, 0, 8, 4, 0, 12, 4]];
    let pieces = [[1, 3, 2, 3].as_slice(), &[0; 4], &[1; 4]];
    let host = |number| [number, 0, 0, 0];
    let cells = [2, 6, 1, 5, 1, 5, 2, 6].map(host).concat();
    let data = [b"abc".as_slice(), &[4, 0, 0, 0, 3, 0, 0, 0], &cells];
    let expected = [[3, 0, 4].as_slice(), &tables.concat(), &pieces.concat(), &data.concat()].concat();
    assert_eq!(form, expected);
}

#[test]
fn a_form_that_is_cut_short_or_too_long_is_refused() {
    let (bytes, flows) = small();
    let form = transposed(&bytes, &flows);
    for cut in 0..form.len() {
        for records_len in 0..=bytes.len() {
            assert_eq!(restore(&form[..cut], records_len), Err(BatchError::Records), "{cut} bytes");
        }
    }
    assert_eq!(restore(&[form.as_slice(), &[0]].concat(), bytes.len()), Err(BatchError::Records));
    assert_eq!(restore(&[form.as_slice(), &[0]].concat(), bytes.len() + 1), Err(BatchError::Records));
}

/// The form of a record of nine bytes, by a table with these wide cells and one piece.
fn form(row_len: u8, wide: &[u8], table: u8, rows: u8) -> Vec<u8> {
    let cells = u8::try_from(wide.len() / 3).unwrap();
    [[1, 0, 1, 0, row_len, cells].as_slice(), wide, &[table, 0, rows], &[9; 9]].concat()
}

#[test]
fn descriptions_that_make_no_sense_are_refused() {
    let accepted = |form: Vec<u8>| restore(&form, 9).is_ok();
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
    assert!(!accepted(form(9, &[], 1, 0)), "a piece of no rows");
    assert!(!accepted(form(9, &[], 1, 2)), "more than there is");
    assert!(!accepted(form(3, &[], 1, 2)), "less than there is");
}

#[test]
fn what_is_too_much_for_a_description_is_not_transposed() {
    let run = |template, records| FlowRun { start: 0, records, template, layout: layout(8) };
    let (bytes, flows) = noted(&(0..100).map(|id| (3, vec![0; 11], vec![run(id, 1)])).collect::<Vec<_>>());
    let form = transposed(&bytes, &flows);
    assert!(form.len() < LONGEST + bytes.len());
    assert_eq!(restore(&form, bytes.len()), Ok(bytes), "what is beyond the tables stays as it was");

    let ways = |number: u8| {
        if number.is_multiple_of(3) { [1; 8] } else { [0, 0, 0, number % 3, 0, 0, 0, 3 - number % 3] }
    };
    let rows: Vec<u8> = (0..240).cycle().take(12_300).flat_map(ways).collect();
    let (bytes, flows) = noted(&[(0, rows, vec![run(1, 12_300)])]);
    assert!(!transpose(&bytes, &flows, &mut Vec::new()));
}

#[test]
fn records_that_are_not_mostly_flows_stay_as_they_are() {
    let run = FlowRun { start: 0, records: 5, template: 256, layout: layout(8) };
    let (bytes, flows) = noted(&[(3, vec![0; 3 + 40 + 38], vec![run])]);
    assert!(!transpose(&bytes, &flows, &mut Vec::new()));
    let (bytes, flows) = noted(&[(3, vec![0; 3 + 40 + 37], vec![run])]);
    assert!(transpose(&bytes, &flows, &mut Vec::new()));
}

#[test]
fn the_longest_piece_is_followed_by_another() {
    let mut description = Description::new();
    description.add(0, 65_600).unwrap();
    assert_eq!(description.pieces, [Piece { table: 0, rows: 65_535 }, Piece { table: 0, rows: 65 }]);
}
