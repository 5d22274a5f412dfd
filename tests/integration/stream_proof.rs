//! Accepted clients (with a shared key or in clear text) that know the id of another sender's stream. They
//! can neither acknowledge its queue nor block it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use nf_transport::limits::STREAM_ESTABLISHED;
use nf_transport_core::framing::{Message, RefusalCode};
use nf_transport_core::secure::StreamKey;
use nf_transport_core::sequence::{Gap, GapReason, Position, StreamId};
use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::hostile::{Client, Flood};
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::link::Link;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::shared;
use crate::loss_accounting::{gaps, go_on};

const HEARTBEAT: Duration = Duration::from_secs(5);

/// A position that the victim never reaches.
const FAR: Position = Position(1 << 40);

/// Datagrams of the victim.
const STEP: u64 = 500;

/// Starts a connected pair whose sender has the key of `key` or uses clear text.
fn pair(key: Option<&str>) -> Pair {
    pair_with(key, QUICK_SENDER)
}

/// Does the same with a heartbeat so long that a pause of a busy machine does not end the session.
fn pair_of_one_session(key: Option<&str>) -> Pair {
    pair_with(key, &QUICK_SENDER.replacen("200ms", "30s", 1))
}

fn pair_with(key: Option<&str>, toml: &str) -> Pair {
    let mut pair = Pair::new(2, Pattern::new(MIXED), toml);
    if let Some(key) = key {
        pair.sender.use_key(key);
        pair.receiver.use_key(key);
    }
    pair.receiver.start();
    pair.sender.start();
    pair.sender.wait_state("connected", STALL);
    pair
}

/// Connects a client that is accepted as the victim.
fn client(pair: &Pair, key: Option<&str>) -> Client {
    match key {
        Some(key) => Client::with_key(pair.receiver.addr(), "edge", key).unwrap(),
        None => Client::in_clear_text(pair.receiver.addr(), "edge").unwrap(),
    }
}

/// Returns the id of the victim's stream from its status.
fn stream_of(pair: &Pair) -> StreamId {
    let text = pair.sender.status()["stream"].as_str().unwrap().to_owned();
    StreamId(u128::from_str_radix(&text, 16).unwrap().to_be_bytes())
}

/// Tries to acknowledge all of `stream` with a HELLO from position `first`. Panics unless the receiver
/// rejects it.
fn attack(client: &mut Client, stream: StreamId, first: Position) {
    client.claim(stream, &StreamKey::generate().unwrap(), first, HEARTBEAT).unwrap();
    let gap = Gap { first: Position(0), end: Position(2 * FAR.0), reason: GapReason::SpoolFull };
    client.send(Message::Gap(gap)).unwrap();
    let refusal = loop {
        match client.receive().unwrap() {
            Message::Refuse(refusal) => break refusal,
            Message::Ping => {}
            other => panic!("the receiver answers {}", other.name()),
        }
    };
    assert_eq!(refusal.code(), RefusalCode::StreamNotProven, "{}", refusal.text());
}

#[test]
fn a_stream_id_alone_acknowledges_nothing() {
    let _running = shared();
    for key in [Some("one"), None] {
        let pair = pair(key);
        let exporters = go_on(&pair, pair.exporters(), STEP);
        pair.collector.wait_for_all(exporters.sent(), STALL);
        pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
        pair.link.cut();
        let exporters = go_on(&pair, exporters, 2 * STEP);
        pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == STEP);
        for first in [Position(0), FAR] {
            attack(&mut client(&pair, key), stream_of(&pair), first);
        }
        let refused = "did not prove that the stream is its own";
        pair.receiver.wait_status(STALL, |status| status["refused"].to_string().contains(refused));
        pair.link.restore();
        pair.assert_all_arrive(&exporters, true);
        assert_eq!(gaps(&pair.receiver), 0);
        assert!(pair.sender.status()["replaced_stream"].is_null());
        let stream = stream_of(&pair).to_string();
        pair.receiver.daemon().wait_for_log(
            &["WARN", "session of edge at", &stream, "that of the sender at 127.0.0.1:"],
            STALL,
        );
    }
}

