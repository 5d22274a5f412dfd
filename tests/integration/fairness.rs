//! A full spool drops the datagrams of the exporter that holds most, and names it.

use nf_transport_kit::chatter::{LARGE, Pattern};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};
use nf_transport_kit::tally::ExporterTally;

use crate::isolation::shared;
use crate::loss_accounting::{dropped, gaps, wait_until_spooled};

/// Exporters with few datagrams, and the number of datagrams of each.
const QUIET: u16 = 4;
const FEW: u64 = 200;

/// Datagrams of the flooding exporter: 56 MB.
const FLOOD: u64 = 40_000;

/// Runs an outage with a flood of more datagrams than the spool holds, after a session with `before`
/// datagrams of each exporter. Kills and restarts nf-sender in between if `is_killed`.
fn flood_in_an_outage(before: u64, is_killed: bool) {
    let _running = shared();
    let toml = format!("{QUICK_SENDER}sync-after = \"0s\"\nmax-size = \"16MiB\"\nrotate-size = \"2MiB\"\n");
    let pattern = Pattern::new(LARGE);
    let mut pair = Pair::connected(1 + QUIET, pattern, &toml);
    let target = pair.sender.udp().addr();
    let mut flood = Exporters::new(0..1, target, pattern);
    let mut quiet = Exporters::new(1..1 + QUIET, target, pattern);
    flood.send(before);
    quiet.send(before * u64::from(QUIET));
    pair.collector.wait_for(before * u64::from(1 + QUIET), STALL);
    // Otherwise the spool could drop datagrams that have arrived.
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    pair.link.cut();
    for round in 1..=FEW {
        flood = SteadyLoad::start(
            flood,
            pair.sender.udp().clone(),
            None,
            Until::Sent(before + FLOOD * round / FEW),
        )
        .finish();
        quiet.send(u64::from(QUIET));
    }
    let status = wait_until_spooled(&pair);
    let full = dropped(&status, "spool_full");
    assert!(full > FLOOD / 2, "{status:#}");
    pair.sender.daemon().wait_for_log(&["dropped", "by the spool's limits, of 127.0.0.2 ("], STALL);
    let [row] = &status["dropped_exporters"].as_array().unwrap()[..] else { panic!("{status:#}") };
    assert_eq!((row["address"].as_str(), count(row, "/datagrams")), (Some("127.0.0.2"), full));
    if is_killed {
        pair.sender.take_daemon().kill();
        pair.sender.start();
    }

    pair.link.restore();
    let status = pair.sender.wait_status(STALL * 2, |status| count(status, "/queued/datagrams") == 0);
    assert_conserved(&status);
    pair.collector.wait_for(flood.total() + quiet.total() - full, STALL);
    let report = pair.collector.report();
    for (number, exporter) in report.exporters.iter().enumerate().skip(1) {
        assert_eq!(exporter.missing(quiet.sent()[number - 1]), [], "exporter {number}");
    }
    let is_exact =
        |exporter: &ExporterTally| exporter.repeated + exporter.out_of_order + exporter.corrupted == 0;
    assert!(
        report.exporters.iter().all(is_exact),
        "{}",
        report.picture(&[flood.sent(), quiet.sent()].concat())
    );
    let missing = report.exporters[0].missing(flood.sent()[0]);
    // While the ring is full, newer ones are dropped, too.
    let oldest = missing.first().map(|(first, _)| u64::from(*first));
    assert_eq!(oldest, Some(before), "the oldest of the flood are missing: {missing:?}");
    assert_eq!(report.missing(&[flood.sent(), quiet.sent()].concat()), full);
    assert_eq!(gaps(&pair.receiver), full);
}

#[test]
fn a_flood_in_an_outage_drops_no_other_exporter() {
    flood_in_an_outage(0, false);
}

#[test]
fn a_flood_after_a_session_drops_no_other() {
    flood_in_an_outage(50, false);
}

#[test]
fn a_thinned_spool_survives_kill_9() {
    flood_in_an_outage(50, true);
}
