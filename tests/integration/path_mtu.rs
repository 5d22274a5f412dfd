//! A path that takes shorter packets than some datagrams need.

use std::net::UdpSocket;

use crate::running::{in_a_network, shared};
use crate::support::collector::Inbox;
use crate::support::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use crate::support::pair::STALL;

const INSIDE: &str = "path_mtu::inside_a_network_of_its_own";

/// Payload lengths around and far above what fits into one packet of 1,500 bytes.
const LENGTHS: [usize; 5] = [1472, 1473, 4000, 9000, 65_507];

#[test]
fn datagrams_longer_than_the_path_takes_are_fragmented_by_ip_and_arrive() {
    let _running = shared();
    in_a_network("ip link set lo mtu 1500 up", INSIDE);
}

#[test]
#[ignore = "runs in a network namespace that the other test makes"]
fn inside_a_network_of_its_own() {
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

/// How many datagrams the kernel has fragmented in this network namespace (RFC 4293, `ipFragOKs`).
fn fragmented() -> u64 {
    let snmp = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut ip = snmp.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (ip.next().unwrap(), ip.next().unwrap());
    let column = names.split(' ').position(|name| name == "FragOKs").unwrap();
    values.split(' ').nth(column).unwrap().parse().unwrap()
}