#[test]
fn a_stream_id_alone_disturbs_no_session() {
    let _running = shared();
    let pair = pair_of_one_session(Some("one"));
    let mut exporters = pair.exporters();
    for round in 1..=10 {
        attack(&mut client(&pair, Some("one")), stream_of(&pair), FAR);
        exporters = go_on(&pair, exporters, round * 50);
    }
    pair.assert_all_arrive(&exporters, true);
    assert_eq!(pair.sender.daemon().count_log(&["connected to"]), 1, "{}", pair.sender.daemon().log());
}

#[test]
fn an_unknown_stream_cannot_be_claimed() {
    let _running = shared();
    let mut pair = pair(Some("one"));
    let stream = stream_of(&pair);
    pair.link.cut();
    // The receiver has lost its state and knows no stream.
    assert_eq!(pair.receiver.take_daemon().terminate().code(), Some(0));
    std::fs::remove_dir_all(pair.receiver.path("state")).unwrap();
    pair.receiver.start();
    attack(&mut client(&pair, Some("one")), stream, FAR);
    pair.link.restore();
    let exporters = go_on(&pair, pair.exporters(), STEP);
    pair.assert_all_arrive(&exporters, true);
    assert!(pair.sender.status()["replaced_stream"].is_null());
}

#[test]
fn a_lost_secret_starts_a_new_stream() {
    let _running = shared();
    let mut pair = pair(Some("one"));
    let before = stream_of(&pair);
    let exporters = go_on(&pair, pair.exporters(), STEP);
    pair.collector.wait_for_all(exporters.sent(), STALL);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    pair.link.cut();
    let exporters = go_on(&pair, exporters, 2 * STEP);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == STEP);
    assert_eq!(pair.sender.take_daemon().terminate().code(), Some(0));
    std::fs::remove_file(pair.sender.path("spool/stream")).unwrap();
    pair.sender.start();
    let status = pair.sender.status();
    assert_eq!(status["replaced_stream"], before.to_string(), "{status:#}");
    assert_eq!(count(&status, "/possible_repeats"), STEP, "{status:#}");
    pair.link.restore();
    pair.assert_all_arrive(&exporters, true);
    assert_ne!(stream_of(&pair), before);
    assert_conserved(&pair.sender.status());
}

/// Requests sessions as the victim from `source` with other streams. Returns the number of accepted ones and
/// of those rejected with `code`.
fn ask_for_streams(
    pair: &Pair,
    source: Ipv4Addr,
    numbers: std::ops::RangeInclusive<u8>,
    code: RefusalCode,
) -> (u32, u32) {
    let (mut began, mut refused) = (0, 0);
    for number in numbers {
        let mut client = Client::with_key_from(source, pair.receiver.addr(), "edge", "one").unwrap();
        client.hello(number, HEARTBEAT).unwrap();
        match client.receive().unwrap() {
            Message::Welcome(_) => {
                began += 1;
                client.close_gracefully();
            }
            Message::Refuse(refusal) => {
                assert_eq!(refusal.code(), code, "{}", refusal.text());
                refused += 1;
            }
            other => panic!("the receiver answers {}", other.name()),
        }
    }
    (began, refused)
}

/// Cuts the link and waits until nf-receiver has noticed.
fn cut(pair: &Pair) {
    pair.link.cut();
    pair.receiver.wait_status(STALL, |status| status["senders"][0]["state"] == "disconnected");
}

/// Counts the sessions of the victim so far.
fn sessions(pair: &Pair) -> usize {
    pair.sender.daemon().count_log(&["connected to", " queued"])
}

