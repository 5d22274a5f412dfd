//! Datagrams that a sender may not deliver, because `exporters` of its `[[sender]]` table does not include
//! their exporter: counted by exporter, and logged.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use nf_transport_core::datagram::BootTime;
use nf_transport_core::sequence::SenderId;

use crate::host::systemd::messages::receiver;
use crate::host::{CountTable, LoggedCount, locked};
use crate::limits::DENIED_SHOWN;
use crate::status::{DeniedExporter, count_of, name_first};

/// Numbers of datagrams by exporter.
pub(crate) type ExporterCounts = BTreeMap<IpAddr, u64>;

/// The denied datagrams of one sender, from the start of the process.
#[derive(Debug)]
pub(crate) struct Denied(Mutex<DeniedState>);

#[derive(Debug)]
struct DeniedState {
    total: u64,
    exporters: CountTable<IpAddr>,
    log: LoggedCount,
}

impl Default for Denied {
    fn default() -> Self {
        let exporters = CountTable::new(DENIED_SHOWN);
        Self(Mutex::new(DeniedState { total: 0, exporters, log: LoggedCount::default() }))
    }
}

impl Denied {
    fn state(&self) -> MutexGuard<'_, DeniedState> {
        locked(&self.0)
    }

    /// Adds these datagrams.
    pub(crate) fn add(&self, counts: &ExporterCounts, now: BootTime) {
        if counts.is_empty() {
            return;
        }
        let mut state = self.state();
        for (exporter, count) in counts {
            state.total = state.total.saturating_add(*count);
            state.exporters.add(*exporter, *count, now);
        }
    }

    /// Returns their number.
    pub(crate) fn total(&self) -> u64 {
        self.state().total
    }

    /// Returns the exporters, the one with most datagrams first.
    pub(crate) fn exporters(&self, seconds_since: impl Fn(BootTime) -> u64) -> Vec<DeniedExporter> {
        let rows = self.state().exporters.rows().into_iter();
        rows.map(|(address, row)| DeniedExporter {
            address,
            datagrams: row.count,
            last_seen_s: seconds_since(row.last),
        })
        .collect()
    }

    /// Logs the datagrams of `sender` that are not logged yet and are due; all of them if `is_end`. Call it
    /// once a second.
    pub(crate) fn log(&self, sender: &SenderId, now: Instant, is_end: bool) {
        let mut state = self.state();
        let (total, due) = (state.total, if is_end { LoggedCount::rest } else { LoggedCount::due });
        let Some(count) = due(&mut state.log, total, now) else { return };
        let exporters = name_first(state.exporters.take_unlogged(|_| true));
        drop(state);
        tracing::warn!(
            message_id = receiver::EXPORTERS_DENIED,
            %sender,
            datagrams = count,
            exporters,
            "denied {} of {sender}, from {exporters}; no collector gets them; add these exporters to \
             'exporters' of the sender's [[sender]] table, or deny them at nf-sender",
            count_of(count, "datagram")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_datagrams_count_by_exporter() {
        let denied = Denied::default();
        let [first, second] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        denied.add(&ExporterCounts::from([(first, 2)]), BootTime::default());
        denied.add(&ExporterCounts::from([(first, 1), (second, 7)]), BootTime::default());
        denied.add(&ExporterCounts::new(), BootTime::default());
        let rows = denied.exporters(|_| 0);
        let rows: Vec<_> = rows.iter().map(|row| (row.address, row.datagrams)).collect();
        assert_eq!((denied.total(), rows), (10, vec![(second, 7), (first, 3)]));
    }
}
