//! Logs exporters with unusable sequence numbers, whose losses cannot be counted.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use nf_transport_core::netflow::{ExporterFigures, Source, Unusable};

use crate::host::LogInterval;
use crate::host::systemd::messages::sender;
use crate::sender::ingest::counters::IngestCounters;
use crate::status::{count_of, name_first};

/// The exporters that are in the log already.
#[derive(Debug, Default)]
pub(crate) struct ExporterLog {
    /// Bounded by the size of the exporter table.
    unusable: HashSet<ExporterKey>,
    interval: LogInterval,
}

/// An exporter address and source id, with any port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ExporterKey {
    address: IpAddr,
    interface: u32,
    source: Source,
}

impl fmt::Display for ExporterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.interface != 0 {
            write!(f, "%{}", self.interface)?;
        }
        let Source { format, agent, id } = self.source;
        match agent.filter(|agent| *agent != self.address) {
            Some(agent) => write!(f, ", {format} source {agent}/{id}"),
            None => write!(f, ", {format} source {id}"),
        }
    }
}

/// Exporters whose sequence numbers changed between usable and unusable.
#[derive(Debug, Default, PartialEq, Eq)]
struct UsabilityChanges {
    unusable: Vec<(ExporterKey, Unusable)>,
    usable: Vec<ExporterKey>,
}

impl ExporterLog {
    /// Logs the changes since the last call, at most once in an interval. Call it once a second.
    pub(crate) fn poll(&mut self, counters: &IngestCounters, now: Instant) {
        if !self.interval.is_over(now) {
            return;
        }
        let changes = self.compare(counters.exporters().figures());
        if changes != UsabilityChanges::default() {
            self.interval.begin(now);
            changes.log();
        }
    }

    /// Compares the figures of all exporters with the log.
    fn compare(&mut self, figures: impl Iterator<Item = ExporterFigures>) -> UsabilityChanges {
        let mut changes = UsabilityChanges::default();
        let mut unusable = HashSet::new();
        for figures in figures.filter(|figures| figures.source.format.is_numbered()) {
            let ExporterFigures { address, interface, source, .. } = figures;
            let key = ExporterKey { address, interface, source };
            match figures.missing {
                Err(reason) if unusable.insert(key) && !self.unusable.contains(&key) => {
                    changes.unusable.push((key, reason));
                }
                Ok(_) if self.unusable.contains(&key) => changes.usable.push(key),
                _ => {}
            }
        }
        // A source id with two ports is usable only if both are.
        changes.usable.retain(|key| !unusable.contains(key));
        changes.usable.dedup();
        self.unusable = unusable;
        changes
    }
}

impl UsabilityChanges {
    fn log(self) {
        if !self.unusable.is_empty() {
            let (exporters, named) = (self.unusable.len(), name_first(self.unusable));
            tracing::warn!(
                message_id = sender::EXPORTERS_UNUSABLE,
                exporters = named,
                "the sequence numbers of {} are unusable: {named}; losses before nf-sender are not counted \
                 for them, all received datagrams are delivered",
                count_of(u64::try_from(exporters).unwrap_or(u64::MAX), "exporter")
            );
        }
        if !self.usable.is_empty() {
            let count = u64::try_from(self.usable.len()).unwrap_or(u64::MAX);
            let named = name_first(self.usable.iter().map(|key| (key, "usable again")));
            tracing::info!(
                exporters = named,
                "losses of {} are counted again: {named}",
                count_of(count, "exporter")
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use nf_transport_core::datagram::BootTime;
    use nf_transport_core::netflow::ExportFormat;

    use super::*;

    fn figures(id: u32, port: u16, missing: Result<u64, Unusable>) -> ExporterFigures {
        ExporterFigures {
            address: "192.0.2.1".parse().unwrap(),
            interface: 0,
            port,
            source: Source { format: ExportFormat::V9, agent: None, id },
            datagrams: 100,
            duplicates: 0,
            missing,
            unit: None,
            last_seen: BootTime::default(),
        }
    }

    fn compare(log: &mut ExporterLog, rows: &[ExporterFigures]) -> (Vec<String>, Vec<String>) {
        let changes = log.compare(rows.iter().cloned());
        let unusable = changes.unusable.iter().map(|(key, reason)| format!("{key} ({reason})"));
        (unusable.collect(), changes.usable.iter().map(ExporterKey::to_string).collect())
    }

    #[test]
    fn each_change_is_logged_once() {
        let mut log = ExporterLog::default();
        let unusable = [figures(1, 7, Err(Unusable::Constant)), figures(2, 7, Ok(3))];
        let text = "192.0.2.1, NetFlow v9 source 1 (its sequence number never changes)";
        assert_eq!(compare(&mut log, &unusable), (vec![text.to_owned()], vec![]));
        assert_eq!(compare(&mut log, &unusable), (vec![], vec![]));
        let usable = [figures(1, 7, Ok(0)), figures(2, 7, Ok(3))];
        assert_eq!(compare(&mut log, &usable), (vec![], vec!["192.0.2.1, NetFlow v9 source 1".to_owned()]));
        assert_eq!(compare(&mut log, &usable), (vec![], vec![]));
    }

    #[test]
    fn ports_of_one_source_id_are_logged_together() {
        let mut log = ExporterLog::default();
        let both = [figures(1, 7, Err(Unusable::Erratic)), figures(1, 8, Err(Unusable::Erratic))];
        assert_eq!(compare(&mut log, &both).0.len(), 1);
        let one = [figures(1, 7, Ok(0)), figures(1, 9, Err(Unusable::Erratic))];
        assert_eq!(compare(&mut log, &one), (vec![], vec![]));
    }

    #[test]
    fn lines_name_the_interface_and_the_agent() {
        let mut row = figures(3, 7, Err(Unusable::Erratic));
        (row.address, row.interface) = ("fe80::1".parse().unwrap(), 2);
        (row.source.format, row.source.agent) = (ExportFormat::SFlow, Some("192.0.2.77".parse().unwrap()));
        let text = "fe80::1%2, sFlow v5 source 192.0.2.77/3 (its sequence numbers make no sense)";
        assert_eq!(compare(&mut ExporterLog::default(), &[row]).0, [text]);
    }

    #[test]
    fn formats_without_numbers_are_not_logged() {
        let mut log = ExporterLog::default();
        let mut row = figures(0, 7, Err(Unusable::NoNumbers(ExportFormat::V1)));
        row.source.format = ExportFormat::V1;
        assert_eq!(compare(&mut log, &[row]), (vec![], vec![]));
    }
}
