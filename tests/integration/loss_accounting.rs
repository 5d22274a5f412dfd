//! Losses by policy or damage: both daemons count the same number, which matches the missing datagrams.

use std::path::{Path, PathBuf};

use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::ReceiverHost;
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};
use nf_transport_kit::tally::{CollectorReport, ExporterTally};
use serde_json::Value;

/// Result of a delivery with losses.
pub(crate) struct LossOutcome {
    /// Last status of nf-sender.
    pub(crate) status: Value,
    /// Counts of the collector.
    pub(crate) report: CollectorReport,
    /// Datagrams that did not arrive.
    pub(crate) missing: u64,
}

/// Reasons for which nf-sender drops received datagrams.
pub(crate) const REASONS: [&str; 3] = ["spool_full", "too_old", "corrupt"];

/// Returns the count of one reason in a status of nf-sender.
pub(crate) fn dropped(status: &Value, reason: &str) -> u64 {
    count(status, &format!("/dropped/{reason}"))
}

/// Returns the number of lost datagrams that senders have reported to nf-receiver.
pub(crate) fn gaps(receiver: &ReceiverHost) -> u64 {
    let status = receiver.status();
    let senders = status["senders"].as_array().expect("a list of senders");
    senders.iter().map(|sender| count(sender, "/gaps")).sum()
}

/// Waits until nf-sender's queue is empty. Panics unless all datagrams arrived once, in order and unchanged,
/// except for the losses that nf-receiver counts.
pub(crate) fn deliver_the_rest(pair: &Pair, exporters: &Exporters) -> LossOutcome {
    assert_eq!(pair.sender.udp().dropped(), 0, "the kernel dropped datagrams at nf-sender's socket");
    let status = pair.sender.wait_status(STALL * 2, |status| count(status, "/queued/datagrams") == 0);
    assert_conserved(&status);
    let missing = gaps(&pair.receiver);
    pair.collector.wait_for(exporters.total() - missing, STALL);
    let report = pair.collector.report();
    let picture = || format!("{}\n{status:#}", report.picture(exporters.sent()));
    assert_eq!(report.kernel_drops, 0, "the collector was too slow for its own socket");
    assert_eq!(report.missing(exporters.sent()), missing, "the receiver counts other losses\n{}", picture());
    let is_exact = |tally: &ExporterTally| tally.repeated + tally.out_of_order + tally.corrupted == 0;
    assert!(report.foreign == 0 && report.exporters.iter().all(is_exact), "{}", picture());
    LossOutcome { status, report, missing }
}

/// Sends datagrams until the exporters have sent `total`, as fast as nf-sender receives them.
pub(crate) fn go_on(pair: &Pair, exporters: Exporters, total: u64) -> Exporters {
    SteadyLoad::start(exporters, pair.sender.udp().clone(), None, Until::Sent(total)).finish()
}

/// Waits until nf-sender has stored all received datagrams in segments, so that none moves any more.
pub(crate) fn wait_until_spooled(pair: &Pair) -> Value {
    pair.sender.udp().wait_until_drained();
    let spool = pair.sender.path("spool");
    pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        // Ingest counts a datagram for its exporter first and queues it then.
        let rows = status["exporters"].as_array().expect("the status lists exporters");
        let taken: u64 = rows.iter().map(|row| count(row, "/datagrams")).sum();
        let is_queued = taken <= count(status, "/received/datagrams");
        let held = count(status, "/queued/bytes");
        is_queued && held > 0 && held == segments(&spool).iter().map(|path| length(path)).sum::<u64>()
    })
}

/// Lists the segments of a spool directory, oldest first.
pub(crate) fn segments(spool: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "segment");
    let mut paths: Vec<_> = entries.filter(is_segment).collect();
    paths.sort();
    paths
}

/// Returns the length of a file; 0 if it was removed meanwhile.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |facts| facts.len())
}

/// Returns the first position of a segment.
pub(crate) fn first_position(segment: &Path) -> u64 {
    segment.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}
