//! Single faults during a steady load. No fault loses a datagram.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::{Collector, Inbox};
use nf_transport_kit::daemon::Program;
use nf_transport_kit::hosts::{PATIENT_SENDER, QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};
use rustix::process::Signal;

use crate::isolation::shared;

const RATE: Option<u32> = Some(3000);

fn pattern() -> Pattern {
    Pattern::new(MIXED)
}

/// Runs a connected pair under load and calls `fault` after part of it. The load continues after the fault.
/// Every datagram must arrive, and exactly once if `once`.
fn carries_all_through(once: bool, fault: impl FnOnce(&mut Pair)) {
    let _running = shared();
    let mut pair = Pair::connected(3, pattern(), QUICK_SENDER);
    let load = pair.load(RATE, Until::Stopped);
    pair.collector.wait_for(1000, STALL);
    fault(&mut pair);
    let arrived = pair.collector.arrived();
    pair.collector.wait_for(arrived + 1000, STALL);
    let exporters = load.stop();
    pair.assert_all_arrive(&exporters, once);
}

/// Waits until the load has sent this number of datagrams, whether they arrive or not.
fn let_queue(pair: &Pair, datagrams: u64) {
    pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        count(status, "/queued/datagrams") >= datagrams
    });
}

#[test]
fn a_cut_link_loses_and_repeats_nothing() {
    carries_all_through(true, |pair| {
        pair.link.cut();
        let_queue(pair, 2000);
        pair.link.restore();
    });
}

#[test]
fn a_killed_receiver_loses_nothing() {
    carries_all_through(false, |pair| {
        pair.receiver.take_daemon().kill();
        let_queue(pair, 2000);
        pair.receiver.start();
    });
}

#[test]
fn a_cleanly_stopped_receiver_repeats_nothing() {
    carries_all_through(true, |pair| {
        let status = pair.receiver.take_daemon().terminate();
        assert_eq!(status.code(), Some(0));
        let_queue(pair, 1000);
        pair.receiver.start();
    });
}

#[test]
fn a_killed_sender_loses_and_repeats_nothing() {
    carries_all_through(true, |pair| {
        pair.sender.take_daemon().kill();
        pair.sender.start();
    });
}

#[test]
fn a_killed_sender_delivers_its_backlog() {
    carries_all_through(true, |pair| {
        pair.link.cut();
        let_queue(pair, 3000);
        pair.sender.take_daemon().kill();
        pair.sender.start();
        let status = pair.sender.status();
        assert!(count(&status, "/recovered/datagrams") >= 3000, "{status:#}");
        pair.link.restore();
    });
}

#[test]
fn a_sender_stopped_with_a_backlog_exits_with_0() {
    carries_all_through(true, |pair| {
        pair.link.cut();
        let_queue(pair, 3000);
        let asked = Instant::now();
        let status = pair.sender.take_daemon().terminate();
        assert_eq!(status.code(), Some(0));
        assert!(asked.elapsed() < Duration::from_secs(8), "stopped after {:?}", asked.elapsed());
        pair.sender.start();
        pair.link.restore();
    });
}

#[test]
fn a_clean_stop_on_a_good_link_leaves_no_backlog() {
    let _running = shared();
    let mut pair = Pair::connected(3, pattern(), QUICK_SENDER);
    let exporters = pair.load(RATE, Until::Sent(3000)).finish();
    pair.sender.udp().wait_until_drained();
    assert_eq!(pair.sender.take_daemon().terminate().code(), Some(0));
    pair.collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
}

#[test]
fn a_suspended_process_loses_nothing() {
    carries_all_through(true, |pair| {
        pair.receiver.daemon().signal(Signal::STOP);
        let_queue(pair, 1500);
        pair.receiver.daemon().signal(Signal::CONT);
    });
}

#[test]
fn heartbeats_detect_a_silent_link() {
    carries_all_through(true, |pair| {
        let before = pair.link.connections();
        pair.link.freeze();
        let frozen = Instant::now();
        pair.sender.wait_status(STALL, |status| status["state"] != "connected");
        // Three heartbeats of 200 ms. With the default of 5 s this takes 15 s.
        assert!(frozen.elapsed() < Duration::from_secs(3), "found after {:?}", frozen.elapsed());
        pair.link.restore();
        pair.sender.wait_state("connected", STALL);
        assert!(pair.link.connections() > before);
    });
}

/// Makes a patient sender wait for its next attempt, restores the link, and requests a retry with `ask`.
fn retries_at_once_when(ask: impl FnOnce(&Pair)) {
    let _running = shared();
    let pair = Pair::connected(1, pattern(), PATIENT_SENDER);
    pair.link.cut();
    let status = pair.sender.wait_state("waiting", STALL);
    assert!(status["retry_in_s"].as_f64().unwrap() > 3000.0, "{status:#}");
    let mut exporters = pair.exporters();
    exporters.send(10);
    pair.link.restore();
    ask(&pair);
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn the_reconnect_command_retries_at_once() {
    retries_at_once_when(|pair| {
        let output =
            Program::Sender.run(&["reconnect", "--control", pair.sender.control().to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}

#[test]
fn a_reload_retries_at_once() {
    retries_at_once_when(|pair| pair.sender.daemon().signal(Signal::HUP));
}

#[test]
fn the_first_receiver_that_answers_is_used() {
    let _running = shared();
    let mut pair = Pair::new(1, pattern(), "");
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let toml = format!("receivers = [\"{dead}\", \"{}\"]\n{QUICK_SENDER}", pair.link.addr());
    pair.sender.set_toml(&toml);
    pair.sender.set_receiver(None);
    pair.receiver.start();
    pair.sender.start();
    let status = pair.sender.wait_state("connected", STALL);
    assert_eq!(status["receiver"], pair.link.addr().to_string());
    let mut exporters = pair.exporters();
    exporters.send(10);
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn a_sender_without_a_receiver_spools() {
    let _running = shared();
    let mut pair = Pair::new(1, pattern(), QUICK_SENDER);
    pair.sender.set_receiver(None);
    pair.sender.start();
    let mut exporters = pair.exporters();
    exporters.send(10);
    let status = pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 10);
    assert_ne!(status["state"], "connected");
    let reason = status["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("receiver"), "{status:#}");
    pair.sender.daemon().wait_for_log(&["receiver"], STALL);
}

#[test]
fn a_clean_restart_repeats_nothing_to_a_collector() {
    let _running = shared();
    let there = Collector::start(1, pattern());
    let away = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut receiver = ReceiverHost::new(&[there.addr(), away], "");
    receiver.start();
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    sender.start();
    let mut exporters = sender.exporters(1, pattern());
    exporters.send(5);
    there.wait_for(1, STALL);
    assert_eq!(receiver.take_daemon().terminate().code(), Some(0));
    receiver.start();
    exporters.send(5);
    let late = Inbox::start(&away.to_string());
    assert_eq!(late.wait_for(10, STALL).len(), 10);
    there.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
}

#[test]
fn every_address_of_a_receiver_name_is_tried() {
    let _running = shared();
    let collector = Collector::start(1, pattern());
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.start();
    // The receiver listens on IPv4 only. Where the name also has an IPv6 address, that one refuses.
    let name = format!("localhost:{}", receiver.addr().port());
    let mut sender = SenderHost::new("edge", &name, QUICK_SENDER);
    sender.start();
    let mut exporters = sender.exporters(1, pattern());
    exporters.send(3);
    collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
    assert_eq!(sender.wait_state("connected", STALL)["receiver"], name);
}
