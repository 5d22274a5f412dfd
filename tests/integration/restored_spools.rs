//! Spools that are restored from a backup or cloned, and positions that jump. Queued datagrams arrive and
//! lost ones are counted. No warning appears for datagrams that never existed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::shared;
use crate::loss_accounting::{gaps, go_on, wait_until_spooled};

const STEP: u64 = 1000;

fn pattern() -> Pattern {
    Pattern::new(MIXED)
}

/// Copies the spool of `sender` to `to`, like a backup or a cloned disk.
fn copy_spool(sender: &SenderHost, to: &Path) {
    replace_files(&sender.path("spool"), to);
}

/// Replaces the files of `to` by those of `from`.
fn replace_files(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with("lock") {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Stops nf-sender and restores the backup of its spool. The receive journal in memory is removed, as on
/// another machine.
fn restore(sender: &mut SenderHost, backup: &Path) {
    stop(sender);
    replace_files(backup, &sender.path("spool"));
    drop(std::fs::remove_file(sender.path("run/intake")));
}

fn stop(sender: &mut SenderHost) {
    assert_eq!(sender.take_daemon().terminate().code(), Some(0));
}

fn restart(sender: &mut SenderHost) {
    stop(sender);
    sender.start();
}

fn wait_until_delivered(sender: &SenderHost) {
    sender.udp().wait_until_drained();
    assert_conserved(&sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
}

/// Starts a connected pair that has delivered one step, copies its stopped spool, and delivers another step.
fn backed_up() -> (Pair, Exporters, PathBuf) {
    let mut pair = Pair::connected(2, pattern(), QUICK_SENDER);
    let exporters = go_on(&pair, pair.exporters(), STEP);
    wait_until_delivered(&pair.sender);
    stop(&mut pair.sender);
    let backup = pair.sender.path("backup");
    copy_spool(&pair.sender, &backup);
    pair.sender.start();
    let exporters = go_on(&pair, exporters, 2 * STEP);
    wait_until_delivered(&pair.sender);
    (pair, exporters, backup)
}

#[test]
fn a_restored_backup_loses_and_repeats_nothing() {
    let _running = shared();
    let (mut pair, exporters, backup) = backed_up();
    restore(&mut pair.sender, &backup);
    pair.sender.start();
    let exporters = go_on(&pair, exporters, 3 * STEP);
    restart(&mut pair.sender);
    let exporters = go_on(&pair, exporters, 4 * STEP);
    pair.assert_all_arrive(&exporters, true);
    let status = pair.sender.status();
    assert!(status["replaced_stream"].is_string(), "{status:#}");
    let receiver = pair.receiver.status();
    assert_eq!(receiver["senders"][0]["replaces"], status["replaced_stream"], "{receiver:#}");
    pair.receiver.daemon().wait_for_log(&["edge at", "began a new stream", "none is lost"], STALL);
}

#[test]
fn a_backup_restored_in_an_outage_loses_nothing() {
    let _running = shared();
    let (mut pair, mut exporters, backup) = backed_up();
    pair.link.cut();
    restore(&mut pair.sender, &backup);
    pair.sender.start();
    for step in 3..6 {
        exporters = go_on(&pair, exporters, step * STEP);
        pair.sender.udp().wait_until_drained();
        if step == 4 {
            pair.sender.take_daemon().kill();
            pair.sender.start();
        } else {
            restart(&mut pair.sender);
        }
    }
    pair.link.restore();
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn repeats_of_a_restored_backup_are_counted() {
    let _running = shared();
    let mut pair = Pair::connected(2, pattern(), QUICK_SENDER);
    let exporters = go_on(&pair, pair.exporters(), STEP);
    wait_until_delivered(&pair.sender);
    pair.link.cut();
    let exporters = go_on(&pair, exporters, 2 * STEP);
    wait_until_spooled(&pair);
    stop(&mut pair.sender);
    let backup = pair.sender.path("backup");
    copy_spool(&pair.sender, &backup);
    pair.link.restore();
    pair.sender.start();
    let exporters = go_on(&pair, exporters, 3 * STEP);
    wait_until_delivered(&pair.sender);
    restore(&mut pair.sender, &backup);
    pair.sender.start();
    let exporters = go_on(&pair, exporters, 4 * STEP);
    pair.assert_all_arrive(&exporters, false);
    wait_until_delivered(&pair.sender);
    let repeated = pair.collector.report().repeated();
    let status = pair.sender.status();
    assert_eq!((repeated, count(&status, "/possible_repeats")), (STEP, STEP), "{status:#}");
    pair.sender.daemon().wait_for_log(&["restored from a backup", "may arrive twice"], STALL);
}

#[test]
fn one_of_two_collectors_is_not_delivery() {
    let _running = shared();
    let first = Collector::start(2, pattern());
    let second = Collector::start(2, pattern());
    let absent = second.addr();
    drop(second);
    let mut receiver = ReceiverHost::new(&[first.addr(), absent], "");
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    sender.start();
    sender.wait_state("connected", STALL);
    stop(&mut sender);
    let backup = sender.path("backup");
    copy_spool(&sender, &backup);
    sender.start();
    let mut exporters = sender.exporters(2, pattern());
    exporters.send(20);
    // The first batch has one datagram and waits for the second collector.
    first.wait_for(1, STALL);
    restore(&mut sender, &backup);
    sender.start();
    exporters.send(20);
    let second = Collector::start_on(&absent.to_string(), 2, pattern());
    // One datagram from the first copy of the spool and all datagrams of this one have the same positions.
    first.wait_for(21, STALL);
    second.wait_for(20, STALL);
    assert!(sender.status()["replaced_stream"].is_string());
}

/// Two machines with one id and copies of one spool.
fn clones(is_stopped_for_the_copy: bool) {
    let collector = Collector::start(2, pattern());
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.start();
    let mut original = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    let mut clone = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    original.start();
    let load = |exporters: Exporters, sender: &SenderHost, total| {
        SteadyLoad::start(exporters, sender.udp().clone(), None, Until::Sent(total)).finish()
    };
    let mut first = Exporters::new(0..1, original.udp().addr(), pattern());
    let mut second = Exporters::new(1..2, clone.udp().addr(), pattern());
    first = load(first, &original, STEP);
    wait_until_delivered(&original);
    if is_stopped_for_the_copy {
        stop(&mut original);
        copy_spool(&original, &clone.path("spool"));
        original.start();
    } else {
        copy_spool(&original, &clone.path("spool"));
    }
    clone.start();
    for step in 2..5 {
        first = load(first, &original, step * STEP);
        second = load(second, &clone, (step - 1) * STEP);
        match step {
            2 => restart(&mut clone),
            3 => {
                original.take_daemon().kill();
                original.start();
            }
            _ => {}
        }
    }
    // One of them stays connected, and the other waits for it.
    let began = Instant::now();
    let has_delivered = |sender: &SenderHost| {
        let status = sender.status();
        status["state"] == "connected" && count(&status, "/queued/datagrams") == 0
    };
    let is_clone_connected = loop {
        if let Some(connected) = [&original, &clone].iter().position(|sender| has_delivered(sender)) {
            break connected == 1;
        }
        assert!(began.elapsed() < STALL, "{}", receiver.daemon().log());
        std::thread::sleep(Duration::from_millis(10));
    };
    let (connected, refused) =
        if is_clone_connected { (&mut clone, &original) } else { (&mut original, &clone) };
    refused.daemon().wait_for_log(&["in use by another sender, at 127.0.0.1:"], STALL);
    receiver.daemon().wait_for_log(&["edge at 127.0.0.1:", "in use by another sender"], STALL);
    assert!(receiver.status()["senders"][0]["rival"].is_string());
    stop(connected);
    wait_until_delivered(refused);
    let sent = [first.sent()[0], second.sent()[0]];
    collector.wait_for_all(&sent, STALL).assert_complete_and_in_order(&sent);
}

#[test]
fn a_clone_of_a_stopped_sender_loses_nothing() {
    let _running = shared();
    clones(true);
}

#[test]
fn a_clone_of_a_running_sender_loses_nothing() {
    let _running = shared();
    clones(false);
}

#[test]
fn a_hot_copy_restored_twice_loses_nothing() {
    let _running = shared();
    let mut pair = Pair::connected(2, pattern(), QUICK_SENDER);
    let mut exporters = go_on(&pair, pair.exporters(), STEP);
    wait_until_delivered(&pair.sender);
    let backup = pair.sender.path("backup");
    copy_spool(&pair.sender, &backup);
    for step in 2..4 {
        exporters = go_on(&pair, exporters, step * STEP);
        wait_until_delivered(&pair.sender);
        restore(&mut pair.sender, &backup);
        pair.sender.start();
    }
    exporters = go_on(&pair, exporters, 4 * STEP);
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn a_power_loss_with_an_empty_queue_warns_nobody() {
    let _running = shared();
    let mut pair = Pair::connected(2, pattern(), QUICK_SENDER);
    let exporters = go_on(&pair, pair.exporters(), STEP);
    wait_until_delivered(&pair.sender);
    pair.sender.take_daemon().kill();
    std::fs::remove_file(pair.sender.path("run/intake")).unwrap();
    pair.sender.start();
    let exporters = go_on(&pair, exporters, 2 * STEP);
    pair.assert_all_arrive(&exporters, true);
    assert_no_alarm(&pair.receiver);
}

#[test]
fn a_return_to_the_first_receiver_warns_nobody() {
    let _running = shared();
    let mut pair = Pair::connected(2, pattern(), QUICK_SENDER);
    let mut other = ReceiverHost::new(&[pair.collector.addr()], "");
    other.start();
    let home = pair.link.addr().to_string();
    let mut exporters = go_on(&pair, pair.exporters(), STEP);
    wait_until_delivered(&pair.sender);
    for (step, receiver) in [(2, other.addr().to_string()), (3, home)] {
        stop(&mut pair.sender);
        pair.sender.set_receiver(Some(receiver));
        pair.sender.start();
        exporters = go_on(&pair, exporters, step * STEP);
        wait_until_delivered(&pair.sender);
    }
    pair.assert_all_arrive(&exporters, true);
    assert_no_alarm(&pair.receiver);
    assert_no_alarm(&other);
}

/// Asserts that nf-receiver neither warns of the sender nor counts a loss.
fn assert_no_alarm(receiver: &ReceiverHost) {
    assert_eq!(gaps(receiver), 0);
    let log = receiver.daemon().log();
    assert!(!log.lines().any(|line| line.contains("WARN") && line.contains("edge")), "{log}");
}
