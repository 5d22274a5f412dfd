//! Rejected senders: nothing is delivered, nothing is lost, and both daemons report the reason until the
//! cause is fixed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::daemon::Program;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost, write_key};
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::{in_a_network, shared};

/// A rejected sender and its receiver.
struct RejectedSender {
    sender: SenderHost,
    receiver: ReceiverHost,
    collector: Collector,
    exporters: Exporters,
}

impl RejectedSender {
    /// Starts both daemons after `prepare` has configured them, and sends 50 datagrams.
    fn start(prepare: impl FnOnce(&mut SenderHost, &mut ReceiverHost)) -> Self {
        let pattern = Pattern::new(MIXED);
        let collector = Collector::start(1, pattern);
        let mut receiver = ReceiverHost::new(&[collector.addr()], "");
        let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
        prepare(&mut sender, &mut receiver);
        receiver.start();
        sender.start();
        let mut exporters = sender.exporters(1, pattern);
        exporters.send(50);
        Self { sender, receiver, collector, exporters }
    }

    /// Panics unless the sender keeps all datagrams and both daemons report these reasons without flooding
    /// their logs.
    fn assert_rejected(&self, at_sender: &str, at_receiver: &str) {
        let status = self.sender.wait_status(STALL, |status| {
            status["state"] == "refused" && count(status, "/queued/datagrams") == 50
        });
        assert_conserved(&status);
        let reason = status["reason"].as_str().unwrap();
        assert!(reason.contains(at_sender), "{status:#}");
        // The sender retries every 200 ms, so after ten rejections a flood would be visible.
        let status = self.receiver.wait_status(STALL, |status| count(status, "/refusals") >= 10);
        assert!(status["refused"][0]["reason"].as_str().unwrap().contains(at_receiver), "{status:#}");
        assert_eq!(status["refused"][0]["peer"], "127.0.0.1");
        let lines = [
            self.receiver.daemon().count_log(&["rejected connection from", at_receiver]),
            self.sender.daemon().count_log(&["not connected", at_sender]),
        ];
        assert!(
            lines.iter().all(|count| (1..=2).contains(count)),
            "{lines:?}\n{}",
            self.sender.daemon().log()
        );
        assert_eq!(self.collector.arrived(), 0);
    }

    /// Panics unless all datagrams, old and new, arrive exactly once and in order.
    fn assert_recovers(mut self) {
        self.exporters.send(50);
        let report = self.collector.wait_for_all(self.exporters.sent(), STALL);
        report.assert_exact(self.exporters.sent());
        assert_conserved(&self.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
    }
}

#[test]
fn a_wrong_key_of_the_sender_loses_nothing() {
    let _running = shared();
    let rejected = RejectedSender::start(|sender, receiver| {
        sender.use_key("one");
        receiver.use_key("two");
    });
    rejected.assert_rejected("does not know this sender's key", "sender edge uses key");
    write_key(&rejected.sender.path("key"), "two");
    rejected.sender.daemon().reload();
    rejected.assert_recovers();
}

#[test]
fn a_wrong_key_of_the_receiver_loses_nothing() {
    let _running = shared();
    let rejected = RejectedSender::start(|sender, receiver| {
        sender.use_key("one");
        receiver.use_key("two");
    });
    rejected.assert_rejected("both sides need the same key", "both sides need the same key");
    write_key(&rejected.receiver.path("key"), "one");
    rejected.receiver.daemon().reload();
    rejected.assert_recovers();
}

#[test]
fn the_shared_key_is_rejected_for_a_keyed_sender() {
    let _running = shared();
    let mut rejected = RejectedSender::start(|sender, receiver| {
        sender.use_key("shared");
        receiver.use_key("shared");
        let own = receiver.path("own");
        write_key(&own, "own");
        receiver.set_toml(&format!("[[sender]]\nid = \"edge\"\nkey-file = \"{}\"\n", own.display()));
    });
    rejected.assert_rejected("does not know this sender's key", "the key of edge here is");
    rejected.receiver.set_toml("");
    rejected.receiver.daemon().reload();
    rejected.assert_recovers();
}

#[test]
fn a_sender_in_clear_text_is_asked_for_a_key() {
    let _running = shared();
    let rejected = RejectedSender::start(|sender, receiver| {
        receiver.use_key("one");
        sender.protect(&[]);
        write_key(&sender.path("later"), "one");
    });
    rejected.assert_rejected("accepts no clear text from here", "sender edge uses clear text");
    let mut rejected = rejected;
    let file = rejected.sender.path("later");
    rejected.sender.set_toml(&format!("key-file = \"{}\"\n{QUICK_SENDER}", file.display()));
    rejected.sender.daemon().reload();
    rejected.assert_recovers();
}

#[test]
fn a_receiver_without_a_key_rejects_a_keyed_one() {
    let _running = shared();
    let mut rejected = RejectedSender::start(|sender, receiver| {
        sender.use_key("one");
        receiver.protect(&[]);
    });
    rejected.assert_rejected("uses a key and the receiver has none", "this receiver has none");
    let file = rejected.receiver.path("later");
    write_key(&file, "one");
    rejected.receiver.set_toml(&format!("key-file = \"{}\"\n", file.display()));
    rejected.receiver.daemon().reload();
    rejected.assert_recovers();
}

#[test]
fn a_rejected_cipher_lists_the_allowed_ones() {
    let _running = shared();
    let mut rejected = RejectedSender::start(|sender, receiver| {
        sender.use_key("one");
        receiver.use_key("one");
        receiver.set_toml("ciphers = [\"aes-256-gcm\"]\n");
    });
    rejected.assert_rejected(
        "does not allow this sender's cipher",
        "the cipher blowfish, which 'ciphers' does not allow; allowed: aes-256-gcm",
    );
    rejected.sender.set_toml(&format!("cipher = \"aes-256-gcm\"\n{QUICK_SENDER}"));
    rejected.sender.daemon().reload();
    assert_eq!(rejected.sender.wait_state("connected", STALL)["cipher"], "aes-256-gcm");
    rejected.assert_recovers();
}

/// Starts a server that is no receiver: it answers each connection with these bytes and closes it.
fn impostor(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The sender may have closed the connection already.
            drop(stream.read(&mut [0; 200]).and_then(|_| stream.write_all(answer)));
        }
    });
    addr
}

