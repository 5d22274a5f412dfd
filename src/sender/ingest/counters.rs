//! What ingest counts beside the queue's own counts: exporters, and what each socket lost.

use core::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use nf_transport_core::batch::Batch;
use nf_transport_core::datagram::{BootTime, scope_of};
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::netflow::ExporterTable;

use crate::host::{CountTable, boot_clock, locked};
use crate::limits::{DENIED_SHOWN, DROPPED_SHOWN};
use crate::sender::queue::holdings::{Shares, share_out};

/// Counts of ingest, from the start of the process. Shared with the status and the log.
#[derive(Debug)]
pub(crate) struct IngestCounters {
    exporters: Mutex<ExporterTable>,
    sockets: Vec<SocketCounters>,
    /// By exporter, and by the socket that it sent to.
    denied_exporters: Mutex<CountTable<DeniedKey>>,
    /// Datagrams of the queue that were dropped, as the spool was full or they were too old.
    dropped_exporters: Mutex<CountTable<IpAddr>>,
    /// Those of them whose exporters are not known, and how many of these are in the log.
    dropped_unknown: AtomicU64,
    logged_unknown: AtomicU64,
}

/// An exporter that is denied, and the place of the socket that it sends to.
pub(crate) type DeniedKey = (ExporterAddress, usize);

/// The address of an exporter, with the interface to which it is local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ExporterAddress {
    pub(crate) ip: IpAddr,
    /// The index of the interface of a link-local address; else 0.
    pub(crate) interface: u32,
}

impl From<SocketAddr> for ExporterAddress {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), interface: scope_of(address) }
    }
}

impl fmt::Display for ExporterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ip)?;
        if self.interface == 0 { Ok(()) } else { write!(f, "%{}", self.interface) }
    }
}

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
    /// A counters of sockets that listen at these addresses.
    pub(crate) fn new(sockets: impl IntoIterator<Item = SocketAddr>) -> Self {
        let socket =
            |address| SocketCounters { address, kernel_drops: AtomicU64::new(0), denied: AtomicU64::new(0) };
        Self {
            exporters: Mutex::default(),
            sockets: sockets.into_iter().map(socket).collect(),
            denied_exporters: Mutex::new(CountTable::new(DENIED_SHOWN)),
            dropped_exporters: Mutex::new(CountTable::new(DROPPED_SHOWN)),
            dropped_unknown: AtomicU64::default(),
            logged_unknown: AtomicU64::default(),
        }
    }

    /// The exporters heard so far.
    pub(crate) fn exporters(&self) -> MutexGuard<'_, ExporterTable> {
        locked(&self.exporters)
    }

    /// The sockets, in the order of their places.
    pub(crate) fn sockets(&self) -> &[SocketCounters] {
        &self.sockets
    }

    /// Notes a datagram of `exporter` that is denied.
    pub(crate) fn note_denied(&self, exporter: SocketAddr, socket: usize, now: BootTime) {
        self.denied_exporters().add((exporter.into(), socket), 1, now);
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
        locked(&self.denied_exporters)
    }

    /// Notes whose datagrams of the queue were dropped, and how many of each.
    pub(crate) fn note_dropped(&self, exporters: impl Iterator<Item = (IpAddr, u64)>, now: BootTime) {
        let mut dropped = self.dropped_exporters();
        exporters.for_each(|(exporter, count)| dropped.add(exporter, count, now));
    }

    /// Notes that `count` datagrams of those that held `shares` were dropped.
    pub(crate) fn note_dropped_shares(&self, count: u64, shares: &Shares) {
        let (exporters, unknown) = share_out(count, shares);
        self.note_dropped(exporters.into_iter(), boot_clock());
        self.dropped_unknown.fetch_add(unknown, Ordering::Relaxed);
    }

    /// Datagrams of the queue that were dropped and whose exporters are not known: no time was left to read them.
    pub(crate) fn dropped_unknown(&self) -> u64 {
        self.dropped_unknown.load(Ordering::Relaxed)
    }

    /// Those since the last log line.
    pub(crate) fn take_unlogged_unknown(&self) -> u64 {
        let all = self.dropped_unknown();
        all.saturating_sub(self.logged_unknown.swap(all, Ordering::Relaxed))
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
        locked(&self.dropped_exporters)
    }

    /// Datagrams that the kernel dropped at the sockets.
    pub(crate) fn kernel_drops(&self) -> u64 {
        self.sockets.iter().map(SocketCounters::kernel_drops).sum()
    }
}
