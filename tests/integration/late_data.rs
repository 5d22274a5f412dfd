//! Late datagrams: they can go to a separate address, and no faster than a multiple of the pace at which they
//! arrived.

use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::hosts::{ReceiverHost, SenderHost};
use nf_transport_kit::link::Link;
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::count;
use serde_json::Value;

use crate::isolation::shared;

/// Datagrams per second of one exporter.
const RATE: u32 = 500;

/// Times of the outage. Datagrams sent during the first part wait for the second part before the link is
/// restored.
const OUTAGE: [Duration; 2] = [Duration::from_millis(2500), Duration::from_millis(1500)];

/// Allowed shortening of the span between two datagrams on a busy machine.
const SLACK: Duration = Duration::from_millis(500);

/// One exporter under load after an outage of the link.
struct AfterOutage {
    sender: SenderHost,
    receiver: ReceiverHost,
    _link: Link,
    load: SteadyLoad,
    /// Sent datagrams and the time at three moments: when the link was cut, after the first part of
    /// [`OUTAGE`], and when the link was restored.
    sent: [(u32, Instant); 3],
}

impl AfterOutage {
    /// Sends datagrams to `collector` with these settings, cuts the link, and restores it after [`OUTAGE`].
    fn run(collector: &Collector, lines: &str) -> Self {
        let toml = format!("[[collector]]\naddress = \"{}\"\n{lines}\n", collector.addr());
        let (sender, link, receiver) = connected_daemons(&toml);
        let exporters = sender.exporters(1, pattern());
        let load = SteadyLoad::start(exporters, sender.udp().clone(), Some(RATE), Until::Stopped);
        collector.wait_for(u64::from(RATE), STALL);
        link.cut();
        let sent = || (u32::try_from(load.sent()).unwrap(), Instant::now());
        let cut = sent();
        std::thread::sleep(OUTAGE[0]);
        let old = sent();
        std::thread::sleep(OUTAGE[1]);
        let sent = [cut, old, sent()];
        link.restore();
        Self { sender, receiver, _link: link, load, sent }
    }

    /// Stops the load and waits until every datagram is delivered. Returns the number of datagrams and the
    /// status of nf-receiver's collector.
    fn finish(self) -> (u32, Value) {
        let exporters = self.load.stop();
        let total = exporters.total();
        self.sender.wait_status(STALL, |status| count(status, "/acknowledged/datagrams") == total);
        (exporters.sent()[0], self.receiver.status()["collectors"][0].clone())
    }
}

fn pattern() -> Pattern {
    Pattern::new(MIXED)
}

/// Returns the ranges of numbers that are missing in both.
fn missing_in_both(one: &[(u32, u32)], other: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
    let common = pairs.map(|(one, other)| (one.0.max(other.0), one.1.min(other.1)));
    common.filter(|(first, end)| first < end).collect()
}

#[test]
fn late_datagrams_go_to_the_late_address() {
    let _running = shared();
    let [fresh, late] = [(); 2].map(|()| Collector::start(1, pattern()));
    let outage =
        AfterOutage::run(&fresh, &format!("late-after = \"1s\"\nlate-address = \"{}\"", late.addr()));
    let [(cut, _), (old, _), _] = outage.sent;
    // Datagrams that arrive there after the outage are fresh.
    let before = fresh.arrived();
    fresh.wait_for(before + 2 * u64::from(RATE), STALL);
    let (sent, status) = outage.finish();

    let arrived = |status: &Value, at: &str| count(status, &format!("{at}/delivered/datagrams"));
    fresh.wait_for(arrived(&status, ""), STALL);
    late.wait_for(arrived(&status, "/late"), STALL);
    let [fresh, late] = [fresh.report(), late.report()].map(|report| report.exporters[0].clone());
    println!("{sent} datagrams, {cut} to {old} surely late; fresh: {fresh}; late: {late}");
    assert_eq!(fresh.arrived + late.arrived, u64::from(sent), "each datagram goes to one of the two");
    let (not_fresh, not_late) = (fresh.missing(sent), late.missing(sent));
    assert_eq!(missing_in_both(&not_fresh, &not_late), []);
    for tally in [&fresh, &late] {
        assert_eq!(tally.repeated + tally.out_of_order + tally.corrupted, 0, "{tally}");
    }
    let covers = |(first, end): &(u32, u32)| *first <= cut && old <= *end;
    assert!(not_fresh.iter().any(covers), "{cut} to {old} are late, and of these are not: {not_fresh:?}");
    assert!(not_late.last().is_some_and(|(_, end)| *end == sent), "the last one is fresh: {not_late:?}");
}

#[test]
fn catch_up_keeps_the_multiple_of_the_pace() {
    let _running = shared();
    let collector = Collector::start(1, pattern());
    let outage = AfterOutage::run(&collector, "catch-up-pace = 2");
    let [(_, cut), _, (waited, mended)] = outage.sent;
    collector.wait_for(waited.into(), STALL);
    let (took, recorded) = (mended.elapsed(), mended - cut);
    println!("{recorded:?} of datagrams arrived in {took:?}");
    assert!(took + SLACK >= recorded / 2, "{recorded:?} of datagrams arrived in {took:?}");
    let (sent, _) = outage.finish();
    collector.wait_for_all(&[sent], STALL).assert_exact(&[sent]);
}
