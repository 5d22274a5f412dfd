//! Losses and copies, counted by the sequence numbers of whole datagrams.

use core::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::datagram::BootTime;
use crate::netflow::{ExportFormat, ExporterFigures, ExporterTable, Unusable};

/// The figures of all exporters after these datagrams, one a millisecond.
fn figures<'a>(datagrams: impl IntoIterator<Item = (SocketAddr, &'a [u8])>) -> Vec<ExporterFigures> {
    let mut table = ExporterTable::default();
    for (milliseconds, (exporter, payload)) in (0..).zip(datagrams) {
        let now = BootTime { elapsed: Duration::from_millis(milliseconds), ..BootTime::default() };
        table.count_datagram(&Datagram { exporter, ..datagram(1, payload) }, now);
    }
    assert_eq!(table.sequence_bytes(), table.counted_sequence_bytes());
    table.figures().collect()
}

/// The figures of the one exporter of these datagrams.
fn figures_of<'a>(payloads: impl IntoIterator<Item = &'a Vec<u8>>) -> ExporterFigures {
    let mut all = figures(payloads.into_iter().map(|payload| (exporter(1), payload.as_slice())));
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// Datagrams of an exporter of a format, with these numbers of records, numbered by the standard; and the
/// amount that each adds.
fn sent(format: ExportFormat, records: &[u16], first: u32) -> Vec<(Vec<u8>, u32)> {
    let mut number = first;
    let mut sent = Vec::new();
    for (place, records) in (0_u32..).zip(records) {
        let flows = |length: usize| vec![place.to_be_bytes()[3]; length * usize::from(*records)];
        let (payload, adds) = match format {
            ExportFormat::V5 => (v5(number, *records), u32::from(*records)),
            ExportFormat::V9 if place % 50 == 0 => (v9(7, number, &[set(0, &template(256, &[8, 4]))]), 1),
            ExportFormat::V9 => (v9(7, number, &[set(256, &flows(12))]), 1),
            ExportFormat::Ipfix if place % 50 == 0 => {
                let templates = template(256, &[8, 4]);
                (ipfix(7, number, &[set(2, &templates), set(256, &flows(12))]), u32::from(*records))
            }
            ExportFormat::Ipfix => (ipfix(7, number, &[set(256, &flows(12))]), u32::from(*records)),
            _ => (sflow(3, number, *records), 1),
        };
        sent.push((payload, adds));
        number = number.wrapping_add(adds);
    }
    sent
}

fn v5(number: u32, flows: u16) -> Vec<u8> {
    let fields = [UPTIME, EXPORTED, 0, number, 0].iter().flat_map(|field| field.to_be_bytes()).collect();
    [numbers(&[5, flows]), fields, vec![7; usize::from(flows) * 48]].concat()
}

/// An sFlow v5 datagram of agent 192.0.2.77.
fn sflow(sub_agent: u32, number: u32, samples: u16) -> Vec<u8> {
    let fields = [5, 1, 0xC000_024D, sub_agent, number, UPTIME, u32::from(samples)];
    let fields = fields.iter().flat_map(|field| field.to_be_bytes());
    fields.chain(vec![9; usize::from(samples) * 4]).collect()
}

const FORMATS: [ExportFormat; 4] =
    [ExportFormat::V5, ExportFormat::V9, ExportFormat::Ipfix, ExportFormat::SFlow];

/// Records of 400 datagrams that differ.
fn some_records() -> Vec<u16> {
    (0..400).map(|place| 1 + place * 7 % 30).collect()
}

#[test]
fn every_datagram_twice_and_two_lost_is_two() {
    for format in FORMATS {
        let sent = sent(format, &some_records(), 5);
        let lost: u32 = [100, 201].iter().map(|place: &usize| sent[*place].1).sum();
        let seen: Vec<_> = (0..sent.len()).filter(|place| ![100, 201].contains(place)).collect();
        let at_once = seen.iter().flat_map(|place| [place, place]);
        let later = (0..seen.len() + 100).flat_map(|step| {
            [seen.get(step), step.checked_sub(100).and_then(|step| seen.get(step))].into_iter().flatten()
        });
        let in_blocks = seen.chunks(150).flat_map(|block| block.iter().chain(block));
        for order in [at_once.collect::<Vec<_>>(), later.collect(), in_blocks.collect()] {
            let row = figures_of(order.iter().map(|place| &sent[**place].0));
            assert_eq!((row.missing, row.duplicates), (Ok(u64::from(lost)), 398), "{format}");
        }
    }
}

#[test]
fn losses_count_in_the_unit_of_the_format() {
    let units = ["flows", "datagrams", "data records", "datagrams"];
    for (format, unit) in FORMATS.into_iter().zip(units) {
        let sent = sent(format, &some_records(), u32::MAX - 1000);
        let seen = sent.iter().enumerate().filter(|(place, _)| place % 10 != 5);
        let lost: u32 =
            sent.iter().enumerate().filter(|(place, _)| place % 10 == 5).map(|(_, sent)| sent.1).sum();
        let row = figures_of(seen.map(|(_, (payload, _))| payload));
        assert_eq!((row.missing, row.unit), (Ok(u64::from(lost)), Some(unit)), "{format}");
    }
}

#[test]
fn sub_agents_of_sflow_have_their_own_counts() {
    let sub_agents = (0..100_u32).flat_map(|number| [(1, number), (2, 4_000_000 + number)]);
    let payloads: Vec<_> = sub_agents
        .filter(|(_, number)| *number != 50)
        .map(|(sub_agent, number)| sflow(sub_agent, number, 3))
        .collect();
    let rows = figures(payloads.iter().map(|payload| (exporter(1), payload.as_slice())));
    let agent = Some("192.0.2.77".parse().unwrap());
    assert!(rows.iter().all(|row| row.source.agent == agent && row.source.format == ExportFormat::SFlow));
    let counts: Vec<_> = rows.iter().map(|row| (row.source.id, row.datagrams, row.missing)).collect();
    assert_eq!(counts, [(1, 99, Ok(1)), (2, 100, Ok(0))]);
}

#[test]
fn v7_and_v8_count_flows() {
    for (version, length, record) in [(7, 24, 52), (8, 28, 32)] {
        let payload = |number: u32| {
            let mut payload = numbers(&[version, 10]);
            payload.resize(16, 9);
            payload.extend(number.to_be_bytes());
            payload.extend([1, 2, 3]);
            payload.resize(length + 10 * record, 7);
            payload
        };
        let payloads: Vec<_> =
            (0..50).filter(|place| *place != 20).map(|place| payload(place * 10)).collect();
        let row = figures_of(&payloads);
        assert_eq!((row.source.format.netflow_version(), row.missing), (Some(version), Ok(10)));
    }
}

#[test]
fn v1_is_named_and_has_no_numbers() {
    let payload = [numbers(&[1, 2]), vec![0; 12 + 104]].concat();
    let row = figures_of(&vec![payload; 3]);
    assert_eq!((row.source.format, row.datagrams), (ExportFormat::V1, 3));
    assert_eq!(row.missing, Err(Unusable::NoNumbers(ExportFormat::V1)));
}

#[test]
fn a_counter_that_is_always_zero_is_unusable() {
    let differing: Vec<_> = (1..30).map(|flows| v5(0, flows)).collect();
    assert_eq!(figures_of(&differing).missing, Err(Unusable::Constant));
    let equal = vec![v5(0, 7); 30];
    assert_eq!(figures_of(&equal).missing, Err(Unusable::Constant), "even if all datagrams are the same");
}

proptest! {
    /// An exporter that follows its standard is counted exactly, for all faults of the network.
    #[test]
    fn losses_and_copies_are_counted_exactly(
        format in prop::sample::select(FORMATS.to_vec()),
        records in vec(1_u16..40, 20..700),
        first in any::<u32>(),
        lost_percent in prop_oneof![Just(0_u8), 0..60_u8],
        copied_percent in prop_oneof![Just(0_u8), 0..100_u8],
        distance in prop_oneof![Just(0_usize), 1..200_usize],
        seed in any::<u64>(),
    ) {
        let mut random = SmallRng::seed_from_u64(seed);
        let sent = sent(format, &records, first);
        let mut arrivals: Vec<(usize, usize)> = Vec::new();
        for place in 0..sent.len() {
            // IPFIX cannot be counted without its templates. The last numbers confirm those before.
            let is_first = place == 0 && format == ExportFormat::Ipfix;
            let is_sure = is_first || place + 10 >= sent.len();
            if !is_sure && random.random_range(0..100) < lost_percent {
                continue;
            }
            let delay = |random: &mut SmallRng| match (is_sure, is_first) {
                (_, true) => 0,
                (true, _) => distance,
                _ => random.random_range(0..=distance),
            };
            arrivals.push((place + delay(&mut random), place));
            if random.random_range(0..100) < copied_percent {
                arrivals.push((place + delay(&mut random), place));
            }
        }
        prop_assume!(!arrivals.is_empty());
        arrivals.sort_by_key(|(time, _)| *time);
        let mut seen: Vec<_> = arrivals.iter().map(|(_, place)| *place).collect();
        let row = figures_of(seen.iter().map(|place| &sent[*place].0));
        let copies = seen.len();
        seen.sort_unstable();
        seen.dedup();
        let all: u64 = sent[seen[0]..=seen[seen.len() - 1]].iter().map(|(_, adds)| u64::from(*adds)).sum();
        let came: u64 = seen.iter().map(|place| u64::from(sent[*place].1)).sum();
        prop_assert_eq!(row.duplicates, u64::try_from(copies - seen.len()).unwrap());
        prop_assert_eq!(row.missing, Ok(all - came));
    }
}
