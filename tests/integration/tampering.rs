//! A man in the middle: whatever he does to a connection, nothing wrong is delivered, and after a reconnect nothing is
//! missing or repeated.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::meddler::{Meddler, Side, Trick};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::{assert_conserved, count};

use crate::running::shared;

const CIPHERS: [&str; 3] = ["blowfish", "chacha20-poly1305", "aes-256-gcm"];

/// What the side that notices says.
const NOTICED: &str = "of the encrypted connection failed authentication";

/// A sender and a receiver with one key and somebody between them.
struct Field {
    meddler: Meddler,
    sender: SenderHost,
    receiver: ReceiverHost,
    collector: Collector,
    exporters: Exporters,
}

impl Field {
    fn new(cipher: &str) -> Self {
        let pattern = Pattern::new(MIXED);
        let collector = Collector::start(1, pattern);
        let mut receiver = ReceiverHost::new(&[collector.addr()], "");
        receiver.use_key("one");
        receiver.start();
        let meddler = Meddler::before(receiver.addr());
        let mut sender =
            SenderHost::new("edge", &meddler.addr(), &format!("cipher = \"{cipher}\"\n{QUICK_SENDER}"));
        sender.use_key("one");
        let exporters = sender.exporters(1, pattern);
        Self { meddler, sender, receiver, collector, exporters }
    }

    fn connected(cipher: &str) -> Self {
        let mut field = Self::new(cipher);
        field.sender.start();
        field.sender.wait_state("connected", STALL);
        field
    }

    /// Panics unless all that was sent has arrived, exactly once and in order.
    fn assert_all_arrived(&self) {
        let report = self.collector.wait_for_all(self.exporters.sent(), STALL);
        report.assert_exact(self.exporters.sent());
        assert_conserved(&self.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
    }
}

#[test]
fn records_of_the_sender_that_are_changed_dropped_doubled_or_swapped_end_the_connection_and_cost_nothing() {
    let _running = shared();
    for cipher in CIPHERS {
        for trick in [Trick::Flip, Trick::Drop, Trick::Double, Trick::Swap] {
            let mut field = Field::connected(cipher);
            field.exporters.send(10);
            field.collector.wait_for(10, STALL);
            field.meddler.arm(Side::Sender, trick);
            field.exporters.send(10);
            field.receiver.daemon().wait_for_log(&["session of", "edge", NOTICED], STALL);
            assert!(field.meddler.is_played());
            field.exporters.send(10);
            field.assert_all_arrived();
        }
    }
}

#[test]
fn acknowledgements_that_are_changed_or_repeated_free_nothing_and_end_the_connection() {
    let _running = shared();
    for cipher in CIPHERS {
        for trick in [Trick::Flip, Trick::Drop, Trick::Double, Trick::Swap] {
            let mut field = Field::connected(cipher);
            field.meddler.arm(Side::Receiver, trick);
            field.exporters.send(10);
            field.sender.daemon().wait_for_log(&["not connected", NOTICED], STALL);
            assert!(field.meddler.is_played());
            field.exporters.send(10);
            field.assert_all_arrived();
        }
    }
}

#[test]
fn a_connection_that_is_cut_inside_a_record_delivers_nothing_of_it_and_goes_on_with_the_next() {
    let _running = shared();
    for side in [Side::Sender, Side::Receiver] {
        let mut field = Field::connected("aes-256-gcm");
        field.meddler.arm(side, Trick::Truncate);
        field.exporters.send(10);
        field.assert_all_arrived();
        assert!(field.meddler.is_played());
    }
}

#[test]
fn a_handshake_that_is_changed_anywhere_lets_nobody_in_and_the_next_one_does() {
    let _running = shared();
    let at_receiver = |field: &Field, words: &str| {
        field.receiver.daemon().wait_for_log(&["rejected connection from", words], STALL);
    };
    // Another id, another suite, another mode, in the preface; then the same mode in a reply that is for none.
    for (side, trick, words) in [
        (Side::Sender, Trick::Set(18, b'x'), "sender xdge"),
        (Side::Sender, Trick::Set(6, 1), "could not prove that it has the key"),
        (Side::Sender, Trick::Set(10, 0xff), "both sides need the same key"),
    ] {
        let mut field = Field::new("aes-256-gcm");
        field.meddler.arm(side, trick);
        field.sender.start();
        field.exporters.send(10);
        if trick != Trick::Set(6, 1) {
            at_receiver(&field, words);
        }
        field.assert_all_arrived();
        assert!(field.meddler.is_played());
    }
    let mut field = Field::new("aes-256-gcm");
    field.meddler.arm(Side::Receiver, Trick::Set(5, 0));
    field.sender.start();
    field.sender.daemon().wait_for_log(&["not connected", "requested mode 1", "tampered with"], STALL);
    field.exporters.send(10);
    field.assert_all_arrived();
}

/// Says `parts` to the receiver as a sender would, and waits until it hangs up.
fn play_back(receiver: SocketAddr, parts: &[Vec<u8>]) {
    let mut stream = TcpStream::connect(receiver).unwrap();
    stream.set_read_timeout(Some(STALL)).unwrap();
    for part in parts {
        // It may hang up before all is said.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    drop(stream.read_to_end(&mut Vec::new()));
}

#[test]
fn a_recorded_session_is_worth_nothing() {
    let _running = shared();
    for cipher in CIPHERS {
        let mut field = Field::connected(cipher);
        field.exporters.send(50);
        field.assert_all_arrived();
        let recorded = field.meddler.heard(Side::Sender);
        assert!(recorded.len() > 4, "a preface, a message, and records: {}", recorded.len());
        let delivered = count(&field.receiver.status(), "/senders/0/delivered/datagrams");
        play_back(field.receiver.addr(), &recorded);
        field.receiver.daemon().wait_for_log(&["rejected connection from", "repeated the handshake"], STALL);
        let status = field.receiver.status();
        assert_eq!(count(&status, "/senders/0/delivered/datagrams"), delivered, "{status:#}");
        assert_eq!(
            status["senders"][0]["state"], "connected",
            "the sender itself is not disturbed: {status:#}"
        );
        field.exporters.send(10);
        field.assert_all_arrived();
    }
}
