//! Tests over real sockets on loopback: a sender of the test talks to one connection.

mod exporters;
mod position_files;
mod stream_ids;

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
use crate::receiver::state::positions::Positions;

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
