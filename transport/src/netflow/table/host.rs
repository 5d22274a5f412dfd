//! The exporters of one address.
//!
//! A source id (observation domain, engine, or agent and sub-agent) has one count for all source ports. RFC
//! 3954, 5.1, identifies a stream by address and source id. Some exporters use a new port for each datagram,
//! or one port for templates and another for data. Ports are counted apart only if the numbers do not
//! continue, as with two exporters behind one address.

use core::net::{IpAddr, SocketAddr};
use core::ops::Range;

use crate::datagram::BootTime;
use crate::flow_layout::FlowRun;
use crate::limits::{EXPORTERS_PER_ADDRESS, EXPORTERS_PER_SOURCE};
use crate::netflow::export::{ExportFormat, Source};
use crate::netflow::missing::{Seen, Unusable};
use crate::netflow::table::exporter::{Arrived, Exporter};
use crate::netflow::table::shared::{BeliefChange, SharedCount, Split};

/// An address with the interface to which it is local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct HostKey {
    ip: IpAddr,
    /// The interface of a link-local IPv6 address; else 0.
    scope_id: u32,
}

impl HostKey {
    pub(super) fn of(address: SocketAddr) -> Self {
        let scope_id = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
        Self { ip: address.ip(), scope_id }
    }
}

/// The exporters of one address: at most [`EXPORTERS_PER_ADDRESS`].
#[derive(Debug)]
pub(super) struct Host {
    key: HostKey,
    /// By source and port, ascending.
    exporters: Vec<Exporter>,
    /// One for each format of which two source ids are known.
    shared: Vec<SharedCount>,
}

/// The figures of one exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExporterFigures {
    /// Its address.
    pub address: IpAddr,
    /// The index of the interface to which a link-local address belongs; else 0.
    pub interface: u32,
    /// The source port of its last datagram.
    pub port: u16,
    /// The part of the address's datagrams that this row counts.
    pub source: Source,
    /// Datagrams received, copies included.
    pub datagrams: u64,
    /// Copies of datagrams received before.
    pub duplicates: u64,
    /// Units missing by its sequence numbers, or the reason why that is unknown.
    pub missing: Result<u64, Unusable>,
    /// The unit of `missing`, in words.
    pub unit: Option<&'static str>,
    /// Time at which the last datagram was received.
    pub last_seen: BootTime,
}

