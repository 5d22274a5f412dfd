//! The counters of ingest, in addition to those of the queue: exporters, and the losses of each socket.

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
use crate::sender::queue::holdings::{Shares, divide_loss};

/// The counters of ingest since the start of the process, shared with status and log.
#[derive(Debug)]
pub(crate) struct IngestCounters {
    exporters: Mutex<ExporterTable>,
    sockets: Vec<SocketCounters>,
    /// Denied datagrams by exporter and by the socket that received them.
    denied_exporters: Mutex<CountTable<DeniedKey>>,
    /// Queued datagrams that were dropped because the spool was full or they were too old.
    dropped_exporters: Mutex<CountTable<IpAddr>>,
    /// Dropped datagrams of unknown exporters.
    dropped_unknown: AtomicU64,
    /// The part of them that is in the log already.
    logged_unknown: AtomicU64,
}

/// A denied exporter and the index of the socket that received its datagrams.
pub(crate) type DeniedKey = (ExporterAddress, usize);

/// The address of an exporter, with the interface to which it is local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ExporterAddress {
    pub(crate) ip: IpAddr,
    /// The index of the interface of a link-local address; otherwise 0.
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
            dropped_unknown: AtomicU64::default(),
            logged_unknown: AtomicU64::default(),
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

    /// The denied datagrams by exporter and socket.
    pub(crate) fn denied_exporters(&self) -> MutexGuard<'_, CountTable<DeniedKey>> {
        locked(&self.denied_exporters)
    }

    /// Notes dropped datagrams of the queue, by exporter.
    pub(crate) fn note_dropped(&self, exporters: impl Iterator<Item = (IpAddr, u64)>, now: BootTime) {
        let mut dropped = self.dropped_exporters();
        exporters.for_each(|(exporter, count)| dropped.add(exporter, count, now));
    }

    /// Notes that `count` datagrams were dropped from data in which the exporters held `shares`.
    pub(crate) fn note_dropped_shares(&self, count: u64, shares: &Shares) {
        let (exporters, unknown) = divide_loss(count, shares);
        self.note_dropped(exporters.into_iter(), boot_clock());
        self.dropped_unknown.fetch_add(unknown, Ordering::Relaxed);
    }

    /// Queued datagrams of unknown exporters that were dropped before they could be read.
    pub(crate) fn dropped_unknown(&self) -> u64 {
        self.dropped_unknown.load(Ordering::Relaxed)
    }

    /// Returns the number of those since the last call, for the log.
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

    /// Dropped datagrams of exporters that have no row.
    pub(crate) fn dropped_of_others(&self) -> u64 {
        self.dropped_exporters().others()
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
