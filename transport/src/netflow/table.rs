//! The known exporters, each with its counters.
//!
//! The table is bounded. To make room, it forgets an exporter of the address that was silent longest: of
//! these, the one that was silent longest. A datagram of a known exporter costs one look-up, one more for
//! each of its sets, and no allocation.

mod exporter;
mod host;
mod shared;

pub use host::ExporterFigures;

use std::hash::RandomState;

use lru::LruCache;

use crate::datagram::{BootTime, Datagram};
use crate::flow_layout::FlowRun;
use crate::limits::{EXPORTERS_MAX, RECORD_LENGTHS_TOTAL, SEQUENCE_MEMORY};
use crate::netflow::table::exporter::{Arrived, Exporter};
use crate::netflow::table::host::{Host, HostKey};

/// The known exporters: at most [`EXPORTERS_MAX`], and at most
/// [`EXPORTERS_PER_ADDRESS`](crate::limits::EXPORTERS_PER_ADDRESS) of each address.
#[derive(Debug)]
pub struct ExporterTable {
    /// From the host seen last to the host that was silent longest. `exporters` bounds it, not a capacity.
    /// The hasher resists senders that choose their addresses so that hashes collide.
    hosts: LruCache<HostKey, Host, RandomState>,
    exporters: usize,
    /// Bytes of record lengths of all exporters: `record_length_bytes <= RECORD_LENGTHS_TOTAL`.
    record_length_bytes: usize,
    /// Bytes of recent numbers of all exporters. The exporter that exceeds [`SEQUENCE_MEMORY`] forgets its
    /// own.
    sequence_bytes: usize,
}

impl Default for ExporterTable {
    fn default() -> Self {
        Self {
            hosts: LruCache::unbounded_with_hasher(RandomState::new()),
            exporters: 0,
            record_length_bytes: 0,
            sequence_bytes: 0,
        }
    }
}

impl ExporterTable {
    /// Counts `datagram`, which was received `now`.
    pub fn count_datagram(&mut self, datagram: &Datagram<'_>, now: BootTime) {
        self.count(&Arrived::new(datagram, now), None);
    }

    /// Counts `datagram`, which was received `now`. Adds the places of its flow records to `flows`, in
    /// ascending order, as far as their templates are known.
    pub fn note_flows(&mut self, datagram: &Datagram<'_>, now: BootTime, flows: &mut Vec<FlowRun>) {
        self.count(&Arrived::new(datagram, now), Some(flows));
    }

    fn count(&mut self, arrived: &Arrived<'_>, flows: Option<&mut Vec<FlowRun>>) {
        let key = HostKey::of(arrived.datagram.exporter);
        // Datagrams of one exporter mostly follow each other.
        if self.hosts.peek_mru().is_none_or(|(newest, _)| *newest != key) {
            self.hosts.get_or_insert_mut(key, || Host::new(key));
        }
        let Some(place) = self.find_or_add(arrived) else { return };
        let Some(host) = newest(&mut self.hosts) else { return };
        self.record_length_bytes -= host.record_length_bytes(place);
        self.sequence_bytes -= host.sequence_bytes(place);
        let room = RECORD_LENGTHS_TOTAL.saturating_sub(self.record_length_bytes);
        let more = host.count(place, arrived, room, flows);
        self.sequence_bytes = self.sequence_bytes.saturating_add_signed(more);
        self.record_length_bytes += host.record_length_bytes(place);
        if self.sequence_bytes + host.sequence_bytes(place) > SEQUENCE_MEMORY {
            host.forget_numbers(place);
        }
        self.sequence_bytes += host.sequence_bytes(place);
    }

    /// Returns the place of the exporter in the newest host.
    fn find_or_add(&mut self, arrived: &Arrived<'_>) -> Option<usize> {
        let host = newest(&mut self.hosts)?;
        if let Some(place) = host.find(arrived) {
            return Some(place);
        }
        self.sequence_bytes -= host.shared_bytes();
        let forgotten = host.make_room(arrived.export.source);
        self.sequence_bytes += host.shared_bytes();
        self.note_forgotten(forgotten);
        if self.exporters >= EXPORTERS_MAX {
            self.forget_exporter();
        }
        let host = newest(&mut self.hosts)?;
        self.sequence_bytes -= host.shared_bytes();
        let place = host.add(arrived);
        self.sequence_bytes += host.sequence_bytes(place);
        self.exporters += 1;
        Some(place)
    }

