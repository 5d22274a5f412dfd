//! Mutual TLS between the real daemons: certificates instead of keys.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::daemon::Program;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost, write_secret};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::{assert_conserved, count};
use nf_transport_kit::wall_clock::WallClock;
use nf_transport_pki::{Authority, Issued};

use crate::isolation::shared;

const DAY: Duration = Duration::from_secs(86_400);

/// A sender, a receiver, and an authority that both trust.
pub(crate) struct Site {
    pub(crate) authority: Authority,
    pub(crate) sender: SenderHost,
    pub(crate) receiver: ReceiverHost,
    collector: Collector,
    pattern: Pattern,
}

impl Site {
    /// Creates both machines without starting a daemon. The receiver's certificate expires in four and a half
    /// days.
    pub(crate) fn new() -> Self {
        let pattern = Pattern::new(MIXED);
        let collector = Collector::start(1, pattern);
        let authority = Authority::new("authority");
        let mut receiver = ReceiverHost::new(&[collector.addr()], "");
        let mut sender = SenderHost::new("anything", &receiver.addr(), QUICK_SENDER);
        sender.protect(&[]);
        receiver.protect(&[]);
        let files = |directory: &dyn Fn(&str) -> std::path::PathBuf| {
            let line = |key, file: &str| format!("{key} = \"{}\"\n", directory(file).display());
            format!(
                "[tls]\n{}{}{}",
                line("authority", "ca"),
                line("certificate", "certificate"),
                line("key", "private")
            )
        };
        let sender_tls = files(&|name| sender.path(name)) + "server-name = \"collector.example.net\"\n";
        sender.set_toml(&format!("{QUICK_SENDER}{sender_tls}"));
        let revoked = format!("revoked = [\"{}\"]\n", receiver.path("crl").display());
        let metrics = "[metrics]\nlisten = \"127.0.0.1:0\"\n";
        receiver.set_toml(&format!("{metrics}{}{revoked}", files(&|name| receiver.path(name))));
        let site = Self { authority, sender, receiver, collector, pattern };
        let own = site.authority.issue("collector.example.net", 1, SystemTime::now() + 4 * DAY + DAY / 2);
        for (name, text) in
            [("certificate", &own.certificate), ("private", &own.key), ("ca", &site.authority.pem)]
        {
            write_secret(&site.receiver.path(name), text);
        }
        write_secret(&site.sender.path("ca"), &site.authority.pem);
        site.revoke(&[]);
        site
    }

    /// Adds lines to the receiver's table `[tls]`.
    pub(crate) fn add_receiver_toml(&mut self, lines: &str) {
        let toml = std::fs::read_to_string(self.receiver.path("nf-receiver.toml")).unwrap();
        self.receiver.set_toml(&(toml + lines));
    }

    fn revoke(&self, issued: &[&Issued]) {
        write_secret(&self.receiver.path("crl"), &self.authority.revoke(issued));
    }

    /// Installs a certificate with this name at the sender.
    pub(crate) fn give(&self, name: &str, serial: u64) -> Issued {
        let issued = self.authority.issue(name, serial, SystemTime::now() + 300 * DAY);
        write_secret(&self.sender.path("certificate"), &issued.certificate);
        write_secret(&self.sender.path("private"), &issued.key);
        issued
    }
}

