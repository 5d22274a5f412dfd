mod counting;
mod skipping;
mod templates;

use core::net::SocketAddr;
use core::time::Duration;
use std::net::UdpSocket;
use std::sync::Arc;
use std::thread::JoinHandle;

use nf_transport_core::batch::{BatchBuilder, Compression, Records};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::limits::PAYLOAD_MAX;
use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::sequence::{Position, StreamId};
use rand::{RngExt, SeedableRng};

use super::*;
use crate::config::CollectorSettings;
use crate::receiver::output::ResolvedCollector;
use crate::receiver::state::templates::test_sender;
use crate::status::CollectorState;

/// `payloads` as batches.
fn batches(payloads: &[Vec<u8>]) -> Vec<Records> {
    let exporter = "192.0.2.1:4000".parse().unwrap();
    let local = "192.0.2.2:2055".parse().unwrap();
    let mut builder = BatchBuilder::new(StreamId([1; 16]), Compression::None);
    let mut batches = Vec::new();
    for payload in payloads {
        let datagram = Datagram { exporter, local, arrival: Timestamp(0), payload };
        if builder.push(&datagram).is_err() {
            batches.push(builder.finish(Position(0)).unwrap().records().unwrap());
            builder.push(&datagram).unwrap();
        }
    }
    batches.extend(builder.finish(Position(0)).map(|batch| batch.records().unwrap()));
    batches
}

/// Payloads of `length` bytes that contain their number.
fn numbered(count: u32, length: usize) -> Vec<Vec<u8>> {
    let numbered = |number: u32| {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(length, 0);
        payload
    };
    (0..count).map(numbered).collect()
}

/// 2,000 numbered payloads whose last byte is `sender`.
fn signed(sender: u8) -> Vec<Vec<u8>> {
    let mut payloads = numbered(2000, 300);
    for payload in &mut payloads {
        payload[299] = sender;
    }
    payloads
}

fn collector(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// Reads `count` datagrams, with a pause after every `burst` of them.
fn read_slowly(socket: UdpSocket, count: usize, burst: usize) -> JoinHandle<Vec<Vec<u8>>> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let mut read = Vec::new();
        while read.len() < count {
            let Ok(length) = socket.recv(&mut buffer) else { break };
            read.push(buffer[..length].to_vec());
            if read.len().is_multiple_of(burst) {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
        read
    })
}

/// A delivery to `outputs`, which have everything below `position`.
fn begun(position: u64, outputs: &Outputs) -> Delivery {
    Delivery::new(test_sender(), Position(position), None, outputs, &HashMap::new())
}

/// A batch whose sender may deliver datagrams of all exporters.
fn pending(first: Position, end: Position, first_new: Position, records: Records) -> PendingBatch {
    PendingBatch { first, end, first_new, records: Ok(records), exporters: Prefixes::default() }
}

/// Queues the next batch of the stream.
fn push(delivery: &mut Delivery, records: Records) {
    let first = Position(delivery.received_up_to.0);
    let count = u64::try_from(records.iter().count()).unwrap();
    delivery.push(pending(first, first.plus(count), first, records));
}

/// A delivery of the first batch of the stream, of which all collectors have `done` datagrams.
fn begun_within(records: Records, done: u64, outputs: &Outputs) -> Delivery {
    let mut delivery = begun(done, outputs);
    let count = u64::try_from(records.iter().count()).unwrap();
    let (first, end, first_new) = (Position(0), Position(count), Position(done));
    delivery.push(pending(first, end, first_new, records));
    delivery
}

async fn deliver_all(outputs: &Outputs, payloads: &[Vec<u8>]) {
    let mut delivery = begun(0, outputs);
    for records in batches(payloads) {
        push(&mut delivery, records);
        delivery.run().await;
        delivery.take_settled();
    }
}

