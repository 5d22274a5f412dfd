//! The exporters heard so far, each with its counters.
//!
//! Never holds more than its bound: the exporter unheard longest makes room for a new one. A datagram of a known
//! exporter costs one look-up and no allocation. Entries lie in a vector and are chained from the one heard last
//! to the one unheard longest.

use core::net::SocketAddr;
use std::collections::HashMap;

use crate::datagram::{Datagram, Timestamp};
use crate::limits::EXPORTERS_MAX;
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

/// The counters of one exporter.
#[derive(Clone, Copy, Debug)]
pub struct Exporter {
    /// Which one.
    pub key: ExporterKey,
    /// Datagrams that came.
    pub datagrams: u64,
    /// What its sequence numbers say did not come.
    pub missing: Missing,
    /// When the last datagram arrived.
    pub last_seen: Timestamp,
    /// The entry heard next after this one; none after the one heard last.
    newer: Option<usize>,
    /// The entry heard last before this one; none before the one unheard longest.
    older: Option<usize>,
}

/// The exporters heard so far: at most [`EXPORTERS_MAX`].
#[derive(Debug, Default)]
pub struct ExporterTable {
    /// Where each exporter lies in `exporters`.
    places: HashMap<ExporterKey, usize>,
    /// `exporters.len() <= EXPORTERS_MAX`.
    exporters: Vec<Exporter>,
    /// The entry heard last.
    newest: Option<usize>,
    /// The entry unheard longest.
    oldest: Option<usize>,
}

impl ExporterTable {
    /// Counts `datagram`.
    pub fn note(&mut self, datagram: &Datagram<'_>) {
        let header = Header::parse(datagram.payload);
        let key = ExporterKey {
            address: datagram.exporter,
            version: header.map_or(0, |header| header.version),
            source_id: header.map_or(0, |header| header.source_id),
        };
        let place = self.place_of(key);
        let Some(exporter) = self.exporters.get_mut(place) else { return };
        exporter.datagrams += 1;
        exporter.last_seen = exporter.last_seen.max(datagram.arrival);
        if let Some(sequence) = header.and_then(|header| header.sequence) {
            exporter.missing.note(sequence);
        }
    }

    /// The exporters, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Exporter> {
        self.exporters.iter()
    }

    /// Where the entry of `key` lies, which is the newest from now on.
    fn place_of(&mut self, key: ExporterKey) -> usize {
        let known = self.places.get(&key).copied();
        if known.is_some() && known == self.newest {
            return known.unwrap_or_default();
        }
        let place = known.unwrap_or_else(|| self.add(key));
        if known.is_some() {
            self.unchain(place);
        }
        self.chain_as_newest(place);
        place
    }

    /// A place for a new entry, not chained yet: one more, or that of the exporter unheard longest.
    fn add(&mut self, key: ExporterKey) -> usize {
        let entry = Exporter {
            key,
            datagrams: 0,
            missing: Missing::default(),
            last_seen: Timestamp::default(),
            newer: None,
            older: None,
        };
        let full = self.exporters.len() >= EXPORTERS_MAX;
        let place = if let Some(oldest) = self.oldest.filter(|_| full) {
            self.unchain(oldest);
            if let Some(old) = self.exporters.get_mut(oldest) {
                self.places.remove(&old.key);
                *old = entry;
            }
            oldest
        } else {
            self.exporters.push(entry);
            self.exporters.len() - 1
        };
        self.places.insert(key, place);
        place
    }

    fn unchain(&mut self, place: usize) {
        let Some(entry) = self.exporters.get_mut(place) else { return };
        let (newer, older) = (entry.newer.take(), entry.older.take());
        match newer.and_then(|newer| self.exporters.get_mut(newer)) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        match older.and_then(|older| self.exporters.get_mut(older)) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn chain_as_newest(&mut self, place: usize) {
        let before = self.newest.replace(place);
        match before.and_then(|before| self.exporters.get_mut(before)) {
            Some(before) => before.newer = Some(place),
            None => self.oldest = Some(place),
        }
        if let Some(entry) = self.exporters.get_mut(place) {
            entry.older = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(table: &mut ExporterTable, address: SocketAddr, seconds: u64, payload: &[u8]) {
        let local = "192.0.2.9:2055".parse().unwrap();
        table.note(&Datagram { exporter: address, local, arrival: Timestamp(seconds), payload });
    }

    fn exporter(number: u16) -> SocketAddr {
        format!("192.0.2.1:{number}").parse().unwrap()
    }

    fn v9(source_id: u32, sequence: u32) -> Vec<u8> {
        let fields = [0x0009_0001, 0, 0, sequence, source_id];
        fields.iter().flat_map(|field: &u32| field.to_be_bytes()).collect()
    }

    fn row(table: &ExporterTable, version: u16, source_id: u32) -> Exporter {
        *table.iter().find(|row| row.key.version == version && row.key.source_id == source_id).unwrap()
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
        assert_eq!((row(&table, 9, 2).datagrams, row(&table, 9, 2).last_seen), (3, Timestamp(7)));
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
        let mut kept: Vec<u16> = table.iter().map(|row| row.key.address.port()).collect();
        kept.sort_unstable();
        let expected: Vec<u16> = (1..=last + 2).filter(|number| ![2, 4].contains(number)).collect();
        assert_eq!(kept, expected);
        assert_eq!(table.places.len(), EXPORTERS_MAX);
    }

    proptest::proptest! {
        #[test]
        fn the_chain_holds_every_exporter_in_the_order_heard(
            heard in proptest::collection::vec(1u16..20, 1..200),
        ) {
            let mut table = ExporterTable::default();
            let mut expected: Vec<u16> = Vec::new();
            for number in heard {
                note(&mut table, exporter(number), 1, b"");
                expected.retain(|other| *other != number);
                expected.push(number);
            }
            let mut chain = Vec::new();
            let mut at = table.oldest;
            while let Some(place) = at {
                chain.push(table.exporters[place].key.address.port());
                at = table.exporters[place].newer;
            }
            proptest::prop_assert_eq!(chain, expected);
        }
    }
}
