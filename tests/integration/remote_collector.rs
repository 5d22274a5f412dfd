//! A collector on another machine, in a network namespace at the end of a cable. nf-receiver learns about it
//! only from the network.

use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::hosts::{ReceiverHost, SenderHost};
use nf_transport_kit::kernel_socket;
use nf_transport_kit::link::Link;
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::other_host::{NETWORK, OtherHost};
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::{in_a_network, shared};

/// Addresses of a collector and of another one on the same machine.
const COLLECTOR: &str = "10.77.0.2:9995";
const ANOTHER: &str = "10.77.0.2:9996";

fn pattern() -> Pattern {
    Pattern::new(MIXED)
}

/// Starts a collector on the other machine at this address.
fn collector_on(there: &OtherHost, address: &'static str) -> Collector {
    there.run(move |process| {
        kernel_socket::use_tables(format!("/proc/{process}/net"));
        Collector::start_on(address, 1, pattern())
    })
}

/// A pair with a collector on another machine.
struct RemoteCollector {
    sender: SenderHost,
    link: Link,
    receiver: ReceiverHost,
    there: OtherHost,
}

impl RemoteCollector {
    /// Starts and connects both daemons, configured with these collectors and lines. The collectors are not
    /// running yet.
    fn with(collectors: &[&str], lines: &str) -> Self {
        let there = OtherHost::connected();
        let table = |address: &&str| format!("[[collector]]\naddress = \"{address}\"\n{lines}\n");
        let toml: String = collectors.iter().map(table).collect();
        let (sender, link, receiver) = connected_daemons(&toml);
        Self { sender, link, receiver, there }
    }

    fn load(&self, rate: Option<u32>, until: Until) -> SteadyLoad {
        SteadyLoad::start(self.sender.exporters(1, pattern()), self.sender.udp().clone(), rate, until)
    }

    /// Waits until this number of datagrams is queued at nf-sender.
    fn wait_queued(&self, datagrams: u64) {
        self.sender.wait_status(STALL, |status| {
            assert_conserved(status);
            count(status, "/queued/datagrams") >= datagrams
        });
    }

    /// Waits until nf-receiver reports this state of the collector.
    fn wait_state(&self, state: &str) {
        self.receiver.wait_status(STALL, |status| status["collectors"][0]["state"] == state);
    }
}

