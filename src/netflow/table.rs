//! The exporters heard so far, each with its counters.
//!
//! Never holds more than its bound: the exporter unheard longest makes room for a new one. A datagram of a
//! known exporter costs one look-up and no allocation; one of IPFIX a look-up for each of its sets more.

use core::net::SocketAddr;

use crate::datagram::{BootTime, Datagram, FlowRun};
use crate::limits::{EXPORTERS_MAX, RECORD_LENGTHS_TOTAL};
use crate::netflow::recent::{Keyed, Recent};
use crate::netflow::record_lengths::RecordLengths;
use crate::netflow::sets::Format;
use crate::netflow::{Header, Missing};

/// What tells one count of sequence numbers from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExporterKey {
    /// The exporter's own address and port.
    pub address: SocketAddr,
    /// 5, 9, 10 for IPFIX, or 0 for anything else.
    pub version: u16,
    /// As in [`Header::source_id`]; 0 for anything else.
    pub source_id: u32,
}

impl ExporterKey {
    /// The key of datagrams with `header` from `address`.
    pub(crate) fn new(address: SocketAddr, header: &Header) -> Self {
        Self { address, version: header.version, source_id: header.source_id }
    }
}

/// The counters of one exporter.
#[derive(Debug)]
pub struct Exporter {
    /// Which one.
    pub key: ExporterKey,
    /// Datagrams that came.
    pub datagrams: u64,
    /// What its sequence numbers say did not come.
    pub missing: Missing,
    /// When the last datagram was taken.
    pub last_seen: BootTime,
    /// What it takes to count the data records of IPFIX, and to find those of v9 once that is wanted; `None` else.
    record_lengths: Option<Box<RecordLengths>>,
}

impl Exporter {
    fn new(key: ExporterKey) -> Self {
        let record_lengths = (key.version == Format::Ipfix.version()).then(Box::default);
        Self {
            key,
            datagrams: 0,
            missing: Missing::default(),
            last_seen: BootTime::default(),
            record_lengths,
        }
    }

    /// Bytes of record lengths.
    fn record_length_bytes(&self) -> usize {
        self.record_lengths.as_ref().map_or(0, |lengths| lengths.bytes())
    }

    /// Follows the sequence number of a datagram with `header`; record lengths may take `room` bytes.
    fn follow(&mut self, header: &Header, payload: &[u8], room: usize, flows: Option<&mut Vec<FlowRun>>) {
        let mut sequence = header.sequence;
        let records = flows.map(|flows| self.find(header, payload, room, flows));
        if header.version == Format::Ipfix.version() {
            let lengths = self.record_lengths.as_mut();
            sequence.adds =
                records.unwrap_or_else(|| lengths.and_then(|lengths| lengths.count(payload, room)));
        }
        self.missing.note(sequence);
    }

    /// Adds where the flow records of a datagram with `header` lie to `flows`; says how many data records it holds
    /// where templates tell.
    fn find(
        &mut self,
        header: &Header,
        payload: &[u8],
        room: usize,
        flows: &mut Vec<FlowRun>,
    ) -> Option<u32> {
        flows.extend(header.v5_flows());
        Format::of(header.version)?;
        self.record_lengths.get_or_insert_default().find(payload, room, |run| flows.push(run))
    }
}

impl Keyed for Exporter {
    fn key(&self) -> ExporterKey {
        self.key
    }
}

/// The exporters heard so far: at most [`EXPORTERS_MAX`].
#[derive(Debug, Default)]
pub struct ExporterTable {
    exporters: Recent<Exporter>,
    /// Bytes of record lengths of all exporters: `record_length_bytes <= RECORD_LENGTHS_TOTAL`.
    record_length_bytes: usize,
}

impl ExporterTable {
    /// Counts `datagram`, which was taken `now`.
    pub fn note(&mut self, datagram: &Datagram<'_>, now: BootTime) {
        self.count(datagram, now, None);
    }

    /// Counts `datagram`, which was taken `now`, and adds to `flows` where flow records lie in it, in ascending order, as far as that is
    /// known by what came before.
    pub fn note_flows(&mut self, datagram: &Datagram<'_>, now: BootTime, flows: &mut Vec<FlowRun>) {
        self.count(datagram, now, Some(flows));
    }

