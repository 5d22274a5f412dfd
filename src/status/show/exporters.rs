//! The exporters of nf-sender as a table.

use crate::status::show::table::{Align, Table};
use crate::status::show::units::{grouped, more_rows, render_legend, span};
use crate::status::{ExporterStatus, SenderStatus};

/// Seconds after which an exporter counts as silent. Flow exporters send at least one datagram a minute.
const SILENT_AFTER_S: u64 = 60;

/// Exporters that are shown with the reason why their sequence numbers cannot be used.
const UNUSABLE_ROWS: usize = 5;

/// The exporters, and the reasons why losses of some of them cannot be counted.
pub(super) fn table(status: &SenderStatus) -> String {
    let mut table = Table::new([
        ("exporter", Align::Left),
        ("type", Align::Right),
        ("source", Align::Right),
        ("datagrams", Align::Right),
        ("missing", Align::Right),
        ("duplicate", Align::Right),
        ("last seen", Align::Right),
    ]);
    let has_repeats = status.exporters.iter().any(|exporter| exporter.duplicates > 0);
    for exporter in sort_by_trouble(&status.exporters) {
        table.row([
            exporter.socket_address().to_string(),
            kind(exporter),
            exporter.source().unwrap_or_else(|| "-".to_owned()),
            grouped(exporter.datagrams),
            missing(exporter),
            if has_repeats { grouped(exporter.duplicates) } else { String::new() },
            format!("{} ago", span(exporter.last_seen_s)),
        ]);
    }
    table.render() + &legend(status) + &unusable(status)
}

/// The meaning of the columns `missing` and `duplicate`, for those with a count.
fn legend(status: &SenderStatus) -> String {
    let is_missing = status.exporters.iter().any(|exporter| exporter.missing.is_some_and(|count| count > 0));
    let is_duplicate = status.exporters.iter().any(|exporter| exporter.duplicates > 0);
    render_legend([
        (is_missing, "missing", "lost before nf-sender, by the exporter's sequence numbers"),
        (is_duplicate, "duplicate", "received more than once by nf-sender"),
    ])
}

