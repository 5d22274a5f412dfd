//! A batch on its way to the collectors.

use std::net::IpAddr;

use nf_transport_core::batch::{BatchError, Records};
use nf_transport_core::datagram::Datagram;
use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::sequence::{Gap, GapReason, Position};

use crate::limits::PENDING_BATCH_OVERHEAD;
use crate::receiver::delivery::denied::ExporterCounts;
use crate::receiver::output::ExporterFilter;
use crate::status::Tally;

/// A batch on its way, or a range of positions that will never be delivered.
#[derive(Debug)]
pub(crate) struct PendingBatch {
    pub(crate) first: Position,
    pub(crate) end: Position,
    /// First position that was not delivered before.
    pub(crate) first_new: Position,
    /// One entry for each position: a datagram, or a note that the sender dropped it. `Err` if none of them
    /// will ever be delivered.
    pub(crate) records: Result<Records, LossCause>,
    /// Exporters whose datagrams the sender may deliver. No collector gets datagrams of others.
    pub(crate) exporters: Prefixes,
}

/// Cause of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossCause {
    /// The sender reports the loss.
    Reported(GapReason),
    /// The batch cannot be decoded.
    Unreadable(BatchError),
}

/// Datagrams that are lost for one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Position of the first one.
    pub(crate) first: Position,
    pub(crate) datagrams: u64,
    pub(crate) cause: LossCause,
}

/// Result for datagrams that are completed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Sent to the collectors, or skipped.
    pub(crate) delivered: Tally,
    /// Denied, by exporter.
    pub(crate) denied: ExporterCounts,
    /// Matched by no collector, by exporter. They count as delivered as well.
    pub(crate) unmatched: ExporterCounts,
    /// Lost, one entry for each cause.
    pub(crate) losses: Vec<Loss>,
}

impl Settled {
    /// Adds `other`.
    pub(super) fn add(&mut self, other: Self) {
        self.delivered.datagrams += other.delivered.datagrams;
        self.delivered.bytes += other.delivered.bytes;
        for (sum, counts) in [(&mut self.denied, other.denied), (&mut self.unmatched, other.unmatched)] {
            for (exporter, count) in counts {
                *sum.entry(exporter).or_default() += count;
            }
        }
        other.losses.into_iter().for_each(|loss| self.lose(loss));
    }

    fn deny(&mut self, exporter: IpAddr) {
        *self.denied.entry(exporter.to_canonical()).or_default() += 1;
    }

    fn lose(&mut self, loss: Loss) {
        match self.losses.iter_mut().find(|other| other.cause == loss.cause) {
            Some(other) => other.datagrams = other.datagrams.saturating_add(loss.datagrams),
            None if loss.datagrams > 0 => self.losses.push(loss),
            None => {}
        }
    }
}

impl FromIterator<Self> for Settled {
    fn from_iter<I: IntoIterator<Item = Self>>(parts: I) -> Self {
        let mut sum = Self::default();
        parts.into_iter().for_each(|part| sum.add(part));
        sum
    }
}

impl PendingBatch {
    /// Returns the positions of `gap`, which will never be delivered.
    pub(crate) fn of_gap(gap: Gap) -> Self {
        let (records, exporters) = (Err(LossCause::Reported(gap.reason)), Prefixes::default());
        Self { first: gap.first, end: gap.end, first_new: gap.first, records, exporters }
    }

    /// Iterates over its datagrams from `position` on, by position; `None` for those that the sender dropped.
    fn from(&self, position: Position) -> impl Iterator<Item = Option<Datagram<'_>>> {
        let done = usize::try_from(position.since(self.first)).unwrap_or(usize::MAX);
        self.records.iter().flat_map(Records::by_position).skip(done)
    }

    /// Returns the runs of datagrams from `position` on that collectors may get, each with its first
    /// position. Between two runs are datagrams that the sender dropped or may not deliver.
    pub(super) fn runs_from(&self, position: Position) -> Vec<(Position, Vec<Datagram<'_>>)> {
        let mut runs: Vec<(Position, Vec<Datagram<'_>>)> = Vec::new();
        let mut follows = false;
        for (number, datagram) in (position.max(self.first).0..).zip(self.from(position)) {
            let datagram = datagram.filter(|datagram| self.allows(datagram));
            match (datagram, runs.last_mut()) {
                (Some(datagram), Some((_, run))) if follows => run.push(datagram),
                (Some(datagram), last) => {
                    // Most batches are one run.
                    let rest = if last.is_none() { self.end.since(Position(number)) } else { 1 };
                    let mut run = Vec::with_capacity(usize::try_from(rest).unwrap_or(1));
                    run.push(datagram);
                    runs.push((Position(number), run));
                }
                (None, _) => {}
            }
            follows = datagram.is_some();
        }
        runs
    }

    /// Returns whether collectors may get `datagram`, one of its own.
    fn allows(&self, datagram: &Datagram<'_>) -> bool {
        self.exporters.has(datagram.exporter.ip())
    }

    /// Returns the result for the datagrams below `position` that were not delivered before. Collectors get
    /// those of `collected` exporters.
    pub(super) fn settled_below(&self, position: Position, collected: &ExporterFilter) -> Settled {
        let count = position.since(self.first_new);
        let mut settled = Settled::default();
        if let Err(cause) = self.records {
            settled.lose(Self::loss(self.first_new, self.end.min(position).since(self.first_new), cause));
            return settled;
        }
        if let Some(delivered) = self.whole(position, collected) {
            settled.delivered = delivered;
            return settled;
        }
        let new = self.from(self.first_new).take(usize::try_from(count).unwrap_or(usize::MAX));
        for (number, datagram) in (self.first_new.max(self.first).0..).zip(new) {
            match datagram {
                Some(datagram) => self.count_datagram(&datagram, collected, &mut settled),
                None => {
                    settled.lose(Self::loss(Position(number), 1, LossCause::Reported(GapReason::SpoolFull)));
                }
            }
        }
        settled
    }

    /// Returns the sums of the header if all datagrams are below `position`, new, and for a collector, as in
    /// most batches.
    fn whole(&self, position: Position, collected: &ExporterFilter) -> Option<Tally> {
        let records = self.records.as_ref().ok()?;
        let is_new = self.first_new <= self.first && self.end <= position;
        let is_for_all = self.exporters.has_all() && matches!(collected, ExporterFilter::All);
        (is_new && is_for_all && records.dropped() == 0).then(|| Tally {
            datagrams: self.end.since(self.first),
            bytes: u64::from(records.payload_bytes()),
        })
    }

    fn count_datagram(&self, datagram: &Datagram<'_>, collected: &ExporterFilter, settled: &mut Settled) {
        let exporter = datagram.exporter.ip();
        if !self.allows(datagram) {
            return settled.deny(exporter);
        }
        settled.delivered.datagrams += 1;
        settled.delivered.bytes += u64::try_from(datagram.payload.len()).unwrap_or(u64::MAX);
        if !collected.has(exporter) {
            *settled.unmatched.entry(exporter).or_default() += 1;
        }
    }

    /// Positions that were never used are no loss.
    fn loss(first: Position, positions: u64, cause: LossCause) -> Loss {
        let datagrams = if cause == LossCause::Reported(GapReason::Unused) { 0 } else { positions };
        Loss { first, datagrams, cause }
    }

    /// Returns the bytes that it uses.
    pub(super) fn bytes(&self) -> usize {
        PENDING_BATCH_OVERHEAD + self.records.as_ref().map_or(0, Records::len)
    }
}
