//! The complete path of a datagram without faults.

use std::net::{SocketAddr, UdpSocket};

use nf_transport_kit::chatter::{LARGE, MIXED, Pattern};
use nf_transport_kit::collector::{Collector, Inbox};
use nf_transport_kit::corpus::{LONGEST, corpus};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};
use rustix::process::Signal;

use crate::isolation::shared;

/// Sends the payloads from `exporter` and waits until the inbox has each of them unchanged and in order.
fn assert_carried(exporter: &UdpSocket, target: SocketAddr, inbox: &Inbox, payloads: &[Vec<u8>]) {
    let mut sent = 0;
    for chunk in payloads.chunks(8) {
        for payload in chunk {
            exporter.send_to(payload, target).unwrap();
        }
        sent += chunk.len();
        inbox.wait_for(sent, STALL);
    }
    let arrived = inbox.wait_for(sent, STALL);
    assert_eq!(arrived.len(), payloads.len());
    for (number, (arrived, payload)) in arrived.iter().zip(payloads).enumerate() {
        assert!(arrived == payload, "datagram {number} of {} bytes differs from the sent one", payload.len());
    }
}

/// Returns payloads of different bytes, with sizes at the limits of formats and buffers.
fn payloads_of_all_sizes() -> Vec<Vec<u8>> {
    let sizes = [0, 1, 2, 255, 256, 512, 1400, 1464, 1472, 1473, 4096, 9000, 32_768, 65_000, LONGEST, 3, 0];
    let payload = |(seed, size): (u8, &usize)| {
        (0..*size).map(|i| seed ^ i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect()
    };
    (1..).zip(&sizes).map(payload).collect()
}

#[test]
fn datagrams_of_all_sizes_arrive_over_ipv4() {
    let _running = shared();
    let inbox = Inbox::start("127.0.0.1:0");
    let mut receiver = ReceiverHost::new(&[inbox.addr()], "");
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    sender.start();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_carried(&exporter, sender.udp().addr(), &inbox, &payloads_of_all_sizes());
}

#[test]
fn datagrams_of_all_sizes_arrive_over_ipv6() {
    let _running = shared();
    let inbox = Inbox::start("[::1]:0");
    let mut receiver = ReceiverHost::new(&[inbox.addr()], "");
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    let incoming = UdpSocket::bind("[::1]:0").unwrap();
    let target = incoming.local_addr().unwrap();
    sender.add_socket(incoming);
    sender.start();
    let exporter = UdpSocket::bind("[::1]:0").unwrap();
    assert_carried(&exporter, target, &inbox, &payloads_of_all_sizes());
}

#[test]
fn compressed_datagrams_arrive_unchanged() {
    let _running = shared();
    let inbox = Inbox::start("127.0.0.1:0");
    let mut receiver = ReceiverHost::new(&[inbox.addr()], "");
    receiver.start();
    let toml = format!("{QUICK_SENDER}compression = \"zstd\"\n");
    let mut sender = SenderHost::new("edge", &receiver.addr(), &toml);
    sender.start();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_carried(&exporter, sender.udp().addr(), &inbox, &payloads_of_all_sizes());
}

#[test]
fn datagrams_of_real_vendors_arrive_unchanged() {
    let Some(payloads) = corpus() else {
        eprintln!("skipped: NF_TRANSPORT_CORPUS names no directory of datagrams");
        return;
    };
    let _running = shared();
    let inbox = Inbox::start("127.0.0.1:0");
    // Each payload comes from a separate exporter. A single one would send data before its templates, so
    // nf-receiver would send those first.
    let toml = format!("[[collector]]\naddress = \"{}\"\nrepeat-templates = false\n", inbox.addr());
    let mut receiver = ReceiverHost::new(&[], &toml);
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    sender.start();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_carried(&exporter, sender.udp().addr(), &inbox, &payloads);
}

#[test]
fn two_collectors_each_get_every_datagram() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collectors = [Collector::start(3, pattern), Collector::start(3, pattern)];
    let mut receiver = ReceiverHost::new(&[collectors[0].addr(), collectors[1].addr()], "");
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    sender.start();
    let exporters = sender.exporters(3, pattern);
    let exporters =
        SteadyLoad::start(exporters, sender.udp().clone(), Some(5000), Until::Sent(6000)).finish();
    for collector in &collectors {
        collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
    }
}

#[test]
fn several_senders_keep_their_own_order() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(6, pattern);
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.start();
    let mut senders =
        ["brno", "praha", "plzen"].map(|id| SenderHost::new(id, &receiver.addr(), QUICK_SENDER));
    let loads = [0..2, 2..4, 4..6].into_iter().zip(&mut senders).map(|(numbers, sender)| {
        sender.start();
        let exporters = Exporters::new(numbers, sender.udp().addr(), pattern);
        SteadyLoad::start(exporters, sender.udp().clone(), Some(2000), Until::Sent(2000))
    });
    let loads: Vec<_> = loads.collect();
    let sent: Vec<_> = loads.into_iter().flat_map(|load| load.finish().sent().to_vec()).collect();
    collector.wait_for_all(&sent, STALL).assert_exact(&sent);
    let known = receiver.status()["senders"].as_array().unwrap().len();
    assert_eq!(known, 3);
}

#[test]
fn status_shows_received_and_delivered_datagrams() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(3, pattern);
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    sender.start();
    let mut exporters = sender.exporters(3, pattern);
    exporters.send(90);
    collector.wait_for_all(exporters.sent(), STALL);
    let status = sender.wait_status(STALL, |status| count(status, "/acknowledged/datagrams") == 90);
    assert_conserved(&status);
    assert_eq!((status["service"].as_str(), status["id"].as_str()), (Some("nf-sender"), Some("edge")));
    assert_eq!(status["state"], "connected");
    assert_eq!(count(&status, "/received/datagrams"), 90);
    assert_eq!(count(&status, "/queued/datagrams"), 0);
    assert_eq!(count(&status, "/dropped/kernel"), 0);
    let status = receiver.status();
    assert_eq!(status["service"], "nf-receiver");
    assert_eq!(
        (&status["senders"][0]["id"], &status["senders"][0]["stream"]),
        (&"edge".into(), &sender.status()["stream"])
    );
    assert_eq!(count(&status, "/senders/0/delivered/datagrams"), 90);
    assert_eq!(count(&status, "/senders/0/duplicates"), 0);
    assert_eq!(count(&status, "/collectors/0/delivered/datagrams"), 90);
}

#[test]
fn kernel_drops_at_the_socket_are_counted() {
    let _running = shared();
    let pair = Pair::connected(1, Pattern::new(LARGE), QUICK_SENDER);
    let mut exporters = pair.sender.exporters(1, Pattern::new(LARGE));
    pair.sender.daemon().signal(Signal::STOP);
    while pair.sender.udp().dropped() == 0 {
        exporters.send(1000);
    }
    pair.sender.daemon().signal(Signal::CONT);
    pair.sender.udp().wait_until_drained();
    exporters.send(1); // the kernel reports earlier drops with the next datagram
    let dropped = pair.sender.udp().dropped();
    let status = pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        count(status, "/received/datagrams") == exporters.total() - dropped
            && count(status, "/dropped/kernel") > 0
    });
    assert_eq!(count(&status, "/dropped/kernel"), dropped);
}