#[test]
fn datagrams_wait_for_an_absent_collector() {
    let _running = shared();
    in_a_network(NETWORK, "remote_collector::inside_a_remote_collector_that_ends");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_remote_collector_that_ends() {
    const RATE: u32 = 1000;
    // Datagrams sent between the collector's end and the first ICMP error are lost uncounted: about 20 ms of
    // datagrams and a run of 64. The bound is ten times as high for a busy machine.
    const LOST_MAX: u32 = 10 * (RATE / 50 + 64);
    let setup = RemoteCollector::with(&[COLLECTOR], "");
    let collector = collector_on(&setup.there, COLLECTOR);
    let load = setup.load(Some(RATE), Until::Stopped);
    collector.wait_for(2000, STALL);
    setup.wait_state("unknown");
    let before = collector.report().exporters[0].clone();
    let end_of_first = u32::try_from(collector.arrived()).unwrap();
    drop(collector);
    setup.wait_state("down");
    setup.wait_queued(2000);
    setup.receiver.wait_status(STALL, |status| count(status, "/collectors/0/held_s") >= 2);
    let held = count(&setup.receiver.status(), "/collectors/0/delivered/datagrams");

    let collector = collector_on(&setup.there, COLLECTOR);
    collector.wait_for(2000, STALL);
    let exporters = load.stop();
    let sent = exporters.sent()[0];
    setup.sender.wait_status(STALL, |status| count(status, "/acknowledged/datagrams") == u64::from(sent));
    setup.wait_state("unknown");
    let delivered = count(&setup.receiver.status(), "/collectors/0/delivered/datagrams");
    assert_eq!(delivered, u64::from(sent), "nf-receiver counts each datagram once");
    // Datagrams that the first collector had not read are missing, too.
    collector.wait_for(delivered - held, STALL);
    let after = collector.report().exporters[0].clone();
    let missing = after.missing(sent);
    println!("{sent} sent; before: {before}; after: {after}, missing {missing:?}");
    let &[(0, first)] = missing.as_slice() else { panic!("the second collector lacks {missing:?}") };
    let lost = first.saturating_sub(end_of_first);
    println!("lost: {lost} datagrams");
    assert!(lost <= LOST_MAX, "{lost} datagrams are lost");
    for tally in [before, after] {
        assert_eq!(tally.repeated + tally.out_of_order + tally.corrupted, 0, "{tally}");
    }
}

#[test]
fn datagrams_wait_for_two_absent_collectors() {
    let _running = shared();
    in_a_network(NETWORK, "remote_collector::inside_two_absent_collectors");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_two_absent_collectors() {
    const RATE: u32 = 500;
    const LOST_MAX: u32 = 10 * (RATE / 50 + 64);
    let addresses = [COLLECTOR, ANOTHER];
    let setup = RemoteCollector::with(&addresses, "");
    let load = setup.load(Some(RATE), Until::Stopped);
    // Long enough to probe each collector several times. The other machine sends little more than one ICMP
    // error a second for all of them.
    setup.wait_queued(u64::from(RATE) * 12);
    let collectors = addresses.map(|address| collector_on(&setup.there, address));
    for collector in &collectors {
        collector.wait_for(u64::from(RATE) * 6, STALL);
    }
    let sent = load.stop().sent()[0];
    setup.sender.wait_status(STALL, |status| count(status, "/acknowledged/datagrams") == u64::from(sent));
    for collector in &collectors {
        collector.wait_until_drained();
        let tally = collector.report().exporters[0].clone();
        let missing = tally.missing(sent);
        println!("{sent} sent; {tally}, missing {missing:?}");
        assert!(
            missing.iter().all(|(first, end)| *first == 0 && *end <= LOST_MAX) && tally.repeated == 0,
            "{tally}, missing {missing:?}"
        );
    }
}

#[test]
fn a_remote_collector_gets_at_most_its_rate_limit() {
    let _running = shared();
    in_a_network(NETWORK, "remote_collector::inside_a_rate_limit");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_rate_limit() {
    const LIMIT: u64 = 500;
    const SECONDS: u64 = 5;
    // A hundredth of a second's worth at once, as much again that was saved, and one datagram whose time has
    // not passed.
    const BURST: u64 = LIMIT / 50 + 1;
    let setup = RemoteCollector::with(&[COLLECTOR], &format!("rate-limit = {LIMIT}"));
    let collector = collector_on(&setup.there, COLLECTOR);
    let began = Instant::now();
    let load = setup.load(Some(3 * u32::try_from(LIMIT).unwrap()), Until::Sent(LIMIT * SECONDS));
    let (mut arrived, mut by_second) = (0, Vec::new());
    while arrived < LIMIT * SECONDS {
        // Read before the clock, so that later arrivals are not compared with an earlier time.
        arrived = collector.arrived();
        let elapsed = began.elapsed();
        let allowed = BURST + LIMIT * u64::try_from(elapsed.as_millis()).unwrap() / 1000;
        assert!(arrived <= allowed, "{arrived} datagrams in {elapsed:?}");
        if elapsed.as_secs() > u64::try_from(by_second.len()).unwrap() {
            by_second.push(arrived);
        }
        assert!(elapsed < STALL, "only {arrived} in {elapsed:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("arrived at the ends of the seconds: {by_second:?}; all in {:?}", began.elapsed());
    let exporters = load.finish();
    collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
}

#[test]
fn a_remote_collector_catches_up_at_20000() {
    let _running = shared();
    in_a_network(NETWORK, "remote_collector::inside_catching_up");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_catching_up() {
    const BACKLOG: u64 = 60_000;
    let setup = RemoteCollector::with(&[COLLECTOR], "");
    let collector = collector_on(&setup.there, COLLECTOR);
    setup.link.cut();
    let exporters = setup.load(None, Until::Sent(BACKLOG)).finish();
    setup.wait_queued(BACKLOG);
    // Datagrams count as late from an age of 1 s.
    std::thread::sleep(Duration::from_millis(1100));
    let began = Instant::now();
    setup.link.restore();
    let report = collector.wait_for_all(exporters.sent(), STALL);
    let took = began.elapsed();
    println!("{BACKLOG} datagrams in {took:?}");
    report.assert_exact(exporters.sent());
    assert_eq!(report.kernel_drops, 0);
    assert!(took >= Duration::from_millis(2900), "{BACKLOG} datagrams in {took:?}");
}
