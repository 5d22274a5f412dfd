//! A batch on its way to the collectors.

use std::net::IpAddr;

use crate::batch::Records;
use crate::datagram::Datagram;
use crate::limits::PARCEL_OVERHEAD;
use crate::prefixes::Prefixes;
use crate::receiver::denied::DeniedCounts;
use crate::sequence::{Gap, Position};
use crate::status::Tally;

/// A batch on its way, or positions that will never come.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) first: Position,
    pub(crate) end: Position,
    /// Datagrams from here on were not delivered before.
    pub(crate) news: Position,
    /// One datagram for each position, or the note that the sender dropped it; `None` if none of them will ever come.
    pub(crate) records: Option<Records>,
    /// Exporters whose datagrams the sender may deliver. No collector gets those of others.
    pub(crate) exporters: Prefixes,
}

/// The result for datagrams that are done with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// They went to the collectors, or were skipped.
    pub(crate) delivered: Tally,
    /// They were denied.
    pub(crate) denied: DeniedCounts,
}

impl Settled {
    /// Adds `other`.
    pub(super) fn add(&mut self, other: Self) {
        self.delivered.datagrams += other.delivered.datagrams;
        self.delivered.bytes += other.delivered.bytes;
        for (exporter, count) in other.denied {
            *self.denied.entry(exporter).or_default() += count;
        }
    }

    fn deny(&mut self, exporter: IpAddr) {
        *self.denied.entry(exporter.to_canonical()).or_default() += 1;
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
        let exporters = Prefixes::default();
        Self { first: gap.first, end: gap.end, news: gap.end, records: None, exporters }
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

    /// The result for those below `position` that were not delivered before.
    pub(super) fn settled_below(&self, position: Position) -> Settled {
        let count = position.since(self.news);
        let mut settled = Settled::default();
        let news = self.from(self.news).take(usize::try_from(count).unwrap_or(usize::MAX));
        for datagram in news.flatten() {
            if self.allows(&datagram) {
                settled.delivered.datagrams += 1;
                settled.delivered.bytes += u64::try_from(datagram.payload.len()).unwrap_or(u64::MAX);
            } else {
                settled.deny(datagram.exporter.ip());
            }
        }
        settled
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        PARCEL_OVERHEAD + self.records.as_ref().map_or(0, Records::len)
    }
}
