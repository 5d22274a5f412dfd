//! Datagrams that no collector gets, because `senders` and `exporters` of no collector include them: counted,
//! and logged at intervals.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use nf_transport_core::datagram::BootTime;

use crate::host::systemd::messages::receiver;
use crate::host::{CountTable, LoggedCount, locked};
use crate::limits::UNMATCHED_SHOWN;
use crate::receiver::delivery::denied::ExporterCounts;
use crate::status::{UnmatchedStatus, count_of, name_first};

/// Datagrams that match no collector, from the start of the process.
#[derive(Debug)]
pub(crate) struct Unmatched {
    count: AtomicU64,
    exporters: Mutex<CountTable<IpAddr>>,
}

impl Default for Unmatched {
    fn default() -> Self {
        Self { count: AtomicU64::new(0), exporters: Mutex::new(CountTable::new(UNMATCHED_SHOWN)) }
    }
}

impl Unmatched {
    /// Adds these datagrams.
    pub(crate) fn add(&self, counts: &ExporterCounts, now: BootTime) {
        for (exporter, count) in counts {
            self.exporters().add(*exporter, *count, now);
            self.count.fetch_add(*count, Ordering::Relaxed);
        }
    }

    /// Returns their number.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns their exporters, for the status.
    pub(crate) fn status(&self, now: BootTime) -> Vec<UnmatchedStatus> {
        let rows = self.exporters().rows().into_iter();
        rows.map(|(address, row)| UnmatchedStatus {
            address,
            datagrams: row.count,
            last_seen_s: now.since(row.last).unwrap_or_default().as_secs(),
        })
        .collect()
    }

    fn exporters(&self) -> MutexGuard<'_, CountTable<IpAddr>> {
        locked(&self.exporters)
    }
}

/// The part of that which is logged.
#[derive(Debug, Default)]
pub(crate) struct UnmatchedLog(LoggedCount);

impl UnmatchedLog {
    /// Call it once a second.
    pub(crate) fn look(&mut self, unmatched: &Unmatched) {
        self.log(unmatched, LoggedCount::due);
    }

    /// Logs the datagrams that are not logged yet, at the end of the run.
    pub(crate) fn finish(mut self, unmatched: &Unmatched) {
        self.log(unmatched, LoggedCount::rest);
    }

    fn log(&mut self, unmatched: &Unmatched, due: fn(&mut LoggedCount, u64, Instant) -> Option<u64>) {
        let Some(count) = due(&mut self.0, unmatched.count(), Instant::now()) else { return };
        let exporters = name_first(unmatched.exporters().take_unlogged(|_| true));
        tracing::warn!(
            message_id = receiver::UNMATCHED,
            datagrams = count,
            exporters,
            "{} match no collector, from {exporters}: acknowledged but not delivered; add these exporters \
             to 'exporters', or their sender to 'senders', of a [[collector]], or deny them at nf-sender",
            count_of(count, "datagram")
        );
    }
}
