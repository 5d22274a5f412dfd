//! Wrong clocks, and clocks that are set while daemons run or between runs. Nothing is dropped, nothing
//! stalls, and the log reports the change.

use core::net::SocketAddr;
use core::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime};

use nf_transport_core::batch::{BatchBuilder, Compression};
use nf_transport_core::datagram::{Datagram, Moment, Timestamp};
use nf_transport_core::secure::StreamKey;
use nf_transport_core::sequence::{Position, RunId};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{MinFree, OwnStream, Policy, StreamSecret, open};
use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::{Collector, Inbox};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::count;
use nf_transport_kit::wall_clock::WallClock;

use crate::isolation::shared;
use crate::loss_accounting::{dropped, go_on, wait_until_spooled};

/// Datagrams of a backlog.
const BACKLOG: u64 = 2000;

/// Longest delay by `catch-up-pace`, with a margin for a busy machine.
const LONGEST_WAIT: Duration = Duration::from_secs(60 + 20);

/// Starts a pair with a cut link and a backlog in segments that are dropped after an hour.
fn spooled(clock: Option<&WallClock>) -> (Pair, Exporters) {
    let toml = format!("{QUICK_SENDER}sync-after = \"0s\"\nmax-age = \"1h\"\n");
    let mut pair = Pair::new(2, Pattern::new(MIXED), &toml);
    if let Some(clock) = clock {
        pair.sender.set_clock(clock);
    }
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let exporters = go_on(&pair, pair.exporters(), BACKLOG);
    wait_until_spooled(&pair);
    (pair, exporters)
}

fn assert_all_queued(pair: &Pair) {
    let status = pair.sender.status();
    assert_eq!(count(&status, "/queued/datagrams"), BACKLOG, "{status:#}");
    assert!(count(&status, "/queued/oldest_s") < 600, "{status:#}");
}

#[test]
fn a_clock_briefly_ten_years_ahead_drops_nothing() {
    let _running = shared();
    let clock = WallClock::correct();
    let (pair, exporters) = spooled(Some(&clock));
    clock.set("+10y");
    pair.sender.daemon().wait_for_log(&["clock was set forward", "no datagrams are dropped"], STALL);
    assert_all_queued(&pair);
    let last_seen = |status: &serde_json::Value| count(status, "/exporters/0/last_seen_s");
    let seen_before = last_seen(&pair.sender.status());
    clock.set("+0");
    // The line about the step back may be suppressed, since it follows within 10 seconds.
    pair.sender.wait_status(STALL, |status| last_seen(status) >= seen_before + 2);
    assert_all_queued(&pair);
    pair.link.restore();
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn a_clock_set_forward_between_runs_drops_nothing() {
    let _running = shared();
    let (mut pair, exporters) = spooled(None);
    let clock = WallClock::correct();
    clock.set("+10y");
    pair.sender.take_daemon().kill();
    pair.sender.set_clock(&clock);
    pair.sender.start();
    pair.sender.daemon().wait_for_log(&["clock was set forward", "before nf-sender started"], STALL);
    assert_all_queued(&pair);
    pair.link.restore();
    pair.assert_all_arrive(&exporters, true);
}

/// In the second run the boot clock is two hours ahead, while the wall clock has not moved.
#[test]
fn a_clock_set_back_between_runs_keeps_max_age() {
    let _running = shared();
    if !may_make_namespaces() {
        return;
    }
    let (mut pair, _) = spooled(None);
    assert_eq!(pair.sender.take_daemon().terminate().code(), Some(0));
    pair.sender.run_two_hours_later();
    pair.sender.start();
    pair.sender.daemon().wait_for_log(&["clock was set back by 2h", "before nf-sender started"], STALL);
    pair.sender.wait_status(STALL, |status| dropped(status, "too_old") == BACKLOG);
}

/// Returns whether a time namespace can be created. In continuous integration (`CI=true`) it must be
/// possible.
fn may_make_namespaces() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(is_root || !required, "only root can create a time namespace");
    if !is_root {
        eprintln!("skipped: only root can create a time namespace");
    }
    is_root
}

