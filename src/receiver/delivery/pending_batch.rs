//! A batch on its way to the collectors.

use std::net::IpAddr;

use nf_transport_core::batch::{BatchError, Records};
use nf_transport_core::datagram::Datagram;
use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::sequence::{Gap, GapReason, Position};

use crate::limits::PENDING_BATCH_OVERHEAD;
use crate::receiver::delivery::denied::ExporterCounts;
use crate::receiver::output::Exporters;
use crate::status::Tally;

/// A batch on its way, or positions that will never come.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) first: Position,
    pub(crate) end: Position,
    /// Datagrams from here on were not delivered before.
    pub(crate) news: Position,
    /// One datagram for each position, or the note that the sender dropped it; or why none of them will ever come.
    pub(crate) records: Result<Records, LossCause>,
    /// Exporters whose datagrams the sender may deliver. No collector gets those of others.
    pub(crate) exporters: Prefixes,
}

/// Why datagrams are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossCause {
    /// The sender reports it.
    Reported(GapReason),
    /// Their batch cannot be read.
    Unreadable(BatchError),
}

/// Datagrams that are lost for one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The position of the first one.
    pub(crate) first: Position,
    pub(crate) datagrams: u64,
    pub(crate) cause: LossCause,
}

/// The result for datagrams that are done with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// They went to the collectors, or were skipped.
    pub(crate) delivered: Tally,
    /// They were denied.
    pub(crate) denied: ExporterCounts,
    /// No collector gets them. They are among those that were delivered, too.
    pub(crate) unmatched: ExporterCounts,
    /// They are lost: one entry for each cause.
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

impl Parcel {
    /// The positions of `gap`, which will never come.
    pub(crate) fn never(gap: Gap) -> Self {
        let (records, exporters) = (Err(LossCause::Reported(gap.reason)), Prefixes::default());
        Self { first: gap.first, end: gap.end, news: gap.first, records, exporters }
    }

    /// Its datagrams from `position` on, by position; `None` for those that the sender dropped.
    fn from(&self, position: Position) -> impl Iterator<Item = Option<Datagram<'_>>> {
        let done = usize::try_from(position.since(self.first)).unwrap_or(usize::MAX);
        self.records.iter().flat_map(Records::by_position).skip(done)
    }

    /// Runs of datagrams from `position` on that collectors may get, each with its first position. Between them are datagrams
    /// that the sender dropped, or that it may not deliver.
    pub(super) fn runs_from(&self, position: Position) -> Vec<(Position, Vec<Datagram<'_>>)> {
        let mut runs: Vec<(Position, Vec<Datagram<'_>>)> = Vec::new();
        let mut follows = false;
        for (number, datagram) in (position.max(self.first).0..).zip(self.from(position)) {
            let datagram = datagram.filter(|datagram| self.allows(datagram));
            match (datagram, runs.last_mut()) {
                (Some(datagram), Some((_, run))) if follows => run.push(datagram),
                (Some(datagram), _) => runs.push((Position(number), vec![datagram])),
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

    /// The result for those below `position` that were not delivered before. Collectors get those of `collected` exporters.
    pub(super) fn settled_below(&self, position: Position, collected: &Exporters) -> Settled {
        let count = position.since(self.news);
        let mut settled = Settled::default();
        if let Err(cause) = self.records {
            settled.lose(Self::loss(self.news, self.end.min(position).since(self.news), cause));
            return settled;
        }
        let news = self.from(self.news).take(usize::try_from(count).unwrap_or(usize::MAX));
        for (number, datagram) in (self.news.max(self.first).0..).zip(news) {
            match datagram {
                Some(datagram) => self.settle(&datagram, collected, &mut settled),
                None => {
                    settled.lose(Self::loss(Position(number), 1, LossCause::Reported(GapReason::SpoolFull)));
                }
            }
        }
        settled
    }

    fn settle(&self, datagram: &Datagram<'_>, collected: &Exporters, settled: &mut Settled) {
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

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        PENDING_BATCH_OVERHEAD + self.records.as_ref().map_or(0, Records::len)
    }
}