impl Host {
    pub(super) fn new(key: HostKey) -> Self {
        Self { key, exporters: Vec::new(), shared: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.exporters.len()
    }

    /// Returns the place of the exporter of a datagram, if it is known. Sets its port to that of the
    /// datagram.
    pub(super) fn find(&mut self, arrived: &Arrived<'_>) -> Option<usize> {
        let (source, port) = (arrived.export.source, arrived.port());
        if let Ok(place) = self.place(source, port) {
            return Some(place);
        }
        let same = self.places_of(source);
        let is_numbered = source.format.is_numbered();
        let goes_on = |exporter: &Exporter| !is_numbered || exporter.goes_on_with(arrived);
        let place = same.start + self.exporters.get(same)?.iter().position(goes_on)?;
        let mut exporter = self.exporters.remove(place);
        exporter.move_to(port);
        Some(self.insert(exporter))
    }

    /// Adds the exporter of a datagram. Returns its place.
    pub(super) fn add(&mut self, arrived: &Arrived<'_>) -> usize {
        let source = arrived.export.source;
        let is_followed = self.shared.iter().any(|shared| shared.format == source.format);
        let first = self.exporters.iter_mut().find(|exporter| exporter.source.format == source.format);
        if let Some(first) = first.filter(|first| first.source != source && !is_followed) {
            self.shared.push(SharedCount::new(first));
            first.standing.bears_shared = true;
            for exporter in self.exporters_of(source.format) {
                exporter.standing.mark = exporter.missing.known();
                exporter.standing.settled = exporter.standing.mark;
            }
        }
        self.insert(Exporter::new(source, arrived.port()))
    }

    /// The exporters of one format.
    fn exporters_of(&mut self, format: ExportFormat) -> impl Iterator<Item = &mut Exporter> {
        self.exporters.iter_mut().filter(move |exporter| exporter.source.format == format)
    }

    /// Counts a datagram of the exporter at `place`, as [`Exporter::count`]. Returns the change in bytes of
    /// the recent numbers of other exporters, which may be negative.
    pub(super) fn count(
        &mut self,
        place: usize,
        arrived: &Arrived<'_>,
        room: usize,
        flows: Option<&mut Vec<FlowRun>>,
    ) -> isize {
        let Some(exporter) = self.exporters.get_mut(place) else { return 0 };
        let is_first = exporter.datagrams == 0;
        let counted = exporter.count(arrived, room, flows);
        let format = arrived.export.source.format;
        let shared = self.shared.iter_mut().find(|shared| shared.format == format);
        match counted.zip(shared).and_then(|(counted, shared)| shared.follow(&counted, is_first)) {
            Some(BeliefChange::Doubted(more)) => {
                self.count_shared(format, more);
                0
            }
            Some(BeliefChange::Parted(split)) => self.count_apart(place, split, arrived),
            None => 0,
        }
    }

    /// Settles the losses of source ids that share a count, which has grown by `more`.
    fn count_shared(&mut self, format: ExportFormat, more: u64) {
        for exporter in self.exporters_of(format) {
            let standing = &mut exporter.standing;
            if standing.bears_shared {
                standing.settled = standing.settled.saturating_add(more);
            }
            standing.mark = exporter.missing.known();
        }
    }

    /// Gives each source id that seemed to share a count its own count, which begins with its losses. Returns
    /// the change in bytes of the recent numbers of exporters other than that at `place`.
    fn count_apart(&mut self, place: usize, mut split: Split, arrived: &Arrived<'_>) -> isize {
        let (mut before, mut after) = (0, 0);
        let is_alike = |exporter: &Exporter| exporter.source.format == arrived.export.source.format;
        for (other, exporter) in self.exporters.iter_mut().enumerate().filter(|(_, other)| is_alike(other)) {
            let missing = split.next_share(exporter);
            let seen = Seen { boot: exporter.last_seen, ..arrived.seen() };
            if other != place {
                before += exporter.sequence_bytes();
            }
            exporter.missing = exporter.missing.restarted(missing, seen);
            if other != place {
                after += exporter.sequence_bytes();
            }
        }
        signed(after) - signed(before)
    }

    /// Removes and returns the exporter that was silent longest, if there is no room for another one of
    /// `source`.
    pub(super) fn make_room(&mut self, source: Source) -> Option<Exporter> {
        let same = self.places_of(source);
        if same.len() >= EXPORTERS_PER_SOURCE {
            return self.remove_oldest(same);
        }
        if self.exporters.len() >= EXPORTERS_PER_ADDRESS {
            self.remove_oldest(0..self.exporters.len())
        } else {
            None
        }
    }

    /// Removes the exporter that was silent longest.
    pub(super) fn remove_any(&mut self) -> Option<Exporter> {
        self.remove_oldest(0..self.exporters.len())
    }

    fn remove_oldest(&mut self, places: Range<usize>) -> Option<Exporter> {
        let seen = |place: &usize| self.exporters.get(*place).map(|exporter| exporter.last_seen.elapsed);
        let oldest = places.min_by_key(seen).filter(|place| *place < self.exporters.len())?;
        let removed = self.exporters.remove(oldest);
        let format = removed.source.format;
        match self.exporters.iter_mut().find(|exporter| exporter.source.format == format) {
            Some(first) => first.standing.bears_shared |= removed.standing.bears_shared,
            None => self.shared.retain(|shared| shared.format != format),
        }
        Some(removed)
    }

    /// The places of the exporters of `source`.
    fn places_of(&self, source: Source) -> Range<usize> {
        let start = self.exporters.partition_point(|exporter| exporter.source < source);
        start..self.exporters.partition_point(|exporter| exporter.source <= source)
    }

    /// Bytes of record lengths of the exporter at `place`.
    pub(super) fn record_length_bytes(&self, place: usize) -> usize {
        self.exporters.get(place).map_or(0, Exporter::record_length_bytes)
    }

    /// Bytes of recent numbers of the exporter at `place`, and of counts that are shared.
    pub(super) fn sequence_bytes(&self, place: usize) -> usize {
        self.exporters.get(place).map_or(0, Exporter::sequence_bytes) + self.shared_bytes()
    }

    /// Bytes of recent numbers of counts that are shared.
    pub(super) fn shared_bytes(&self) -> usize {
        self.shared.iter().map(SharedCount::sequence_bytes).sum()
    }

    /// Bytes of recent numbers of all exporters.
    pub(super) fn all_sequence_bytes(&self) -> usize {
        self.exporters.iter().map(Exporter::sequence_bytes).sum::<usize>() + self.shared_bytes()
    }

    /// Forgets recent numbers of the exporter at `place`, and of counts that are shared.
    pub(super) fn forget_numbers(&mut self, place: usize) {
        if let Some(exporter) = self.exporters.get_mut(place) {
            exporter.forget_numbers();
        }
        self.shared.iter_mut().for_each(SharedCount::forget_numbers);
    }

    /// The figures of all exporters, by source and port. Of those that share a count, the one that was seen
    /// first has the losses since then.
    pub(super) fn figures(&self) -> impl Iterator<Item = ExporterFigures> {
        let (mut last_format, mut split) = (None, None);
        self.exporters.iter().map(move |exporter| {
            let format = exporter.source.format;
            if last_format.replace(format) != Some(format) {
                split =
                    self.shared.iter().find(|shared| shared.format == format).and_then(SharedCount::split);
            }
            let own = || (exporter.missing.count(), exporter.missing.unit());
            let (missing, unit) = split.as_mut().map_or_else(own, |split| split.next(exporter));
            let (datagrams, duplicates) = (exporter.datagrams, exporter.duplicates);
            let (port, source, last_seen) = (exporter.port, exporter.source, exporter.last_seen);
            ExporterFigures {
                address: self.key.ip,
                interface: self.key.scope_id,
                port,
                source,
                datagrams,
                duplicates,
                missing,
                unit,
                last_seen,
            }
        })
    }

    fn insert(&mut self, exporter: Exporter) -> usize {
        let place = self.place(exporter.source, exporter.port).unwrap_or_else(|place| place);
        self.exporters.insert(place, exporter);
        place
    }

    fn place(&self, source: Source, port: u16) -> Result<usize, usize> {
        self.exporters.binary_search_by_key(&(source, port), |exporter| (exporter.source, exporter.port))
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}
