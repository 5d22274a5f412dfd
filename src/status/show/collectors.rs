//! The collectors of nf-receiver as a table, with lines about single collectors.

use crate::status::show::pace::{Earlier, per_second};
use crate::status::show::table::{Align, Table};
use crate::status::show::units::{grouped, more_rows, render_legend, size, span};
use crate::status::{CollectorState, CollectorStatus, ReceiverStatus, count_of};

/// Exporters that are shown with the address under which a collector sees them.
const SEEN_AS_ROWS: usize = 20;

/// The table of collectors and late addresses, its legend, and the lines about single collectors.
pub(super) fn render(status: &ReceiverStatus, earlier: Option<Earlier<'_, ReceiverStatus>>) -> String {
    let mut table = Table::new([
        ("collector", Align::Left),
        ("state", Align::Left),
        ("datagrams", Align::Right),
        ("bytes", Align::Right),
        ("skipped", Align::Right),
        ("socket drops", Align::Right),
        ("unread at stop", Align::Right),
        ("", Align::Right),
    ]);
    for collector in &status.collectors {
        let before = |status: &ReceiverStatus| {
            let same = status.collectors.iter().find(|other| other.address == collector.address);
            same.map_or(0, |same| same.delivered.datagrams)
        };
        table.row([
            collector.address.clone(),
            if collector.resolved {
                state(collector.state, collector.held_s) + &pacing(collector.paced_s)
            } else {
                "name not resolved".to_owned()
            },
            grouped(collector.delivered.datagrams),
            size(collector.delivered.bytes),
            grouped(collector.skipped),
            grouped(collector.socket_drops),
            grouped(collector.unread),
            earlier
                .map(|earlier| per_second(collector.delivered.datagrams, before(earlier.status), earlier.ago))
                .unwrap_or_default(),
        ]);
        if let Some(late) = &collector.late {
            table.row([
                format!("  late: {}", late.address),
                state(late.state, late.held_s),
                grouped(late.delivered.datagrams),
                size(late.delivered.bytes),
                grouped(late.skipped),
                grouped(late.socket_drops),
                grouped(late.unread),
                String::new(),
            ]);
        }
    }
    table.render() + &legend(status) + &refused_by_kernel(status) + &confused(status) + &seen_as(status)
}

/// The meaning of the columns of losses, for those with a count.
fn legend(status: &ReceiverStatus) -> String {
    let collectors = || status.collectors.iter();
    let late = || collectors().filter_map(|collector| collector.late.as_ref());
    let skipped = collectors().any(|collector| collector.skipped > 0) || late().any(|late| late.skipped > 0);
    let drops = |collector: &CollectorStatus| collector.socket_drops > 0;
    let socket_drops = collectors().any(drops) || late().any(|late| late.socket_drops > 0);
    let unread = collectors().any(|collector| collector.unread > 0) || late().any(|late| late.unread > 0);
    render_legend([
        (skipped, "skipped", "not sent, as the collector was down or too slow (when-down = \"skip\")"),
        (socket_drops, "socket drops", "dropped by the kernel at the collector's socket, from any sender"),
        (unread, "unread at stop", "lost in the collector's socket when it stopped (upper bound)"),
    ])
}

/// Warnings about exporters that a collector confuses: the first pair of each collector.
fn confused(status: &ReceiverStatus) -> String {
    let sentences = status.collectors.iter().filter_map(|collector| {
        let first = collector.confused.first()?;
        let more = match collector.confused.len() {
            1 => String::new(),
            2 => " (1 more pair: status --json lists it)".to_owned(),
            pairs => format!(" ({} more pairs: status --json lists them)", pairs - 1),
        };
        Some(format!("\nwarning: {}{more}\n", first.meaning))
    });
    sentences.collect()
}

/// The lines about datagrams that the kernel refused to send.
fn refused_by_kernel(status: &ReceiverStatus) -> String {
    let addresses = status.collectors.iter().flat_map(|collector| {
        let late = collector.late.iter().map(|late| (&late.address, late.refused));
        core::iter::once((&collector.address, collector.refused)).chain(late)
    });
    let sentences = addresses.filter(|(_, refused)| *refused > 0).map(|(address, refused)| {
        format!("{address}: {} dropped: the kernel refused to send them\n", count_of(refused, "datagram"))
    });
    let text: String = sentences.collect();
    if text.is_empty() { text } else { format!("\n{text}") }
}

/// The state in words, and for how long delivery has been held back.
fn state(state: CollectorState, held_s: u64) -> String {
    let state = match state {
        CollectorState::Up => "up",
        CollectorState::Down => "down",
        CollectorState::Unknown => "unknown",
    };
    if held_s == 0 { state.to_owned() } else { format!("{state}, holding for {}", span(held_s)) }
}

/// The remark about late datagrams that wait for `catch-up-pace`; empty if none do.
fn pacing(paced_s: Option<u64>) -> String {
    match paced_s {
        None => String::new(),
        Some(0 | 1) => ", pacing".to_owned(),
        Some(seconds) => format!(", pacing: next in {}", span(seconds)),
    }
}

/// The table of exporters that a collector sees under another address, with at most [`SEEN_AS_ROWS`] rows.
fn seen_as(status: &ReceiverStatus) -> String {
    let rows = status.collectors.iter().flat_map(|collector| {
        collector
            .seen_as
            .iter()
            .map(|row| [row.exporter.to_string(), row.seen_as.to_string(), collector.address.clone()])
    });
    let (total, mut table) = (
        rows.clone().count(),
        Table::new(["exporter", "seen as", "by collector"].map(|head| (head, Align::Left))),
    );
    if total == 0 {
        return String::new();
    }
    rows.take(SEEN_AS_ROWS).for_each(|row| table.row(row));
    format!("\n{}{}", table.render(), more_rows(total.saturating_sub(SEEN_AS_ROWS)))
}
