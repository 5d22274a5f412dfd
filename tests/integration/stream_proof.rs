//! Clients that are accepted, by a shared key or in clear text, and know the id of another sender's stream: they can neither
//! have its queue acknowledged nor block it.

use std::net::Ipv4Addr;
use std::time::Duration;

use nf_transport_core::framing::{Message, RefusalCode};
use nf_transport_core::secure::StreamKey;
use nf_transport_core::sequence::{Gap, GapReason, Position, StreamId};
use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::hostile::Client;
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};

use crate::losses::{gaps, go_on};
use crate::running::shared;

const HEARTBEAT: Duration = Duration::from_secs(5);

/// A position that the victim never reaches.
const FAR: Position = Position(1 << 40);

/// Datagrams of the victim.
const STEP: u64 = 500;

/// A connected pair whose sender has the key of `key`, or speaks clear text.
fn pair(key: Option<&str>) -> Pair {
    let mut pair = Pair::new(2, Pattern::new(MIXED), QUICK_SENDER);
    if let Some(key) = key {
        pair.sender.use_key(key);
        pair.receiver.use_key(key);
    }
    pair.receiver.start();
    pair.sender.start();
    pair.sender.wait_state("connected", STALL);
    pair
}

/// Who is accepted as the victim.
fn client(pair: &Pair, key: Option<&str>) -> Client {
    match key {
        Some(key) => Client::with_key(pair.receiver.addr(), "edge", key).unwrap(),
        None => Client::in_clear_text(pair.receiver.addr(), "edge").unwrap(),
    }
}

/// The id of the victim's stream, as its status shows it.
fn stream_of(pair: &Pair) -> StreamId {
    let text = pair.sender.status()["stream"].as_str().unwrap().to_owned();
    StreamId(u128::from_str_radix(&text, 16).unwrap().to_be_bytes())
}

/// Tries to have everything of `stream` acknowledged, which begins at `first` by its HELLO; panics unless the receiver
/// refuses that.
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
fn a_stream_id_alone_empties_no_queue() {
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
        pair.link.mend();
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
    let pair = pair(Some("one"));
    let mut exporters = pair.exporters();
    for round in 1..=10 {
        attack(&mut client(&pair, Some("one")), stream_of(&pair), FAR);
        exporters = go_on(&pair, exporters, round * 50);
    }
    pair.assert_all_arrive(&exporters, true);
    assert_eq!(pair.sender.daemon().count_log(&["connected to"]), 1, "{}", pair.sender.daemon().log());
}

#[test]
fn a_stream_cannot_be_taken_before_its_sender_comes() {
    let _running = shared();
    let mut pair = pair(Some("one"));
    let stream = stream_of(&pair);
    pair.link.cut();
    // A receiver that knows no stream at all, as after the loss of its state, or another one.
    assert_eq!(pair.receiver.take().terminate().code(), Some(0));
    std::fs::remove_dir_all(pair.receiver.path("state")).unwrap();
    pair.receiver.start();
    attack(&mut client(&pair, Some("one")), stream, FAR);
    pair.link.mend();
    let exporters = go_on(&pair, pair.exporters(), STEP);
    pair.assert_all_arrive(&exporters, true);
    assert!(pair.sender.status()["replaced_stream"].is_null());
}

#[test]
fn a_sender_whose_secret_is_lost_begins_a_new_stream() {
    let _running = shared();
    let mut pair = pair(Some("one"));
    let before = stream_of(&pair);
    let exporters = go_on(&pair, pair.exporters(), STEP);
    pair.collector.wait_for_all(exporters.sent(), STALL);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    pair.link.cut();
    let exporters = go_on(&pair, exporters, 2 * STEP);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == STEP);
    assert_eq!(pair.sender.take().terminate().code(), Some(0));
    std::fs::remove_file(pair.sender.path("spool/stream")).unwrap();
    pair.sender.start();
    let status = pair.sender.status();
    assert_eq!(status["replaced_stream"], before.to_string(), "{status:#}");
    assert_eq!(count(&status, "/possible_repeats"), STEP, "{status:#}");
    pair.link.mend();
    pair.assert_all_arrive(&exporters, true);
    assert_ne!(stream_of(&pair), before);
    assert_conserved(&pair.sender.status());
}

/// Asks as the victim, from `source`, for sessions with streams of its own. Returns how many of them began, and were refused.
fn ask_for_streams(pair: &Pair, source: Ipv4Addr, numbers: std::ops::RangeInclusive<u8>) -> (u32, u32) {
    let (mut began, mut refused) = (0, 0);
    for number in numbers {
        let mut client = Client::with_key_from(source, pair.receiver.addr(), "edge", "one").unwrap();
        client.hello(number, HEARTBEAT).unwrap();
        match client.receive().unwrap() {
            Message::Welcome(_) => began += 1,
            Message::Refuse(refusal) => {
                assert_eq!(refusal.code(), RefusalCode::TooManyStreams, "{}", refusal.text());
                refused += 1;
            }
            other => panic!("the receiver answers {}", other.name()),
        }
    }
    (began, refused)
}

#[test]
fn new_streams_under_its_id_block_no_sender() {
    let _running = shared();
    let pair = pair(Some("one"));
    let exporters = go_on(&pair, pair.exporters(), STEP);
    pair.collector.wait_for_all(exporters.sent(), STALL);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    pair.link.cut();
    let exporters = go_on(&pair, exporters, 2 * STEP);
    let (near, far) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    for (source, numbers) in [(near, 1..=40), (far, 41..=80)] {
        let (began, refused) = ask_for_streams(&pair, source, numbers);
        // Its own stream was a new one of its address.
        assert!(began >= 15 && refused > 0, "{began} began, {refused} were refused");
    }
    let position = pair.receiver.path(&format!("state/positions/edge@{}", stream_of(&pair)));
    assert!(position.exists(), "the position of the victim was forgotten");
    pair.link.mend();
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    // A stream that is refused ends no session of the victim.
    let sessions = || pair.sender.daemon().count_log(&["connected to", " queued"]);
    let before = sessions();
    let (began, _) = ask_for_streams(&pair, near, 81..=120);
    let exporters = go_on(&pair, exporters, 3 * STEP);
    pair.assert_all_arrive(&exporters, true);
    assert!(sessions() - before <= usize::try_from(began).unwrap(), "{}", pair.sender.daemon().log());
    assert_eq!(pair.sender.daemon().count_log(&["new streams"]), 0, "{}", pair.sender.daemon().log());
}
