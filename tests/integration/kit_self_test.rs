//! Tests of the kit: it finds every datagram it sends, and reports every fault.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{MEDIUM, MIXED, Pattern, Version, identify};
use nf_transport_kit::collector::{Collector, Inbox};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::HeldUdp;
use nf_transport_kit::kernel_socket::KernelSocket;
use nf_transport_kit::link::{Link, NetworkState};
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::netflow_tools::{Nfcapd, export, installed, write_capture};
use nf_transport_kit::tally::ExporterTally;

const STALL: Duration = Duration::from_secs(5);

fn datagram(pattern: Pattern, exporter: u16, number: u32) -> Vec<u8> {
    let mut payload = Vec::new();
    pattern.datagram(exporter, number, &mut payload);
    payload
}

#[test]
fn a_direct_export_is_found_exact() {
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(8, pattern);
    let mut exporters = Exporters::new(0..8, collector.addr(), pattern);
    let started = Instant::now();
    for _ in 0..100 {
        exporters.send(200);
        collector.wait_for(exporters.total(), STALL);
    }
    println!("{} datagrams in {:?}", exporters.total(), started.elapsed());
    let report = collector.wait_for_all(exporters.sent(), STALL);
    assert_eq!(report.kernel_drops, 0);
    report.assert_exact(exporters.sent());
}

#[test]
fn every_datagram_identifies_itself() {
    let pattern = Pattern::new(MIXED);
    let mut seen = std::collections::HashSet::new();
    for exporter in 0..9 {
        for number in 0..100 {
            let payload = datagram(pattern, exporter, number);
            assert_eq!(identify(&payload), Some((exporter, number)));
            assert!((pattern.shortest()..=1472).contains(&payload.len()), "{}", payload.len());
            assert!(seen.insert(payload));
        }
    }
}

#[test]
fn sequence_numbers_follow_their_formats() {
    let pattern = Pattern::new(MEDIUM);
    let number = |payload: &[u8], at: usize| u32::from_be_bytes(*payload[at..].first_chunk().unwrap());
    for (exporter, version, at) in [(0, Version::V5, 16), (1, Version::V9, 12), (2, Version::Ipfix, 8)] {
        assert_eq!(Version::of(exporter), version);
        let sequence: Vec<_> = (0..10).map(|n| number(&datagram(pattern, exporter, n), at)).collect();
        let records = [0, 4, 32, 41, 61, 74, 102, 108, 132, 136];
        let expected = if version == Version::V9 { [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] } else { records };
        assert_eq!(sequence, expected, "{}", version.name());
    }
}

#[test]
fn a_collector_detects_every_kind_of_fault() {
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(1, pattern);
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |payload: &[u8]| exporter.send_to(payload, collector.addr()).unwrap();
    for number in [0, 1, 1, 3, 5, 4] {
        send(&datagram(pattern, 0, number));
    }
    let mut changed = datagram(pattern, 0, 6);
    *changed.last_mut().unwrap() ^= 1;
    send(&changed);
    send(b"no NetFlow");
    send(&datagram(pattern, 0, 7));
    collector.wait_for(6, STALL);
    let report = collector.report();
    let tally = &report.exporters[0];
    assert_eq!((tally.arrived, tally.repeated, tally.out_of_order, tally.corrupted), (6, 1, 1, 1));
    assert_eq!((tally.missing(9), report.missing(&[9])), (vec![(2, 3), (6, 7), (8, 9)], 3));
    assert_eq!(report.foreign, 1);
}

#[test]
fn a_tally_splits_missing_ranges() {
    let mut tally = ExporterTally::default();
    assert!(tally.count(9));
    for number in [4, 0, 8] {
        assert!(tally.count(number));
        assert!(!tally.count(number));
    }
    assert_eq!(tally.missing(12), [(1, 4), (5, 8), (10, 12)]);
    assert_eq!((tally.out_of_order, tally.repeated), (3, 3));
}

