//! The counters of ingest: exporters, and the losses of each socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use nf_transport_core::batch::Batch;
use nf_transport_core::datagram::BootTime;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::netflow::ExporterTable;

use crate::host::{CountTable, boot_clock, locked};
use crate::limits::{DENIED_SHOWN, DROPPED_SHOWN};

/// The counters of ingest since the start of the process, shared with status and log.
#[derive(Debug)]
pub(crate) struct IngestCounters {
    exporters: Mutex<ExporterTable>,
    sockets: Vec<SocketCounters>,
    /// Denied datagrams by exporter and by the socket that received them.
    denied_exporters: Mutex<CountTable<DeniedKey>>,
    /// Queued datagrams that were dropped because the spool was full or they were too old.
    dropped_exporters: Mutex<CountTable<IpAddr>>,
}

/// A denied exporter and the index of the socket that received its datagrams.
pub(crate) type DeniedKey = (IpAddr, usize);

/// The losses of a socket.
#[derive(Debug)]
pub(crate) struct SocketCounters {
    /// The local address.
    pub(crate) address: SocketAddr,
    /// Datagrams that the kernel has dropped since this process received its first one.
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

    /// Notes the total number of kernel drops.
    pub(crate) fn note_kernel_drops(&self, total: u64) {
        self.kernel_drops.fetch_max(total, Ordering::Relaxed);
    }
}

impl IngestCounters {
    /// Creates the counters of sockets with these local addresses.
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

    /// The exporters seen so far.
    pub(crate) fn exporters(&self) -> MutexGuard<'_, ExporterTable> {
        locked(&self.exporters)
    }

    /// The sockets by index.
    pub(crate) fn sockets(&self) -> &[SocketCounters] {
        &self.sockets
    }

    /// Notes a denied datagram of `exporter`.
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

    /// The denied datagrams by exporter.
    pub(crate) fn denied_exporters(&self) -> MutexGuard<'_, CountTable<DeniedKey>> {
        locked(&self.denied_exporters)
    }

    /// Notes dropped datagrams of the queue, by exporter.
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

    /// Queued datagrams that were dropped, by exporter.
    pub(crate) fn dropped_exporters(&self) -> MutexGuard<'_, CountTable<IpAddr>> {
        locked(&self.dropped_exporters)
    }

    /// Datagrams that the kernel dropped at the sockets.
    pub(crate) fn kernel_drops(&self) -> u64 {
        self.sockets.iter().map(SocketCounters::kernel_drops).sum()
    }
}
