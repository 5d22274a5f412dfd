//! What the channel costs: bytes a second under each suite beside clear text, and the price of a handshake, good or
//! refused. All kinds take turns in one run; medians are shown.
//!
//! `NF_BENCH_TURNS` changes how many turns each kind gets.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on ends there, and says what it saw"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use nf_transport::host::secure_stream::{Received, SecureStream, run_handshake};
use nf_transport_core::secure::{
    AccessPolicy, Channel, Handshake, Key, ReceiverHandshake, SenderHandshake, Suite,
};
use nf_transport_core::sequence::SenderId;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Turns of each kind.
const TURNS: usize = 7;

/// Bytes that one turn seals and opens in memory, and that one turn sends over TCP.
const IN_MEMORY: usize = 64 << 20;
const OVER_TCP: usize = 128 << 20;

/// Bytes handed over at once: a full batch, and a lone datagram.
const PIECES: [usize; 2] = [64 * 1024, 1400];

/// Handshakes in one turn.
const HANDSHAKES: u32 = 200;

/// Clear text, then each suite.
const KINDS: [Option<Suite>; 4] =
    [None, Some(Suite::Blowfish), Some(Suite::ChaCha20Poly1305), Some(Suite::Aes256Gcm)];

fn main() {
    let turns =
        std::env::var("NF_BENCH_TURNS").map_or(TURNS, |text| text.parse().expect("a number of turns"));
    let sides = Sides::new();
    println!("the channel, medians of {turns} turns of each kind in turn\n");
    println!(
        "{:<20} {:>14} {:>14} {:>14} {:>12} {:>12}",
        "MB/s", "64 KiB", "1,400 B", "TCP (ratio)", "handshake", "wrong key"
    );
    let mut measured: Vec<Row> = KINDS.iter().map(|_| Row::default()).collect();
    for _ in 0..turns {
        for (kind, row) in KINDS.into_iter().zip(&mut measured) {
            row.measure(&sides, kind);
        }
    }
    let medians: Vec<[f64; 5]> = measured.into_iter().map(Row::medians).collect();
    for (kind, row) in KINDS.into_iter().zip(&medians) {
        let rate = |column: usize| format!("{:.0}", row[column]);
        let ratio = format!("{:.0} ({:.2})", row[2], row[2] / medians[0][2]);
        let cost =
            |column: usize| if row[column] > 0.0 { format!("{:.1} us", row[column]) } else { "-".to_owned() };
        println!(
            "{:<20} {:>14} {:>14} {:>14} {:>12} {:>12}",
            kind.map_or("clear text", Suite::name),
            rate(0),
            rate(1),
            ratio,
            cost(3),
            cost(4)
        );
    }
    println!(
        "\nin memory: one core seals and opens; TCP: over loopback, a thread for either side; handshake: both sides"
    );
    println!("together, in memory; wrong key: what a receiver spends on refusing one");
}

/// What each turn of one kind gave: rates in MB/s, costs in microseconds.
#[derive(Default)]
struct Row([Vec<f64>; 5]);

impl Row {
    fn measure(&mut self, sides: &Sides, kind: Option<Suite>) {
        for (column, piece) in PIECES.into_iter().enumerate() {
            self.0[column].push(in_memory(sides, kind, piece));
        }
        self.0[2].push(sides.over_tcp(kind));
        self.0[3].push(kind.map_or(0.0, |suite| sides.handshake_cost(suite)));
        self.0[4].push(kind.map_or(0.0, |suite| sides.refusal_cost(suite)));
    }

    fn medians(self) -> [f64; 5] {
        self.0.map(|mut values| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        })
    }
}

/// A receiver that lets clear text and one key in, and that key.
struct Sides {
    sender: SenderId,
    key: Key,
    policy: Arc<AccessPolicy>,
    runtime: Runtime,
}