#[test]
#[should_panic(
    expected = "exporter 0: sent 3, arrived 2, repeated 0, out of order 0, corrupted 0, missing 1 [2..3)"
)]
fn a_failed_wait_shows_all_counts() {
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(1, pattern);
    Exporters::new(0..1, collector.addr(), pattern).send(2);
    collector.wait_for_all(&[3], Duration::from_millis(100));
}

#[test]
fn an_inbox_keeps_payloads_of_any_size() {
    let inbox = Inbox::start("[::1]:0");
    let exporter = UdpSocket::bind("[::1]:0").unwrap();
    let payloads = [vec![], vec![7], vec![9; 65_507]];
    for payload in &payloads {
        exporter.send_to(payload, inbox.addr()).unwrap();
    }
    assert_eq!(inbox.wait_for(3, STALL), payloads);
}

#[test]
fn kernel_figures_count_queue_and_drops() {
    let held = HeldUdp::bind("127.0.0.1:0");
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!((held.kernel().queued, held.dropped()), (0, 0));
    exporter.send_to(&[1; 100], held.addr()).unwrap();
    assert!(held.kernel().queued >= 100);
    assert!(held.capacity() >= 212_992);
    let full = UdpSocket::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&full, 4096).unwrap();
    for _ in 0..1000 {
        exporter.send_to(&[1; 1000], full.local_addr().unwrap()).unwrap();
    }
    assert!(KernelSocket::find(&full).figures().dropped > 900);
}

#[test]
fn two_nfcapd_get_the_same_flows_of_softflowd() {
    if !installed() {
        eprintln!("skipped: needs softflowd and nfdump (Debian packages of these names)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("capture.pcap");
    write_capture(&capture, 60);
    let nfcapd = ["one", "two"].map(|name| Nfcapd::start(directory.path().join(name)));
    export(&capture, 9, &[nfcapd[0].addr(), nfcapd[1].addr()]);
    let [one, two] = nfcapd.map(Nfcapd::finish);
    assert_eq!((one.len(), &one), (60, &two));
}

#[test]
fn a_load_pauses_while_a_socket_is_half_full() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // The kernel doubles the value.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 106_496).unwrap();
    let reader = socket.try_clone().unwrap();
    let held = Arc::new(HeldUdp::holding(socket));
    assert_eq!(held.capacity(), 212_992);
    let exporters = Exporters::new(0..2, held.addr(), Pattern::new(MIXED));
    let load = SteadyLoad::start(exporters, Arc::clone(&held), None, Until::Sent(3000));
    while load.held_back() == 0 {
        std::thread::yield_now();
    }
    for _ in 0..3000 {
        reader.recv(&mut [0; 2000]).unwrap();
    }
    assert_eq!((load.finish().total(), held.dropped()), (3000, 0));
}

/// Connects, sends two bytes and waits for their echo.
fn echo(link: &Link) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(link.addr())?;
    stream.set_read_timeout(Some(STALL))?;
    stream.write_all(b"hi")?;
    stream.read_exact(&mut [0; 2])?;
    Ok(stream)
}

fn echo_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    addr
}

#[test]
fn a_cut_link_resets_and_refuses_connections() {
    let link = Link::to(echo_server());
    let mut stream = echo(&link).unwrap();
    assert_eq!((link.forwarded(), link.connections()), (4, 1));
    link.cut();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(TcpStream::connect(link.addr()).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    link.restore();
    echo(&link).unwrap();
    assert_eq!(link.state(), NetworkState::Up);
}

#[test]
fn a_frozen_link_loses_nothing() {
    let link = Link::to(echo_server());
    let mut stream = echo(&link).unwrap();
    link.freeze();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    stream.write_all(b"b").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    link.restore();
    stream.set_read_timeout(Some(STALL)).unwrap();
    let mut rest = [0];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(rest, *b"b");
}