    /// Forgets one exporter of the host that was silent longest: the one that was silent longest.
    fn forget_exporter(&mut self) {
        let Some((_, host)) = self.hosts.iter_mut().next_back() else { return };
        self.sequence_bytes -= host.shared_bytes();
        let forgotten = host.remove_any();
        self.sequence_bytes += host.shared_bytes();
        let is_empty = host.len() == 0;
        self.note_forgotten(forgotten);
        if is_empty {
            self.hosts.pop_lru();
        }
    }

    fn note_forgotten(&mut self, forgotten: Option<Exporter>) {
        if let Some(forgotten) = forgotten {
            self.exporters -= 1;
            self.record_length_bytes -= forgotten.record_length_bytes();
            self.sequence_bytes -= forgotten.sequence_bytes();
        }
    }

    /// Bytes of all record lengths.
    pub(super) fn record_length_bytes(&self) -> usize {
        self.record_length_bytes
    }

    /// Bytes of recent numbers, added up host by host.
    pub(super) fn counted_sequence_bytes(&self) -> usize {
        self.hosts.iter().map(|(_, host)| host.all_sequence_bytes()).sum()
    }

    /// Bytes of all recent numbers.
    pub(super) fn sequence_bytes(&self) -> usize {
        self.sequence_bytes
    }

    /// The figures of all exporters, host by host, from the host that was silent longest to the one seen
    /// last.
    pub fn figures(&self) -> impl Iterator<Item = ExporterFigures> {
        self.hosts.iter().rev().flat_map(|(_, host)| host.figures())
    }
}

