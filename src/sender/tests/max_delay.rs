//! Datagrams that gather in the socket.

use std::net::UdpSocket;
use std::time::Duration;

use nf_transport_core::sequence::Position;

use super::running::RunningIngest;
use super::{each_batch, policy, start, wait_for_received};

/// Far longer than any test.
const ENDLESS: Duration = Duration::from_secs(3600);

/// Returns a socket and an exporter that sends to it.
fn sockets() -> (UdpSocket, UdpSocket) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    exporter.connect(receiver.local_addr().unwrap()).unwrap();
    (receiver, exporter)
}

#[test]
fn a_stop_does_not_wait_for_max_delay() {
    let directory = tempfile::tempdir().unwrap();
    let run = start(&directory, policy());
    let queue = run.queue.clone();
    let (receiver, exporter) = sockets();
    let held = receiver.try_clone().unwrap();
    exporter.send(b"one").unwrap();
    let ingest = RunningIngest::with_max_delay(run, receiver, ENDLESS);
    ingest.stop();
    let left = u64::from(held.recv(&mut [0; 8]).is_ok());
    assert_eq!(queue.figures().counts.received + left, 1);
}

#[test]
fn a_reload_shortens_a_running_delay() {
    let directory = tempfile::tempdir().unwrap();
    let run = start(&directory, policy());
    let queue = run.queue.clone();
    let (receiver, exporter) = sockets();
    exporter.send(b"one").unwrap();
    let ingest = RunningIngest::with_max_delay(run, receiver, ENDLESS);
    ingest.set_max_delay(Duration::from_millis(10));
    wait_for_received(&queue, 1);
    ingest.stop();
}

#[test]
fn datagrams_gather_into_one_batch() {
    let directory = tempfile::tempdir().unwrap();
    let run = start(&directory, policy());
    let queue = run.queue.clone();
    let (receiver, exporter) = sockets();
    let ingest = RunningIngest::with_max_delay(run, receiver, ENDLESS);
    for _ in 0..100 {
        exporter.send(b"one").unwrap();
    }
    ingest.set_max_delay(Duration::from_millis(10));
    wait_for_received(&queue, 100);
    ingest.stop();
    let mut batches = Vec::new();
    each_batch(&queue, Position(0), &mut |batch| batches.push(batch.datagrams()));
    assert_eq!(batches, [100]);
}
