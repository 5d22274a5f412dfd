//! Faults of an encrypted spool: kills, no runtime directory, a missing key for part of the backlog. No
//! datagram is lost, and the files reveal no data.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, write_key};
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::shared;
use crate::loss_accounting::{go_on, wait_until_spooled};

/// Longest time until a daemon exits.
const REFUSAL: Duration = Duration::from_secs(20);

/// Exit code of sysexits.h for an error that a restart cannot fix.
const CONFIG: i32 = 78;

/// Datagrams that each step of a test adds to the backlog.
const STEP: u64 = 1000;

/// Range of a payload by which the tests search for it.
const NEEDLE: usize = 16;

fn pattern() -> Pattern {
    Pattern::new(MIXED)
}

/// Returns settings of a sender that spools at once, with these lines in its table `[spool]`.
fn settings(spool: &str) -> String {
    format!("{QUICK_SENDER}sync-after = \"0s\"\nrotate-size = \"256KiB\"\n{spool}")
}

/// Creates a pair with a cut link and starts its receiver only.
fn cut_pair() -> Pair {
    let mut pair = Pair::new(3, pattern(), &settings(""));
    pair.link.cut();
    pair.receiver.start();
    pair
}

/// Returns the key file with this name, and creates it if it does not exist.
fn key(pair: &Pair, name: &str) -> String {
    let path = pair.sender.path(name);
    write_key(&path, name);
    path.to_str().unwrap().to_owned()
}

fn encrypted(key: &str) -> String {
    settings(&format!("encrypt = true\nkey-file = \"{key}\"\n"))
}

fn encrypted_after(key: &str, previous: &str) -> String {
    format!("{}previous-key-file = \"{previous}\"\n", encrypted(key))
}

fn start(pair: &mut Pair, toml: &str) {
    pair.sender.set_toml(toml);
    pair.sender.start();
}

/// Stops the sender cleanly and starts it with other settings.
fn restart(pair: &mut Pair, toml: &str) {
    assert_eq!(pair.sender.take_daemon().terminate().code(), Some(0));
    start(pair, toml);
}

/// Adds a step to the backlog and waits until it is in segments.
fn add(pair: &Pair, exporters: Exporters) -> Exporters {
    let total = exporters.total() + STEP;
    let exporters = go_on(pair, exporters, total);
    wait_until_spooled(pair);
    exporters
}

/// Lists all files below `path`, without the lock file, which contains a process id.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("lock") {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// Returns whether any file of the spool directory contains part of a sent datagram.
fn shows_payload(pair: &Pair, exporters: &Exporters) -> bool {
    let mut needles: HashSet<[u8; NEEDLE]> = HashSet::new();
    for (exporter, sent) in (0..).zip(exporters.sent()) {
        for number in 0..*sent {
            let mut payload = Vec::new();
            pattern().datagram(exporter, number, &mut payload);
            needles.extend(payload.chunks_exact(NEEDLE).map(|part| <[u8; NEEDLE]>::try_from(part).unwrap()));
        }
    }
    let shows = |bytes: &Vec<u8>| bytes.windows(NEEDLE).any(|window| needles.contains(window));
    files(&pair.sender.path("spool")).values().any(shows)
}

#[test]
fn an_encrypted_backlog_survives_kills() {
    let _running = shared();
    let mut pair = cut_pair();
    let key = key(&pair, "one");
    start(&mut pair, &encrypted(&key));
    let mut exporters = pair.exporters();
    for _ in 0..3 {
        exporters = add(&pair, exporters);
        pair.sender.take_daemon().kill();
        assert!(!shows_payload(&pair, &exporters));
        pair.sender.start();
        assert_conserved(&pair.sender.status());
    }
    // Kills once more at a random point, and once more during delivery.
    let total = exporters.total() + STEP;
    exporters = go_on(&pair, exporters, total);
    pair.sender.udp().wait_until_drained();
    pair.sender.take_daemon().kill();
    assert!(!shows_payload(&pair, &exporters));
    pair.sender.start();
    pair.link.restore();
    pair.collector.wait_for(STEP, STALL);
    pair.sender.take_daemon().kill();
    pair.sender.start();
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn encryption_costs_nothing_on_a_good_link() {
    let _running = shared();
    let mut pair = cut_pair();
    let key = key(&pair, "one");
    start(&mut pair, &encrypted(&key));
    pair.link.restore();
    pair.sender.wait_state("connected", STALL);
    let exporters = pair.load(Some(3000), Until::Sent(3 * STEP)).finish();
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn encryption_works_without_a_runtime_directory() {
    let _running = shared();
    let mut pair = cut_pair();
    pair.sender.omit_runtime_directory();
    let key = key(&pair, "one");
    start(&mut pair, &encrypted(&key));
    pair.sender.daemon().wait_for_log(&["RUNTIME_DIRECTORY", "kill -9 would lose them"], STALL);
    let exporters = add(&pair, pair.exporters());
    assert!(!pair.sender.path("spool/intake").exists() && !shows_payload(&pair, &exporters));
    restart(&mut pair, &encrypted(&key));
    assert!(!pair.sender.path("spool/intake").exists() && !shows_payload(&pair, &exporters));
    pair.link.restore();
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn a_clear_backlog_survives_turning_encryption_on() {
    let _running = shared();
    let mut pair = cut_pair();
    pair.sender.omit_runtime_directory();
    let key = key(&pair, "one");
    start(&mut pair, &settings(""));
    let exporters = add(&pair, pair.exporters());
    pair.sender.take_daemon().kill();
    pair.sender.set_toml(&encrypted(&key));
    let (status, log) = pair.sender.launch().spawn().wait_exit(REFUSAL);
    assert_eq!(status.code(), Some(CONFIG), "{log}");
    assert!(log.contains("start once without spool.encrypt: an orderly stop then moves them"), "{log}");
    start(&mut pair, &settings(""));
    restart(&mut pair, &encrypted(&key));
    pair.link.restore();
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn delivery_waits_for_a_missing_spool_key() {
    let _running = shared();
    let mut pair = cut_pair();
    let (ends, middle) = (key(&pair, "one"), key(&pair, "two"));
    start(&mut pair, &encrypted(&ends));
    let exporters = add(&pair, pair.exporters());
    restart(&mut pair, &encrypted_after(&middle, &ends));
    let exporters = add(&pair, exporters);
    restart(&mut pair, &encrypted_after(&ends, &middle));
    let exporters = add(&pair, exporters);

    restart(&mut pair, &encrypted(&ends));
    pair.link.restore();
    let daemon = pair.sender.daemon();
    daemon.wait_for_log(&["is encrypted with the key", "spool.previous-key-file"], STALL);
    let waits = |status: &serde_json::Value| count(status, "/queued/datagrams") == 2 * STEP;
    let status = pair.sender.wait_status(STALL, waits);
    assert_eq!((status["state"].as_str(), count(&status, "/dropped/corrupt")), (Some("connected"), 0));
    assert!(status["reason"].as_str().unwrap().contains("spool.previous-key-file"), "{status:#}");
    assert_conserved(&status);

    restart(&mut pair, &encrypted_after(&ends, &middle));
    pair.assert_all_arrive(&exporters, true);
}
