//! The status of nf-sender, in full and as one line for the service manager.

use core::time::Duration;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use nf_transport_core::datagram::BootTime;
use nf_transport_core::internal_error::internal_errors;
use nf_transport_core::netflow::{ExportFormat, ExporterFigures, Source};
use nf_transport_core::spool::FileTotals;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::host::{boot_clock, both_clocks, locked, wall_clock};
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::journal::JournalLocation;
use crate::sender::queue::Queue;
use crate::sender::queue::figures::QueueFigures;
use crate::sender::queue::room::{Shortage, time_left};
use crate::sender::uplink::state::{UplinkSettings, UplinkState, UplinkView};
use crate::status;
use crate::status::{
    CertificateStatus, DeniedStatus, DroppedCounts, DroppedStatus, ExporterStatus, JournalStatus, KeptFiles,
    Pace, Queued, RecoveredStatus, SenderStatus, SocketStatus,
};

/// The sources of the status.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) settings: watch::Receiver<UplinkSettings>,
    pub(crate) queue: Arc<Queue>,
    /// The directory of the spool.
    pub(crate) directory: PathBuf,
    pub(crate) counters: Arc<IngestCounters>,
    pub(crate) view: Arc<Mutex<UplinkView>>,
    pub(crate) pace: Arc<Mutex<Pace>>,
    pub(crate) journal: Arc<JournalLocation>,
}

impl Reporter {
    /// Measures the rates. The caller calls it once a second.
    pub(crate) fn note_pace(&self) {
        let figures = self.queue.figures();
        locked(&self.pace).add_sample((figures.counts.received, figures.counts.received_bytes));
    }

    fn rates(&self) -> (f64, f64) {
        locked(&self.pace).rates()
    }

    /// Returns one line with state, queue and rate.
    pub(crate) fn line(&self) -> String {
        let status = self.status();
        let receiver = status.receiver.as_deref().unwrap_or("no receiver");
        let not_connected = locked(&self.view).not_connected();
        let state = match (status.state, status.retry_in_s) {
            (status::LinkState::Connected, _) => format!("connected to {receiver}"),
            (status::LinkState::Connecting, _) => {
                let reason = status.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                format!("connecting to {receiver}{reason}")
            }
            (_, Some(seconds)) => {
                let reason = status.reason.as_deref().unwrap_or("unknown reason");
                format!("{not_connected}: {reason}; retry in {seconds} s")
            }
            (_, None) => "no receiver configured, spooling only".to_owned(),
        };
        let queued = status::count_of(status.queued.datagrams, "datagram");
        format!("{state}; {queued} queued; {:.0} datagrams/s in", self.rates().0)
    }

    /// Returns the current status.
    pub(crate) fn status(&self) -> SenderStatus {
        let view = locked(&self.view).clone();
        let figures = self.queue.figures();
        let counts = figures.counts;
        let (state, retry_at) = match view.state {
            UplinkState::Connected => (status::LinkState::Connected, None),
            UplinkState::Connecting => (status::LinkState::Connecting, None),
            UplinkState::Waiting(at) => (status::LinkState::Waiting, at),
            UplinkState::Refused(at) => (status::LinkState::Refused, Some(at)),
        };
        let retry_in = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
        SenderStatus {
            service: "nf-sender".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: self.settings.borrow().id.to_string(),
            stream: figures.stream.to_string(),
            replaced_stream: figures.replaced.map(|stream| stream.to_string()),
            possible_repeats: figures.possible_repeats,
            state,
            receiver: view.receiver,
            certificate: self.certificate(),
            cipher: view.cipher.map(str::to_owned),
            segment_bytes: view.segment_bytes,
            retry_in_s: retry_at.map(|at| Duration::from_secs_f64(retry_in(at)).as_secs()),
            reason: view.reason,
            received: status::Tally { datagrams: counts.received, bytes: counts.received_bytes },
            recovered: RecoveredStatus { datagrams: counts.recovered },
            acknowledged: status::Tally { datagrams: counts.acknowledged, bytes: counts.acknowledged_bytes },
            queued: self.queued(&figures),
            intake: self.journal(),
            damaged: kept(figures.damaged),
            newer: kept(figures.newer),
            dropped: DroppedCounts {
                kernel: self.counters.kernel_drops(),
                denied: self.counters.denied(),
                spool_full: counts.spool_full,
                too_old: counts.too_old,
                corrupt: counts.corrupt,
            },
            sockets: self.sockets(),
            denied_exporters: self.denied_exporters(),
            dropped_exporters: self.dropped_exporters(),
            dropped_of_others: self.counters.dropped_of_others(),
            dropped_of_unknown: self.counters.dropped_unknown(),
            internal_errors: internal_errors(),
            warnings: self.warnings(),
            exporters: self.exporters(),
        }
    }

