//! An encrypted spool: its files reveal no data, and every datagram arrives.

use std::path::Path;
use std::time::Duration;

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::daemon::{Launch, Program};
use nf_transport_kit::hosts::{PATIENT_SENDER, ReceiverHost, SenderHost, write_key};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::shared;

/// TCP's discard port, where nothing listens.
const NOWHERE: &str = "127.0.0.1:9";

/// Returns settings with the key files `keys` of this host: first the current one, then the previous one.
fn settings(host: &SenderHost, encrypt: bool, keys: &[&str]) -> String {
    let names = ["key-file", "previous-key-file"];
    let lines =
        names.iter().zip(keys).map(|(name, key)| format!("{name} = \"{}\"\n", host.path(key).display()));
    format!("{PATIENT_SENDER}encrypt = {encrypt}\n{}", lines.collect::<String>())
}

/// Returns all files below `directory` with their contents.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Counts the first `sent` datagrams of exporter 0 that are visible in the spool's files.
fn visible(host: &SenderHost, pattern: Pattern, sent: u32) -> usize {
    let files = contents(&host.path("spool"));
    let mut payload = Vec::new();
    let shows = |number: &u32| {
        pattern.datagram(0, *number, &mut payload);
        let piece = &payload[payload.len() - 32..];
        files.iter().any(|(_, bytes)| bytes.windows(piece.len()).any(|window| window == piece))
    };
    (0..sent).filter(shows).count()
}

/// Starts the daemon, sends 100 more datagrams, and waits until they are on disk.
fn spool_100(host: &mut SenderHost, exporters: &mut nf_transport_kit::exporter::Exporters, queued: u64) {
    host.start();
    exporters.send(100);
    host.wait_status(STALL, |status| {
        count(status, "/queued/datagrams") == queued && count(status, "/queued/segments") > 0
    });
}

#[test]
fn an_encrypted_backlog_survives_a_key_change() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(1, pattern);
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.start();
    let mut sender = SenderHost::new("edge", &NOWHERE, "");
    for key in ["one", "two"] {
        write_key(&sender.path(key), key);
    }
    let mut exporters = sender.exporters(1, pattern);

    sender.set_toml(&settings(&sender, false, &[]));
    spool_100(&mut sender, &mut exporters, 100);
    sender.take_daemon().terminate();
    assert_eq!(visible(&sender, pattern, 100), 100, "without encryption");

    sender.set_toml(&settings(&sender, true, &["one"]));
    spool_100(&mut sender, &mut exporters, 200);
    sender.take_daemon().kill();
    assert_eq!(visible(&sender, pattern, 200), 100, "those of before only");
    sender.set_toml(&settings(&sender, true, &["two", "one"]));
    spool_100(&mut sender, &mut exporters, 300);
    sender.take_daemon().terminate();
    assert_eq!(visible(&sender, pattern, 300), 100, "those of before only");

    sender.set_toml(&settings(&sender, false, &["two", "one"]));
    sender.set_receiver(Some(receiver.addr().to_string()));
    sender.start();
    collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
    assert_conserved(&sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
}

#[test]
fn a_wrong_spool_key_changes_nothing() {
    let _running = shared();
    let mut sender = SenderHost::new("edge", &NOWHERE, "");
    for key in ["one", "two"] {
        write_key(&sender.path(key), key);
    }
    sender.set_toml(&settings(&sender, true, &["one"]));
    let mut exporters = sender.exporters(1, Pattern::new(MIXED));
    spool_100(&mut sender, &mut exporters, 100);
    sender.take_daemon().terminate();
    let before = contents(&sender.path("spool"));
    for keys in [&["two"][..], &[]] {
        sender.set_toml(&settings(&sender, !keys.is_empty(), keys));
        let launch = Launch::new(Program::Sender)
            .args(["-c", sender.path("nf-sender.toml").to_str().unwrap(), "--plaintext"])
            .args(["-l", "127.0.0.1:0", "--spool", sender.path("spool").to_str().unwrap()])
            .args(["--control", sender.control().to_str().unwrap()])
            .env("RUNTIME_DIRECTORY", sender.path("run"));
        let (status, log) = launch.spawn().wait_exit(Duration::from_secs(20));
        assert_eq!(status.code(), Some(78), "{log}");
        assert!(
            log.contains("the spool is encrypted with key") && log.contains("previous-key-file"),
            "{log}"
        );
        let without_lock = |files: &[(String, Vec<u8>)]| {
            files.iter().filter(|(name, _)| !name.ends_with("/lock")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(without_lock(&contents(&sender.path("spool"))), without_lock(&before));
    }
    sender.set_toml(&settings(&sender, true, &["one"]));
    sender.start();
    assert_eq!(count(&sender.status(), "/queued/datagrams"), 100);
}

#[test]
fn encryption_without_a_key_names_the_missing_one() {
    let output = {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nf-sender.toml");
        std::fs::write(&file, "[spool]\nencrypt = true\n").unwrap();
        Program::Sender.run(&["check", "-c", file.to_str().unwrap()])
    };
    assert_eq!(output.status.code(), Some(78));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains("spool.encrypt") && message.contains("spool-key") && message.contains("keygen"),
        "{message}"
    );
}