    fn count(&mut self, datagram: &Datagram<'_>, now: BootTime, flows: Option<&mut Vec<FlowRun>>) {
        let header = Header::parse(datagram.payload);
        let other = ExporterKey { address: datagram.exporter, version: 0, source_id: 0 };
        let key = header.map_or(other, |header| ExporterKey::new(datagram.exporter, &header));
        if !self.exporters.touch(&key) {
            self.add(key);
        }
        let Some(exporter) = self.exporters.newest_mut() else { return };
        exporter.datagrams += 1;
        exporter.last_seen = now;
        if let Some(header) = header {
            self.record_length_bytes -= exporter.record_length_bytes();
            let room = RECORD_LENGTHS_TOTAL.saturating_sub(self.record_length_bytes);
            exporter.follow(&header, datagram.payload, room, flows);
            self.record_length_bytes += exporter.record_length_bytes();
        }
    }

    /// Bytes of record lengths that are kept in all.
    pub(super) fn record_length_bytes(&self) -> usize {
        self.record_length_bytes
    }

    /// The exporters, from the one unheard longest to the one heard last.
    pub fn iter(&self) -> impl Iterator<Item = &Exporter> {
        self.exporters.iter()
    }

    fn add(&mut self, key: ExporterKey) {
        if self.exporters.len() >= EXPORTERS_MAX {
            let forgotten = self.exporters.remove_oldest();
            self.record_length_bytes -= forgotten.map_or(0, |forgotten| forgotten.record_length_bytes());
        }
        self.exporters.add(Exporter::new(key));
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::datagram::Timestamp;

    fn note(table: &mut ExporterTable, address: SocketAddr, seconds: u64, payload: &[u8]) {
        let local = "192.0.2.9:2055".parse().unwrap();
        let datagram = Datagram { exporter: address, local, arrival: Timestamp(0), payload };
        table.note(&datagram, at(seconds));
    }

    fn at(seconds: u64) -> BootTime {
        BootTime { elapsed: Duration::from_secs(seconds), ..BootTime::default() }
    }

    fn exporter(number: u16) -> SocketAddr {
        format!("192.0.2.1:{number}").parse().unwrap()
    }

    fn v9(source_id: u32, sequence: u32) -> Vec<u8> {
        let fields = [0x0009_0001, 0, 0, sequence, source_id];
        fields.iter().flat_map(|field: &u32| field.to_be_bytes()).collect()
    }

    fn row(table: &ExporterTable, version: u16, source_id: u32) -> &Exporter {
        table.iter().find(|row| row.key.version == version && row.key.source_id == source_id).unwrap()
    }

    #[test]
    fn each_source_id_of_an_exporter_has_a_count_of_its_own() {
        let mut table = ExporterTable::default();
        for sequence in [10, 11, 14] {
            note(&mut table, exporter(1), 5, &v9(1, sequence));
            note(&mut table, exporter(1), 7, &v9(2, sequence * 2));
        }
        note(&mut table, exporter(1), 6, b"not NetFlow");
        assert_eq!(table.iter().count(), 3);
        assert_eq!(row(&table, 9, 1).missing.count(), 2);
        assert_eq!(row(&table, 9, 2).missing.count(), 1 + 5);
        assert_eq!((row(&table, 9, 2).datagrams, row(&table, 9, 2).last_seen), (3, at(7)));
        assert_eq!((row(&table, 0, 0).datagrams, row(&table, 0, 0).missing.count()), (1, 0));
    }

    #[test]
    fn the_exporter_unheard_longest_makes_room() {
        let mut table = ExporterTable::default();
        let last = u16::try_from(EXPORTERS_MAX).unwrap();
        (1..=last).for_each(|number| note(&mut table, exporter(number), 1, b""));
        note(&mut table, exporter(1), 2, b"");
        note(&mut table, exporter(3), 2, b"");
        note(&mut table, exporter(last + 1), 3, b"");
        note(&mut table, exporter(last + 2), 3, b"");
        let kept: Vec<u16> = table.iter().map(|row| row.key.address.port()).collect();
        let expected: Vec<u16> = (5..=last).chain([1, 3, last + 1, last + 2]).collect();
        assert_eq!(kept, expected);
    }
}
