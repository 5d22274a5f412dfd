//! Losses at the sockets are counted by exporter and by socket.

use std::net::{SocketAddr, SocketAddrV6, UdpSocket};

use nf_transport_core::datagram::BootTime;

use super::running::RunningIngest;
use super::{policy, start, wait_for_received};
use crate::sender::ingest::counters::{ExporterAddress, IngestCounters, SocketCounters};

fn target(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

#[test]
fn kernel_drops_count_without_a_later_datagram() {
    let directory = tempfile::tempdir().unwrap();
    let run = start(&directory, policy());
    let queue = run.queue.clone();
    let [first, second] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    rustix::net::sockopt::set_socket_recv_buffer_size(&first, 4096).unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sent = 50;
    for _ in 0..sent {
        exporter.send_to(&[7; 1000], target(&first)).unwrap();
    }
    exporter.send_to(&[7; 1000], target(&second)).unwrap();
    let addresses = [target(&first), target(&second)];
    let counters = RunningIngest::start(run, vec![first, second], &[]);
    wait_for_received(&queue, 2);
    let counters = counters.stop();
    let received = queue.figures().counts.received - 1;
    assert!(received < sent);
    let by_socket: Vec<_> =
        counters.sockets().iter().map(|socket| (socket.address, socket.kernel_drops())).collect();
    assert_eq!(by_socket, [(addresses[0], sent - received), (addresses[1], 0)]);
}

#[test]
fn denied_datagrams_count_by_exporter_and_socket() {
    let directory = tempfile::tempdir().unwrap();
    let run = start(&directory, policy());
    let queue = run.queue.clone();
    let [first, second] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let [allowed, denied, other] =
        ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|address| UdpSocket::bind((address, 0)).unwrap());
    for (exporter, socket, count) in [(&denied, &first, 3), (&denied, &second, 5), (&other, &first, 1)] {
        for _ in 0..count {
            exporter.send_to(b"x", target(socket)).unwrap();
        }
    }
    allowed.send_to(b"x", target(&first)).unwrap();
    let counters = RunningIngest::start(run, vec![first, second], &["127.0.0.1/32"]);
    wait_for_received(&queue, 1);
    let counters = counters.stop();
    assert_eq!((counters.denied(), queue.figures().counts.received), (9, 1));
    assert_eq!(counters.sockets().iter().map(SocketCounters::denied).collect::<Vec<_>>(), [4, 5]);
    let rows = counters.denied_exporters().rows();
    let rows: Vec<_> = rows.into_iter().map(|(key, row)| (key, row.count)).collect();
    let [denied, other] = ["127.0.0.2", "127.0.0.3"]
        .map(|address| ExporterAddress { ip: address.parse().unwrap(), interface: 0 });
    assert_eq!(rows, [((denied, 1), 5), ((denied, 0), 3), ((other, 0), 1)]);
}

#[test]
fn denied_link_local_exporters_count_by_link() {
    let counters = IngestCounters::new(["[::]:2055".parse().unwrap()]);
    let on = |index| SocketAddrV6::new("fe80::1".parse().unwrap(), 2055, 0, index).into();
    for interface in [2, 3, 3] {
        counters.note_denied(on(interface), 0, BootTime::default());
    }
    let rows = counters.denied_exporters().rows().into_iter();
    let rows: Vec<_> = rows.map(|((exporter, _), row)| (exporter.to_string(), row.count)).collect();
    assert_eq!(rows, [("fe80::1%3".to_owned(), 2), ("fe80::1%2".to_owned(), 1)]);
}
