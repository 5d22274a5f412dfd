//! Tests over real sockets on loopback: a sender of the test talks to one connection.

use core::time::Duration;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use nf_transport_core::batch::{Batch, BatchBuilder, BatchHeader, Compression, HEADER_LEN};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::framing::{Decoder, Heartbeat, Hello, Message, StreamProof};
use nf_transport_core::secure::{AccessPolicy, Channel, ChannelBinding, Credential, StreamKey};
use nf_transport_core::sequence::{Position, StreamId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::host::{ShutdownTrigger, shutdown_channel};
use crate::receiver::accept::waiting::WaitingForSession;
use crate::receiver::collectors::confusion::Confusion;
use crate::receiver::delivery::collector_offsets::CollectorOffsets;
use crate::receiver::output::{Outputs, ResolvedCollector};
use crate::receiver::session::senders::Senders;
use crate::receiver::state::positions::{Positions, StreamOwner};
use crate::status::CollectorState;

/// Binding of every connection.
const BINDING: ChannelBinding = ChannelBinding([9; 32]);

/// Time for which a receiver waits for HELLO.
const PATIENCE: Duration = Duration::from_secs(10);

fn key(seed: u8) -> StreamKey {
    StreamKey::new([seed; 32].into()).unwrap()
}

/// The stream of the sender.
fn stream() -> StreamId {
    key(1).id()
}

/// A receiver, its collector, and its state directory.
struct Receiver {
    shared: Arc<Shared>,
    collector: UdpSocket,
    state: tempfile::TempDir,
}

impl Receiver {
    /// A receiver whose collector gets only these exporters.
    async fn new(exporters: &[&str]) -> Arc<Self> {
        Self::with(UdpSocket::bind("127.0.0.1:0").await.unwrap(), exporters)
    }

    /// A receiver whose collector gets only these exporters, and is down.
    async fn down(exporters: &[&str]) -> Arc<Self> {
        let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // A connected socket accepts nothing from others.
        collector.connect(collector.local_addr().unwrap()).await.unwrap();
        Self::with(collector, exporters)
    }

    fn with(collector: UdpSocket, exporters: &[&str]) -> Arc<Self> {
        let state = tempfile::tempdir().unwrap();
        let mut resolved = ResolvedCollector::at(&collector.local_addr().unwrap());
        resolved.settings.exporters = exporters.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let outputs = Outputs::to(&[]).changed_to(&[resolved]);
        let shared = Arc::new(Shared {
            senders: Senders::default(),
            positions: Positions::open(state.path()).unwrap(),
            outputs: watch::channel(Arc::new(outputs)).1,
            collector_offsets: CollectorOffsets::recover(state.path()),
            templates: Arc::default(),
            log_limit: Mutex::default(),
            rejected: Mutex::default(),
            known_sources: Arc::default(),
            waiting: WaitingForSession::default(),
            confusion: Confusion::default(),
        });
        Arc::new(Self { shared, collector, state })
    }
}

/// A sender of the test, connected to a receiver.
struct Exchange {
    stream: TcpStream,
    decoder: Decoder,
    receiver: Arc<Receiver>,
    policy: watch::Sender<Arc<AccessPolicy>>,
    stopper: ShutdownTrigger,
}

impl Exchange {
    /// A connection of this sender that has sent nothing yet. The receiver expects HELLO within `patience`.
    async fn connected(receiver: &Arc<Receiver>, sender: &str, patience: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let (stopper, stop) = shutdown_channel();
        let greeted_by = Instant::now() + patience;
        let of_connection = receiver.shared.clone();
        let (policy, policies) = watch::channel(Arc::default());
        let sender = sender.parse().unwrap();
        tokio::spawn(async move {
            let known = AuthenticatedSender {
                sender,
                credential: Credential::ClearText { is_local: true },
                policy: policies,
            };
            let accepted = SecureStream::new(accepted, Channel::clear_text(BINDING));
            serve(&of_connection, accepted, peer, known, greeted_by, stop).await;
        });
        let decoder = Decoder::default();
        Self { stream, decoder, receiver: receiver.clone(), policy, stopper }
    }

    async fn agreed() -> Self {
        Self::agreed_for(&[]).await
    }

    /// See [`Self::agreed`]; the collector gets only these exporters.
    async fn agreed_for(exporters: &[&str]) -> Self {
        let mut exchange = Self::connected(&Receiver::new(exporters).await, "edge", PATIENCE).await;
        exchange.greet(stream(), key(1).prove(BINDING)).await;
        assert!(matches!(exchange.hear().await, Message::Welcome(_)));
        exchange
    }

    /// Sends HELLO for `stream`.
    async fn greet(&mut self, stream: StreamId, proof: StreamProof) {
        let (heartbeat, run) = (Heartbeat::nearest(Duration::from_secs(5)), RunId([3; 16]));
        let hello = Hello { stream, first: Position(0), heartbeat, run, replaces: None, proof };
        self.say(Message::Hello(hello)).await;
    }

    async fn say(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        let batch = message.encode(&mut bytes).unwrap_or_default();
        self.stream.write_all(&bytes).await.unwrap();
        self.stream.write_all(&batch).await.unwrap();
    }

    /// Returns the next message that is not a ping.
    async fn hear(&mut self) -> Message {
        let mut input = [0; 1024];
        loop {
            match self.decoder.next_message().unwrap() {
                Some(Message::Ping) => {}
                Some(message) => return message,
                None => {
                    let read = timeout(Duration::from_secs(10), self.stream.read(&mut input));
                    let count = read.await.unwrap().unwrap();
                    assert_ne!(count, 0, "the receiver closed the connection");
                    self.decoder.extend(&input[..count]);
                }
            }
        }
    }
}

fn batch(first: Position, payload: &[u8]) -> Batch {
    batch_of(first, &[("192.0.2.1:2055", payload)])
}

/// A batch of datagrams, each with the address of its exporter.
fn batch_of(first: Position, datagrams: &[(&str, &[u8])]) -> Batch {
    let mut builder = BatchBuilder::new(stream(), Compression::None);
    for (exporter, payload) in datagrams {
        let exporter: SocketAddr = exporter.parse().unwrap();
        let datagram = Datagram { exporter, local: exporter, arrival: Timestamp(0), payload };
        builder.push(&datagram).unwrap();
    }
    builder.finish(first).unwrap()
}

/// A policy by which the sender of an exchange may deliver datagrams of these exporters.
fn only(prefix: &str) -> Arc<AccessPolicy> {
    let exporters = vec![prefix.parse().unwrap()].into();
    Arc::new(AccessPolicy {
        exporters: [("edge".parse().unwrap(), exporters)].into(),
        ..AccessPolicy::default()
    })
}

/// A batch with valid checksums whose record has no end.
fn unreadable(first: Position) -> Bytes {
    let whole = batch(first, b"x");
    let body = [0xFF; 20];
    let mut header = BatchHeader::parse(stream(), whole.bytes()).unwrap().unwrap();
    header.body_len = 20;
    header.records_len = 20;
    header.body_checksum = crc32c::crc32c(&body);
    assert_eq!(header.encode(stream()).len(), HEADER_LEN);
    [header.encode(stream()).as_slice(), &body].concat().into()
}

#[tokio::test]
async fn an_unreadable_batch_is_counted_and_skipped() {
    let mut exchange = Exchange::agreed().await;
    exchange.say(Message::Data(unreadable(Position(0)))).await;
    exchange.say(Message::Data(batch(Position(1), b"second").bytes().clone())).await;
    while exchange.hear().await != Message::Ack(Position(2)) {}
    let mut payload = [0; 16];
    let length = exchange.receiver.collector.recv(&mut payload).await.unwrap();
    assert_eq!(&payload[..length], b"second");
    let [sender] = exchange.receiver.shared.senders.status(&AccessPolicy::default()).try_into().unwrap();
    assert_eq!((sender.gaps, sender.delivered.datagrams), (1, 1));
}

#[tokio::test]
async fn a_revoked_sender_gets_the_reason() {
    let mut exchange = Exchange::agreed().await;
    let stricter = AccessPolicy { plaintext: true, ..AccessPolicy::default() };
    exchange.policy.send_replace(Arc::new(stricter));
    exchange.say(Message::Ping).await;
    let key = nf_transport_core::secure::Key::generate().unwrap();
    exchange.policy.send_replace(Arc::new(AccessPolicy { shared: vec![key], ..AccessPolicy::default() }));
    let Message::Refuse(refusal) = exchange.hear().await else { panic!("no refusal") };
    assert_eq!(refusal.code(), RefusalCode::NotAuthorized);
    assert!(refusal.text().contains("no longer accepted"), "{}", refusal.text());
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
async fn a_broken_session_is_not_a_rejection() {
    let exchange = Exchange::agreed().await;
    assert_eq!(exchange.receiver.shared.senders.status(&AccessPolicy::default())[0].ended, None);
    let Exchange { stream, receiver, .. } = exchange;
    let shared = &receiver.shared;
    stream.set_zero_linger().unwrap();
    drop(stream);
    while shared.senders.status(&AccessPolicy::default())[0].ended.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(shared.rejected().0, 0);
}

#[tokio::test]
async fn a_connection_without_hello_counts_as_rejected() {
    let mut connected =
        Exchange::connected(&Receiver::new(&[]).await, "edge", Duration::from_millis(1)).await;
    assert_eq!(connected.stream.read(&mut [0; 1]).await.unwrap(), 0);
    let (count, peers) = connected.receiver.shared.rejected();
    assert_eq!(count, 1);
    assert!(peers[0].reason.contains("no HELLO in time"), "{peers:?}");
}

#[tokio::test]
async fn a_stream_id_without_its_secret_is_rejected() {
    let mut victim = Exchange::agreed().await;
    let mut hostile = Exchange::connected(&victim.receiver, "edge", PATIENCE).await;
    hostile.greet(stream(), key(2).prove(BINDING)).await;
    let Message::Refuse(refusal) = hostile.hear().await else { panic!("no refusal") };
    assert_eq!(refusal.code(), RefusalCode::StreamNotProven);
    let (_, refused) = victim.receiver.shared.rejected();
    let victim_at = victim.stream.local_addr().unwrap();
    for words in [stream().to_string(), format!("that of the sender at {victim_at}")] {
        assert!(refused[0].reason.contains(&words), "{refused:?}");
    }
    // The session continues, and nothing is stored.
    victim.say(Message::Data(batch(Position(0), b"first").bytes().clone())).await;
    while victim.hear().await != Message::Ack(Position(1)) {}
    let files = std::fs::read_dir(victim.receiver.state.path().join("positions")).unwrap();
    assert_eq!(files.count(), 1);
}

#[tokio::test]
async fn a_proof_of_another_connection_is_rejected() {
    let mut exchange = Exchange::agreed().await;
    let mut hostile = Exchange::connected(&exchange.receiver, "edge", PATIENCE).await;
    hostile.greet(stream(), key(1).prove(ChannelBinding([8; 32]))).await;
    let Message::Refuse(refusal) = hostile.hear().await else { panic!("no refusal") };
    assert_eq!(refusal.code(), RefusalCode::StreamNotProven);
    exchange.say(Message::Ping).await;
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

#[tokio::test]
async fn a_slow_position_file_delays_no_other_sender() {
    let mut served = Exchange::agreed().await;
    let positions = &served.receiver.clone().shared.positions;
    let mut waiting = Exchange::connected(&served.receiver, "other", PATIENCE).await;
    // Simulates a slow disk: nothing else in this thread locks it.
    let slow = positions.hold();
    waiting.greet(key(2).id(), key(2).prove(BINDING)).await;
    while !positions.is_opening() {
        tokio::task::yield_now().await;
    }
    served.say(Message::Data(batch(Position(0), b"first").bytes().clone())).await;
    while served.hear().await != Message::Ack(Position(1)) {}
    drop(slow);
    assert!(matches!(waiting.hear().await, Message::Welcome(_)));
}

/// A connection of the sender that has requested a session with the stream of this key.
async fn greeted(receiver: &Arc<Receiver>, seed: u8) -> Exchange {
    let mut exchange = Exchange::connected(receiver, "edge", PATIENCE).await;
    exchange.greet(key(seed).id(), key(seed).prove(BINDING)).await;
    exchange
}

impl Exchange {
    /// Returns the refusal that comes next.
    async fn refusal(&mut self) -> nf_transport_core::framing::Refusal {
        match self.hear().await {
            Message::Refuse(refusal) => refusal,
            other => panic!("the receiver answers {}", other.name()),
        }
    }

    /// Ends the session, and waits until the receiver has closed the connection.
    async fn leave(mut self) {
        self.say(Message::Goodbye).await;
        while self.stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    }
}

#[tokio::test]
async fn a_rejected_new_stream_ends_no_session() {
    let receiver = Receiver::new(&[]).await;
    for seed in 1.. {
        let mut hostile = greeted(&receiver, seed).await;
        match hostile.hear().await {
            Message::Welcome(_) => hostile.leave().await,
            Message::Refuse(refusal) => {
                assert_eq!(refusal.code(), RefusalCode::TooManyStreams);
                break;
            }
            other => panic!("the receiver answers {}", other.name()),
        }
    }
    let mut known = greeted(&receiver, 1).await;
    assert!(matches!(known.hear().await, Message::Welcome(_)), "the first stream is known");
    let mut hostile = greeted(&receiver, 99).await;
    assert_eq!(hostile.refusal().await.code(), RefusalCode::IdInUse);
    known.say(Message::Data(batch(Position(0), b"first").bytes().clone())).await;
    while known.hear().await != Message::Ack(Position(1)) {}
}

#[tokio::test]
async fn another_stream_ends_no_session() {
    let mut victim = Exchange::agreed().await;
    let receiver = victim.receiver.clone();
    let victim_at = victim.stream.local_addr().unwrap();
    for seed in 2..100 {
        let mut rival = greeted(&receiver, seed).await;
        let refusal = rival.refusal().await;
        assert_eq!(refusal.code(), RefusalCode::IdInUse);
        let words = format!("sender edge: its id is in use by another sender, at {victim_at}: give each");
        assert!(refusal.text().starts_with(&words), "{}", refusal.text());
        let [row] = receiver.shared.senders.status(&AccessPolicy::default()).try_into().unwrap();
        assert_eq!(row.rival, Some(rival.stream.local_addr().unwrap().to_string()));
    }
    let (count, peers) = receiver.shared.rejected();
    assert!(count >= 97 && peers[0].reason.contains("in use by another sender"), "{peers:?}");
    victim.say(Message::Data(batch(Position(0), b"first").bytes().clone())).await;
    while victim.hear().await != Message::Ack(Position(1)) {}
    let files = std::fs::read_dir(receiver.state.path().join("positions")).unwrap();
    assert_eq!(files.count(), 1, "a refused stream left a file");
}

#[tokio::test]
async fn the_stream_known_first_resumes_its_session() {
    let victim = Exchange::agreed().await;
    let receiver = victim.receiver.clone();
    victim.leave().await;
    let mut rival = greeted(&receiver, 2).await;
    assert!(matches!(rival.hear().await, Message::Welcome(_)));
    let mut victim = greeted(&receiver, 1).await;
    assert!(matches!(victim.hear().await, Message::Welcome(_)));
    let refusal = rival.refusal().await;
    assert_eq!(refusal.code(), RefusalCode::Superseded);
    assert!(refusal.text().contains("has known its stream for longer"), "{}", refusal.text());
    let mut again = greeted(&receiver, 2).await;
    assert_eq!(again.refusal().await.code(), RefusalCode::IdInUse);
    victim.leave().await;
    assert!(matches!(greeted(&receiver, 2).await.hear().await, Message::Welcome(_)));
}

#[tokio::test]
async fn a_cancelled_hello_leaves_no_file_open() {
    let mut known = Exchange::agreed().await;
    let receiver = known.receiver.clone();
    let positions = &receiver.shared.positions;
    // Simulates an entry that keeps the offsets of collectors.
    let owner = StreamOwner { sender: "edge".parse().unwrap(), source: None };
    let in_use = positions.stream(&owner, stream(), Instant::now().into_std()).unwrap();
    let kept = in_use.position().clone();
    drop(in_use);
    known.say(Message::Goodbye).await;
    while known.stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    assert_eq!(positions.open_files(), 0);
    let slow = positions.hold();
    let mut cut_off = Exchange::connected(&receiver, "edge", PATIENCE).await;
    cut_off.greet(stream(), key(1).prove(BINDING)).await;
    while !positions.is_opening() {
        tokio::task::yield_now().await;
    }
    cut_off.stopper.request();
    assert_eq!(cut_off.hear().await, Message::Goodbye);
    drop(slow);
    let closed = async {
        while positions.is_opening() || positions.open_files() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), closed).await.expect("the file stays open");
    drop(kept);
}