    fn certificate(&self) -> Option<CertificateStatus> {
        let settings = self.settings.borrow();
        settings.channel_mode.certificate().map(|own| CertificateStatus::of(own, wall_clock()))
    }

    fn sockets(&self) -> Vec<SocketStatus> {
        let sockets = self.counters.sockets().iter();
        sockets
            .map(|socket| SocketStatus {
                address: socket.address,
                kernel_drops: socket.kernel_drops(),
                denied: socket.denied(),
            })
            .collect()
    }

    fn dropped_exporters(&self) -> Vec<DroppedStatus> {
        let rows = self.counters.dropped_exporters().rows().into_iter();
        rows.map(|(address, row)| DroppedStatus {
            address,
            datagrams: row.count,
            last_s: seconds_since(row.last),
        })
        .collect()
    }

    fn denied_exporters(&self) -> Vec<DeniedStatus> {
        let rows = self.counters.denied_exporters().rows();
        let sockets = self.counters.sockets();
        rows.into_iter()
            .filter_map(|((exporter, socket), row)| {
                Some(DeniedStatus {
                    address: exporter.ip,
                    interface: (exporter.interface != 0).then_some(exporter.interface),
                    socket: sockets.get(socket)?.address,
                    datagrams: row.count,
                    last_seen_s: seconds_since(row.last),
                })
            })
            .collect()
    }

    fn journal(&self) -> JournalStatus {
        let reason = self.journal.why_in_memory().map(str::to_owned);
        JournalStatus { in_memory: reason.is_some(), reason }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.queue.problems();
        warnings.extend(self.shortage().map(|shortage| shortage.text));
        warnings
    }

    /// Returns the current shortage of room in the spool, if any.
    pub(crate) fn shortage(&self) -> Option<Shortage> {
        let room = self.queue.figures().room?;
        Shortage::detect(&room, self.rates().1, &self.directory)
    }

    fn queued(&self, figures: &QueueFigures) -> Queued {
        let (_, bytes_per_s) = self.rates();
        let room_bytes = figures.room.map_or(0, |room| room.bytes);
        Queued {
            datagrams: figures.queued,
            bytes: figures.bytes,
            segments: u64::try_from(figures.segments).unwrap_or(u64::MAX),
            oldest_s: figures.oldest.map_or(0, |oldest| oldest.age(both_clocks()).as_secs()),
            room_s: time_left(room_bytes, bytes_per_s).map(|time| time.as_secs()),
            room_bytes,
            arriving_bytes_per_s: Duration::try_from_secs_f64(bytes_per_s).map_or(0, |rate| rate.as_secs()),
        }
    }

    fn exporters(&self) -> Vec<ExporterStatus> {
        let table = self.counters.exporters();
        let mut rows: Vec<ExporterStatus> = table.figures().map(|figures| exporter(&figures)).collect();
        drop(table);
        rows.sort_by_key(|row| (row.address, row.interface, row.port, row.version, row.agent, row.source_id));
        rows
    }
}

/// Returns the row of one exporter.
fn exporter(figures: &ExporterFigures) -> ExporterStatus {
    let Source { format, agent, id } = figures.source;
    let has_id = !matches!(format, ExportFormat::V1 | ExportFormat::V7 | ExportFormat::Other);
    ExporterStatus {
        address: figures.address,
        interface: (figures.interface != 0).then_some(figures.interface),
        port: figures.port,
        version: format.netflow_version(),
        format: (format != ExportFormat::Other).then(|| format.to_string()),
        source_id: has_id.then_some(id),
        agent,
        datagrams: figures.datagrams,
        duplicates: figures.duplicates,
        missing: figures.missing.ok(),
        missing_unit: figures.missing.ok().and(figures.unit).map(str::to_owned),
        missing_reason: figures.missing.err().map(|reason| format!("unusable: {reason}")),
        last_seen_s: seconds_since(figures.last_seen),
    }
}

fn kept(aside: FileTotals) -> KeptFiles {
    KeptFiles { files: aside.files, bytes: aside.bytes }
}

fn seconds_since(moment: BootTime) -> u64 {
    boot_clock().since(moment).unwrap_or_default().as_secs()
}