#[test]
fn a_jump_of_the_receivers_clock_delays_nothing() {
    let _running = shared();
    let [fresh, late] = [(); 2].map(|()| Collector::start(1, Pattern::new(MIXED)));
    let (first, second) = (fresh.addr(), late.addr());
    let lines = format!("late-after = \"30s\"\nlate-address = \"{second}\"");
    let mut receiver = ReceiverHost::new(&[], &format!("[[collector]]\naddress = \"{first}\"\n{lines}\n"));
    let clock = WallClock::correct();
    receiver.set_clock(&clock);
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    receiver.start();
    sender.start();
    let exporters = sender.exporters(1, Pattern::new(MIXED));
    let load = SteadyLoad::start(exporters, sender.udp().clone(), Some(500), Until::Stopped);
    fresh.wait_for(100, STALL);
    clock.set("+10y");
    receiver.daemon().wait_for_log(&["clock was set forward", "delivery continues"], STALL);
    fresh.wait_for(fresh.arrived() + 500, STALL);
    clock.set("+0");
    fresh.wait_for(fresh.arrived() + 500, STALL);
    let exporters = load.stop();
    fresh.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
    assert_eq!(late.arrived(), 0);
}

/// Writes a spool like that of a sender with these arrival times, in seconds since 1970.
fn leave_backlog(sender: &SenderHost, arrivals: &[u64]) {
    let address = SocketAddr::from(([127, 0, 0, 1], 2055));
    let key = StreamKey::generate().unwrap();
    let own = OwnStream { id: key.id(), secret: StreamSecret(key.seed().clone()) };
    std::fs::create_dir_all(sender.path("spool")).unwrap();
    let disk = Directory::open(&sender.path("spool")).unwrap();
    let mut spool =
        open(disk, own, Policy { min_free: MinFree::Bytes(0), ..Policy::default() }).unwrap().spool;
    spool.begin_run(RunId([8; 16]), Position(0)).unwrap();
    for (position, arrival) in (0..).zip(arrivals) {
        let arrival = Timestamp::from_unix(Duration::from_secs(*arrival));
        let mut builder = BatchBuilder::new(key.id(), Compression::None);
        let datagram = Datagram { exporter: address, local: address, arrival, payload: b"x" };
        builder.push(&datagram).unwrap();
        let batch = builder.finish(Position(position)).unwrap();
        spool.append(&batch, Moment::default(), Position(0)).unwrap();
    }
    let end = Position(u64::try_from(arrivals.len()).unwrap());
    spool.end_run(Position(0), end).unwrap();
}

#[test]
fn a_backlog_from_1970_is_held_for_a_minute() {
    let _running = shared();
    let inbox = Inbox::start("127.0.0.1:0");
    let pace = NonZeroU32::new(4).unwrap();
    let toml = format!("[[collector]]\naddress = \"{}\"\ncatch-up-pace = {pace}\n", inbox.addr());
    let mut receiver = ReceiverHost::new(&[], &toml);
    let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    // Arrivals before and after time synchronization, and one that seems to be in the future.
    let arrivals = [0, 1, 2, now - 600, now - 599, now + 3600];
    leave_backlog(&sender, &arrivals);
    receiver.start();
    sender.start();
    inbox.wait_for(3, STALL);
    let waiting = Instant::now();
    let status = receiver.wait_status(STALL, |status| count(status, "/collectors/0/paced_s") > 30);
    assert!(count(&status, "/collectors/0/paced_s") <= 60, "{status:#}");
    inbox.wait_for(arrivals.len(), LONGEST_WAIT);
    assert!(waiting.elapsed() > Duration::from_secs(30), "late datagrams keep their distances");
    receiver.wait_status(STALL, |status| status["collectors"][0]["paced_s"].is_null());
}
