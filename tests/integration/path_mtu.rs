//! A path with an MTU below the length of some datagrams.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nf_transport_kit::collector::Inbox;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::other_host::{NETWORK_WITH_SWITCH, OtherHost};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::count;
use serde_json::Value;

use crate::isolation::{in_a_network, shared};

const INSIDE: &str = "path_mtu::inside_a_path_with_a_small_mtu";

/// Payload lengths around and far above the room in a packet of 1,500 bytes.
const LENGTHS: [usize; 5] = [1472, 1473, 4000, 9000, 65_507];

#[test]
fn datagrams_above_the_path_mtu_are_fragmented() {
    let _running = shared();
    in_a_network("ip link set lo mtu 1500 up", INSIDE);
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_path_with_a_small_mtu() {
    let inbox = Inbox::start("127.0.0.1:0");
    let mut receiver = ReceiverHost::new(&[inbox.addr()], "");
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    sender.start();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (fill, length) in (1..).zip(LENGTHS) {
        exporter.send_to(&vec![fill; length], sender.udp().addr()).unwrap();
    }
    let expected: Vec<Vec<u8>> = (1..).zip(LENGTHS).map(|(fill, length)| vec![fill; length]).collect();
    assert_eq!(inbox.wait_for(LENGTHS.len(), STALL), expected);
    assert!(fragmented() >= 8, "four datagrams twice: {} were fragmented", fragmented());
}

/// Returns the number of fragmented datagrams in this network namespace (RFC 4293, `ipFragOKs`).
fn fragmented() -> u64 {
    let snmp = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut ip = snmp.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (ip.next().unwrap(), ip.next().unwrap());
    let column = names.split(' ').position(|name| name == "FragOKs").unwrap();
    values.split(' ').nth(column).unwrap().parse().unwrap()
}

/// Settings that detect dead peers and black holes within seconds. The reconnect schedule is the default.
const SENDER: &str = "heartbeat = \"1s\"\n[spool]\nmin-free = \"0B\"\n";

/// Starts a receiver on another machine behind a path MTU black hole. Returns it with the machines.
fn behind_a_black_hole(mtu: u32, collector: SocketAddr) -> (ReceiverHost, [OtherHost; 2]) {
    let (there, switch) = OtherHost::behind_a_switch(mtu);
    let (mut receiver, other) = there.run(move |_| {
        let mut receiver = ReceiverHost::new(&[collector], "");
        receiver.listen_on("10.77.0.2:0");
        (receiver, TcpListener::bind("10.77.0.2:0").unwrap())
    });
    // The receiver listens there and reaches the collector here.
    receiver.start();
    // The first packets wait until the switch knows the path. They must not slow TCP down later.
    drop(TcpStream::connect(other.local_addr().unwrap()).unwrap());
    (receiver, [there, switch])
}

/// Sends datagrams that fill several segments.
fn send_much(sender: &SenderHost) -> usize {
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..20 {
        exporter.send_to(&[7; 1400], sender.udp().addr()).unwrap();
    }
    20
}

#[test]
fn vanished_segments_are_resent_smaller() {
    let _running = shared();
    in_a_network(NETWORK_WITH_SWITCH, "path_mtu::inside_a_black_hole");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_black_hole() {
    let inbox = Inbox::start("127.0.0.1:0");
    let (receiver, _machines) = behind_a_black_hole(1280, inbox.addr());
    let mut sender = SenderHost::new("edge", &receiver.addr(), SENDER);
    sender.start();
    sender.wait_state("connected", STALL);
    let sent = send_much(&sender);
    let began = Instant::now();
    let status = sender.wait_status(STALL, |status| status["state"] == "waiting");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("nothing was acknowledged") && reason.contains("path MTU"), "{reason}");
    assert_eq!(inbox.wait_for(sent, STALL).len(), sent);
    // Two heartbeats, the delay of 1 s, and the transfer.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let status = sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    assert_eq!(
        (&status["state"], count(&status, "/segment_bytes")),
        (&"connected".into(), 1200),
        "{status:#}"
    );
    sender.daemon().wait_for_log(&["nothing was acknowledged", "path MTU", "1200 bytes"], STALL);
    receiver.daemon().wait_for_log(&["session of edge", "nothing", "path MTU"], STALL);
}

#[test]
fn a_path_for_tiny_segments_only_is_used() {
    let _running = shared();
    in_a_network(NETWORK_WITH_SWITCH, "path_mtu::inside_a_narrow_black_hole");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_narrow_black_hole() {
    let inbox = Inbox::start("127.0.0.1:0");
    let (receiver, _machines) = behind_a_black_hole(700, inbox.addr());
    let mut sender = SenderHost::new("edge", &receiver.addr(), SENDER);
    sender.start();
    sender.wait_state("connected", STALL);
    let sent = send_much(&sender);
    assert_eq!(inbox.wait_for(sent, STALL).len(), sent);
    let status = sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    assert_eq!(count(&status, "/segment_bytes"), 536, "{status:#}");
}

#[test]
fn a_path_for_no_segment_counts_as_down() {
    let _running = shared();
    in_a_network(NETWORK_WITH_SWITCH, "path_mtu::inside_a_path_for_no_segment");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_path_for_no_segment() {
    let inbox = Inbox::start("127.0.0.1:0");
    let (receiver, _machines) = behind_a_black_hole(400, inbox.addr());
    let mut sender = SenderHost::new("edge", &receiver.addr(), SENDER);
    sender.start();
    sender.wait_state("connected", STALL);
    send_much(&sender);
    sender.wait_status(STALL, |status| status["state"] == "waiting");
    // After the first failure the status is never "connected", and the schedule continues: 1 s, 3 s, 9 s.
    let mut longest = 0;
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        let status = sender.status();
        assert_ne!(status["state"], "connected", "{status:#}");
        let reason = status["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("nothing was acknowledged"), "{status:#}");
        longest = longest.max(status["retry_in_s"].as_u64().unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(longest > 3, "{longest} s");
    assert!(inbox.wait_for(0, STALL).is_empty());
}

#[test]
fn a_black_hole_fails_over_to_the_next_receiver() {
    let _running = shared();
    in_a_network(NETWORK_WITH_SWITCH, "path_mtu::inside_a_fail_over");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_fail_over() {
    let inbox = Inbox::start("127.0.0.1:0");
    let (first, _machines) = behind_a_black_hole(1280, inbox.addr());
    let mut second = ReceiverHost::new(&[inbox.addr()], "");
    second.start();
    let toml = format!("receivers = [\"{}\", \"{}\"]\n{SENDER}", first.addr(), second.addr());
    let mut sender = SenderHost::new("edge", &"unused", &toml);
    sender.set_receiver(None);
    sender.start();
    sender.wait_state("connected", STALL);
    let sent = send_much(&sender);
    assert_eq!(inbox.wait_for(sent, STALL).len(), sent);
    let status = sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    assert_eq!(status["receiver"], second.addr().to_string());
    assert_eq!(status["segment_bytes"], Value::Null, "{status:#}");
}
