//! Metrics about exporters. They are sums, because there can be thousands of exporters.

use core::fmt;
use std::collections::BTreeMap;

use crate::status::ExporterStatus;
use crate::status::metrics::encoder::{Metrics, amount, signed};

impl Metrics<'_> {
    /// Sums over the known exporters. They fall when an exporter is forgotten to make room, and when late
    /// datagrams arrive.
    pub(super) fn exporters(&mut self, exporters: &[ExporterStatus]) -> fmt::Result {
        let is_unusable = |exporter: &&ExporterStatus| exporter.missing.is_none() && exporter.has_numbers();
        let unusable = exporters.iter().filter(is_unusable).count();
        let mut missing = BTreeMap::new();
        for exporter in exporters {
            if let (Some(count), Some(unit)) = (exporter.missing, exporter.missing_unit.as_deref()) {
                let sum = missing.entry(unit).or_insert(0_u64);
                *sum = sum.saturating_add(count);
            }
        }
        let duplicates =
            exporters.iter().fold(0_u64, |sum, exporter| sum.saturating_add(exporter.duplicates));
        self.gauge("exporters", "Known exporters", amount(exporters.len()))?;
        self.gauge(
            "exporters_unusable",
            "Exporters whose losses cannot be counted by their sequence numbers",
            amount(unusable),
        )?;
        self.gauges(
            ("exporters_missing", "Lost before nf-sender, by the exporters' sequence numbers"),
            "unit",
            missing.into_iter().map(|(unit, count)| (unit, signed(count))),
        )?;
        self.gauge(
            "exporters_duplicate_datagrams",
            "Datagrams received more than once by nf-sender",
            signed(duplicates),
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::status::samples::sender;
    use crate::status::sender_metrics;

    #[test]
    fn unusable_exporters_do_not_add_to_missing() {
        let mut status = sender();
        let mut ipfix = status.exporters[0].clone();
        (ipfix.version, ipfix.format) = (Some(10), Some("IPFIX".to_owned()));
        (ipfix.missing, ipfix.missing_unit, ipfix.duplicates) = (Some(7), Some("data records".to_owned()), 3);
        let mut unusable = status.exporters[0].clone();
        (unusable.missing, unusable.missing_unit) = (None, None);
        status.exporters.extend([ipfix.clone(), ipfix, unusable]);
        let text = sender_metrics(status);
        for line in [
            "nf_sender_exporters 5",
            "nf_sender_exporters_unusable 1",
            "nf_sender_exporters_missing{unit=\"data records\"} 14",
            "nf_sender_exporters_missing{unit=\"datagrams\"} 2",
            "nf_sender_exporters_duplicate_datagrams 6",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("nf_sender_exporters_missing{").count(), 2, "{text}");
    }

    #[test]
    fn huge_sums_of_exporters_do_not_wrap() {
        let mut status = sender();
        (status.exporters[0].missing, status.exporters[0].duplicates) = (Some(u64::MAX), u64::MAX);
        status.exporters.push(status.exporters[0].clone());
        let text = sender_metrics(status);
        let most = i64::MAX;
        assert!(text.contains(&format!("{{unit=\"datagrams\"}} {most}\n")), "{text}");
        assert!(text.contains(&format!("nf_sender_exporters_duplicate_datagrams {most}\n")), "{text}");
    }
}
