//! Cost of the channel: throughput in clear text and with each suite, and the cost of a successful and of a
//! rejected handshake. The kinds alternate within one run; the output shows medians.
//!
//! `NF_BENCH_TURNS` sets the number of rounds.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot continue ends there and prints the reason"
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

/// Default number of rounds.
const ROUNDS: usize = 7;

/// Bytes per round: sealed and opened in memory, and sent over TCP.
const IN_MEMORY: usize = 64 << 20;
const OVER_TCP: usize = 128 << 20;

/// Sizes of the pieces in bytes: a full batch and a lone datagram.
const PIECES: [usize; 2] = [64 * 1024, 1400];

/// Handshakes per round.
const HANDSHAKES: u32 = 200;

/// Clear text, then each suite.
const KINDS: [Option<Suite>; 4] =
    [None, Some(Suite::Blowfish), Some(Suite::ChaCha20Poly1305), Some(Suite::Aes256Gcm)];

fn main() {
    let rounds =
        std::env::var("NF_BENCH_TURNS").map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    let sides = Sides::new();
    println!("the channel, medians of {rounds} rounds\n");
    println!(
        "{:<20} {:>14} {:>14} {:>14} {:>12} {:>12}",
        "MB/s", "64 KiB", "1,400 B", "TCP (ratio)", "handshake", "wrong key"
    );
    let mut measured: Vec<SuiteFigures> = KINDS.iter().map(|_| SuiteFigures::default()).collect();
    for _ in 0..rounds {
        for (kind, row) in KINDS.into_iter().zip(&mut measured) {
            row.measure(&sides, kind);
        }
    }
    let medians: Vec<[f64; 5]> = measured.into_iter().map(SuiteFigures::medians).collect();
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
        "\nin memory: one core seals and opens; TCP: over loopback with a thread per side; \
         handshake: both sides together"
    );
    println!("in memory; wrong key: time that a receiver spends to reject one handshake");
}

/// Figures of one kind by round: rates in MB/s, costs in microseconds.
#[derive(Default)]
struct SuiteFigures([Vec<f64>; 5]);

impl SuiteFigures {
    fn measure(&mut self, sides: &Sides, kind: Option<Suite>) {
        for (column, piece) in PIECES.into_iter().enumerate() {
            self.0[column].push(in_memory(sides, kind, piece));
        }
        self.0[2].push(sides.over_tcp(kind));
        self.0[3].push(kind.map_or(0.0, |suite| sides.handshake_cost(suite)));
        self.0[4].push(kind.map_or(0.0, |suite| sides.rejection_cost(suite)));
    }

    fn medians(self) -> [f64; 5] {
        self.0.map(|mut values| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        })
    }
}

/// A receiver that accepts clear text and one key, and a sender with that key.
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

    /// Returns both ends of a channel.
    fn connected(&self, kind: Option<Suite>) -> (Channel, Channel) {
        let (mut sender, mut receiver) = (self.sender(kind), self.receiver());
        while sender.wanted() + receiver.wanted() > 0 {
            pass(&mut sender, &mut receiver);
            pass(&mut receiver, &mut sender);
        }
        (sender.finish().unwrap(), receiver.finish().unwrap().channel)
    }

    /// Returns the microseconds of one handshake, both sides together.
    fn handshake_cost(&self, suite: Suite) -> f64 {
        let began = Instant::now();
        for _ in 0..HANDSHAKES {
            self.connected(Some(suite));
        }
        microseconds(began.elapsed())
    }

    /// Returns the microseconds that a receiver spends to reject a sender with another key.
    fn rejection_cost(&self, suite: Suite) -> f64 {
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

    /// Returns the rate in MB/s from one thread to another over loopback.
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

/// Passes the output of `from` to `to`.
fn pass(from: &mut impl Handshake, to: &mut impl Handshake) {
    let output = from.take_output();
    feed(to, &output);
}

/// Passes `bytes` in pieces of the wanted size.
fn feed(to: &mut impl Handshake, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(to.wanted().min(bytes.len()));
        assert!(!now.is_empty() && to.handle_bytes(now).is_ok(), "the handshake failed");
        bytes = later;
    }
}

/// Returns the rate in MB/s of a channel that seals and opens pieces of this size.
fn in_memory(sides: &Sides, kind: Option<Suite>, piece: usize) -> f64 {
    let (mut sender, mut receiver) = sides.connected(kind);
    // Blowfish is slow, so it gets fewer bytes to keep the rounds equally long.
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
