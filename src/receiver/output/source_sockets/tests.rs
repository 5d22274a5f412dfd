use core::num::NonZeroUsize;
use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU16, Ordering};

use super::*;
use crate::limits::PORT_IDLE;
use crate::receiver::output::segments;

/// The numbers of two senders.
const SENDER: u64 = 1;
const OTHER: u64 = 2;

fn sources(collector: &UdpSocket, source: SourceAddress, bound: usize) -> SourceSockets {
    let budget = SocketBudget::new(NonZeroUsize::new(bound).unwrap(), usize::MAX);
    SourceSockets::new(collector.local_addr().unwrap(), source, false, &budget)
}

fn exporter(number: u8) -> SocketAddr {
    ([192, 0, 2, number], 2055).into()
}

/// Sends a datagram of `exporter`. Returns the source address that the collector sees.
fn seen_of(
    sources: &mut SourceSockets,
    collector: &UdpSocket,
    sender: u64,
    exporter: SocketAddr,
) -> SocketAddr {
    let leaving = sources.socket(sender, exporter).unwrap();
    assert_eq!(segments::send(&leaving.socket, &[b"x"], &mut leaving.segments).unwrap().accepted, 1);
    collector.recv_from(&mut [0; 2]).unwrap().1
}

fn seen(sources: &mut SourceSockets, collector: &UdpSocket, exporter: SocketAddr) -> SocketAddr {
    seen_of(sources, collector, SENDER, exporter)
}

fn open(sources: &SourceSockets) -> usize {
    sources.senders.values().map(ExporterSockets::open).sum()
}

#[tokio::test]
async fn each_exporter_has_its_own_port() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sources = sources(&collector, SourceAddress::Own, 2);
    let first = seen(&mut sources, &collector, exporter(1));
    let second = seen(&mut sources, &collector, exporter(2));
    assert_ne!(first, second);
    assert_eq!(seen(&mut sources, &collector, exporter(1)), first);
    assert_eq!(sources.seen_as(), [(exporter(1), first), (exporter(2), second)]);
    let third = seen(&mut sources, &collector, exporter(3));
    assert_eq!(sources.seen_as(), [(exporter(3), third), (exporter(1), first)]);
}

/// Ports outside the range of ephemeral ports, which the kernel gives to no other process. Tests run in
/// parallel, so each port is used once.
fn fixed_ports() -> impl Iterator<Item = u16> {
    static USED: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let ports = std::iter::repeat_with(move || first + USED.fetch_add(1, Ordering::Relaxed));
    ports.filter(|port| UdpSocket::bind(("0.0.0.0", *port)).is_ok())
}

/// Makes `sources` remember that the collector saw `exporter` at this port.
fn remember(sources: &mut SourceSockets, exporter: SocketAddr, port: u16) -> SeenSource {
    let seen = SeenSource { seen_as: ([127, 0, 0, 1], port).into(), number: next_number() };
    sources.senders.entry(SENDER).or_default().remember(exporter, seen);
    seen
}

#[tokio::test]
async fn a_port_is_remembered_when_its_socket_closes() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sources = sources(&collector, SourceAddress::Own, 2);
    let exporters: Vec<_> = (1..=20).map(exporter).collect();
    let ports = exporters.iter().zip(fixed_ports());
    let remembered: Vec<_> = ports.map(|(exporter, port)| remember(&mut sources, *exporter, port)).collect();
    for _ in 0..3 {
        for (exporter, before) in exporters.iter().zip(&remembered) {
            assert_eq!(seen(&mut sources, &collector, *exporter), before.seen_as);
            let leaving = sources.socket(SENDER, *exporter).unwrap();
            assert_eq!((leaving.seen, leaving.has_moved), (*before, false));
        }
    }
}

#[tokio::test]
async fn a_port_taken_meanwhile_is_replaced() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sources = sources(&collector, SourceAddress::Own, 1);
    let port = fixed_ports().next().unwrap();
    let before = remember(&mut sources, exporter(1), port);
    let _taken = UdpSocket::bind(before.seen_as).unwrap();
    assert_ne!(seen(&mut sources, &collector, exporter(1)), before.seen_as);
    let leaving = sources.socket(SENDER, exporter(1)).unwrap();
    assert!(leaving.has_moved && leaving.seen.number > before.number);
}

