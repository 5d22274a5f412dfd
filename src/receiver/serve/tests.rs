//! Over real sockets on loopback: a sender of the test's own speaks to one connection.

use core::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use super::*;
use crate::batch::{BatchBuilder, BatchHeader, Compression, HEADER_LEN};
use crate::datagram::{Datagram, Timestamp};
use crate::framing::{Decoder, Heartbeat, Message};
use crate::receiver::ahead::Ahead;
use crate::secure::{Admission, Channel, Pass};
use crate::sequence::StreamId;
use crate::service::{Stopper, stop_channel};

const STREAM: StreamId = StreamId([7; 16]);

/// A sender connected to a receiver that delivers to `collector`.
struct Exchange {
    stream: TcpStream,
    decoder: Decoder,
    collector: UdpSocket,
    shared: Arc<Shared>,
    admission: watch::Sender<Arc<Admission>>,
    _stopper: Stopper,
    _state: tempfile::TempDir,
}

impl Exchange {
    async fn agreed() -> Self {
        let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let outputs = Outputs::to(&[collector.local_addr().unwrap()]);
        let shared = Arc::new(Shared {
            seats: Seats::default(),
            positions: Positions::open(state.path()).unwrap(),
            outputs: watch::channel(Arc::new(outputs)).1,
            ahead: Ahead::take_up(state.path()),
            templates: Arc::default(),
            complaints: Mutex::default(),
            news: Mutex::default(),
            refused: Mutex::default(),
            known_sources: Arc::default(),
            waiting: Waiting::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let (stopper, stop) = stop_channel();
        let greeted_by = Instant::now() + Duration::from_secs(10);
        let of_connection = shared.clone();
        let (admission, admissions) = watch::channel(Arc::default());
        tokio::spawn(async move {
            let sender = "edge".parse().unwrap();
            let known = Known { sender, pass: Pass::ClearText { is_local: true }, admission: admissions };
            let accepted = Stream::new(accepted, Channel::plain());
            serve(&of_connection, accepted, peer, known, greeted_by, stop).await;
        });
        let decoder = Decoder::default();
        let mut exchange =
            Self { stream, decoder, collector, shared, admission, _stopper: stopper, _state: state };
        let heartbeat = Heartbeat::nearest(Duration::from_secs(5));
        let hello =
            Hello { stream: STREAM, first: Position(0), heartbeat, run: RunId([3; 16]), replaces: None };
        exchange.say(Message::Hello(hello)).await;
        assert!(matches!(exchange.hear().await, Message::Welcome(_)));
        exchange
    }

    async fn say(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        let batch = message.encode(&mut bytes).unwrap_or_default();
        self.stream.write_all(&bytes).await.unwrap();
        self.stream.write_all(&batch).await.unwrap();
    }

    /// The next message that is not a sign of life only.
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
    let address: SocketAddr = "192.0.2.1:2055".parse().unwrap();
    let datagram = Datagram { exporter: address, local: address, arrival: Timestamp(0), payload };
    let mut builder = BatchBuilder::new(STREAM, Compression::None);
    builder.push(&datagram).unwrap();
    builder.finish(first).unwrap()
}

/// Whole by its checksums, but its record ends nowhere.
fn unreadable(first: Position) -> Bytes {
    let whole = batch(first, b"x");
    let body = [0xFF; 20];
    let mut header = BatchHeader::parse(STREAM, whole.bytes()).unwrap().unwrap();
    header.body_len = 20;
    header.records_len = 20;
    header.body_checksum = crc32c::crc32c(&body);
    assert_eq!(header.encode(STREAM).len(), HEADER_LEN);
    [header.encode(STREAM).as_slice(), &body].concat().into()
}

#[tokio::test]
async fn a_batch_that_cannot_be_read_is_counted_and_the_next_one_is_delivered() {
    let mut exchange = Exchange::agreed().await;
    exchange.say(Message::Data(unreadable(Position(0)))).await;
    exchange.say(Message::Data(batch(Position(1), b"second").bytes().clone())).await;
    while exchange.hear().await != Message::Ack(Position(2)) {}
    let mut payload = [0; 16];
    let length = exchange.collector.recv(&mut payload).await.unwrap();
    assert_eq!(&payload[..length], b"second");
    let [sender] = exchange.shared.seats.status().try_into().unwrap();
    assert_eq!((sender.gaps, sender.delivered.datagrams), (1, 1));
}

#[tokio::test]
async fn a_sender_that_is_not_let_in_any_more_is_told_so() {
    let mut exchange = Exchange::agreed().await;
    let stricter = Admission { plaintext: true, ..Admission::default() };
    exchange.admission.send_replace(Arc::new(stricter));
    exchange.say(Message::Ping).await;
    let key = crate::secure::Key::generate().unwrap();
    exchange.admission.send_replace(Arc::new(Admission { shared: vec![key], ..Admission::default() }));
    let Message::Refuse(refusal) = exchange.hear().await else { panic!("no refusal") };
    assert_eq!(refusal.code(), RefusalCode::NotAdmitted);
    assert!(refusal.text().contains("not let in any more"), "{}", refusal.text());
}