impl Sides {
    fn new() -> Self {
        let key = Key::generate().unwrap();
        let suites = KINDS.into_iter().flatten().collect();
        let policy =
            AccessPolicy { plaintext: true, suites, shared: vec![key.clone()], ..AccessPolicy::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self { sender: "edge".parse().unwrap(), key, policy: Arc::new(policy), runtime: runtime.unwrap() }
    }

    fn sender(&self, kind: Option<Suite>) -> SenderHandshake {
        match kind {
            None => SenderHandshake::plain(&self.sender),
            Some(suite) => SenderHandshake::keyed(&self.sender, &self.key, suite),
        }
    }

    fn receiver(&self) -> ReceiverHandshake {
        ReceiverHandshake::new(self.policy.clone(), true)
    }

    /// Both ends of a channel.
    fn connected(&self, kind: Option<Suite>) -> (Channel, Channel) {
        let (mut sender, mut receiver) = (self.sender(kind), self.receiver());
        while sender.wanted() + receiver.wanted() > 0 {
            hand_over(&mut sender, &mut receiver);
            hand_over(&mut receiver, &mut sender);
        }
        (sender.finish().unwrap(), receiver.finish().unwrap().channel)
    }

    /// Microseconds for a handshake, both sides together.
    fn handshake_cost(&self, suite: Suite) -> f64 {
        let began = Instant::now();
        for _ in 0..HANDSHAKES {
            self.connected(Some(suite));
        }
        microseconds(began.elapsed())
    }

    /// Microseconds that a receiver spends on a sender with another key.
    fn refusal_cost(&self, suite: Suite) -> f64 {
        let other = Key::generate().unwrap();
        let mut spent = Duration::ZERO;
        for _ in 0..HANDSHAKES {
            let mut sender = SenderHandshake::keyed(&self.sender, &other, suite);
            let mut receiver = self.receiver();
            let preface = sender.take_output();
            let began = Instant::now();
            feed(&mut receiver, &preface);
            let reply = receiver.take_output();
            spent += began.elapsed();
            feed(&mut sender, &reply);
            let message = sender.take_output();
            let began = Instant::now();
            assert!(receiver.handle_bytes(&message).is_err());
            spent += began.elapsed();
        }
        microseconds(spent)
    }

    /// MB/s from one thread to another over loopback.
    fn over_tcp(&self, kind: Option<Suite>) -> f64 {
        self.runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            let (channel, admitted) = tokio::join!(
                run_handshake(&mut client, self.sender(kind)),
                run_handshake(&mut server, self.receiver())
            );
            let mut sending = SecureStream::new(client, channel.unwrap());
            let mut receiving = SecureStream::new(server, admitted.unwrap().channel);
            let began = Instant::now();
            let sender = tokio::spawn(async move {
                let piece = Bytes::from(vec![7; PIECES[0]]);
                for _ in 0..OVER_TCP / piece.len() {
                    sending.flush(&mut piece.clone()).await.unwrap();
                }
                sending.end().unwrap();
            });
            let receiver = tokio::spawn(async move {
                let (mut total, mut buffer) = (0, vec![0; PIECES[0]]);
                loop {
                    receiving.ready(true, false).await.unwrap();
                    match receiving.receive(&mut buffer, |bytes| total += bytes.len()).unwrap() {
                        Received::Bytes | Received::Nothing => {}
                        Received::End => break total,
                    }
                }
            });
            sender.await.unwrap();
            assert_eq!(receiver.await.unwrap(), OVER_TCP);
            megabytes(OVER_TCP, began.elapsed())
        })
    }
}

/// Hands over what `from` has to say.
fn hand_over(from: &mut impl Handshake, to: &mut impl Handshake) {
    let said = from.take_output();
    feed(to, &said);
}

/// Hands over `bytes` in the pieces that are wanted.
fn feed(to: &mut impl Handshake, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(to.wanted().min(bytes.len()));
        assert!(!now.is_empty() && to.handle_bytes(now).is_ok(), "the handshake failed");
        bytes = later;
    }
}

/// MB/s of a channel that seals and opens pieces of so many bytes.
fn in_memory(sides: &Sides, kind: Option<Suite>, piece: usize) -> f64 {
    let (mut sender, mut receiver) = sides.connected(kind);
    // Blowfish is the slow one: less of it, for the turns to take about as long.
    let total = if kind == Some(Suite::Blowfish) { IN_MEMORY / 8 } else { IN_MEMORY };
    let text = Bytes::from(vec![7; piece]);
    let (mut wire, mut opened) = (BytesMut::new(), 0);
    let began = Instant::now();
    for _ in 0..total / piece {
        let mut rest = text.clone();
        while rest.has_remaining() {
            sender.seal(&mut rest, &mut wire).unwrap();
            receiver.open(&wire, &mut |bytes| opened += bytes.len()).unwrap();
            wire.clear();
        }
    }
    let elapsed = began.elapsed();
    assert_eq!(opened, total / piece * piece);
    megabytes(opened, elapsed)
}

fn megabytes(bytes: usize, elapsed: Duration) -> f64 {
    f64::from(u32::try_from(bytes).unwrap()) / 1e6 / elapsed.as_secs_f64()
}

fn microseconds(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6 / f64::from(HANDSHAKES)
}
