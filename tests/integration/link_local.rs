//! Exporters with the same link-local address on two interfaces of nf-sender's machine.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};

use nf_transport_kit::collector::payloads_by_source;
use nf_transport_kit::field_cases::payloads;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::other_host::OtherHost;
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::count;
use rustix::net::netdevice::name_to_index;

use crate::isolation::{in_a_network, shared};

/// Addresses of the exporter and of nf-sender on each link.
const EXPORTER: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 1);
const SENDER: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 2);

#[test]
fn link_local_exporters_are_split_by_interface() {
    let _running = shared();
    in_a_network("ip link set lo up", "link_local::inside_link_local_exporters");
}

/// Sends these payloads from port 2055 of the exporter on a link to this port of nf-sender.
fn export(there: &OtherHost, port: u16, payloads: Vec<Vec<u8>>) {
    there.run(move |_| {
        let any = UdpSocket::bind("[::]:0").unwrap();
        let scope = name_to_index(&any, "there").unwrap();
        let exporter = UdpSocket::bind(SocketAddrV6::new(EXPORTER, 2055, 0, scope)).unwrap();
        for payload in payloads {
            exporter.send_to(&payload, SocketAddrV6::new(SENDER, port, 0, scope)).unwrap();
        }
    });
}

#[test]
#[ignore = "runs in a network namespace of its own"]
fn inside_link_local_exporters() {
    let links = ["left", "right"].map(OtherHost::on_link);
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap();
    let mut receiver = ReceiverHost::new(&[address], "");
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    let socket = UdpSocket::bind("[::]:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    sender.add_socket(socket);
    receiver.start();
    sender.start();
    sender.wait_state("connected", STALL);
    let all = payloads("j-layout-changed");
    let of_links = [&all[..5], &all[5..]];
    let acknowledged =
        |datagrams| sender.wait_status(STALL, |status| count(status, "/acknowledged/datagrams") == datagrams);
    for (link, payloads) in links.iter().zip(of_links) {
        export(link, port, payloads[..1].to_vec());
    }
    let status = acknowledged(2);
    let exporters: Vec<_> = status["exporters"].as_array().unwrap().iter().collect();
    let shown: Vec<_> = exporters.iter().map(|row| (&row["address"], row["interface"].is_u64())).collect();
    assert_eq!(shown, [(&"fe80::1".into(), true), (&"fe80::1".into(), true)], "{status:#}");
    assert_ne!(exporters[0]["interface"], exporters[1]["interface"], "{status:#}");
    assert_eq!(payloads_by_source(&collector, 2).len(), 2);

    // The collector and nf-receiver restart, so templates must come from nf-receiver's state.
    assert_eq!(receiver.take_daemon().terminate().code(), Some(0));
    drop(collector);
    let collector = UdpSocket::bind(address).unwrap();
    receiver.start();
    sender.wait_state("connected", STALL);
    for (link, payloads) in links.iter().zip(of_links) {
        export(link, port, payloads[1..].to_vec());
    }
    acknowledged(9);
    let all = of_links.iter().map(|sent| sent.len()).sum();
    let mut sources: Vec<_> = payloads_by_source(&collector, all).into_values().collect();
    sources.sort_by_key(|payloads| payloads[1] != of_links[0][1]);
    assert_eq!(sources.len(), 2);
    for (payloads, sent) in sources.iter().zip(of_links) {
        assert_eq!(payloads[1..], sent[1..]);
        assert_eq!(payloads[0][20..], sent[0][20..], "the template of the exporter on this link comes first");
    }
    let status = receiver.status();
    let seen_as: Vec<_> = status["collectors"][0]["seen_as"].as_array().unwrap().iter().collect();
    assert!(
        seen_as.iter().all(|row| row["exporter"].as_str().unwrap().starts_with("[fe80::1%")),
        "{status:#}"
    );
}
