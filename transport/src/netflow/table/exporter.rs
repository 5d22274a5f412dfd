//! One exporter: a source of datagrams with its own sequence numbers.

use crate::datagram::{BootTime, Datagram};
use crate::flow_layout::FlowRun;
use crate::netflow::Header;
use crate::netflow::contents::Contents;
use crate::netflow::export::{Export, ExportFormat, Source};
use crate::netflow::missing::{Copies, Missing, Seen, Ways};
use crate::netflow::record_lengths::RecordLengths;

/// The counters of one exporter.
#[derive(Debug)]
pub(super) struct Exporter {
    pub(super) source: Source,
    /// The source port of its last datagram.
    pub(super) port: u16,
    pub(super) datagrams: u64,
    /// Copies of datagrams received before.
    pub(super) duplicates: u64,
    pub(super) last_seen: BootTime,
    pub(super) missing: Missing,
    pub(super) standing: LossShare,
    copies: Copies,
    /// Lengths of records of IPFIX and NetFlow v9, to count and find them; `None` in other formats.
    record_lengths: Option<Box<RecordLengths>>,
    /// True once its numbers have continued from another port.
    has_moved: bool,
}

/// The part of the losses that one exporter shows, if its source id may share a count with others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LossShare {
    /// Losses up to the moment at which it became doubtful whether the count is shared.
    pub(super) settled: u64,
    /// Its own count at that moment.
    pub(super) mark: u64,
    /// True if losses of the shared count are shown as its own.
    pub(super) bears_shared: bool,
}

/// A datagram with its header.
#[derive(Debug)]
pub(super) struct Arrived<'a> {
    pub(super) datagram: &'a Datagram<'a>,
    header: Option<Header>,
    pub(super) export: Export,
    now: BootTime,
}

impl<'a> Arrived<'a> {
    /// A datagram that was received `now`.
    pub(super) fn new(datagram: &'a Datagram<'a>, now: BootTime) -> Self {
        let header = Header::parse(datagram.payload);
        let export = Export::parse(datagram.payload, header.as_ref());
        Self { datagram, header, export, now }
    }

    pub(super) fn port(&self) -> u16 {
        self.datagram.exporter.port()
    }

    pub(super) fn seen(&self) -> Seen {
        Seen { boot: self.now, arrival: self.datagram.arrival }
    }
}

/// A datagram that moved the count of its exporter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) number: u32,
    pub(super) contents: Contents,
    pub(super) seen: Seen,
    /// The ways of counting by which its number was the expected one.
    pub(super) fitting: Ways,
}

impl Exporter {
    pub(super) fn new(source: Source, port: u16) -> Self {
        let has_templates = matches!(source.format, ExportFormat::V9 | ExportFormat::Ipfix);
        Self {
            source,
            port,
            datagrams: 0,
            duplicates: 0,
            last_seen: BootTime::default(),
            missing: Missing::new(source.format),
            standing: LossShare::default(),
            copies: Copies::default(),
            record_lengths: has_templates.then(Box::default),
            has_moved: false,
        }
    }

    /// True if a datagram from another port continues this count.
    pub(super) fn goes_on_with(&self, arrived: &Arrived<'_>) -> bool {
        let number = arrived.export.number;
        self.missing.expects(number) || self.has_moved && self.missing.is_near(number, arrived.seen())
    }

    /// Continues from another port.
    pub(super) fn move_to(&mut self, port: u16) {
        (self.port, self.has_moved) = (port, true);
    }

    /// Counts a datagram, and adds the places of its flow records to `flows`. Record lengths may take `room`
    /// bytes. Returns `None` for a copy, and for a datagram without a number: neither moves the count.
    pub(super) fn count(
        &mut self,
        arrived: &Arrived<'_>,
        room: usize,
        flows: Option<&mut Vec<FlowRun>>,
    ) -> Option<Counted> {
        self.datagrams += 1;
        self.last_seen = arrived.now;
        let contents = self.read(arrived, room, flows);
        let number = arrived.export.number;
        if !self.source.format.is_numbered() {
            return None;
        }
        if self.copies.find_or_insert(arrived.datagram.payload, self.missing.is_next(number)) {
            self.duplicates += 1;
            return None;
        }
        let fitting = self.missing.follow(number, &contents, arrived.seen());
        Some(Counted { number, contents, seen: arrived.seen(), fitting })
    }

    fn read(&mut self, arrived: &Arrived<'_>, room: usize, flows: Option<&mut Vec<FlowRun>>) -> Contents {
        let payload = arrived.datagram.payload;
        let Some(lengths) = &mut self.record_lengths else {
            if let Some(flows) = flows {
                flows.extend(arrived.header.as_ref().and_then(Header::v5_flows));
            }
            return arrived.export.contents;
        };
        let contents = match flows {
            Some(flows) => lengths.find(payload, room, |run| flows.push(run)),
            None => lengths.count(payload, room),
        };
        Contents { announced: arrived.export.contents.announced, ..contents }
    }

    /// Its own losses since [`LossShare::mark`].
    pub(super) fn own_since_mark(&self) -> u64 {
        self.missing.known().saturating_sub(self.standing.mark)
    }

    /// Bytes of record lengths.
    pub(super) fn record_length_bytes(&self) -> usize {
        self.record_lengths.as_ref().map_or(0, |lengths| lengths.bytes())
    }

    /// Bytes of recent numbers, which [`Self::forget_numbers`] frees.
    pub(super) fn sequence_bytes(&self) -> usize {
        self.copies.bytes() + self.missing.bytes()
    }

    /// Forgets recent numbers.
    pub(super) fn forget_numbers(&mut self) {
        self.copies.clear();
        self.missing.shrink();
    }
}
