//! Faults and reloads while one collector has more datagrams than another.

use std::net::SocketAddr;

use nf_transport_kit::chatter::{LARGE, Pattern};
use nf_transport_kit::collector::{Collector, Reading, ReadingPace};
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::count;

use super::{ACK_BYTES, BATCH, CollectorsSetup, EXPORTERS, LANE, MANY, absent, assert_gets, table};
use crate::isolation::shared;

/// Runs faults while one collector is absent and held for, and the other gets all datagrams. Then runs the
/// same faults while the first one gets all. Returns the number of repeated datagrams to the first and to the
/// other one.
fn repeats_through_faults(place: u8, fault: impl Fn(&mut CollectorsSetup)) -> [u64; 2] {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(place);
    let mut setup = CollectorsSetup::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let load = setup.load(setup.sender.exporters(EXPORTERS, pattern), Some(4000), Until::Sent(MANY));
    through_faults(&there, &mut setup, &fault);
    let exporters = load.finish();
    there.wait_for_all(exporters.sent(), STALL).assert_complete_and_in_order(exporters.sent());
    setup.wait_acknowledged(0, MANY);

    let reading = Reading { pace: ReadingPace::PerSecond(4000), ..Reading::default() };
    let late = Collector::start_reading(&away.to_string(), EXPORTERS, pattern, reading);
    through_faults(&late, &mut setup, &fault);
    late.wait_for_all(exporters.sent(), STALL).assert_complete_and_in_order(exporters.sent());
    setup.wait_acknowledged(MANY, 0);
    let reports = [&late, &there].map(|collector| {
        collector.wait_until_drained();
        collector.report()
    });
    for report in &reports {
        report.assert_complete_and_in_order(exporters.sent());
        assert_eq!(report.kernel_drops, 0);
    }
    reports.map(|report| report.repeated())
}

/// Number of faults during the delivery to one collector.
const FAULTS: u64 = 3;

fn through_faults(collector: &Collector, setup: &mut CollectorsSetup, fault: impl Fn(&mut CollectorsSetup)) {
    for number in 1..=FAULTS {
        collector.wait_for(MANY * number / (FAULTS + 1), STALL);
        fault(setup);
    }
}

#[test]
fn a_cut_repeats_nothing_to_unequal_collectors() {
    let repeated = repeats_through_faults(4, |setup| {
        setup.link.cut();
        setup.sender.wait_status(STALL, |status| status["state"] != "connected");
        setup.link.restore();
        setup.sender.wait_state("connected", STALL);
    });
    assert_eq!(repeated, [0, 0]);
}

#[test]
fn a_stop_repeats_nothing_to_unequal_collectors() {
    let repeated = repeats_through_faults(7, |setup| {
        assert_eq!(setup.receiver.take_daemon().terminate().code(), Some(0));
        setup.receiver.start();
    });
    assert_eq!(repeated, [0, 0]);
}

#[test]
fn a_killed_sender_repeats_nothing_to_collectors() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(8);
    let mut setup = CollectorsSetup::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let load = setup.load(setup.sender.exporters(EXPORTERS, pattern), Some(4000), Until::Sent(MANY));
    let kill = |setup: &mut CollectorsSetup| {
        setup.sender.take_daemon().kill();
        setup.sender.start();
    };
    through_faults(&there, &mut setup, kill);
    let exporters = load.finish();
    assert_gets(&there, exporters.sent());
    let reading = Reading { pace: ReadingPace::PerSecond(4000), ..Reading::default() };
    let late = Collector::start_reading(&away.to_string(), EXPORTERS, pattern, reading);
    through_faults(&late, &mut setup, kill);
    assert_gets(&late, exporters.sent());
    assert_gets(&there, exporters.sent());
    setup.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
}

/// Replaces an absent held collector and one that has every datagram by `tables` with a reload. Then nothing
/// must remain queued.
fn releases_held_datagrams(place: u8, tables: impl Fn(SocketAddr, SocketAddr) -> String) {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(place);
    let mut setup = CollectorsSetup::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let exporters = setup.send(pattern, MANY);
    assert_gets(&there, exporters.sent());
    setup.wait_acknowledged(0, MANY);
    setup.receiver.set_toml(&tables(away, there.addr()));
    setup.receiver.daemon().reload();
    setup.wait_acknowledged(MANY, 0);
    assert_gets(&there, exporters.sent());
}

#[test]
fn a_removed_collector_is_not_held_for() {
    releases_held_datagrams(9, |_, there| table(there, "when-down = \"skip\""));
}

#[test]
fn a_removed_collector_does_not_block_a_held_one() {
    releases_held_datagrams(10, |_, there| table(there, ""));
}

#[test]
fn a_collector_set_to_skip_is_not_held_for() {
    releases_held_datagrams(11, |away, there| {
        table(away, "when-down = \"skip\"") + &table(there, "when-down = \"skip\"")
    });
}

#[test]
fn a_killed_receiver_repeats_a_bounded_number() {
    let [late, there] = repeats_through_faults(5, |setup| {
        setup.receiver.take_daemon().kill();
        setup.receiver.start();
        setup.sender.wait_state("connected", STALL);
    });
    println!("repeated: {late} to the collector that was away, {there} to the other");
    // Each fault repeats the contents of the other collector's lane, what was not acknowledged, and a batch.
    // LARGE's datagrams have at least 1,300 bytes.
    let bound = 2 * FAULTS * (LANE + ACK_BYTES + BATCH) / 1300;
    assert!(there <= bound, "{there} datagrams were repeated, more than {bound}");
}
