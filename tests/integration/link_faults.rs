//! Suspended, blocked or requested receivers: nf-sender uses them as soon as they answer.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{LARGE, MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::daemon::Program;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::count;
use rustix::process::Signal;

use crate::isolation::shared;

/// The third attempt comes only after 100 s, so a receiver used earlier was noticed by its answer.
const SLOW_SCHEDULE: &str = "heartbeat = \"200ms\"\n[spool]\nmin-free = \"0B\"\n\
     [reconnect]\nfirst = \"100ms\"\nfactor = 1000\nlongest = \"1h\"\n";

/// Longest time until a receiver that is back is used.
const SOON: Duration = Duration::from_secs(5);

fn pattern() -> Pattern {
    Pattern::new(MIXED)
}

/// Returns an address where nothing listens.
fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts a receiver that delivers to `collector`.
fn receiver_for(collector: &Collector) -> ReceiverHost {
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.start();
    receiver
}

/// Starts a sender with these receivers.
fn sender_of(receivers: &[SocketAddr], toml: &str) -> SenderHost {
    let names: Vec<String> = receivers.iter().map(|address| format!("\"{address}\"")).collect();
    let mut sender =
        SenderHost::new("edge", &"unused", &format!("receivers = [{}]\n{toml}", names.join(", ")));
    sender.set_receiver(None);
    sender.start();
    sender
}

