//! Limits of the spool: the policy decides which datagrams are dropped, both daemons count them, and the rest
//! arrives in order.

use std::net::UdpSocket;
use std::time::Duration;

use nf_transport_kit::chatter::{LARGE, MIXED, Pattern};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, SenderHost};
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{Sampler, assert_conserved, count};
use rustix::process::Signal;

use crate::isolation::shared;
use crate::loss_accounting::{REASONS, deliver_the_rest, dropped, gaps, go_on, wait_until_spooled};

const EXPORTERS: u16 = 3;

/// Least average payload of a datagram of `LARGE`, in bytes.
const DATAGRAM: u64 = 1358;

/// Interval between two samples of the status.
const LOOK: Duration = Duration::from_millis(50);

/// Returns settings for a spool of 4 MiB that stores unacknowledged datagrams at once.
fn small_spool(when_full: &str) -> String {
    format!(
        "{QUICK_SENDER}sync-after = \"0s\"\nmax-size = \"4MiB\"\nrotate-size = \"1MiB\"\n\
         when-full = \"{when_full}\"\n"
    )
}

/// Starts a pair whose link is cut from the start.
fn apart(toml: &str) -> Pair {
    let mut pair = Pair::new(EXPORTERS, Pattern::new(LARGE), toml);
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    pair
}

#[test]
fn a_full_spool_counts_drops_across_a_kill() {
    let _running = shared();
    let mut pair = apart(&small_spool("drop-oldest"));
    let watch = Sampler::start(pair.sender.control(), LOOK);
    let exporters = go_on(&pair, pair.exporters(), 5000);
    let first_run = dropped(&wait_until_spooled(&pair), "spool_full");
    assert!(first_run > 1000, "{first_run}");
    pair.sender.take_daemon().kill();
    pair.sender.start();
    let exporters = go_on(&pair, exporters, 10_000);
    let held = wait_until_spooled(&pair);
    assert!(count(&held, "/queued/bytes") <= 4 << 20, "{held:#}");
    pair.link.restore();
    let outcome = deliver_the_rest(&pair, &exporters);
    watch.finish();
    assert_eq!(outcome.missing, first_run + dropped(&outcome.status, "spool_full"));
    assert_eq!((dropped(&outcome.status, "corrupt"), dropped(&outcome.status, "too_old")), (0, 0));
    for (tally, sent) in outcome.report.exporters.iter().zip(exporters.sent()) {
        let missing = tally.missing(*sent);
        assert!(matches!(missing[..], [(0, _)]), "not just the oldest is missing: {missing:?}");
    }
}

#[test]
fn a_kill_of_a_full_sender_leaves_one_gap() {
    let _running = shared();
    let mut pair = apart(&small_spool("drop-oldest"));
    pair.link.restore();
    let watch = Sampler::start(pair.sender.control(), LOOK);
    let exporters = go_on(&pair, pair.exporters(), 300);
    pair.collector.wait_for_all(exporters.sent(), STALL);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    pair.link.cut();
    let load = SteadyLoad::start(exporters, pair.sender.udp().clone(), Some(8000), Until::Sent(10_000));
    pair.sender.wait_status(STALL, |status| dropped(status, "spool_full") > 500);
    pair.sender.take_daemon().kill();
    pair.sender.start();
    let exporters = load.finish();
    wait_until_spooled(&pair);
    pair.link.restore();
    let outcome = deliver_the_rest(&pair, &exporters);
    watch.finish();
    assert_eq!(dropped(&outcome.status, "corrupt"), 0, "{:#}", outcome.status);
    for (tally, sent) in outcome.report.exporters.iter().zip(exporters.sent()) {
        let missing = tally.missing(*sent);
        assert!(matches!(missing[..], [(100, _)]), "not one gap after 100 datagrams: {missing:?}");
    }
}

/// Sends more datagrams than the spool and the journal hold while the link is down. Returns the exporters.
fn overfill(pair: &Pair) -> Exporters {
    let exporters = go_on(pair, pair.exporters(), 22_000);
    pair.sender.udp().wait_until_drained();
    let status = pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        let received = count(status, "/received/datagrams");
        received == exporters.total() && dropped(status, "spool_full") > 0
    });
    // The spool holds 4 MiB and the journal 12 MiB, each without the last batch that did not fit.
    assert!(count(&status, "/queued/datagrams") * DATAGRAM > 15 << 20, "{status:#}");
    exporters
}

