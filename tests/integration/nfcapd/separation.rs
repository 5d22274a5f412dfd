//! nfcapd identifies exporters by their source addresses.

use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;

use nf_transport_kit::exporter::bind_as;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::netflow_tools::{Nfcapd, NfcapdSettings, installed};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::count;
use serde_json::Value;

use super::formats::{ipfix, ipfix_record, netflow_5, template};
use super::{collector, one_space};
use crate::isolation::{in_a_network, shared};

/// The exporters that nfcapd knows, three per family. None of their addresses belongs to this machine.
fn known_exporters(family: &str) -> Vec<SocketAddr> {
    let address = |number| match family {
        "v4" => format!("192.0.2.{number}:5000"),
        _ => format!("[2001:db8::{number}]:5000"),
    };
    (1..=3).map(|number| address(number).parse().unwrap()).collect()
}

/// Flow numbers in the datagrams of an exporter: 100 bytes of IPFIX, 1,464 bytes of NetFlow v5 and 8,000
/// bytes of IPFIX.
const IN_100: Range<u16> = 0..4;
const IN_1464: Range<u16> = 4..34;
const IN_8000: Range<u16> = 34..433;

/// Fields that nfdump prints for such a flow.
const SHORT_FORMAT: &str = "fmt:%sa %da %sp %pkt %byt";

/// Returns the datagrams of an exporter: an IPFIX template and one datagram of each size.
fn datagrams_of_each_size(exporter: u8) -> [Vec<u8>; 4] {
    let datagrams = [
        ipfix(0, 2, &template()),
        ipfix(0, 256, &IN_100.flat_map(|flow| ipfix_record(exporter, flow)).collect::<Vec<_>>()),
        netflow_5(exporter, IN_1464),
        ipfix(4, 256, &IN_8000.flat_map(|flow| ipfix_record(exporter, flow)).collect::<Vec<_>>()),
    ];
    assert_eq!(datagrams.each_ref().map(Vec::len), [52, 100, 1464, 8000]);
    datagrams
}

/// Returns the expected lines for the directory of an exporter, with single spaces, sorted.
fn flows_of_each_size(exporter: u8) -> Vec<String> {
    let flow = |flow: u16| {
        let [high, low] = flow.to_be_bytes();
        format!("10.{exporter}.{high}.{low} 10.9.9.9 {flow} 1 {}", flow + 100)
    };
    let mut flows: Vec<_> = (IN_100.start..IN_8000.end).map(flow).collect();
    flows.sort();
    flows
}

#[test]
fn nfcapd_separates_exporters_by_address() {
    if !installed() {
        eprintln!("skipped: needs nfdump (Debian package of this name)");
        return;
    }
    let _running = shared();
    in_a_network("ip link set lo up mtu 1500", "nfcapd::separation::inside_nfcapd_separates_exporters");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_nfcapd_separates_exporters() {
    let directory = tempfile::tempdir().unwrap();
    let families = [("v4", "127.0.0.1"), ("v6", "::1")].map(|(family, ip)| {
        let exporters = known_exporters(family);
        let nfcapd = ["direct", "carried"].map(|way| {
            let files = |exporter: &SocketAddr| {
                // nfdump interprets a file name with colons as several names.
                directory.path().join(format!("{way}-{}", exporter.ip()).replace(':', "-"))
            };
            let sources: Vec<_> = exporters.iter().map(|exporter| (exporter.ip(), files(exporter))).collect();
            NfcapdSettings::of_each(ip.parse().unwrap(), &sources).rotate_every(3600).start()
        });
        let incoming = UdpSocket::bind((ip, 0)).unwrap();
        (exporters, nfcapd, incoming)
    });
    let collectors = families.iter().zip(["0.0.0.0/0", "::/0"]).map(|((_, [_, carried], _), prefix)| {
        collector(carried, &format!("source = \"exporter\"\nexporters = [{prefix:?}]\n"))
    });
    let mut receiver = ReceiverHost::new(&[], &collectors.collect::<String>());
    if !receiver.run_as_nobody_with_net_raw() {
        eprintln!("skipped: nobody cannot reach the program, or the directory for tests");
        return;
    }
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    for (_, _, incoming) in &families {
        sender.add_socket(incoming.try_clone().unwrap());
    }
    sender.start();

    let mut sent = 0;
    for (exporters, [direct, _], incoming) in &families {
        for (number, exporter) in (1..).zip(exporters) {
            let socket = bind_as(*exporter);
            for datagram in datagrams_of_each_size(number) {
                for target in [direct.addr(), incoming.local_addr().unwrap()] {
                    assert_eq!(socket.send_to(&datagram, target).unwrap(), datagram.len());
                }
                sent += 1;
            }
        }
    }
    sender.wait_status(STALL, |status| {
        count(status, "/received/datagrams") == sent && count(status, "/queued/datagrams") == 0
    });
    let status = receiver.status();
    for (number, (exporters, mut nfcapd, _)) in families.into_iter().enumerate() {
        assert_eq!(status["collectors"][number]["seen_as"], Value::Array(Vec::new()), "{status:#}");
        nfcapd.iter_mut().for_each(Nfcapd::stop_when_drained);
        for (place, exporter) in exporters.iter().enumerate() {
            let [direct, carried] = nfcapd.each_ref().map(|nfcapd| {
                let flows = nfcapd.flows(place, SHORT_FORMAT);
                let mut flows: Vec<_> = flows.iter().map(|flow| one_space(flow)).collect();
                flows.sort();
                flows
            });
            assert_eq!(carried, flows_of_each_size(u8::try_from(place + 1).unwrap()), "of {exporter}");
            assert_eq!(carried, direct, "of {exporter}");
        }
    }
}
