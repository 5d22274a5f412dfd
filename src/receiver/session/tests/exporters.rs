//! Datagrams that no collector gets: of exporters that match none, or that the sender may not deliver.

use super::*;
use crate::status::CollectorState;

/// A policy by which the sender of an exchange may deliver datagrams of these exporters.
fn only(prefix: &str) -> Arc<AccessPolicy> {
    let exporters = vec![prefix.parse().unwrap()].into();
    Arc::new(AccessPolicy {
        exporters: [("edge".parse().unwrap(), exporters)].into(),
        ..AccessPolicy::default()
    })
}

#[tokio::test]
async fn datagrams_that_match_no_collector_are_counted() {
    let mut exchange = Exchange::agreed_for(&["192.0.2.1/32"]).await;
    let from = |ip: &str, first| batch_of(Position(first), &[(&format!("{ip}:2055"), b"x")]).bytes().clone();
    for (ip, first) in [("192.0.2.1", 0), ("192.0.2.7", 1), ("192.0.2.8", 2), ("192.0.2.7", 3)] {
        exchange.say(Message::Data(from(ip, first))).await;
    }
    while exchange.hear().await != Message::Ack(Position(4)) {}
    let unmatched = exchange.receiver.shared.senders.unmatched();
    let rows = unmatched.status(crate::host::boot_clock()).into_iter();
    let rows: Vec<_> = rows.map(|row| (row.address.to_string(), row.datagrams)).collect();
    assert_eq!(rows, [("192.0.2.7".to_owned(), 2), ("192.0.2.8".to_owned(), 1)]);
    assert_eq!(unmatched.count(), 3);
}

#[tokio::test]
async fn repeats_after_a_reconnect_are_counted_once() {
    let receiver = Receiver::down(&["192.0.2.1/32"]).await;
    let mut builder = BatchBuilder::new(stream(), Compression::None);
    for exporter in ["192.0.2.1:1", "192.0.2.7:1", "192.0.2.7:1"] {
        let exporter: SocketAddr = exporter.parse().unwrap();
        let datagram = Datagram { exporter, local: exporter, arrival: Timestamp(0), payload: b"x" };
        builder.push(&datagram).unwrap();
    }
    builder.push_dropped(Timestamp(0)).unwrap();
    let batch = builder.finish(Position(0)).unwrap();
    for _ in 0..3 {
        let mut exchange = Exchange::connected(&receiver, "edge", PATIENCE).await;
        exchange.greet(stream(), key(1).prove(BINDING)).await;
        let Message::Welcome(welcome) = exchange.hear().await else { panic!("no WELCOME") };
        assert_eq!(welcome.resume, Position(0), "the collector has nothing");
        exchange.say(Message::Data(batch.bytes().clone())).await;
        while receiver.shared.outputs().figures()[0].state != CollectorState::Down {
            tokio::task::yield_now().await;
        }
    }
    let [sender] = receiver.shared.senders.status(&AccessPolicy::default()).try_into().unwrap();
    assert_eq!((receiver.shared.senders.unmatched().count(), sender.gaps), (0, 0));
}

#[tokio::test]
async fn datagrams_of_denied_exporters_are_acknowledged() {
    let mut exchange = Exchange::agreed().await;
    exchange.policy.send_replace(only("10.0.0.0/8"));
    let (own, other) = ("10.0.0.1:2055", "[::ffff:192.0.2.7]:2055");
    let datagrams: [(&str, &[u8]); 4] =
        [(other, b"forged"), (own, b"one"), (other, b"forged"), (own, b"two")];
    exchange.say(Message::Data(batch_of(Position(0), &datagrams).bytes().clone())).await;
    exchange.say(Message::Data(batch_of(Position(4), &[(other, b"forged")]).bytes().clone())).await;
    while exchange.hear().await != Message::Ack(Position(5)) {}
    exchange.policy.send_replace(only("192.0.2.0/24"));
    exchange
        .say(Message::Data(batch_of(Position(5), &[(own, b"late"), (other, b"three")]).bytes().clone()))
        .await;
    while exchange.hear().await != Message::Ack(Position(7)) {}
    let mut payload = [0; 16];
    for expected in [b"one".as_slice(), b"two", b"three"] {
        let length = exchange.receiver.collector.recv(&mut payload).await.unwrap();
        assert_eq!(&payload[..length], expected);
    }
    let policy = exchange.policy.borrow().clone();
    let [sender] = exchange.receiver.shared.senders.status(&policy).try_into().unwrap();
    assert_eq!((sender.delivered.datagrams, sender.denied), (3, 4));
    assert_eq!(sender.exporters, ["192.0.2.0/24"]);
    let denied: Vec<_> =
        sender.denied_exporters.iter().map(|row| (row.address.to_string(), row.datagrams)).collect();
    assert_eq!(denied, [("192.0.2.7".to_owned(), 3), ("10.0.0.1".to_owned(), 1)]);
}

#[tokio::test]
async fn denied_datagrams_count_without_any_collector() {
    let mut exchange = Exchange::agreed_for(&["198.51.100.0/24"]).await;
    exchange.policy.send_replace(only("10.0.0.0/8"));
    let datagrams: [(&str, &[u8]); 3] =
        [("192.0.2.7:1", b"forged"), ("10.0.0.1:1", b"unmatched"), ("192.0.2.7:1", b"forged")];
    exchange.say(Message::Data(batch_of(Position(0), &datagrams).bytes().clone())).await;
    while exchange.hear().await != Message::Ack(Position(3)) {}
    let [sender] = exchange.receiver.shared.senders.status(&AccessPolicy::default()).try_into().unwrap();
    assert_eq!((sender.denied, exchange.receiver.shared.senders.unmatched().count()), (2, 1));
}