#[test]
fn other_services_are_named_by_their_protocol() {
    let _running = shared();
    for (answer, words) in [
        (b"\x15\x03\x03\x00\x02\x02\x16".as_slice(), "uses TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "uses HTTP"),
        (b"220 mail.example.net ESMTP\r\n", "unknown protocol"),
    ] {
        let mut sender = SenderHost::new("edge", &impostor(answer), QUICK_SENDER);
        sender.use_key("one");
        sender.start();
        sender.exporters(1, Pattern::new(MIXED)).send(5);
        let is_reported = |status: &serde_json::Value| {
            status["reason"].as_str().is_some_and(|reason| reason.contains(words))
        };
        let status = sender
            .wait_status(STALL, |status| is_reported(status) && count(status, "/queued/datagrams") == 5);
        assert_conserved(&status);
        sender.daemon().wait_for_log(&["not connected", words], STALL);
    }
}

#[test]
fn a_key_change_under_load_loses_nothing() {
    let _running = shared();
    let mut pair = Pair::new(4, Pattern::new(MIXED), QUICK_SENDER);
    let sender_key = pair.sender.use_key("old");
    let receiver_key = pair.receiver.use_key("old");
    pair.receiver.start();
    pair.sender.start();
    pair.sender.wait_state("connected", STALL);
    let load = pair.load(Some(2000), Until::Stopped);
    let before = pair.link.connections();

    let previous = pair.receiver.path("previous");
    write_key(&previous, "old");
    write_key(&receiver_key, "new");
    pair.receiver.set_toml(&format!("previous-key-file = \"{}\"\n", previous.display()));
    pair.receiver.daemon().reload();
    pair.sender.wait_state("connected", STALL);
    assert_eq!(pair.link.connections(), before, "the old key is let in still");

    write_key(&sender_key, "new");
    pair.sender.daemon().reload();
    pair.sender
        .wait_status(STALL, |status| status["state"] == "connected" && pair.link.connections() > before);
    pair.receiver.set_toml("");
    pair.receiver.daemon().reload();
    assert_eq!(pair.link.connections(), before + 1);
    let exporters = load.stop();
    pair.assert_all_arrive(&exporters, true);
    assert_eq!(pair.receiver.daemon().count_log(&["rejected connection from"]), 0);
}

#[test]
fn a_removed_sender_is_rejected_alone() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(2, pattern);
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.protect(&[]);
    let table = |host: &ReceiverHost, id: &str| {
        write_key(&host.path(id), id);
        format!("[[sender]]\nid = \"{id}\"\nkey-file = \"{}\"\n", host.path(id).display())
    };
    receiver.set_toml(&table(&receiver, "stays"));
    receiver.start();
    let start = |id: &str| {
        let mut sender = SenderHost::new(id, &receiver.addr(), QUICK_SENDER);
        sender.use_key(id);
        sender.start();
        sender
    };
    let (stays, goes) = (start("stays"), start("goes"));
    stays.wait_state("connected", STALL);
    goes.wait_state("refused", STALL);
    let both = [table(&receiver, "stays"), table(&receiver, "goes")].concat();
    receiver.set_toml(&both);
    receiver.daemon().reload();
    goes.wait_state("connected", STALL);
    receiver.set_toml(&table(&receiver, "stays"));
    receiver.daemon().reload();
    goes.daemon().wait_for_log(&["rejected by the receiver", "no longer accepted"], STALL);
    receiver.daemon().wait_for_log(&["session of", "goes", "no longer accepted"], STALL);
    let mut exporters = Exporters::new(0..1, stays.udp().addr(), pattern);
    exporters.send(20);
    collector.wait_for(20, STALL);
    assert_eq!(stays.daemon().count_log(&["connected to"]), 1, "{}", stays.daemon().log());
}

