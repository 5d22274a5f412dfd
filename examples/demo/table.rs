//! Sent and arrived datagrams by exporter, and the verdict.

use std::fmt::Write;
use std::process::ExitCode;

use nf_transport_kit::chatter::Version;
use nf_transport_kit::tally::CollectorReport;

/// Formats a row for each exporter and a total.
pub(crate) fn table(report: &CollectorReport, sent: &[u32]) -> String {
    let mut out = String::from(
        "exporter                 sent   arrived   missing   changed   out of order  duplicate\n",
    );
    writeln!(out, "{}", "─".repeat(82)).unwrap();
    for (number, (tally, sent)) in (0..).zip(report.exporters.iter().zip(sent)) {
        let missing: u32 = tally.missing(*sent).iter().map(|(first, end)| end - first).sum();
        let name = format!("127.0.0.{} {}", number + 2, Version::of(number).name());
        let figures = [(*sent).into(), tally.arrived, missing.into(), tally.corrupted, tally.out_of_order];
        row(&mut out, &name, figures, tally.repeated);
    }
    let sum = |figure: fn(&nf_transport_kit::tally::ExporterTally) -> u64| {
        report.exporters.iter().map(figure).sum()
    };
    let all_sent = sent.iter().map(|sent| u64::from(*sent)).sum();
    let out_of_order = sum(|tally| tally.out_of_order);
    let figures =
        [all_sent, report.arrived(), report.missing(sent), sum(|tally| tally.corrupted), out_of_order];
    row(&mut out, "all", figures, report.repeated());
    out
}

fn row(out: &mut String, name: &str, figures: [u64; 5], repeated: u64) {
    let [sent, arrived, missing, changed, out_of_order] = figures;
    writeln!(
        out,
        "{name:<21}{sent:>8}{arrived:>10}{missing:>10}{changed:>10}{out_of_order:>15}{repeated:>11}"
    )
    .unwrap();
}

/// Prints whether every datagram arrived unchanged and in order.
pub(crate) fn verdict(report: &CollectorReport, sent: &[u32], kernel_drops: u64) -> ExitCode {
    let bad = |tally: &nf_transport_kit::tally::ExporterTally| tally.corrupted + tally.out_of_order > 0;
    let missing = report.missing(sent);
    if missing + report.foreign + kernel_drops > 0 || report.exporters.iter().any(bad) {
        println!(
            "FAILED: {missing} datagrams are missing, {} are not from the exporters; the kernel dropped \
             {kernel_drops} at nf-sender's socket and {} at the collector's.",
            report.foreign, report.kernel_drops
        );
        return ExitCode::FAILURE;
    }
    println!("Every datagram arrived, byte for byte and in order.");
    if report.repeated() > 0 {
        println!(
            "{} arrived twice: a killed nf-receiver repeats what it delivered in the last 20 ms.",
            report.repeated()
        );
    }
    ExitCode::SUCCESS
}