#[tokio::test]
async fn every_length_arrives_byte_for_byte() {
    let payloads: Vec<Vec<u8>> =
        [0, 1, 1464, 0, 9000, PAYLOAD_MAX, 3].iter().map(|length| vec![0xA5; *length]).collect();
    let sockets = ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"].map(collector);
    let port = sockets[2].local_addr().unwrap().port();
    let addresses = [
        sockets[0].local_addr().unwrap(),
        sockets[1].local_addr().unwrap(),
        SocketAddr::new("127.0.0.1".parse().unwrap(), port),
    ];
    let outputs = Outputs::to(&addresses);
    let readers = sockets.map(|socket| read_slowly(socket, payloads.len(), 1));
    deliver_all(&outputs, &payloads).await;
    for reader in readers {
        assert_eq!(reader.join().unwrap(), payloads);
    }
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    for (counters, address) in outputs.figures().iter().zip(addresses) {
        assert_eq!(counters.address, address);
        assert_eq!(counters.counts.datagrams, 7);
        assert_eq!(counters.counts.bytes, u64::try_from(bytes).unwrap());
        assert_eq!(counters.held_s, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_collector_loses_nothing() {
    let payloads = numbered(20_000, 1000);
    let socket = collector("127.0.0.1:0");
    let outputs = Outputs::to(&[socket.local_addr().unwrap()]);
    let keep_open = socket.try_clone().unwrap();
    let reader = read_slowly(socket, payloads.len(), 200);
    deliver_all(&outputs, &payloads).await;
    assert!(reader.join().unwrap() == payloads, "lost, repeated or out of order");
    let counters = outputs.figures();
    assert_eq!((counters[0].state, counters[0].counts.socket_drops), (CollectorState::Up, 0));
    drop(keep_open);
}

#[tokio::test(start_paused = true)]
async fn held_datagrams_arrive_in_order() {
    let payloads = numbered(500, 200);
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outputs = Outputs::to(&[address]);
    let mut delivery = Box::pin(deliver_all(&outputs, &payloads));
    tokio::time::timeout(Duration::from_secs(60), &mut delivery).await.unwrap_err();
    let counters = outputs.figures().remove(0);
    assert_eq!((counters.state, counters.counts.datagrams), (CollectorState::Down, 0));
    let reader = read_slowly(collector(&address.to_string()), payloads.len(), 100);
    delivery.await;
    assert_eq!(reader.join().unwrap(), payloads);
    assert_eq!(outputs.figures()[0].counts.datagrams, 500);
}

#[tokio::test(start_paused = true)]
async fn a_changed_set_of_collectors_repeats_nothing() {
    let payloads = numbered(50, 200);
    let [stays, comes] = ["127.0.0.1:0", "127.0.0.1:0"].map(collector);
    let [stays_at, comes_at] = [&stays, &comes].map(|socket| socket.local_addr().unwrap());
    let absent = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outputs = Outputs::to(&[stays_at, absent]);
    let mut delivery = begun_within(batches(&payloads).remove(0), 10, &outputs);
    tokio::time::timeout(Duration::from_secs(5), delivery.run()).await.unwrap_err();
    let names = [stays_at, absent].map(OutputName::from);
    let expected = [(&names[0], Position(50)), (&names[1], Position(10))];
    assert_eq!(delivery.progress().collect::<Vec<_>>(), expected);

    delivery
        .change(&outputs.changed_to(&[comes_at, stays_at].map(|address| ResolvedCollector::at(&address))));
    assert_eq!(delivery.position().0, 10);
    delivery.run().await;
    assert_eq!(delivery.position().0, 50);
    for (socket, count) in [(stays, 40), (comes, 40)] {
        assert_eq!(read_slowly(socket, count, count).join().unwrap(), payloads[10..]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_at_another_address_goes_on() {
    let payloads = numbered(50, 200);
    let [before, after] = ["127.0.0.1:0", "127.0.0.1:0"].map(collector);
    let absent = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = CollectorSettings::at(&"collector.example.net:9995");
    let moving = |socket: &UdpSocket| ResolvedCollector {
        settings: settings.clone(),
        address: socket.local_addr().unwrap(),
        late: None,
    };
    let both = |socket: &UdpSocket| [moving(socket), ResolvedCollector::at(&absent)];
    let outputs = Outputs::to(&[]).changed_to(&both(&before));
    let mut delivery = begun_within(batches(&payloads).remove(0), 10, &outputs);
    tokio::time::timeout(Duration::from_secs(5), delivery.run()).await.unwrap_err();
    let outputs = outputs.changed_to(&both(&after));
    delivery.change(&outputs);
    let name = OutputName::from(&settings.address);
    assert!(delivery.progress().any(|progress| progress == (&name, Position(50))));
    let moved = &outputs.figures()[0];
    assert_eq!((moved.address, moved.counts.datagrams), (after.local_addr().unwrap(), 40));
    assert_eq!(read_slowly(before, 40, 40).join().unwrap(), payloads[10..]);
}

#[tokio::test]
async fn a_cancelled_delivery_resumes_exactly() {
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let payloads = numbered(5000, 1200);
    let sockets = ["127.0.0.1:0", "[::1]:0"].map(collector);
    let addresses = [0, 1].map(|index| sockets[index].local_addr().unwrap());
    let outputs = Outputs::to(&addresses);
    let bursts = [100, 333];
    let mut bursts = bursts.iter();
    let readers = sockets.map(|socket| read_slowly(socket, payloads.len(), *bursts.next().unwrap()));
    let mut dropped = 0;
    let mut delivery = begun(0, &outputs);
    for records in batches(&payloads) {
        let mut before = delivery.position().0;
        push(&mut delivery, records);
        let end = delivery.received_up_to.0;
        while delivery.position().0 < end {
            let patience = Duration::from_micros(random.random_range(0..1500));
            let whole = tokio::time::timeout(patience, delivery.run()).await;
            dropped += u32::from(whole.is_err());
            assert!(delivery.position().0 >= before);
            before = delivery.position().0;
        }
        delivery.take_settled();
    }
    for reader in readers {
        assert!(reader.join().unwrap() == payloads, "lost, repeated or out of order");
    }
    assert!(dropped > 10, "{dropped}");
}

#[tokio::test]
async fn a_restart_skips_delivered_datagrams() {
    let payloads = numbered(10, 20);
    let socket = collector("127.0.0.1:0");
    let outputs = Outputs::to(&[socket.local_addr().unwrap()]);
    let mut delivery = begun_within(batches(&payloads).remove(0), 4, &outputs);
    assert_eq!(delivery.position().0, 4);
    delivery.run().await;
    assert_eq!(delivery.position().0, 10);
    assert_eq!(read_slowly(socket, 6, 10).join().unwrap(), payloads[4..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sender_keeps_its_order_at_one_collector() {
    let socket = collector("127.0.0.1:0");
    let outputs = Arc::new(Outputs::to(&[socket.local_addr().unwrap()]));
    let reader = read_slowly(socket, 4 * 2000, 500);
    let senders: Vec<_> = (1u8..=4)
        .map(|sender| {
            let outputs = Arc::clone(&outputs);
            let payloads = signed(sender);
            tokio::spawn(async move { deliver_all(&outputs, &payloads).await })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let read = reader.join().unwrap();
    for sender in 1..=4 {
        let of_sender: Vec<_> = read.iter().filter(|payload| payload[299] == sender).cloned().collect();
        assert!(of_sender == signed(sender), "lost, repeated or out of order");
    }
}

/// Delivers until there is no progress any more.
async fn run_to_the_end(delivery: &mut Delivery) {
    while delivery.is_under_way() {
        if tokio::time::timeout(Duration::from_millis(300), delivery.run()).await.is_err() {
            break;
        }
        delivery.take_settled();
    }
}
