//! Exporters from the field, in `tests/field-cases`: each with the right figure.

use std::path::Path;

use serde::Deserialize;

use super::*;
use crate::datagram::BootTime;
use crate::netflow::{ExporterFigures, ExporterTable};

/// One file of `tests/field-cases`.
#[derive(Deserialize)]
struct FieldCase {
    /// Source address, source port, and UDP payload in hexadecimal.
    datagrams: Vec<(core::net::IpAddr, u16, String)>,
}

/// The figures of all exporters after a case.
fn figures(name: &str) -> Vec<ExporterFigures> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/field-cases/{name}.json"));
    let case: FieldCase = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut table = ExporterTable::default();
    for (address, port, payload) in &case.datagrams {
        let payload = data_encoding::HEXLOWER_PERMISSIVE.decode(payload.as_bytes()).unwrap();
        let exporter = SocketAddr::new(*address, *port);
        table.count_datagram(&Datagram { exporter, ..datagram(1, &payload) }, BootTime::default());
    }
    table.figures().collect()
}

/// Amount missing of each exporter of a case.
fn missing(name: &str) -> Vec<u64> {
    let rows = figures(name);
    assert!(rows.iter().all(|row| row.duplicates == 0), "{name}: {rows:?}");
    rows.iter().map(|row| row.missing.unwrap()).collect()
}

#[test]
fn v9_whose_number_counts_flows() {
    assert_eq!(missing("a-v9-counts-flows"), [0]);
}

#[test]
fn ipfix_whose_number_includes_its_own_records() {
    assert_eq!(missing("b-ipfix-inclusive"), [0]);
}

#[test]
fn two_counters_behind_one_address_and_port() {
    assert_eq!(missing("c-two-counters"), [0]);
}

#[test]
fn one_counter_for_two_source_ids() {
    assert_eq!(missing("d-one-counter-two-ids"), [0, 0]);
}

#[test]
fn a_restart_at_a_much_higher_number() {
    assert_eq!(missing("f-restart-higher"), [0]);
}

#[test]
fn a_restart_at_a_lower_number_keeps_losses() {
    assert_eq!(missing("h-restart-low"), [10]);
}