#[test]
fn new_streams_under_its_id_block_no_sender() {
    let _running = shared();
    let pair = pair_of_one_session(Some("one"));
    let exporters = go_on(&pair, pair.exporters(), STEP);
    pair.collector.wait_for_all(exporters.sent(), STALL);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    cut(&pair);
    let exporters = go_on(&pair, exporters, 2 * STEP);
    let (near, far) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    for (source, numbers) in [(near, 1..=40), (far, 41..=80)] {
        let (began, refused) = ask_for_streams(&pair, source, numbers, RefusalCode::TooManyStreams);
        // The victim's own stream counts as a new one of its address.
        assert!(began >= 15 && refused > 0, "{began} began, {refused} were refused");
    }
    let position = pair.receiver.path(&format!("state/positions/edge@{}", stream_of(&pair)));
    assert!(position.exists(), "the position of the victim was forgotten");
    pair.link.restore();
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    let before = sessions(&pair);
    assert_eq!(ask_for_streams(&pair, near, 81..=120, RefusalCode::IdInUse), (0, 40));
    let exporters = go_on(&pair, exporters, 3 * STEP);
    pair.assert_all_arrive(&exporters, true);
    assert_eq!(sessions(&pair), before, "{}", pair.sender.daemon().log());
    assert_eq!(pair.sender.daemon().count_log(&["new streams"]), 0, "{}", pair.sender.daemon().log());
}