/// The host that was seen last. Costs no look-up.
fn newest(hosts: &mut LruCache<HostKey, Host, RandomState>) -> Option<&mut Host> {
    hosts.iter_mut().next().map(|(_, host)| host)
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;
    use core::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::datagram::Timestamp;
    use crate::limits::{EXPORTERS_PER_ADDRESS, EXPORTERS_PER_SOURCE};
    use crate::netflow::{ExportFormat, Unusable};

    fn count(table: &mut ExporterTable, address: SocketAddr, seconds: u64, payload: &[u8]) {
        let local = "192.0.2.9:2055".parse().unwrap();
        let datagram = Datagram { exporter: address, local, arrival: Timestamp(0), payload };
        table.count_datagram(&datagram, at(seconds));
    }

    fn at(seconds: u64) -> BootTime {
        BootTime { elapsed: Duration::from_secs(seconds), ..BootTime::default() }
    }

    fn exporter(number: u16) -> SocketAddr {
        format!("192.0.2.1:{number}").parse().unwrap()
    }

    fn host(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        ([10, 0, high, low], 4000).into()
    }

    fn v9(source_id: u32, sequence: u32) -> Vec<u8> {
        let fields = [0x0009_0001, 0, 0, sequence, source_id];
        fields.iter().flat_map(|field: &u32| field.to_be_bytes()).collect()
    }

    fn row(table: &ExporterTable, id: u32) -> ExporterFigures {
        table.figures().find(|row| row.source.id == id && row.source.format.is_numbered()).unwrap()
    }

    #[test]
    fn each_source_id_has_its_own_count() {
        let mut table = ExporterTable::default();
        for sequence in [10, 11, 14] {
            count(&mut table, exporter(1), 5, &v9(1, sequence));
            count(&mut table, exporter(1), 7, &v9(2, sequence * 2));
        }
        count(&mut table, exporter(1), 6, b"not NetFlow");
        assert_eq!(table.figures().count(), 3);
        assert_eq!(row(&table, 1).missing, Ok(2));
        assert_eq!(row(&table, 2).missing, Ok(1 + 5));
        assert_eq!((row(&table, 2).datagrams, row(&table, 2).last_seen), (3, at(7)));
        let other = table.figures().find(|row| !row.source.format.is_numbered()).unwrap();
        assert_eq!((other.datagrams, other.missing), (1, Err(Unusable::NoNumbers(ExportFormat::Other))));
    }

    #[test]
    fn the_longest_silent_exporter_makes_room() {
        let mut table = ExporterTable::default();
        let last = u16::try_from(EXPORTERS_MAX).unwrap();
        (1..=last).for_each(|number| count(&mut table, host(number), 1, b""));
        count(&mut table, host(1), 2, b"");
        count(&mut table, host(3), 2, b"");
        count(&mut table, host(last + 1), 3, b"");
        count(&mut table, host(last + 2), 3, b"");
        let kept: Vec<_> = table.figures().map(|row| row.address).collect();
        let expected = (5..=last).chain([1, 3, last + 1, last + 2]).map(|number| host(number).ip());
        assert_eq!(kept, expected.collect::<Vec<_>>());
    }

    #[test]
    fn one_host_takes_a_bounded_part_of_the_table() {
        let mut table = ExporterTable::default();
        count(&mut table, host(1), 1, &v9(0, 7));
        let ids = 2 * u32::try_from(EXPORTERS_PER_ADDRESS).unwrap();
        for id in 0..ids {
            count(&mut table, exporter(1), u64::from(2 + id), &v9(id, id << 12));
        }
        assert_eq!(table.figures().count(), EXPORTERS_PER_ADDRESS + 1);
        let mut kept = table.figures().filter(|row| row.address == exporter(1).ip());
        assert!(kept.all(|row| row.source.id >= ids / 2), "those that were silent longest made room");
        assert_eq!(table.sequence_bytes(), table.counted_sequence_bytes());
    }

    #[test]
    fn recent_numbers_take_bounded_memory() {
        let mut table = ExporterTable::default();
        for number in 1..1400 {
            // Each other datagram is lost, so that all holes stay open.
            for sequence in 0..257 {
                count(&mut table, host(number), 1, &v9(0, sequence * 2));
                assert!(table.sequence_bytes() <= SEQUENCE_MEMORY);
            }
        }
        assert!(table.sequence_bytes() > SEQUENCE_MEMORY / 10 * 9, "the bound was reached");
        assert_eq!(table.sequence_bytes(), table.counted_sequence_bytes());
        assert!(table.figures().all(|row| row.missing == Ok(256)), "nothing that was counted is forgotten");
    }

    #[test]
    fn random_ports_and_numbers_take_few_rows() {
        let mut table = ExporterTable::default();
        count(&mut table, host(1), 1, &v9(0, 7));
        for number in 0..1000_u16 {
            let random = u32::from(number).wrapping_mul(2_654_435_761);
            count(&mut table, exporter(1000 + number), 2, &v9(0, random));
        }
        assert_eq!(table.figures().count(), 1 + EXPORTERS_PER_SOURCE);
        assert_eq!(table.sequence_bytes(), table.counted_sequence_bytes());
    }

    #[test]
    fn copies_from_other_ports_are_copies() {
        let mut table = ExporterTable::default();
        for number in 0..100_u16 {
            count(&mut table, exporter(1000 + 2 * number), 1, &v9(0, number.into()));
            if number > 0 {
                count(&mut table, exporter(1001 + 2 * number), 1, &v9(0, number.into()));
            }
        }
        let rows: Vec<_> = table.figures().collect();
        assert_eq!((rows.len(), rows[0].duplicates, rows[0].missing), (1, 99, Ok(0)), "{rows:?}");
    }

    #[test]
    fn a_new_port_for_each_datagram_is_one_exporter() {
        let mut table = ExporterTable::default();
        for number in 0..3000_u32 {
            let port = u16::try_from(number % 1060).unwrap();
            count(&mut table, exporter(1000 + port), 1, &v9(0, number));
        }
        let rows: Vec<_> = table.figures().collect();
        assert_eq!((rows.len(), rows[0].datagrams, rows[0].missing), (1, 3000, Ok(0)));
        assert_eq!(rows[0].port, 1000 + 2999 % 1060);
    }

    #[test]
    fn losses_of_an_exporter_with_new_ports_count() {
        let mut table = ExporterTable::default();
        for number in (0..300_u32).filter(|number| number % 10 != 5) {
            let port = u16::try_from(number).unwrap();
            count(&mut table, exporter(1000 + port), 1, &v9(0, number));
        }
        let rows: Vec<_> = table.figures().collect();
        assert_eq!((rows.len(), rows[0].missing), (1, Ok(29 + 1)), "{rows:?}");
    }

    #[test]
    fn two_exporters_at_one_address_keep_their_ports() {
        let mut table = ExporterTable::default();
        for number in 0..100_u32 {
            count(&mut table, exporter(1), 1, &[v9(0, number), vec![1]].concat());
            if number % 4 != 1 {
                count(&mut table, exporter(2), 1, &[v9(0, number), vec![2]].concat());
            }
        }
        let rows: Vec<_> = table.figures().map(|row| (row.port, row.datagrams, row.missing)).collect();
        assert_eq!(rows, [(1, 100, Ok(0)), (2, 75, Ok(25))]);
    }

    #[test]
    fn templates_from_another_port_are_one_count() {
        let mut table = ExporterTable::default();
        for number in 0..100_u32 {
            let port = if number % 10 == 0 { 1 } else { 2 };
            count(&mut table, exporter(port), 1, &v9(0, number));
        }
        let rows: Vec<_> = table.figures().collect();
        assert_eq!((rows.len(), rows[0].datagrams, rows[0].missing), (1, 100, Ok(0)));
    }

    #[test]
    fn losses_of_a_shared_count_are_shown_once() {
        let mut table = ExporterTable::default();
        for number in (0..300_u32).filter(|number| ![100, 101, 200].contains(number)) {
            count(&mut table, exporter(1), 1, &v9(number % 3, number));
        }
        let rows: Vec<_> = table.figures().map(|row| row.missing).collect();
        assert_eq!(rows, [Ok(3), Ok(0), Ok(0)]);
    }

    #[test]
    fn ids_that_stop_sharing_are_counted_apart() {
        let mut table = ExporterTable::default();
        for number in (0..100_u32).filter(|number| ![50, 51].contains(number)) {
            count(&mut table, exporter(1), 1, &v9(number % 2, number));
        }
        for number in (0..200_u32).filter(|number| *number != 150) {
            count(&mut table, exporter(1), 1, &v9(0, 5_000_000 + number));
            count(&mut table, exporter(1), 1, &v9(1, 9_000_000 + number));
        }
        let missing = table.figures().map(|row| row.missing.unwrap());
        assert_eq!(missing.collect::<Vec<_>>(), [2 + 1, 1]);
        assert_eq!(table.sequence_bytes(), table.counted_sequence_bytes());
    }

    #[test]
    fn link_local_hosts_of_two_interfaces_are_two() {
        let mut table = ExporterTable::default();
        for interface in [1, 2] {
            let address = core::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 1, 0, interface);
            count(&mut table, address.into(), 1, &v9(0, 1000 * interface));
        }
        assert_eq!(table.figures().map(|row| row.interface).collect::<Vec<_>>(), [1, 2]);
    }

    proptest! {
        #[test]
        fn hosts_stay_in_the_order_of_their_datagrams(
            steps in proptest::collection::vec(proptest::option::weighted(0.75, 0..20_u16), 0..200),
        ) {
            let mut table = ExporterTable::default();
            let mut expected: Vec<core::net::IpAddr> = Vec::new();
            for step in steps {
                if let Some(number) = step {
                    count(&mut table, host(number), 1, b"");
                    expected.retain(|other| *other != host(number).ip());
                    expected.push(host(number).ip());
                } else {
                    table.forget_exporter();
                    expected.drain(..expected.len().min(1));
                }
                let kept: Vec<_> = table.figures().map(|row| row.address).collect();
                prop_assert_eq!(&kept, &expected);
                prop_assert_eq!((table.exporters, table.hosts.len()), (expected.len(), expected.len()));
            }
        }
    }
}
