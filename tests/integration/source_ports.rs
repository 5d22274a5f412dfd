//! Exporters that send from many ports. Some routers use a new port for each datagram.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nf_transport_kit::hosts::SenderHost;
use nf_transport_kit::kernel_socket::enlarge;
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::count;

use crate::isolation::shared;

/// More ports than nf-receiver has sockets per collector by default.
const PORTS: usize = 1060;

/// Flow datagrams from each port.
const ROUNDS: usize = 3;

/// Datagrams of an exporter, and the figures to count them.
struct ReceivedFlows {
    datagrams: usize,
    bytes: usize,
    ports: HashSet<SocketAddr>,
}

/// Receives datagrams until `is_complete` is set and the socket is empty.
fn receive(socket: UdpSocket, is_complete: Arc<AtomicBool>) -> JoinHandle<ReceivedFlows> {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    std::thread::spawn(move || {
        let mut received = ReceivedFlows { datagrams: 0, bytes: 0, ports: HashSet::new() };
        let mut buffer = vec![0; 65_536];
        loop {
            let was_complete = is_complete.load(Ordering::Acquire);
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    received.datagrams += 1;
                    received.bytes += length;
                    received.ports.insert(from);
                }
                Err(_) if was_complete => return received,
                Err(_) => {}
            }
        }
    })
}

fn v9(sequence: u32, sets: &[u8]) -> Vec<u8> {
    let header = [0x0009_0001, 1000, 0x6553_F100, sequence, 7];
    [header.iter().flat_map(|field: &u32| field.to_be_bytes()).collect(), sets.to_vec()].concat()
}

/// Defines 50 templates of 25 fields, like a large router.
fn templates() -> Vec<u8> {
    let template = |id: u16| {
        let head = [id.to_be_bytes(), 25u16.to_be_bytes()].concat();
        [head, (1..=25u16).flat_map(|kind| [kind.to_be_bytes(), 4u16.to_be_bytes()].concat()).collect()]
            .concat()
    };
    let body: Vec<u8> = (256..306).flat_map(template).collect();
    let length = u16::try_from(4 + body.len()).unwrap().to_be_bytes();
    [[0, 0, length[0], length[1]].to_vec(), body].concat()
}

/// Sends these payloads from one port after the other, no faster than nf-sender receives them. Returns the
/// number of bytes sent.
fn send(
    sender: &SenderHost,
    ports: &[UdpSocket],
    payload: impl Fn(u32) -> Vec<u8>,
    total: &mut u64,
) -> usize {
    let mut bytes = 0;
    for port in ports {
        let payload = payload(u32::try_from(*total).unwrap());
        port.send_to(&payload, sender.udp().addr()).unwrap();
        bytes += payload.len();
        *total += 1;
        if total.is_multiple_of(200) {
            sender.udp().wait_until_drained();
        }
    }
    bytes
}

#[test]
fn an_exporter_with_1060_ports_is_delivered() {
    let _running = shared();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    enlarge(&collector);
    let toml = format!("[[collector]]\naddress = \"{}\"\n", collector.local_addr().unwrap());
    let (sender, _link, daemon) = connected_daemons(&toml);
    let is_complete = Arc::new(AtomicBool::new(false));
    let receiving = receive(collector, is_complete.clone());
    let ports: Vec<_> = (0..PORTS).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let mut total = 0;
    let defining = send(&sender, &ports, |sequence| v9(sequence, &templates()), &mut total);
    let record = [&[1, 0, 0, 104], &[1; 100][..]].concat();
    let mut flows = 0;
    for _ in 0..ROUNDS {
        flows += send(&sender, &ports, |sequence| v9(sequence, &record), &mut total);
    }
    sender.wait_status(STALL, |status| {
        count(status, "/received/datagrams") == total && count(status, "/queued/datagrams") == 0
    });
    let status = daemon.status();
    is_complete.store(true, Ordering::Release);
    let received = receiving.join().unwrap();
    let of_flows = received.bytes - defining;
    println!(
        "{flows} bytes of flows from {PORTS} ports reached the collector as {of_flows} bytes from {} ports: \
         {:.1} times",
        received.ports.len(),
        f64::from(u32::try_from(of_flows).unwrap()) / f64::from(u32::try_from(flows).unwrap())
    );
    assert_eq!(count(&status, "/collectors/0/templates"), 0);
    assert_eq!((u64::try_from(received.datagrams).unwrap(), received.bytes), (total, defining + flows));
    assert!(received.ports.len() < 100);
}