#[test]
fn a_reload_of_invalid_settings_changes_nothing() {
    let _running = shared();
    let mut pair = Pair::new(1, Pattern::new(MIXED), QUICK_SENDER);
    pair.sender.use_key("one");
    pair.receiver.use_key("one");
    pair.receiver.start();
    pair.sender.start();
    pair.sender.wait_state("connected", STALL);
    pair.sender.set_toml("colour = 1\n");
    pair.receiver.set_toml("ciphers = [\"rot13\"]\n");
    for (daemon, words) in [(pair.sender.daemon(), "colour"), (pair.receiver.daemon(), "rot13")] {
        daemon.reload();
        daemon.wait_for_log(&["not reloaded, everything stays as it was", words], STALL);
    }
    let mut exporters = pair.exporters();
    exporters.send(20);
    pair.assert_all_arrive(&exporters, true);
    assert_eq!(pair.link.connections(), 1);
}

#[test]
fn a_sender_without_a_key_stays_on_its_machine() {
    let _running = shared();
    // An address for documentation (RFC 5737), where nothing answers.
    let mut sender = SenderHost::new("edge", &"192.0.2.1:2055", QUICK_SENDER);
    sender.protect(&[]);
    sender.start();
    let status = sender.wait_state("refused", Duration::from_secs(5));
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("nf-sender join TOKEN") && reason.contains("--plaintext"), "{reason}");
    let key = sender.path("0644");
    std::fs::write(&key, "0".repeat(64)).unwrap();
    let output = Program::Sender.run(&[
        "-l",
        "127.0.0.1:0",
        "--key-file",
        key.to_str().unwrap(),
        "--spool",
        "/dev/null/x",
    ]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{message}");
    assert!(message.contains(&format!("chmod 600 {}", key.display())), "{message}");
}

const INSIDE: &str = "rejected_senders::inside_a_sender_with_another_address";

#[test]
fn a_receiver_without_a_key_stays_on_its_machine() {
    let _running = shared();
    in_a_network("ip link set lo up; ip addr add 192.0.2.1/32 dev lo", INSIDE);
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_sender_with_another_address() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.protect(&[]);
    receiver.listen_on("192.0.2.1:0");
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    sender.start();
    let mut exporters = sender.exporters(1, Pattern::new(MIXED));
    exporters.send(20);
    let status = sender.wait_state("refused", STALL);
    assert!(
        status["reason"].as_str().unwrap().contains("invite this sender there and join it here"),
        "{status:#}"
    );
    let refused = receiver.wait_status(STALL, |status| count(status, "/refusals") > 0)["refused"][0].clone();
    assert_eq!(refused["peer"], "192.0.2.1");
    assert!(refused["reason"].as_str().unwrap().contains("nf-receiver invite edge"), "{refused:#}");
    assert_eq!(collector.arrived(), 0);
}
