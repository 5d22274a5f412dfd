//! Real tools at both ends: nfcapd stores softflowd's flows from the pair exactly as it stores a direct
//! export.

use std::time::Duration;

use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::netflow_tools::{Nfcapd, export, installed, write_capture};
use nf_transport_kit::samples::count;

use crate::isolation::shared;

/// Exports one capture directly and through the pair with identical datagrams, and compares nfdump's output.
/// Returns the number of flows. `spool` holds spool settings of nf-sender.
fn flows_that_arrive_alike(version: u8, spool: &str) -> Option<usize> {
    if !installed() {
        eprintln!("skipped: needs softflowd and nfdump (Debian packages of these names)");
        return None;
    }
    let _running = shared();
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("capture.pcap");
    write_capture(&capture, 600);
    let straight = Nfcapd::start(directory.path().join("straight"));
    let carried = Nfcapd::start(directory.path().join("carried"));
    let mut receiver = ReceiverHost::new(&[carried.addr()], "");
    receiver.start();
    let mut sender = SenderHost::new("probe", &receiver.addr(), &format!("{QUICK_SENDER}{spool}"));
    sender.start();
    export(&capture, version, &[straight.addr(), sender.udp().addr()]);
    sender.udp().wait_until_drained();
    let status = sender.wait_status(Duration::from_secs(20), |status| {
        count(status, "/received/datagrams") > 0 && count(status, "/queued/datagrams") == 0
    });
    for exporter in status["exporters"].as_array().unwrap() {
        assert_eq!((&exporter["missing"], &exporter["duplicates"]), (&0.into(), &0.into()), "{status:#}");
    }
    let (straight, carried) = (straight.finish(), carried.finish());
    assert_eq!(carried, straight);
    Some(straight.len())
}

#[test]
fn netflow_5_of_softflowd_arrives_as_if_direct() {
    if let Some(flows) = flows_that_arrive_alike(5, "") {
        assert_eq!(flows, 300, "v5 carries the IPv4 flows");
    }
}

#[test]
fn netflow_9_of_softflowd_arrives_as_if_direct() {
    if let Some(flows) = flows_that_arrive_alike(9, "") {
        assert_eq!(flows, 600);
    }
}

#[test]
fn ipfix_of_softflowd_arrives_as_if_direct() {
    if let Some(flows) = flows_that_arrive_alike(10, "") {
        assert_eq!(flows, 600);
    }
}

#[test]
fn compressed_flows_arrive_as_if_direct() {
    for version in [5, 9, 10] {
        flows_that_arrive_alike(version, "compression = \"zstd\"\n");
    }
}
