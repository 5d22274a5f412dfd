//! Clients that try to block other clients or to exhaust the receiver. Other clients must still be served.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nf_transport::limits::{CONTROL_TIMEOUT, NEW_STREAMS_BURST_PER_SOURCE};
use nf_transport_core::framing::{Message, RefusalCode};
use nf_transport_core::secure::{Handshake, SenderHandshake, Suite};
use nf_transport_core::sequence::{Gap, GapReason, Position};
use nf_transport_kit::daemon::Program;
use nf_transport_kit::hostile::{Client, Flood, connect_from, key_of};
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost, write_key};
use nf_transport_kit::link::Link;
use nf_transport_kit::pair::STALL;

use crate::isolation::{alone, shared};
use crate::tls::Site;

/// Round-trip time of a distant sender.
const ROUND_TRIP: Duration = Duration::from_millis(200);

/// Silent connections per second.
const RATE: u32 = 100;

/// Creates a distant sender with the key of `seed`.
fn distant_sender(receiver: SocketAddr, seed: &str) -> (SenderHost, Link) {
    let link = Link::with_round_trip(receiver, ROUND_TRIP);
    let mut sender = SenderHost::new("edge", &link.addr(), QUICK_SENDER);
    sender.use_key(seed);
    (sender, link)
}

/// Opens silent connections from the address of all senders.
fn bare_flood(receiver: SocketAddr) -> Flood {
    let flood = Flood::start(RATE, move |_| TcpStream::connect(receiver));
    flood.wait_for_more(10);
    flood
}

/// Panics unless the sender connected at its first or second attempt. One attempt may be closed before its
/// first bytes are read.
fn assert_connected_soon(sender: &SenderHost) {
    let failures = sender.daemon().count_log(&["not connected"]);
    assert!(failures <= 1, "{}", sender.daemon().log());
}

#[test]
fn silent_connections_do_not_block_a_key() {
    let _running = shared();
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], "");
    receiver.use_key("one");
    receiver.start();
    let (mut sender, _link) = distant_sender(receiver.addr(), "one");
    let flood = bare_flood(receiver.addr());
    sender.start();
    sender.wait_state("connected", STALL);
    flood.wait_for_more(10);
    assert_connected_soon(&sender);
}

#[test]
fn silent_connections_do_not_block_a_certificate() {
    let _running = shared();
    let mut site = Site::new();
    site.give("edge", 2);
    site.receiver.start();
    let link = Link::with_round_trip(site.receiver.addr(), ROUND_TRIP);
    site.sender.set_receiver(Some(link.addr().to_string()));
    let flood = bare_flood(site.receiver.addr());
    site.sender.start();
    site.sender.wait_state("connected", STALL);
    flood.wait_for_more(10);
    assert_connected_soon(&site.sender);
}

/// Opens connections from many addresses that name the key of `seed`, which an observer of a preface knows.
fn naming_flood(receiver: SocketAddr, seed: &'static str) -> Flood {
    let flood = Flood::start(10 * RATE, move |number| {
        let [high, low] = u16::try_from(number % 50_000).unwrap().to_be_bytes();
        let mut tcp = connect_from(Ipv4Addr::new(127, 7, high, low), receiver)?;
        let sender = "edge".parse().unwrap();
        let preface = SenderHandshake::keyed(&sender, &key_of(seed), Suite::ChaCha20Poly1305).take_output();
        tcp.write_all(&preface)?;
        Ok(tcp)
    });
    flood.wait_for_more(100);
    flood
}

#[test]
fn known_senders_connect_during_a_flood() {
    let _running = alone();
    let toml = "[limits]\nunauthenticated = 2\nunauthenticated-per-source = 2\n";
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], toml);
    receiver.use_key("one");
    receiver.start();
    let (mut sender, _link) = distant_sender(receiver.addr(), "one");
    sender.start();
    sender.wait_state("connected", STALL);
    sender.take_daemon().kill();
    assert_eq!(receiver.take_daemon().terminate().code(), Some(0));
    receiver.start();
    let flood = naming_flood(receiver.addr(), "one");
    sender.start();
    sender.wait_state("connected", STALL);
    flood.wait_for_more(100);
    assert_connected_soon(&sender);
}

/// Connections that nf-receiver allows in the test with one key.
const CONNECTIONS: usize = 50;

