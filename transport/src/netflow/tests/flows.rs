//! The places of flow records in datagrams of each version.

use super::*;
use crate::datagram::BootTime;
use crate::flow_layout::{AddressFamily, FlowAddresses, FlowRun};
use crate::netflow::ExporterTable;

/// Start, records, template and length of each run in the last of these datagrams of one exporter.
fn found(payloads: &[Vec<u8>]) -> Vec<(usize, usize, u16, u16)> {
    let told = |run: &FlowRun| (run.start, run.records, run.template, run.layout.length);
    runs(payloads).iter().map(told).collect()
}

fn runs(payloads: &[Vec<u8>]) -> Vec<FlowRun> {
    let mut table = ExporterTable::default();
    let mut flows = Vec::new();
    for payload in payloads {
        flows.clear();
        table.note_flows(&datagram(1, payload), BootTime::default(), &mut flows);
    }
    flows
}

/// A template of fields of these types and lengths.
fn typed_template(id: u16, fields: &[(u16, u16)]) -> Vec<u8> {
    let fields: Vec<_> = fields.iter().flat_map(|(kind, length)| [*kind, *length]).collect();
    numbers(&[&[id, u16::try_from(fields.len() / 2).unwrap()], fields.as_slice()].concat())
}

#[test]
fn flows_of_v5_are_where_its_header_says() {
    let v5 = |flows: u16, length: usize| [numbers(&[5, flows]), vec![0; 20 + length]].concat();
    assert_eq!(found(&[v5(2, 96)]), [(24, 2, 0, 48)]);
    assert_eq!(found(&[v5(2, 100)]), [(24, 2, 0, 48)], "what follows is none");
    assert!(found(&[v5(3, 96)]).is_empty(), "the header tells of more than there is");
    assert!(found(&[v5(0, 0)]).is_empty());
}

#[test]
fn records_are_found_once_templates_are_known() {
    let data = [set(256, &[9; 27]), set(257, &[9; 8]), set(256, &[9; 12])];
    let (v9_data, ipfix_data) = (v9(1, 0, &data), ipfix(1, 0, &data));
    let defining = |id| set(id, &template(256, &[8, 4]));
    let (v9_template, ipfix_template) = (v9(1, 0, &[defining(0)]), ipfix(1, 0, &[defining(2)]));
    assert!(found(std::slice::from_ref(&v9_data)).is_empty());
    assert!(found(std::slice::from_ref(&ipfix_data)).is_empty());
    assert_eq!(found(&[v9_template, v9_data]), [(24, 2, 256, 12), (24 + 27 + 12 + 4, 1, 256, 12)]);
    assert_eq!(found(&[ipfix_template, ipfix_data]), [(20, 2, 256, 12), (20 + 27 + 12 + 4, 1, 256, 12)]);
}

#[test]
fn records_of_variable_length_are_passed_over() {
    let sets = [set(2, &template(256, &[8, 65_535])), set(256, &[0; 27])];
    assert!(found(&[ipfix(1, 0, &sets)]).is_empty());
}

#[test]
fn a_redefined_template_applies_from_then_on() {
    let defined =
        |fields: &[(u16, u16)]| v9(1, 0, &[set(0, &typed_template(256, fields)), set(256, &[9; 24])]);
    let first = defined(&[(1, 4), (8, 4), (12, 4)]);
    let addresses = FlowAddresses { source: 4, destination: 8, family: AddressFamily::V4 };
    assert_eq!(runs(std::slice::from_ref(&first))[0].layout.addresses, Some(addresses));
    let swapped = runs(&[first.clone(), defined(&[(1, 4), (12, 4), (8, 4)])]);
    assert_eq!(swapped[0].layout.addresses, Some(FlowAddresses { source: 8, destination: 4, ..addresses }));
    assert_eq!(found(&[first, defined(&[(1, 8)])]), [(36, 3, 256, 8)]);
}

#[test]
fn addresses_are_of_the_first_complete_family() {
    let family = |fields: &[(u16, u16)]| {
        let sets = [set(0, &typed_template(256, fields)), set(256, &[9; 48])];
        runs(&[v9(1, 0, &sets)])[0].layout.addresses.map(|addresses| addresses.family)
    };
    assert_eq!(family(&[(8, 4), (27, 16), (28, 16)]), Some(AddressFamily::V6));
    assert_eq!(family(&[(27, 16), (28, 16), (8, 4), (12, 4)]), Some(AddressFamily::V4));
    assert_eq!(family(&[(27, 8), (28, 8)]), None, "a prefix only");
    assert_eq!(family(&[(8, 4)]), None);
}