#[test]
fn drop_newest_keeps_the_oldest_datagrams() {
    let _running = shared();
    let pair = apart(&small_spool("drop-newest"));
    let watch = Sampler::start(pair.sender.control(), LOOK);
    let exporters = overfill(&pair);
    pair.link.restore();
    let outcome = deliver_the_rest(&pair, &exporters);
    assert_eq!(outcome.missing, dropped(&outcome.status, "spool_full"));
    for (tally, sent) in outcome.report.exporters.iter().zip(exporters.sent()) {
        let first_missing = u64::from(tally.missing(*sent)[0].0);
        assert!(first_missing * u64::from(EXPORTERS) * DATAGRAM > 15 << 20, "{first_missing}");
    }
    let exporters = go_on(&pair, exporters, 22_500);
    let after = deliver_the_rest(&pair, &exporters);
    watch.finish();
    assert_eq!(after.missing, outcome.missing, "with the link up there is room again");
}

#[test]
fn a_clean_stop_keeps_datagrams_in_memory() {
    let _running = shared();
    let mut pair = apart(&small_spool("drop-newest"));
    let exporters = overfill(&pair);
    let status = pair.sender.status();
    let (held, full) = (count(&status, "/queued/datagrams"), dropped(&status, "spool_full"));
    assert_eq!(pair.sender.take_daemon().terminate().code(), Some(0));
    pair.sender.start();
    let status = pair.sender.status();
    assert_eq!(count(&status, "/recovered/datagrams"), held, "{status:#}");
    pair.link.restore();
    let outcome = deliver_the_rest(&pair, &exporters);
    assert_eq!(outcome.missing, full);
    assert_eq!(REASONS.map(|reason| dropped(&outcome.status, reason)), [0; 3], "{:#}", outcome.status);
}

#[test]
fn datagrams_older_than_max_age_are_dropped() {
    let _running = shared();
    let toml = format!(
        "{QUICK_SENDER}sync-after = \"0s\"\nmax-age = \"3s\"\nrotate-every = \"200ms\"\n\
         when-full = \"drop-newest\"\n"
    );
    let pair = apart(&toml);
    let mut exporters = pair.exporters();
    exporters.send(300);
    let status = pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        dropped(status, "too_old") == 300
    });
    assert_eq!(count(&status, "/queued/datagrams"), 0, "{status:#}");
    exporters.send(300);
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 300);
    pair.link.restore();
    let outcome = deliver_the_rest(&pair, &exporters);
    assert_eq!((outcome.missing, dropped(&outcome.status, "too_old")), (300, 300));
    for (tally, sent) in outcome.report.exporters.iter().zip(exporters.sent()) {
        assert_eq!(tally.missing(*sent), [(0, 100)]);
    }
}

#[test]
fn denied_exporters_are_counted() {
    let _running = shared();
    // Exporter 1 sends from 127.0.0.3, exporter 2 from 127.0.0.4.
    let toml = format!("allow = [\"127.0.0.3\", \"127.0.0.4/31\", \"2001:db8::/32\"]\n{QUICK_SENDER}");
    let mut pair = Pair::new(EXPORTERS, Pattern::new(MIXED), &toml);
    // A socket of both families shows IPv4 exporters with mapped IPv6 addresses.
    let both = UdpSocket::bind("[::]:0").unwrap();
    let port = both.local_addr().unwrap().port();
    pair.sender.add_socket(both);
    pair.receiver.start();
    pair.sender.start();
    let mut exporters = pair.exporters();
    exporters.send(300);
    pair.collector.wait_for(200, STALL);
    let mut others = Exporters::new(0..1, ([127, 0, 0, 1], port).into(), Pattern::new(MIXED));
    others.send(50);
    let status = pair.sender.wait_status(STALL, |status| dropped(status, "denied") == 150);
    assert_conserved(&status);
    pair.sender.daemon().wait_for_log(&["denied", "from 127.0.0.2 (", "'allow'"], STALL);
    let exporters = status["denied_exporters"].as_array().unwrap().iter();
    assert_eq!(exporters.map(|row| count(row, "/datagrams")).collect::<Vec<_>>(), [100, 50], "{status:#}");
    assert_eq!(count(&status, "/received/datagrams"), 200, "{status:#}");
    let report = pair.collector.report();
    let arrived: Vec<_> = report.exporters.iter().map(|tally| tally.arrived).collect();
    assert_eq!(arrived, [0, 100, 100]);
    assert_eq!(gaps(&pair.receiver), 0, "denied datagrams are not part of the stream");
    let mut allowed = Exporters::new(1..2, ([127, 0, 0, 1], port).into(), Pattern::new(MIXED));
    allowed.send(101);
    pair.collector.wait_for(201, STALL);
}

