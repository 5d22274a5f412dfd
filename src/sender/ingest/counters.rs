//! What ingest counts beside the queue's own counts: exporters, and what each socket lost.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nf_transport_core::batch::Batch;
use nf_transport_core::datagram::BootTime;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::netflow::ExporterTable;

use crate::host::{CountTable, boot_clock};
use crate::limits::{DENIED_SHOWN, DROPPED_SHOWN};

/// Counts of ingest, from the start of the process. Shared with the status and the log.
#[derive(Debug)]
pub(crate) struct IngestCounters {
    exporters: Mutex<ExporterTable>,
    sockets: Vec<SocketCounters>,
    /// By exporter, and by the socket that it sent to.
    denied_exporters: Mutex<CountTable<DeniedKey>>,
    /// Datagrams of the queue that were dropped, as the spool was full or they were too old.
    dropped_exporters: Mutex<CountTable<IpAddr>>,
}

/// An exporter that is denied, and the place of the socket that it sends to.
pub(crate) type DeniedKey = (IpAddr, usize);

/// What a socket lost.
#[derive(Debug)]
pub(crate) struct SocketCounters {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// How many datagrams the kernel has dropped since the first one that this process took.
    kernel_drops: AtomicU64,
    denied: AtomicU64,
}

impl SocketCounters {
    /// Datagrams that the kernel dropped.
    pub(crate) fn kernel_drops(&self) -> u64 {
        self.kernel_drops.load(Ordering::Relaxed)
    }

    /// Datagrams from exporters that are not allowed, or too long.
    pub(crate) fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }

    /// Notes that the kernel has dropped so many in all.
    pub(crate) fn note_kernel_drops(&self, total: u64) {
        self.kernel_drops.fetch_max(total, Ordering::Relaxed);
    }
}

impl IngestCounters {
    /// A tally of sockets that listen at these addresses.
    pub(crate) fn new(sockets: impl IntoIterator<Item = SocketAddr>) -> Self {
        let socket =
            |address| SocketCounters { address, kernel_drops: AtomicU64::new(0), denied: AtomicU64::new(0) };
        Self {
            exporters: Mutex::default(),
            sockets: sockets.into_iter().map(socket).collect(),
            denied_exporters: Mutex::new(CountTable::new(DENIED_SHOWN)),
            dropped_exporters: Mutex::new(CountTable::new(DROPPED_SHOWN)),
        }
    }

    /// The exporters heard so far.
    pub(crate) fn exporters(&self) -> MutexGuard<'_, ExporterTable> {
        self.exporters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets, in the order of their places.
    pub(crate) fn sockets(&self) -> &[SocketCounters] {
        &self.sockets
    }

    /// Notes a datagram of `exporter` that is denied.
    pub(crate) fn note_denied(&self, exporter: IpAddr, socket: usize, now: BootTime) {
        self.denied_exporters().add((exporter, socket), 1, now);
        if let Some(socket) = self.sockets.get(socket) {
            socket.denied.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Datagrams from exporters that are not allowed, or too long.
    pub(crate) fn denied(&self) -> u64 {
        self.sockets.iter().map(SocketCounters::denied).sum()
    }

    /// The same by exporter.
    pub(crate) fn denied_exporters(&self) -> MutexGuard<'_, CountTable<DeniedKey>> {
        self.denied_exporters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whose datagrams of the queue were dropped, and how many of each.
    pub(crate) fn note_dropped(&self, exporters: impl Iterator<Item = (IpAddr, u64)>, now: BootTime) {
        let mut dropped = self.dropped_exporters();
        exporters.for_each(|(exporter, count)| dropped.add(exporter, count, now));
    }

    /// Notes that all of `batch` was dropped.
    pub(crate) fn note_dropped_batch(&self, batch: &Batch) {
        let Ok(records) = batch.records() else {
            note_internal_error("a batch of this process cannot be read");
            return;
        };
        self.note_dropped(records.iter().map(|datagram| (datagram.exporter.ip(), 1)), boot_clock());
    }

    /// Datagrams of the queue that were dropped, by exporter.
    pub(crate) fn dropped_exporters(&self) -> MutexGuard<'_, CountTable<IpAddr>> {
        self.dropped_exporters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Datagrams that the kernel dropped at the sockets.
    pub(crate) fn kernel_drops(&self) -> u64 {
        self.sockets.iter().map(SocketCounters::kernel_drops).sum()
    }
}
