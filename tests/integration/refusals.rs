//! Senders that are not let in: nothing is delivered, nothing is lost, and both sides say why, until it is mended.

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

use crate::running::{in_a_network, shared};

/// A sender that gets nowhere at first, and the receiver that turns it away.
struct Refusal {
    sender: SenderHost,
    receiver: ReceiverHost,
    collector: Collector,
    exporters: Exporters,
}

impl Refusal {
    /// Starts both as `prepare` sets them up, and sends 50 datagrams.
    fn of(prepare: impl FnOnce(&mut SenderHost, &mut ReceiverHost)) -> Self {
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

    /// Panics unless the sender keeps everything and both sides say why, in these words, without flooding their logs.
    fn assert_refused(&self, at_sender: &str, at_receiver: &str) {
        let status = self.sender.wait_status(STALL, |status| {
            status["state"] == "refused" && count(status, "/queued/datagrams") == 50
        });
        assert_conserved(&status);
        let reason = status["reason"].as_str().unwrap();
        assert!(reason.contains(at_sender), "{status:#}");
        // The sender tries again every 200 ms: after as many refusals a flood would show.
        let status = self.receiver.wait_status(STALL, |status| count(status, "/refusals") >= 10);
        assert!(status["refused"][0]["reason"].as_str().unwrap().contains(at_receiver), "{status:#}");
        assert_eq!(status["refused"][0]["peer"], "127.0.0.1");
        let told = [
            self.receiver.daemon().count_log(&["rejected connection from", at_receiver]),
            self.sender.daemon().count_log(&["not connected", at_sender]),
        ];
        assert!(told.iter().all(|lines| (1..=2).contains(lines)), "{told:?}\n{}", self.sender.daemon().log());
        assert_eq!(self.collector.arrived(), 0);
    }

    /// Panics unless all arrives now, once and in order, and what comes later too.
    fn assert_mended(mut self) {
        self.exporters.send(50);
        let report = self.collector.wait_for_all(self.exporters.sent(), STALL);
        report.assert_exact(self.exporters.sent());
        assert_conserved(&self.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
    }
}

#[test]
fn with_another_key_everything_is_kept_until_the_senders_key_is_corrected() {
    let _running = shared();
    let refusal = Refusal::of(|sender, receiver| {
        sender.use_key("one");
        receiver.use_key("two");
    });
    refusal.assert_refused("does not know this sender's key", "sender edge uses key");
    write_key(&refusal.sender.path("key"), "two");
    refusal.sender.daemon().reload();
    refusal.assert_mended();
}

#[test]
fn with_another_key_everything_is_kept_until_the_receivers_key_is_corrected() {
    let _running = shared();
    let refusal = Refusal::of(|sender, receiver| {
        sender.use_key("one");
        receiver.use_key("two");
    });
    refusal.assert_refused("both sides need the same key", "both sides need the same key");
    write_key(&refusal.receiver.path("key"), "one");
    refusal.receiver.daemon().reload();
    refusal.assert_mended();
}

#[test]
fn the_shared_key_does_not_open_the_door_of_a_sender_with_a_key_of_its_own() {
    let _running = shared();
    let mut refusal = Refusal::of(|sender, receiver| {
        sender.use_key("shared");
        receiver.use_key("shared");
        let own = receiver.path("own");
        write_key(&own, "own");
        receiver.set_toml(&format!("[[sender]]\nid = \"edge\"\nkey-file = \"{}\"\n", own.display()));
    });
    refusal.assert_refused("does not know this sender's key", "the key of edge here is");
    refusal.receiver.set_toml("");
    refusal.receiver.daemon().reload();
    refusal.assert_mended();
}

#[test]
fn a_sender_in_clear_text_is_told_that_a_key_is_needed() {
    let _running = shared();
    let refusal = Refusal::of(|sender, receiver| {
        receiver.use_key("one");
        sender.protect(&[]);
        write_key(&sender.path("later"), "one");
    });
    refusal.assert_refused("accepts no clear text from here", "sender edge uses clear text");
    let mut refusal = refusal;
    let file = refusal.sender.path("later");
    refusal.sender.set_toml(&format!("key-file = \"{}\"\n{QUICK_SENDER}", file.display()));
    refusal.sender.daemon().reload();
    refusal.assert_mended();
}

#[test]
fn a_receiver_without_a_key_says_so_to_a_sender_with_one() {
    let _running = shared();
    let mut refusal = Refusal::of(|sender, receiver| {
        sender.use_key("one");
        receiver.protect(&[]);
    });
    refusal.assert_refused("uses a key and the receiver has none", "this receiver has none");
    let file = refusal.receiver.path("later");
    write_key(&file, "one");
    refusal.receiver.set_toml(&format!("key-file = \"{}\"\n", file.display()));
    refusal.receiver.daemon().reload();
    refusal.assert_mended();
}

#[test]
fn a_cipher_that_the_receiver_does_not_allow_is_refused_with_those_it_does() {
    let _running = shared();
    let mut refusal = Refusal::of(|sender, receiver| {
        sender.use_key("one");
        receiver.use_key("one");
        receiver.set_toml("ciphers = [\"aes-256-gcm\"]\n");
    });
    refusal.assert_refused(
        "does not allow this sender's cipher",
        "the cipher blowfish, which 'ciphers' does not allow; allowed: aes-256-gcm",
    );
    refusal.sender.set_toml(&format!("cipher = \"aes-256-gcm\"\n{QUICK_SENDER}"));
    refusal.sender.daemon().reload();
    assert_eq!(refusal.sender.wait_state("connected", STALL)["cipher"], "aes-256-gcm");
    refusal.assert_mended();
}

/// Something that is no receiver: answers whoever connects with these bytes, and hangs up.
fn impostor(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The sender may have hung up already.
            drop(stream.read(&mut [0; 200]).and_then(|_| stream.write_all(answer)));
        }
    });
    addr
}