#[tokio::test]
async fn changing_ports_use_few_sockets() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sources = sources(&collector, SourceAddress::Own, 1024);
    let other = seen(&mut sources, &collector, exporter(9));
    let mut local = HashSet::new();
    let from_port = |port| SocketAddr::from(([192, 0, 2, 1], port));
    for port in (1..=1060).cycle().take(5000) {
        local.insert(seen(&mut sources, &collector, from_port(port)));
    }
    assert_eq!((local.len(), open(&sources)), (PORTS_PER_ADDRESS + 1, PORTS_PER_ADDRESS + 2));
    assert_eq!(seen(&mut sources, &collector, exporter(9)), other);
}

#[tokio::test(start_paused = true)]
async fn an_idle_port_makes_room_for_a_new_one() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sources = sources(&collector, SourceAddress::Own, 8);
    let from_port = |port| SocketAddr::from(([192, 0, 2, 1], port));
    let all = [1, 2, 3, 4].map(|port| seen(&mut sources, &collector, from_port(port)));
    assert_eq!(all[2], all[3], "two have sockets of their own");
    tokio::time::advance(PORT_IDLE).await;
    assert_eq!(seen(&mut sources, &collector, from_port(2)), all[1]);
    assert_ne!(seen(&mut sources, &collector, from_port(3)), all[2]);
    assert_eq!(seen(&mut sources, &collector, from_port(2)), all[1]);
    assert_eq!(seen(&mut sources, &collector, from_port(1)), all[2], "shared by the others");
}

#[tokio::test]
async fn two_senders_of_one_exporter_have_two_ports() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sources = sources(&collector, SourceAddress::Own, 8);
    let ports = [SENDER, OTHER].map(|sender| seen_of(&mut sources, &collector, sender, exporter(1)));
    assert_ne!(ports[0], ports[1]);
}

#[tokio::test]
async fn many_exporters_take_no_socket_of_others() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sources = sources(&collector, SourceAddress::Own, 10);
    seen_of(&mut sources, &collector, OTHER, exporter(1));
    for number in 1..=100 {
        seen(&mut sources, &collector, exporter(number));
    }
    assert_eq!(open(&sources), 10);
    assert_eq!(sources.senders[&OTHER].open(), 1);
}

#[tokio::test]
async fn remembered_ports_are_bounded() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sources = sources(&collector, SourceAddress::Own, 1);
    for number in 0..u32::try_from(PORTS_REMEMBERED).unwrap() + 100 {
        sources.socket(u64::from(number % 7), (number.to_be_bytes(), 1).into()).unwrap();
    }
    let remembered: usize = sources.senders.values().map(ExporterSockets::remembered).sum();
    assert!(remembered <= PORTS_REMEMBERED, "{remembered}");
}

#[tokio::test]
async fn shedding_closes_unused_sockets_first() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sources = sources(&collector, SourceAddress::Own, 100);
    let seen: Vec<_> = (0..10).map(|number| seen(&mut sources, &collector, exporter(number + 1))).collect();
    assert_eq!(sources.close_some(), 8);
    assert_eq!(sources.seen_as().last(), Some(&(exporter(3), seen[2])));
    for _ in 0..8 {
        sources.close_some();
    }
    assert_eq!(sources.seen_as(), [(exporter(10), seen[9])]);
}

#[tokio::test]
async fn a_smaller_share_applies_at_the_next_open() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let budget = SocketBudget::new(NonZeroUsize::new(100).unwrap(), 10);
    let mut sources = SourceSockets::new(collector.local_addr().unwrap(), SourceAddress::Own, false, &budget);
    for number in 1..=10 {
        seen(&mut sources, &collector, exporter(number));
    }
    let _other = SocketShare::within(&budget);
    seen(&mut sources, &collector, exporter(11));
    assert_eq!(open(&sources), 5);
}

#[tokio::test]
async fn link_local_and_other_family_are_not_borne() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let v4 = sources(&collector, SourceAddress::Exporter, 2);
    for (exporter, expected) in [
        ("192.0.2.1:9", true),
        ("127.0.0.5:9", true),
        ("192.0.2.1:0", false),
        ("[2001:db8::1]:9", false),
        ("0.0.0.0:9", false),
        ("224.0.0.1:9", false),
        ("255.255.255.255:9", false),
        ("169.254.1.1:9", false),
    ] {
        assert_eq!(can_bear(v4.collector, exporter.parse().unwrap()), expected, "{exporter}");
    }
    let collector = UdpSocket::bind("[::1]:0").unwrap();
    let v6 = sources(&collector, SourceAddress::Exporter, 2);
    assert!(can_bear(v6.collector, "[2001:db8::1]:9".parse().unwrap()));
    assert!(!can_bear(v6.collector, "[fe80::1]:9".parse().unwrap()));
}
