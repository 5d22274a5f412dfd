//! A man in the middle: no alteration leads to wrong data, and after a reconnect nothing is missing or
//! repeated.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::meddler::{Meddler, Side, Trick};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::shared;

const CIPHERS: [&str; 3] = ["blowfish", "chacha20-poly1305", "aes-256-gcm"];

/// Message of the side that detects an alteration.
const NOTICED: &str = "of the encrypted connection failed authentication";

/// A sender and a receiver with one key and a man in the middle.
struct TamperedLink {
    meddler: Meddler,
    sender: SenderHost,
    receiver: ReceiverHost,
    collector: Collector,
    exporters: Exporters,
}

impl TamperedLink {
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
        let mut setup = Self::new(cipher);
        setup.sender.start();
        setup.sender.wait_state("connected", STALL);
        setup
    }

    /// Panics unless every sent datagram has arrived exactly once and in order.
    fn assert_all_arrived(&self) {
        let report = self.collector.wait_for_all(self.exporters.sent(), STALL);
        report.assert_exact(self.exporters.sent());
        assert_conserved(&self.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
    }
}

#[test]
fn altered_records_end_the_connection() {
    let _running = shared();
    for cipher in CIPHERS {
        for trick in [Trick::Flip, Trick::Drop, Trick::Double, Trick::Swap] {
            let mut setup = TamperedLink::connected(cipher);
            setup.exporters.send(10);
            setup.collector.wait_for(10, STALL);
            setup.meddler.arm(Side::Sender, trick);
            setup.exporters.send(10);
            setup.receiver.daemon().wait_for_log(&["session of", "edge", NOTICED], STALL);
            assert!(setup.meddler.is_played());
            setup.exporters.send(10);
            setup.assert_all_arrived();
        }
    }
}

#[test]
fn altered_acknowledgements_free_nothing() {
    let _running = shared();
    for cipher in CIPHERS {
        for trick in [Trick::Flip, Trick::Drop, Trick::Double, Trick::Swap] {
            let mut setup = TamperedLink::connected(cipher);
            setup.meddler.arm(Side::Receiver, trick);
            setup.exporters.send(10);
            setup.sender.daemon().wait_for_log(&["not connected", NOTICED], STALL);
            assert!(setup.meddler.is_played());
            setup.exporters.send(10);
            setup.assert_all_arrived();
        }
    }
}

#[test]
fn a_cut_inside_a_record_delivers_nothing_of_it() {
    let _running = shared();
    for side in [Side::Sender, Side::Receiver] {
        let mut setup = TamperedLink::connected("aes-256-gcm");
        setup.meddler.arm(side, Trick::Truncate);
        setup.exporters.send(10);
        setup.assert_all_arrived();
        assert!(setup.meddler.is_played());
    }
}

#[test]
fn an_altered_handshake_is_rejected() {
    let _running = shared();
    let at_receiver = |setup: &TamperedLink, words: &str| {
        setup.receiver.daemon().wait_for_log(&["rejected connection from", words], STALL);
    };
    // Another id, another suite and another mode in the preface, then a mode that was not requested in the
    // reply.
    for (side, trick, words) in [
        (Side::Sender, Trick::Set(18, b'x'), "sender xdge"),
        (Side::Sender, Trick::Set(6, 1), "could not prove that it has the key"),
        (Side::Sender, Trick::Set(10, 0xff), "both sides need the same key"),
    ] {
        let mut setup = TamperedLink::new("aes-256-gcm");
        setup.meddler.arm(side, trick);
        setup.sender.start();
        setup.exporters.send(10);
        if trick != Trick::Set(6, 1) {
            at_receiver(&setup, words);
        }
        setup.assert_all_arrived();
        assert!(setup.meddler.is_played());
    }
    let mut setup = TamperedLink::new("aes-256-gcm");
    setup.meddler.arm(Side::Receiver, Trick::Set(5, 0));
    setup.sender.start();
    setup.sender.daemon().wait_for_log(&["not connected", "requested mode 1", "tampered with"], STALL);
    setup.exporters.send(10);
    setup.assert_all_arrived();
}

/// Sends `parts` to the receiver as a sender would, and waits until it closes the connection.
fn replay(receiver: SocketAddr, parts: &[Vec<u8>]) {
    let mut stream = TcpStream::connect(receiver).unwrap();
    stream.set_read_timeout(Some(STALL)).unwrap();
    for part in parts {
        // The receiver may close the connection early.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    drop(stream.read_to_end(&mut Vec::new()));
}

#[test]
fn a_replayed_session_is_rejected() {
    let _running = shared();
    for cipher in CIPHERS {
        let mut setup = TamperedLink::connected(cipher);
        setup.exporters.send(50);
        setup.assert_all_arrived();
        let recorded = setup.meddler.seen(Side::Sender);
        assert!(recorded.len() > 4, "a preface, a message, and records: {}", recorded.len());
        let delivered = count(&setup.receiver.status(), "/senders/0/delivered/datagrams");
        replay(setup.receiver.addr(), &recorded);
        setup.receiver.daemon().wait_for_log(&["rejected connection from", "replayed on the path"], STALL);
        let status = setup.receiver.status();
        assert_eq!(count(&status, "/senders/0/delivered/datagrams"), delivered, "{status:#}");
        assert_eq!(
            status["senders"][0]["state"], "connected",
            "the sender itself is not disturbed: {status:#}"
        );
        setup.exporters.send(10);
        setup.assert_all_arrived();
    }
}