#[test]
fn what_is_no_receiver_is_named_by_what_it_speaks_and_nothing_is_lost() {
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
        let told = |status: &serde_json::Value| {
            status["reason"].as_str().is_some_and(|reason| reason.contains(words))
        };
        let status =
            sender.wait_status(STALL, |status| told(status) && count(status, "/queued/datagrams") == 5);
        assert_conserved(&status);
        sender.daemon().wait_for_log(&["not connected", words], STALL);
    }
}

#[test]
fn a_key_is_changed_on_both_sides_under_load_without_a_loss_or_a_repeat() {
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
fn who_is_taken_off_the_list_is_told_and_nobody_else_is_disturbed() {
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
    goes.daemon().wait_for_log(&["the receiver refuses", "no longer accepted"], STALL);
    receiver.daemon().wait_for_log(&["session of", "goes", "no longer accepted"], STALL);
    let mut exporters = Exporters::new(0..1, stays.udp().addr(), pattern);
    exporters.send(20);
    collector.wait_for(20, STALL);
    assert_eq!(stays.daemon().count_log(&["connected to"]), 1, "{}", stays.daemon().log());
}

#[test]
fn a_reload_of_settings_that_are_wrong_is_refused_and_said_and_nothing_changes() {
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
fn without_a_key_nothing_goes_to_other_machines_and_the_sender_says_what_to_do() {
    let _running = shared();
    // An address for documentation: nobody answers there, and nobody is asked (RFC 5737).
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
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains(&format!("chmod 600 {}", key.display())), "{told}");
}

const INSIDE: &str = "refusals::inside_a_network_where_the_sender_has_the_address_of_another_machine";

#[test]
fn a_receiver_without_a_key_serves_this_machine_only_and_says_what_to_do() {
    let _running = shared();
    in_a_network("ip link set lo up; ip addr add 192.0.2.1/32 dev lo", INSIDE);
}

#[test]
#[ignore = "runs in a network namespace that the other test makes"]
fn inside_a_network_where_the_sender_has_the_address_of_another_machine() {
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
