//! Losses and copies of exporters in the status of nf-sender.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use nf_transport_kit::daemon::Program;
use nf_transport_kit::field_cases::payloads;
use nf_transport_kit::hosts::SenderHost;
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::count;
use serde_json::{Value, json};

use crate::isolation::shared;

/// Cases of `tests/field-cases` with the number of missing records or datagrams of each exporter.
const FIELD_CASES: [(&str, &[u64]); 6] = [
    ("a-v9-counts-flows", &[0]),
    ("b-ipfix-inclusive", &[0]),
    ("c-two-counters", &[0]),
    ("d-one-counter-two-ids", &[0, 0]),
    ("f-restart-higher", &[0]),
    ("h-restart-low", &[10]),
];

/// Returns a NetFlow v9 datagram with this number.
fn v9(number: u32) -> Vec<u8> {
    [0x0009_0001, 1000, 1_700_000_000, number, 0].iter().flat_map(|field: &u32| field.to_be_bytes()).collect()
}

/// Returns an sFlow v5 datagram with this number from sub-agent 3 of agent 192.0.2.77.
fn sflow(number: u32) -> Vec<u8> {
    [5, 1, 0xC000_024D, 3, number, 1000, 0].iter().flat_map(|field: &u32| field.to_be_bytes()).collect()
}

/// Returns the address of the exporter with this number.
fn address(exporter: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 9, exporter).into()
}

/// Sends datagrams from an address, each from a new port if `new_ports`. Waits until nf-sender has received
/// them.
fn send(sender: &SenderHost, exporter: u8, new_ports: bool, payloads: &[Vec<u8>]) {
    let before = count(&sender.status(), "/received/datagrams");
    let bind = || UdpSocket::bind(SocketAddr::new(address(exporter), 0)).unwrap();
    let mut socket = bind();
    for payload in payloads {
        if new_ports {
            socket = bind();
        }
        socket.send_to(payload, sender.udp().addr()).unwrap();
    }
    let after = before + u64::try_from(payloads.len()).unwrap();
    sender.wait_status(STALL, |status| count(status, "/received/datagrams") == after);
}

/// Returns the rows of an exporter in the status.
fn rows(sender: &SenderHost, exporter: u8) -> Vec<Value> {
    let address = address(exporter).to_string();
    let rows = sender.status()["exporters"].as_array().unwrap().clone();
    rows.into_iter().filter(|row| row["address"] == address).collect()
}

#[test]
fn field_cases_have_the_expected_figures() {
    let _running = shared();
    let (sender, _link, _receiver) = connected_daemons("");
    for (exporter, (case, expected)) in (1..).zip(FIELD_CASES) {
        send(&sender, exporter, false, &payloads(case));
        let rows = rows(&sender, exporter);
        let missing: Vec<_> = rows.iter().map(|row| row["missing"].clone()).collect();
        assert_eq!(
            missing,
            expected.iter().map(|missing| json!(missing)).collect::<Vec<_>>(),
            "{case}: {rows:#?}"
        );
        assert!(
            rows.iter().all(|row| row["missing_reason"].is_null() && row["duplicates"] == 0),
            "{rows:#?}"
        );
    }
}

#[test]
fn status_shows_new_ports_copies_and_reasons() {
    let _running = shared();
    let (sender, _link, _receiver) = connected_daemons("");
    let with_losses = (0..200).filter(|number| ![50, 51].contains(number));
    send(&sender, 1, true, &with_losses.clone().map(v9).collect::<Vec<_>>());
    send(
        &sender,
        2,
        false,
        &with_losses.clone().flat_map(|number| [v9(number), v9(number)]).collect::<Vec<_>>(),
    );
    send(&sender, 3, false, &(0..20).map(|byte| [v9(0), vec![byte]].concat()).collect::<Vec<_>>());
    send(&sender, 4, false, &with_losses.map(sflow).collect::<Vec<_>>());
    send(&sender, 5, false, &[[vec![0, 1, 0, 1], vec![0; 12 + 52]].concat()]);
    let row = |exporter| {
        let rows = rows(&sender, exporter);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows[0].clone()
    };
    assert_eq!((&row(1)["datagrams"], &row(1)["missing"]), (&json!(198), &json!(2)), "new ports");
    assert_eq!((&row(2)["duplicates"], &row(2)["missing"]), (&json!(198), &json!(2)), "copies");
    assert_eq!(row(3)["missing"], Value::Null, "always 0");
    assert_eq!(row(3)["missing_reason"], "unusable: its sequence number never changes");
    let exporter = "127.0.9.3, NetFlow v9 source 0 (its sequence number never changes)";
    sender.daemon().wait_for_log(&["the sequence numbers of 1 exporter are unusable", exporter], STALL);
    let sflow = row(4);
    assert_eq!((&sflow["format"], &sflow["version"]), (&json!("sFlow v5"), &Value::Null));
    assert_eq!((&sflow["agent"], &sflow["source_id"]), (&json!("192.0.2.77"), &json!(3)));
    assert_eq!((&sflow["missing"], &sflow["missing_unit"]), (&json!(2), &json!("datagrams")));
    assert_eq!((&row(5)["version"], &row(5)["missing"]), (&json!(1), &Value::Null));
    let shown = Program::Sender.run(&["status", "--control", sender.control().to_str().unwrap()]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("source 0: its sequence number never changes\n"), "{text}");
    assert!(text.contains(" sFlow "), "{text}");
}
