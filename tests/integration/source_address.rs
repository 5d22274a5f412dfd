//! Source addresses at the collector: the exporter's own address, or one of nf-receiver's with a separate
//! port per exporter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};

use nf_transport_kit::corpus::{LONGEST, corpus};
use nf_transport_kit::exporter::bind_as;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::kernel_socket::enlarge;
use nf_transport_kit::pair::STALL;

use crate::isolation::{in_a_network, shared};

/// `CAP_NET_RAW` alone, as /proc shows it.
const NET_RAW: &str = "0000000000002000";

/// Creates a socket with room for many long datagrams and a time-out for receiving.
fn bound(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    enlarge(&socket);
    socket.set_read_timeout(Some(STALL)).unwrap();
    socket
}

/// Receives the next datagram and its source address.
fn receive(collector: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; LONGEST + 1];
    let (length, from) = collector.recv_from(&mut buffer).expect("a datagram");
    buffer.truncate(length);
    (buffer, from)
}

/// Panics if there is another datagram.
fn assert_empty(collector: &UdpSocket) {
    collector.set_nonblocking(true).unwrap();
    let more = collector.recv_from(&mut [0; 100]);
    assert_eq!(more.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "a datagram too many");
}

/// Returns datagrams of different bytes, with sizes at the limits of formats and buffers.
fn generated() -> impl Iterator<Item = Vec<u8>> {
    let payload = |size: usize| (0..size).map(|at| (at * 7 + size).to_le_bytes()[0]).collect();
    [0, 1, 100, 1464, 1472, 1473, 8000, LONGEST].into_iter().map(payload)
}

#[test]
fn datagrams_keep_their_exporters_address() {
    let _running = shared();
    in_a_network("ip link set lo up mtu 1500", "source_address::inside_datagrams_keep_their_address");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_datagrams_keep_their_address() {
    let families = ["127.0.0.1:0", "[::1]:0"].map(|address| (bound(address), bound(address)));
    let tables = families.iter().zip(["0.0.0.0/0", "::/0"]).map(|((_, collector), prefix)| {
        let address = collector.local_addr().unwrap();
        format!("[[collector]]\naddress = \"{address}\"\nsource = \"exporter\"\nexporters = [{prefix:?}]\n")
    });
    let mut receiver = ReceiverHost::new(&[], &tables.collect::<String>());
    if !receiver.run_as_nobody_with_net_raw() {
        eprintln!("skipped: nobody cannot reach the program, or the directory for tests");
        return;
    }
    let process = receiver.start().pid();
    let process = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    for name in ["CapEff", "CapPrm", "CapBnd"] {
        assert!(process.contains(&format!("{name}:\t{NET_RAW}\n")), "{process}");
    }
    assert!(process.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{process}");
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    for (incoming, _) in &families {
        sender.add_socket(incoming.try_clone().unwrap());
    }
    sender.start();

    let real = corpus().unwrap_or_else(|| {
        eprintln!("without real datagrams: NF_TRANSPORT_CORPUS names no directory of them");
        Vec::new()
    });
    // Every datagram has a different exporter. None of their addresses belongs to this machine.
    for (number, payload) in (1_u16..).zip(generated().chain(real)) {
        let [high, low] = number.to_be_bytes();
        let port = 20_000 + number;
        let exporters = [format!("192.0.{high}.{low}:{port}"), format!("[2001:db8::{number:x}]:{port}")];
        for (exporter, (incoming, collector)) in exporters.iter().zip(&families) {
            let exporter: SocketAddr = exporter.parse().unwrap();
            bind_as(exporter).send_to(&payload, incoming.local_addr().unwrap()).unwrap();
            let (arrived, from) = receive(collector);
            assert_eq!((arrived.len(), from), (payload.len(), exporter), "datagram {number}");
            assert!(arrived == payload, "datagram {number} of {} bytes is not as it was sent", payload.len());
        }
    }
    for (_, collector) in &families {
        assert_empty(collector);
    }
}

#[test]
fn each_exporter_gets_its_own_source_port() {
    let _running = shared();
    let families = ["127.0.0.1:0", "[::1]:0"].map(|address| (bound(address), bound(address)));
    let collectors = families.each_ref().map(|(_, collector)| collector.local_addr().unwrap());
    let mut receiver = ReceiverHost::new(&collectors, "source = \"own\"\n");
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    for (incoming, _) in &families {
        sender.add_socket(incoming.try_clone().unwrap());
    }
    sender.start();

    let bind = |address| UdpSocket::bind(address).unwrap();
    let exporters = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.7:0", "[::1]:0", "[::1]:0"].map(bind);
    for _ in 0..3 {
        for exporter in &exporters {
            let own = exporter.local_addr().unwrap();
            let (incoming, _) = &families[usize::from(own.is_ipv6())];
            exporter.send_to(own.to_string().as_bytes(), incoming.local_addr().unwrap()).unwrap();
        }
    }
    let addresses: BTreeSet<_> = exporters.iter().map(|exporter| exporter.local_addr().unwrap()).collect();
    let mut maps = Vec::new();
    for (_, collector) in &families {
        let mut seen: BTreeMap<SocketAddr, BTreeSet<SocketAddr>> = BTreeMap::new();
        for _ in 0..3 * exporters.len() {
            let (payload, from) = receive(collector);
            let exporter = std::str::from_utf8(&payload).unwrap().parse().unwrap();
            seen.entry(exporter).or_default().insert(from);
        }
        assert_empty(collector);
        assert_eq!(seen.keys().copied().collect::<BTreeSet<_>>(), addresses);
        assert!(
            seen.values().all(|from| from.len() == 1),
            "an exporter has several source addresses: {seen:?}"
        );
        let seen: BTreeMap<_, _> =
            seen.into_iter().map(|(exporter, from)| (exporter, from.into_iter().next().unwrap())).collect();
        let different: BTreeSet<_> = seen.values().collect();
        assert_eq!(different.len(), exporters.len(), "exporters share an address: {seen:?}");
        let own = collector.local_addr().unwrap().ip();
        assert!(different.iter().all(|from| from.ip() == own), "{seen:?}");
        maps.push(seen);
    }
    let status = receiver.status();
    let address = |value: &serde_json::Value| value.as_str().unwrap().parse::<SocketAddr>().unwrap();
    for (collector, seen) in status["collectors"].as_array().unwrap().iter().zip(maps) {
        let rows = collector["seen_as"].as_array().unwrap().iter();
        let shown: BTreeMap<_, _> =
            rows.map(|row| (address(&row["exporter"]), address(&row["seen_as"]))).collect();
        assert_eq!(shown, seen, "{status:#}");
    }
}