#[test]
fn streams_begun_before_it_displace_no_sender() {
    let _running = shared();
    let mut pair = Pair::new(2, Pattern::new(MIXED), QUICK_SENDER);
    pair.sender.use_key("one");
    pair.receiver.use_key("one");
    pair.receiver.start();
    let near = Ipv4Addr::LOCALHOST;
    assert_eq!(ask_for_streams(&pair, near, 1..=8, RefusalCode::IdInUse), (8, 0));
    pair.sender.start();
    let exporters = go_on(&pair, pair.exporters(), STEP);
    pair.collector.wait_for_all(exporters.sent(), STALL);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    cut(&pair);
    let exporters = go_on(&pair, exporters, 2 * STEP);
    assert_eq!(pair.receiver.take_daemon().terminate().code(), Some(0));
    // As if it had been connected for an hour.
    let position = pair.receiver.path(&format!("state/positions/edge@{}", stream_of(&pair)));
    let file = File::options().write(true).open(&position).unwrap();
    file.set_modified(SystemTime::now() + STREAM_ESTABLISHED).unwrap();
    pair.receiver.start();
    let (began, _) = ask_for_streams(&pair, near, 9..=40, RefusalCode::TooManyStreams);
    assert!(began >= 16, "{began} began");
    assert!(position.exists(), "the position of the sender was forgotten");
    pair.link.restore();
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn another_stream_ends_no_session_of_its_id() {
    let _running = shared();
    for key in [Some("one"), None] {
        let pair = pair_of_one_session(key);
        let mut exporters = pair.exporters();
        for number in 1..=100 {
            let mut client = client(&pair, key);
            client.hello(number, HEARTBEAT).unwrap();
            let Message::Refuse(refusal) = client.receive().unwrap() else { panic!("no refusal") };
            assert_eq!(refusal.code(), RefusalCode::IdInUse, "{}", refusal.text());
            for words in
                ["sender edge: its id is in use by another sender, at 127.0.0.1:", "an id of its own"]
            {
                assert!(refusal.text().contains(words), "{}", refusal.text());
            }
            exporters = go_on(&pair, exporters, u64::from(number) * 5);
        }
        pair.assert_all_arrive(&exporters, true);
        assert_eq!(sessions(&pair), 1, "{}", pair.sender.daemon().log());
        let files = std::fs::read_dir(pair.receiver.path("state/positions")).unwrap().count();
        assert_eq!(files, 1, "refused streams left files");
        let status = pair.receiver.status();
        assert_eq!(status["senders"].as_array().map(Vec::len), Some(1), "{status:#}");
        assert_ne!(status["senders"][0]["rival"], status["senders"][0]["peer"], "{status:#}");
        assert!(status["senders"][0]["rival"].is_string(), "{status:#}");
        assert!(status["refused"].to_string().contains("in use by another sender"), "{status:#}");
        let lines = pair.receiver.daemon().count_log(&["WARN", "edge", "in use by another sender"]);
        assert!((1..20).contains(&lines), "{lines} lines");
    }
}

#[test]
fn a_sender_takes_its_place_back_from_a_newcomer() {
    let _running = shared();
    let pair = pair(Some("one"));
    let mut exporters = go_on(&pair, pair.exporters(), STEP);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    for round in 0..5u8 {
        cut(&pair);
        exporters = go_on(&pair, exporters, STEP + (u64::from(round) + 1) * 50);
        let mut newcomer = client(&pair, Some("one"));
        newcomer.hello(round + 1, HEARTBEAT).unwrap();
        assert!(matches!(newcomer.receive().unwrap(), Message::Welcome(_)));
        pair.link.restore();
        let refusal = loop {
            match newcomer.receive().unwrap() {
                Message::Refuse(refusal) => break refusal,
                Message::Ping => {}
                other => panic!("the receiver answers {}", other.name()),
            }
        };
        assert_eq!(refusal.code(), RefusalCode::Superseded, "{}", refusal.text());
        assert!(refusal.text().contains("has known its stream for longer"), "{}", refusal.text());
        pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
        // nf-receiver knows these streams now, but for a shorter time than the victim's.
        let asked = 1..=round + 1;
        let all = u32::from(round) + 1;
        assert_eq!(ask_for_streams(&pair, Ipv4Addr::LOCALHOST, asked, RefusalCode::IdInUse), (0, all));
    }
    pair.assert_all_arrive(&exporters, true);
    assert_eq!(sessions(&pair), 6, "{}", pair.sender.daemon().log());
}

#[test]
fn a_new_spool_follows_a_dead_connection() {
    let _running = shared();
    let heartbeat = QUICK_SENDER.replace("heartbeat = \"200ms\"", "heartbeat = \"1s\"");
    let mut pair = Pair::connected(2, Pattern::new(MIXED), &heartbeat);
    // nf-receiver does not notice that the sender is gone.
    pair.link.freeze();
    pair.sender.take_daemon().kill();
    std::fs::remove_dir_all(pair.sender.path("spool")).unwrap();
    pair.sender.set_receiver(Some(pair.receiver.addr().to_string()));
    let began = Instant::now();
    pair.sender.start();
    pair.sender
        .daemon()
        .wait_for_log(&["rejected by the receiver", "in use by another sender, at 127.0.0.1:"], STALL);
    let exporters = go_on(&pair, pair.exporters(), STEP);
    pair.sender.wait_state("connected", STALL);
    assert!(began.elapsed() < Duration::from_secs(6), "three heartbeats and a retry: {:?}", began.elapsed());
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn a_flood_under_its_id_keeps_no_sender_out() {
    let _running = shared();
    let mut pair = Pair::new(2, Pattern::new(MIXED), QUICK_SENDER);
    pair.sender.use_key("one");
    pair.receiver.use_key("one");
    pair.receiver.start();
    // While it connects, many more than a sender has places do so.
    pair.link = Link::with_round_trip(pair.receiver.addr(), Duration::from_millis(50));
    pair.sender.set_receiver(Some(pair.link.addr().to_string()));
    let (source, target) = (Ipv4Addr::new(127, 0, 0, 2), pair.receiver.addr());
    let flood = Flood::start(200, move |_| Client::with_key_from(source, target, "edge", "one"));
    flood.wait_for_more(50);
    pair.sender.start();
    let mut exporters = pair.exporters();
    for round in 1..=5 {
        pair.sender.wait_state("connected", STALL);
        exporters = go_on(&pair, exporters, round * 50);
        pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
        cut(&pair);
        pair.link.restore();
    }
    pair.assert_all_arrive(&exporters, true);
}