/// Starts a receiver with few connections and a key per sender, and floods it with one of the keys.
fn flood_by_one_key(connect: impl Fn(SocketAddr, u64) -> std::io::Result<Client> + Send + 'static) {
    let _running = alone();
    let toml = format!(
        "[limits]\nconnections = {CONNECTIONS}\n\
         [[sender]]\nid = \"culprit\"\nkey-file = \"bad\"\n\
         [[sender]]\nid = \"edge\"\nkey-file = \"good\"\n"
    );
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], &toml);
    let toml = ["bad", "good"].iter().fold(toml, |toml, seed| {
        let path = receiver.path(seed);
        write_key(&path, seed);
        toml.replace(&format!("\"{seed}\""), &format!("\"{}\"", path.display()))
    });
    receiver.set_toml(&toml);
    receiver.protect(&[]);
    receiver.start();
    let address = receiver.addr();
    let flood = Flood::start(1000, move |number| connect(address, number));
    flood.wait_for_more(u64::try_from(4 * CONNECTIONS).unwrap());
    let mut sender = SenderHost::new("edge", &address, QUICK_SENDER);
    sender.use_key("good");
    sender.start();
    sender.wait_state("connected", STALL);
    assert_eq!(sender.daemon().count_log(&["too many connections"]), 0, "{}", sender.daemon().log());
    flood.wait_for_more(10);
    let files = receiver.daemon().open_files();
    assert!(files < 200, "nf-receiver has {files} files open");
    receiver.wait_status(STALL, |status| {
        status["refused"].to_string().contains("sender culprit opened more than 4 connections")
    });
}

#[test]
fn one_key_gets_few_connections_before_hello() {
    flood_by_one_key(|address, _| Client::with_key(address, "culprit", "bad"));
}

#[test]
fn one_key_gets_few_connections_after_hello() {
    flood_by_one_key(|address, number| {
        let mut client = Client::with_key(address, "culprit", "bad")?;
        client.hello(1, Duration::from_secs(60))?;
        // Half of the clients send nothing.
        if number % 2 == 0 { Ok(client) } else { Client::with_key(address, "culprit", "bad") }
    });
}

/// Requests the metrics and returns the answer.
fn scrape(metrics: SocketAddr) -> String {
    let mut stream = TcpStream::connect(metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn slow_clients_do_not_delay_a_metrics_request() {
    let _running = shared();
    let toml = "[metrics]\nlisten = \"127.0.0.1:0\"\n";
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], toml);
    receiver.start().wait_for_log(&["metrics", "127.0.0.1:"], STALL);
    let metrics = receiver.daemon().logged_address("metrics");
    let slow: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut tcp = connect_from(Ipv4Addr::new(127, 0, 0, 2), metrics).unwrap();
            tcp.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
            tcp
        })
        .collect();
    let began = Instant::now();
    let answer = scrape(metrics);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(began.elapsed() < CONTROL_TIMEOUT, "answered after {:?}", began.elapsed());
    drop(slow);
}

#[test]
fn idle_control_connections_block_no_command() {
    let _running = shared();
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], "");
    receiver.start();
    let idle: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(receiver.control()).unwrap()).collect();
    assert_eq!(receiver.status()["service"], "nf-receiver");
    let reloaded = Program::Receiver.run(&["reload", "--control", receiver.control().to_str().unwrap()]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    drop(idle);
}

/// Returns the message with which a sender reports these positions as lost.
fn lost(first: u64, end: u64) -> Message {
    Message::Gap(Gap { first: Position(first), end: Position(end), reason: GapReason::SpoolFull })
}

#[test]
fn repeated_loss_reports_are_suppressed() {
    const REPORTS: u64 = 10_000;
    let _running = shared();
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], "");
    receiver.use_key("one");
    receiver.start();
    let mut client = Client::with_key(receiver.addr(), "culprit", "one").unwrap();
    client.hello(1, Duration::from_secs(60)).unwrap();
    (0..REPORTS).for_each(|first| client.send(lost(first, first + 1)).unwrap());
    receiver.wait_status(STALL, |status| status["senders"][0]["gaps"] == REPORTS);
    let began = Instant::now();
    let mut sent = REPORTS;
    while receiver.daemon().count_log(&["culprit lost", "similar message"]) == 0 {
        assert!(began.elapsed() < STALL, "{}", receiver.daemon().log());
        client.send(lost(sent, sent + 1)).unwrap();
        sent += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    let lines = receiver.daemon().logged(&["culprit lost"]);
    let suppressed = |line: &String| {
        let words: Vec<&str> = line.split(['(', ' ']).collect();
        let count = words.windows(2).find(|words| words[1] == "similar").map_or("0", |words| words[0]);
        count.parse::<u64>().unwrap()
    };
    let accounted = lines.iter().map(|line| 1 + suppressed(line)).sum::<u64>();
    assert!(lines.len() <= 3 && accounted > REPORTS, "{lines:#?}");
}