#[test]
fn a_renewed_certificate_loses_nothing() {
    let _running = shared();
    let mut site = Site::new();
    site.give("brno-edge", 2);
    site.receiver.start();
    site.sender.start();
    let status = site.sender.wait_state("connected", STALL);
    assert_eq!(status["cipher"], "tls");
    assert_eq!(status["certificate"]["name"], "brno-edge");
    assert!(status["certificate"]["expires_s"].as_i64().unwrap() > 299 * 86_400, "{status:#}");
    let mut exporters = site.sender.exporters(1, site.pattern);
    exporters.send(100);
    site.collector.wait_for(100, STALL);
    let senders = site.receiver.status()["senders"].clone();
    assert_eq!((&senders[0]["id"], &senders[0]["cipher"]), (&"brno-edge".into(), &"tls".into()));

    site.give("brno-edge", 3);
    site.sender.daemon().reload();
    site.receiver.daemon().reload();
    exporters.send(100);
    let report = site.collector.wait_for_all(exporters.sent(), STALL);
    report.assert_exact(exporters.sent());
    assert_conserved(&site.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
}

#[test]
fn a_revoked_certificate_is_rejected() {
    let _running = shared();
    let mut site = Site::new();
    let first = site.give("brno-edge", 2);
    site.receiver.start();
    site.sender.start();
    site.sender.wait_state("connected", STALL);
    site.revoke(&[&first]);
    site.receiver.daemon().reload();
    site.receiver.daemon().wait_for_log(&["rejected connection from", "revoked"], STALL);
    let mut exporters = site.sender.exporters(1, site.pattern);
    exporters.send(100);
    let status = site.sender.wait_status(STALL, |status| {
        status["state"] == "refused" && count(status, "/queued/datagrams") == 100
    });
    assert!(status["reason"].as_str().unwrap().contains("TLS"), "{status:#}");
    assert!(site.receiver.status()["refused"][0]["reason"].as_str().unwrap().contains("evoked"));

    site.give("brno-edge", 3);
    site.sender.daemon().reload();
    site.collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
    assert_conserved(&site.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
}

#[test]
fn invalid_files_on_a_reload_change_nothing() {
    let _running = shared();
    let mut site = Site::new();
    site.give("brno-edge", 2);
    site.receiver.start();
    site.sender.start();
    site.sender.wait_state("connected", STALL);
    write_secret(&site.sender.path("certificate"), "nothing");
    write_secret(&site.receiver.path("private"), "nothing");
    site.sender.daemon().reload();
    site.receiver.daemon().reload();
    for daemon in [site.sender.daemon(), site.receiver.daemon()] {
        daemon.wait_for_log(&["not reloaded, everything stays as it was", "no PEM block"], STALL);
    }
    let mut exporters = site.sender.exporters(1, site.pattern);
    exporters.send(50);
    site.collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
}

#[test]
fn an_expired_revocation_list_causes_a_warning() {
    let _running = shared();
    let mut site = Site::new();
    let expired = |site: &Site| {
        let list = site.authority.revoke_until(&[], SystemTime::now() - DAY);
        write_secret(&site.receiver.path("crl"), &list);
    };
    let words = ["list of revoked certificates", "crl has expired", "reload"];
    site.receiver.start();
    expired(&site);
    site.receiver.daemon().reload();
    site.receiver.daemon().wait_for_log(&words, STALL);
    let list = site.receiver.status()["revocation_lists"][0].clone();
    assert!(list["file"].as_str().unwrap().ends_with("/crl"), "{list:#}");
    assert!(list["age_s"].as_i64().unwrap() > 0 && list["expires_s"].as_i64().unwrap() < 0, "{list:#}");
    let configuration = site.receiver.path("nf-receiver.toml");
    let checked =
        Program::Receiver.run(&["-c", configuration.to_str().unwrap(), "-C", "127.0.0.1:9", "check"]);
    let report = String::from_utf8(checked.stdout).unwrap();
    let warned = report
        .lines()
        .any(|line| line.starts_with("warning: ") && words.iter().all(|word| line.contains(word)));
    assert!(warned, "{report}{}", String::from_utf8_lossy(&checked.stderr));
}

/// Issues a sender certificate that expires in a day, and sets a wall clock for the receiver.
fn site_with_a_days_certificate(clock: &WallClock) -> Site {
    let mut site = Site::new();
    site.receiver.set_clock(clock);
    let issued = site.authority.issue("brno-edge", 2, SystemTime::now() + DAY);
    write_secret(&site.sender.path("certificate"), &issued.certificate);
    write_secret(&site.sender.path("private"), &issued.key);
    site.receiver.start();
    site
}

#[test]
fn an_expired_sender_certificate_ends_a_session() {
    let _running = shared();
    let clock = WallClock::correct();
    let mut site = site_with_a_days_certificate(&clock);
    site.sender.start();
    site.sender.wait_state("connected", STALL);
    clock.set("+2d");
    site.receiver
        .daemon()
        .wait_for_log(&["session of brno-edge", "certificate of this sender has expired"], STALL);
    let status = site.sender.wait_status(STALL, |status| {
        status["state"] == "refused" && status["reason"].as_str().unwrap().contains("TLS")
    });
    assert!(status["reason"].as_str().unwrap().contains("xpired"), "{status:#}");
    let mut exporters = site.sender.exporters(1, site.pattern);
    exporters.send(100);

    site.give("brno-edge", 3);
    site.sender.daemon().reload();
    site.collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
}

#[test]
fn an_expired_receiver_certificate_ends_a_session() {
    let _running = shared();
    let mut site = Site::new();
    let clock = WallClock::correct();
    site.give("brno-edge", 2);
    site.sender.set_clock(&clock);
    site.receiver.start();
    site.sender.start();
    site.sender.wait_state("connected", STALL);
    clock.set("+6d");
    site.sender.daemon().wait_for_log(&["the certificate of the receiver has expired"], STALL);
    let status = site.sender.wait_state("refused", STALL);
    assert!(status["reason"].as_str().unwrap().contains("xpired"), "{status:#}");
}

#[test]
fn a_certificate_near_expiry_causes_a_warning() {
    let _running = shared();
    let mut site = Site::new();
    site.receiver.start();
    site.receiver
        .daemon()
        .wait_for_log(&["the certificate of this machine expires in 4 days", "renew it"], STALL);
    let certificate = site.receiver.status()["certificate"].clone();
    let not_after = certificate["not_after"].as_i64().unwrap();
    assert!((4 * 86_400..=5 * 86_400).contains(&certificate["expires_s"].as_i64().unwrap()));
    site.receiver.daemon().wait_for_log(&["metrics", "127.0.0.1:"], STALL);
    let address = site.receiver.daemon().logged_address("metrics");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let line = format!("\nnf_receiver_certificate_not_after_seconds {not_after}\n");
    assert!(answer.contains(&line), "{answer}");
}