/// The version of NetFlow, or the name of another format.
fn kind(exporter: &ExporterStatus) -> String {
    match (exporter.version, exporter.format.as_deref()) {
        (Some(10), _) => "IPFIX".to_owned(),
        (Some(version), _) => format!("v{version}"),
        (None, Some(format)) => format.split(' ').next().unwrap_or(format).to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// Returns the amount missing of an exporter; formats without numbers have a dash.
fn missing(exporter: &ExporterStatus) -> String {
    match exporter.missing {
        Some(missing) => grouped(missing),
        None if exporter.has_numbers() => "unusable".to_owned(),
        None => "-".to_owned(),
    }
}

/// Returns the reasons why losses of some exporters cannot be counted, in a bounded number of lines.
fn unusable(status: &SenderStatus) -> String {
    let rows =
        status.exporters.iter().filter(|exporter| exporter.missing.is_none() && exporter.has_numbers());
    let lines = rows.clone().take(UNUSABLE_ROWS).map(|exporter| {
        let source = exporter.source().map(|source| format!(" source {source}")).unwrap_or_default();
        let reason = exporter.missing_reason.as_deref().unwrap_or("unknown reason");
        let reason = reason.strip_prefix("unusable: ").unwrap_or(reason);
        format!("  {}{source}: {reason}\n", exporter.socket_address())
    });
    let text: String = lines.collect();
    if text.is_empty() {
        return text;
    }
    format!(
        "\nunusable sequence numbers, so losses are not counted:\n{text}{}",
        more_rows(rows.count().saturating_sub(UNUSABLE_ROWS))
    )
}

/// Returns the exporters, those with trouble first: silent ones, then those with losses or with unusable
/// numbers.
fn sort_by_trouble(exporters: &[ExporterStatus]) -> Vec<&ExporterStatus> {
    let mut sorted: Vec<&ExporterStatus> = exporters.iter().collect();
    sorted.sort_by_key(|exporter| {
        let is_silent = exporter.last_seen_s >= SILENT_AFTER_S;
        let is_losing = exporter.missing.map_or(exporter.has_numbers(), |missing| missing > 0);
        (!(is_silent || is_losing), !is_silent)
    });
    sorted
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;
    use crate::status::samples::sender;
    use crate::status::show::sender::render_sender;

    /// A row of an exporter with the widest figures that are common.
    fn exporter(address: &str, version: Option<u16>, format: &str) -> ExporterStatus {
        let address: SocketAddr = address.parse().unwrap();
        ExporterStatus {
            address: address.ip(),
            interface: None,
            port: address.port(),
            version,
            format: Some(format.to_owned()),
            source_id: Some(123_456),
            agent: None,
            datagrams: 12_345_678,
            duplicates: 0,
            missing: Some(123_456),
            missing_unit: Some("flows".to_owned()),
            missing_reason: None,
            last_seen_s: 0,
        }
    }

    #[test]
    fn unusable_numbers_have_a_reason_below() {
        let reason = |reason: &str| (None, Some(format!("unusable: {reason}")));
        let constant = reason("its sequence number never changes");
        let erratic = reason("its sequence numbers make no sense");
        let mut status = sender();
        status.exporters = vec![
            exporter("192.0.2.1:4000", Some(10), "IPFIX"),
            exporter("255.255.255.255:65535", Some(8), "NetFlow v8"),
            exporter("192.0.2.2:6343", None, "sFlow v5"),
            exporter("192.0.2.3:4000", Some(1), "NetFlow v1"),
        ];
        (status.exporters[1].missing, status.exporters[1].missing_reason) = constant;
        (status.exporters[2].missing, status.exporters[2].missing_reason) = erratic;
        (status.exporters[3].missing, status.exporters[3].source_id) = (None, None);
        status.exporters[0].duplicates = 17;
        let text = render_sender(&status, None);
        let expected = "
exporter                type  source   datagrams   missing  duplicate  last seen
192.0.2.1:4000         IPFIX  123456  12,345,678   123,456         17     0s ago
255.255.255.255:65535     v8  123456  12,345,678  unusable          0     0s ago
192.0.2.2:6343         sFlow  123456  12,345,678  unusable          0     0s ago
192.0.2.3:4000            v1       -  12,345,678         -          0     0s ago

  missing: lost before nf-sender, by the exporter's sequence numbers
  duplicate: received more than once by nf-sender

unusable sequence numbers, so losses are not counted:
  255.255.255.255:65535 source 123456: its sequence number never changes
  192.0.2.2:6343 source 123456: its sequence numbers make no sense
";
        assert!(text.ends_with(expected), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn the_widest_exporters_fit_into_140_columns() {
        let mut status = sender();
        let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        let mut widest = exporter(address, Some(10), "IPFIX");
        (widest.source_id, widest.datagrams, widest.last_seen_s) =
            (Some(u32::MAX), 1_234_567_890_123, 86_399);
        (widest.missing, widest.duplicates) = (Some(1_234_567_890_123), 1_234_567_890_123);
        let unusable = ExporterStatus {
            missing: None,
            missing_reason: Some("unusable: why".to_owned()),
            ..widest.clone()
        };
        status.exporters = vec![unusable; 8];
        status.exporters.push(widest);
        let text = render_sender(&status, None);
        assert!(text.lines().all(|line| line.len() <= 140), "{text}");
        assert!(text.ends_with("source 4294967295: why\nand 3 more: status --json lists them\n"), "{text}");
    }

    #[test]
    fn rows_name_the_interface_and_the_agent() {
        let mut status = sender();
        let mut link_local = exporter("[fe80::1]:2055", Some(9), "NetFlow v9");
        link_local.interface = Some(2);
        let mut proxied = exporter("192.0.2.2:6343", None, "sFlow v5");
        (proxied.agent, proxied.source_id) = (Some("192.0.2.77".parse().unwrap()), Some(3));
        let mut direct = proxied.clone();
        direct.agent = Some(direct.address);
        status.exporters = vec![link_local, proxied, direct];
        let text = render_sender(&status, None);
        for row in ["[fe80::1%2]:2055     v9        123456", "sFlow  192.0.2.77/3", "sFlow             3"] {
            assert!(text.contains(row), "{row} is not in\n{text}");
        }
    }

    #[test]
    fn silent_and_losing_exporters_come_first() {
        let mut status = sender();
        let healthy = ExporterStatus { missing: Some(0), last_seen_s: 59, ..status.exporters[0].clone() };
        let silent = ExporterStatus { last_seen_s: 60, ..healthy.clone() };
        let losing = ExporterStatus { missing: Some(1), ..healthy.clone() };
        status.exporters = vec![healthy.clone(), losing.clone(), silent.clone()];
        let shown: Vec<ExporterStatus> = sort_by_trouble(&status.exporters).into_iter().cloned().collect();
        assert_eq!(shown, [silent, losing, healthy]);
    }
}