#[test]
fn loss_counts_saturate() {
    let _running = shared();
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], "");
    receiver.use_key("one");
    receiver.start();
    for stream in 1..=2 {
        let mut client = Client::with_key(receiver.addr(), "culprit", "one").unwrap();
        client.hello(stream, Duration::from_secs(60)).unwrap();
        client.send(lost(0, u64::MAX)).unwrap();
        while !matches!(client.receive().unwrap(), Message::Ack(Position(u64::MAX))) {}
        client.close_gracefully();
    }
    let status = receiver.status();
    assert_eq!(status["senders"][0]["gaps"], u64::MAX, "{status}");
}

#[test]
fn certificate_ids_need_a_certificate() {
    let _running = shared();
    let mut site = Site::new();
    site.add_receiver_toml("senders = [\"edge\"]\n");
    site.give("edge", 2);
    site.receiver.use_key("shared");
    site.receiver.protect(&["--plaintext", "--key-file", site.receiver.path("key").to_str().unwrap()]);
    site.receiver.start();
    let address = site.receiver.addr();
    assert!(Client::with_key(address, "edge", "shared").is_err());
    assert!(Client::in_clear_text(address, "edge").is_err());
    site.receiver.daemon().wait_for_log(&["sender edge is accepted with its certificate only"], STALL);
    Client::with_key(address, "other", "shared").unwrap();
    Client::in_clear_text(address, "other").unwrap();
    site.sender.start();
    site.sender.wait_state("connected", STALL);
}

#[test]
fn new_streams_of_one_sender_are_limited() {
    let _running = shared();
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], "");
    receiver.use_key("one");
    receiver.start();
    let address = receiver.addr();
    let refusal = (0..=u8::MAX).find_map(|number| {
        let mut client = Client::with_key(address, "culprit", "one").unwrap();
        client.hello(number, Duration::from_secs(5)).unwrap();
        match client.receive().unwrap() {
            Message::Welcome(_) => {
                client.close_gracefully();
                None
            }
            Message::Refuse(refusal) => Some(refusal),
            other => panic!("the receiver answers {}", other.name()),
        }
    });
    let refusal = refusal.expect("no stream was refused");
    assert_eq!(refusal.code(), RefusalCode::TooManyStreams, "{}", refusal.text());
    let words = "sender culprit began more than 16 new streams";
    receiver.wait_status(STALL, |status| status["refused"].to_string().contains(words));
    receiver.daemon().wait_for_log(&["WARN", words, "keep the spool on a disk"], STALL);
    let files = std::fs::read_dir(receiver.path("state/positions")).unwrap().count();
    assert!(files <= 8, "{files} files");
    let mut sender = SenderHost::new("edge", &address, QUICK_SENDER);
    sender.use_key("one");
    sender.start();
    sender.wait_state("connected", STALL);
}

#[test]
fn new_streams_of_one_address_are_limited() {
    let _running = alone();
    let toml = "[[sender]]\nid = \"edge\"\nkey-file = \"own\"\n";
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], toml);
    let own = receiver.path("own");
    write_key(&own, "own");
    receiver.set_toml(&toml.replace("\"own\"", &format!("\"{}\"", own.display())));
    receiver.use_key("one");
    receiver.start();
    let address = receiver.addr();
    let burst = usize::try_from(NEW_STREAMS_BURST_PER_SOURCE).unwrap();
    let refusal = (0..2 * burst).find_map(|number| {
        let mut client = Client::with_key(address, &format!("culprit-{number}"), "one").unwrap();
        client.hello(1, Duration::from_secs(5)).unwrap();
        match client.receive().unwrap() {
            Message::Welcome(_) => None,
            Message::Refuse(refusal) => Some((number, refusal)),
            other => panic!("the receiver answers {}", other.name()),
        }
    });
    let (began, refusal) = refusal.expect("no stream was refused");
    assert!(began >= burst, "only {began} streams began");
    assert_eq!(refusal.code(), RefusalCode::TooManyStreams, "{}", refusal.text());
    receiver.daemon().wait_for_log(&["WARN", "new streams began at 127.0.0.1"], STALL);
    let mut sender = SenderHost::new("edge", &address, QUICK_SENDER);
    sender.use_key("own");
    sender.start();
    sender.wait_state("connected", STALL);
}
