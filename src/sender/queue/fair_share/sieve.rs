//! Drops the oldest datagrams of the largest holders from batches.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use nf_transport_core::batch::{Batch, BatchBuilder, Compression, PushError};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::flow_layout::FlowRun;
use nf_transport_core::netflow::ExporterTable;
use nf_transport_core::sequence::Position;
use nf_transport_core::spool::{Sieve, Thinned};

use crate::host::boot_clock;
use crate::sender::queue::Queue;
use crate::sender::queue::holdings::{Holding, Shares};

/// Bytes that each exporter may lose.
pub(super) type Budgets = HashMap<IpAddr, u64>;

/// Datagrams that were dropped one by one, and the shares of their exporters.
#[derive(Debug)]
pub(crate) struct ThinnedLoss {
    pub(crate) thinned: Thinned,
    pub(crate) shares: Shares,
}

/// Drops the oldest datagrams of some exporters.
pub(super) struct ByExporter<'a> {
    queue: &'a Queue,
    /// Bytes that each exporter may still lose.
    budgets: Budgets,
    /// Kept datagrams and positions of dropped ones that are not in a batch yet.
    builder: BatchBuilder,
    table: &'a mut ExporterTable,
    /// The flows of the current datagram.
    flows: Vec<FlowRun>,
    /// The first position in `builder`.
    next: Position,
    lost: Shares,
    is_abandoned: &'a AtomicBool,
}

impl<'a> ByExporter<'a> {
    /// Creates a sieve for batches from `first` on. Setting `is_abandoned` ends it early with an error.
    pub(super) fn new(
        queue: &'a Queue,
        budgets: Budgets,
        table: &'a mut ExporterTable,
        first: Position,
        is_abandoned: &'a AtomicBool,
    ) -> Self {
        let builder = BatchBuilder::new(queue.stream(), Compression::None);
        let (flows, lost) = Default::default();
        Self { queue, budgets, builder, table, flows, next: first, lost, is_abandoned }
    }

    /// Returns the shares of the dropped datagrams.
    pub(super) fn into_lost(self) -> Shares {
        self.lost
    }

    /// Returns `batch`, which is in memory and takes `length` bytes, without the datagrams that are dropped,
    /// and the loss. Returns `None` if nothing is dropped.
    pub(super) fn sift_one(mut self, batch: &Batch, length: u64) -> Option<(Batch, ThinnedLoss)> {
        // A batch that only gets smaller does not become two.
        let full = self.sift_opened(batch, length).ok()?;
        let sifted = self.builder.finish(batch.first()).filter(|_| full.is_empty())?;
        let datagrams = self.lost.iter().map(|(_, held)| held.datagrams).sum();
        if datagrams == 0 || sifted.end() != batch.end() {
            return None;
        }
        let thinned = Thinned { first: batch.first(), end: batch.end(), datagrams };
        Some((sifted, ThinnedLoss { thinned, shares: self.lost }))
    }

    /// Sifts a decrypted batch that takes `length` bytes on disk. Returns the batches that became full.
    fn sift_opened(&mut self, batch: &Batch, length: u64) -> io::Result<Vec<Batch>> {
        let records = batch.records().map_err(io::Error::other)?;
        if batch.header().compression != Compression::None {
            self.builder.set_compression(Compression::Zstd);
        }
        let mut full = Vec::new();
        for datagram in records.by_position() {
            self.find_flows(datagram.as_ref());
            let arrival = datagram.map_or(batch.earliest(), |datagram| datagram.arrival);
            let kept =
                datagram.filter(|datagram| !self.drops(datagram, Holding::of(datagram, batch, length)));
            if self.push(kept.as_ref(), arrival) == Err(PushError::Full) {
                full.extend(self.finish_batch()?);
                self.push(kept.as_ref(), arrival).map_err(io::Error::other)?;
            }
        }
        Ok(full)
    }

    /// Drops `datagram`, which takes `holding`, if its exporter may lose that. Returns `true` if so.
    fn drops(&mut self, datagram: &Datagram<'_>, holding: Holding) -> bool {
        let exporter = datagram.exporter.ip();
        let Some(budget) = self.budgets.get_mut(&exporter).filter(|budget| **budget > 0) else {
            return false;
        };
        *budget = budget.saturating_sub(holding.bytes);
        self.lost.add(exporter, holding);
        true
    }

    fn push(&mut self, datagram: Option<&Datagram<'_>>, arrival: Timestamp) -> Result<(), PushError> {
        match datagram {
            Some(datagram) => self.builder.push_flows(datagram, &self.flows),
            None => self.builder.push_dropped(arrival),
        }
    }

    fn find_flows(&mut self, datagram: Option<&Datagram<'_>>) {
        self.flows.clear();
        if let Some(datagram) = datagram.filter(|_| self.builder.compresses()) {
            self.table.note_flows(datagram, boot_clock(), &mut self.flows);
        }
    }

    fn finish_batch(&mut self) -> io::Result<Option<Batch>> {
        let Some(batch) = self.builder.finish(self.next) else { return Ok(None) };
        self.next = batch.end();
        self.queue.seal(&batch).map(Some)
    }
}

impl Sieve for ByExporter<'_> {
    fn sift(&mut self, batch: &Batch) -> io::Result<Vec<Batch>> {
        check_abandoned(self.is_abandoned)?;
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        let opened = self.queue.open(batch).map_err(io::Error::other)?;
        self.sift_opened(&opened, length)
    }

    fn finish(&mut self) -> io::Result<Option<Batch>> {
        self.finish_batch()
    }
}

/// Fails if the work is not needed any more.
pub(super) fn check_abandoned(is_abandoned: &AtomicBool) -> io::Result<()> {
    let is_wanted = !is_abandoned.load(Ordering::Relaxed);
    if is_wanted { Ok(()) } else { Err(io::Error::other("it is not needed any more")) }
}