#[test]
fn kernel_drops_are_logged_with_their_socket() {
    let _running = shared();
    let mut pair = Pair::new(1, Pattern::new(LARGE), QUICK_SENDER);
    pair.sender.limit_receive_buffer();
    pair.receiver.start();
    pair.sender.start();
    let mut exporters = pair.exporters();
    exporters.send(1);
    pair.collector.wait_for(1, STALL);
    pair.sender.daemon().signal(Signal::STOP);
    while pair.sender.udp().dropped() < 100 {
        exporters.send(100);
    }
    let (drops, socket) = (pair.sender.udp().dropped(), pair.sender.udp().addr().to_string());
    pair.sender.daemon().signal(Signal::CONT);
    let status = pair.sender.wait_status(STALL, |status| dropped(status, "kernel") == drops);
    assert_eq!(status["sockets"][0]["address"], socket.as_str(), "{status:#}");
    assert_eq!(count(&status, "/sockets/0/kernel_drops"), drops);
    pair.sender.daemon().wait_for_log(&["the kernel dropped", &format!("at {socket}")], STALL);
}

#[test]
fn two_sockets_keep_the_order_of_each_exporter() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let mut pair = Pair::new(4, pattern, QUICK_SENDER);
    let second = UdpSocket::bind("[::]:0").unwrap();
    let target = ([127, 0, 0, 1], second.local_addr().unwrap().port()).into();
    pair.sender.add_socket(second);
    pair.receiver.start();
    pair.sender.start();
    let mut on_first = pair.sender.exporters(2, pattern);
    let mut on_second = Exporters::new(2..4, target, pattern);
    for round in 1..=50 {
        on_first.send(20);
        on_second.send(20);
        pair.collector.wait_for(round * 40, STALL);
    }
    let sent = [on_first.sent(), on_second.sent()].concat();
    pair.collector.wait_for_all(&sent, STALL).assert_exact(&sent);
}

#[test]
fn a_wiped_spool_starts_a_new_stream() {
    let _running = shared();
    let mut pair = Pair::connected(1, Pattern::new(MIXED), QUICK_SENDER);
    let stream = |sender: &SenderHost| sender.status()["stream"].as_str().unwrap().to_owned();
    let mut exporters = pair.exporters();
    let mut streams = vec![stream(&pair.sender)];
    for orderly in [true, false] {
        exporters.send(20);
        pair.assert_all_arrive(&exporters, true);
        let daemon = pair.sender.take_daemon();
        if orderly {
            assert_eq!(daemon.terminate().code(), Some(0));
        } else {
            daemon.kill();
        }
        std::fs::remove_dir_all(pair.sender.path("spool")).unwrap();
        pair.sender.start();
        streams.push(stream(&pair.sender));
        exporters.send(20);
        pair.assert_all_arrive(&exporters, true);
    }
    let status = pair.receiver.status();
    assert_eq!(status["senders"][0]["stream"].as_str(), streams.last().map(String::as_str));
    assert_eq!(gaps(&pair.receiver), 0, "{status:#}");
    streams.sort();
    streams.dedup();
    assert_eq!(streams.len(), 3, "each wiped spool is a stream of its own");
}

#[test]
fn a_full_spool_with_a_hung_receiver_counts_drops() {
    let _running = shared();
    // No heartbeat times out, so all sent datagrams stay in flight and must not be dropped.
    let toml = small_spool("drop-oldest").replace("200ms\"\n[reconnect]", "1m\"\n[reconnect]");
    let pair = apart(&toml);
    pair.link.restore();
    pair.sender.daemon().signal(Signal::HUP);
    pair.sender.wait_state("connected", STALL);
    pair.receiver.daemon().signal(Signal::STOP);
    let exporters = go_on(&pair, pair.exporters(), 40_000);
    pair.sender.udp().wait_until_drained();
    let status = pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        count(status, "/received/datagrams") == exporters.total()
    });
    assert!(dropped(&status, "spool_full") > 0, "{status:#}");
    pair.receiver.daemon().signal(Signal::CONT);
    let outcome = deliver_the_rest(&pair, &exporters);
    assert_eq!(outcome.missing, dropped(&outcome.status, "spool_full"));
}