/// Makes the running nf-sender reconnect.
fn reconnect(sender: &SenderHost) {
    let output = Program::Sender.run(&["reconnect", "--control", sender.control().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until the sender has failed with a suspended receiver and its next attempt is far away, then resumes
/// the receiver. The receiver must be used at once, and every datagram must arrive once.
fn is_used_at_once(sender: &SenderHost, stopped: &ReceiverHost, collector: &Collector) {
    let mut exporters = sender.exporters(1, pattern());
    exporters.send(10);
    let status = sender.wait_status(2 * STALL, |status| status["retry_in_s"].as_u64() > Some(50));
    assert_eq!(status["state"], "waiting", "{status:#}");
    stopped.daemon().signal(Signal::CONT);
    let back = Instant::now();
    sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    assert!(back.elapsed() < SOON, "used after {:?}", back.elapsed());
    collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
    assert_eq!(sender.status()["receiver"], stopped.addr().to_string());
}

#[test]
fn a_receiver_suspended_in_a_session_is_reused() {
    let _running = shared();
    let collector = Collector::start(1, pattern());
    let receiver = receiver_for(&collector);
    let sender = sender_of(&[receiver.addr()], SLOW_SCHEDULE);
    sender.wait_state("connected", STALL);
    receiver.daemon().signal(Signal::STOP);
    is_used_at_once(&sender, &receiver, &collector);
}

#[test]
fn a_receiver_suspended_before_dialing_is_used() {
    let _running = shared();
    let collector = Collector::start(1, pattern());
    let receiver = receiver_for(&collector);
    receiver.daemon().signal(Signal::STOP);
    let sender = sender_of(&[receiver.addr()], SLOW_SCHEDULE);
    is_used_at_once(&sender, &receiver, &collector);
}

#[test]
fn a_suspended_first_receiver_is_used_at_once() {
    let _running = shared();
    let collector = Collector::start(1, pattern());
    let receiver = receiver_for(&collector);
    receiver.daemon().signal(Signal::STOP);
    let sender = sender_of(&[receiver.addr(), dead()], SLOW_SCHEDULE);
    is_used_at_once(&sender, &receiver, &collector);
}

#[test]
fn a_reconnect_interrupts_a_hung_dial() {
    let _running = shared();
    let collector = Collector::start(1, pattern());
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hung.local_addr().unwrap();
    let sender = sender_of(&[address, dead()], SLOW_SCHEDULE);
    let (first, _) = hung.accept().unwrap();
    // The first connection is never answered. The command must start another one.
    let began = Instant::now();
    reconnect(&sender);
    let (second, _) = hung.accept().unwrap();
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    drop((first, second, collector));
}

#[test]
fn a_reload_interrupts_a_hung_dial() {
    let _running = shared();
    let collector = Collector::start(1, pattern());
    let receiver = receiver_for(&collector);
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sender = sender_of(&[hung.local_addr().unwrap()], SLOW_SCHEDULE);
    let _silent = hung.accept().unwrap();
    sender.set_toml(&format!("receivers = [\"{}\"]\n{SLOW_SCHEDULE}", receiver.addr()));
    let began = Instant::now();
    sender.daemon().reload();
    sender.wait_state("connected", STALL);
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
}

#[test]
fn reconnect_while_connected_connects_again() {
    let _running = shared();
    let pair = Pair::connected(3, pattern(), QUICK_SENDER);
    let load = pair.load(Some(3000), Until::Stopped);
    for round in 2..=4 {
        let arrived = pair.collector.arrived();
        pair.collector.wait_for(arrived + 500, STALL);
        reconnect(&pair.sender);
        pair.sender
            .wait_status(STALL, |status| status["state"] == "connected" && pair.link.connections() == round);
    }
    let exporters = load.stop();
    pair.assert_all_arrive(&exporters, true);
    assert_eq!(pair.link.connections(), 4);
    pair.receiver.daemon().wait_for_log(&["the sender ended the session"], STALL);
}

#[test]
fn a_reload_without_changes_keeps_the_session() {
    let _running = shared();
    let pair = Pair::connected(1, pattern(), QUICK_SENDER);
    pair.sender.daemon().reload();
    let mut exporters = pair.exporters();
    exporters.send(10);
    pair.assert_all_arrive(&exporters, true);
    assert_eq!(pair.link.connections(), 1);
}

#[test]
fn reconnect_returns_to_the_first_receiver() {
    let _running = shared();
    let collector = Collector::start(3, pattern());
    let mut first = ReceiverHost::new(&[collector.addr()], "");
    first.start();
    first.daemon().signal(Signal::STOP);
    let second = receiver_for(&collector);
    let sender = sender_of(&[first.addr(), second.addr()], QUICK_SENDER);
    sender.wait_state("connected", STALL);
    assert_eq!(sender.status()["receiver"], second.addr().to_string());
    first.daemon().signal(Signal::CONT);
    let load =
        SteadyLoad::start(sender.exporters(3, pattern()), sender.udp().clone(), Some(3000), Until::Stopped);
    collector.wait_for(1000, STALL);
    reconnect(&sender);
    let is_first = first.addr().to_string();
    sender.wait_status(STALL, |status| status["state"] == "connected" && status["receiver"] == is_first);
    let arrived = collector.arrived();
    collector.wait_for(arrived + 1000, STALL);
    let exporters = load.stop();
    // The second receiver's deliveries were acknowledged before the session ended, so nothing is repeated.
    collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
}

#[test]
fn a_reconnect_without_a_receiver_is_rejected() {
    let _running = shared();
    let sender = sender_of(&[], QUICK_SENDER);
    let output = Program::Sender.run(&["reconnect", "--control", sender.control().to_str().unwrap()]);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("no receiver is configured"), "{message}");
}

#[test]
fn a_blocked_receiver_keeps_its_session() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let absent = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let receiver_toml = format!("[[collector]]\naddress = \"{absent}\"\n");
    let mut receiver = ReceiverHost::new(&[], &receiver_toml);
    receiver.start();
    let sender = sender_of(&[receiver.addr()], QUICK_SENDER);
    sender.wait_state("connected", STALL);
    // More data than nf-receiver and both sockets hold, so that the TCP window closes.
    let load =
        SteadyLoad::start(sender.exporters(3, pattern), sender.udp().clone(), None, Until::Sent(20_000));
    let exporters = load.finish();
    receiver.wait_status(STALL, |status| count(status, "/collectors/0/held_s") >= 5);
    let status = sender.status();
    assert_eq!((&status["state"], count(&status, "/acknowledged/datagrams")), (&"connected".into(), 0));
    let collector = Collector::start_on(&absent.to_string(), 3, pattern);
    collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
    assert_eq!(sender.daemon().count_log(&["connected to"]), 1, "{}", sender.daemon().log());
}
