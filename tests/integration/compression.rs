//! Columnar compression restores exports exactly, and shrinks softflowd's exports considerably.

use std::net::SocketAddr;

use nf_transport_core::batch::{Batch, BatchBuilder, Compression, PushError};
use nf_transport_core::datagram::{BootTime, Datagram, Timestamp};
use nf_transport_core::netflow::ExporterTable;
use nf_transport_core::sequence::Position;
use nf_transport_kit::corpus::corpus;
use nf_transport_kit::flow_exports::{Exports, STREAM, capture, exported, wire};
use nf_transport_kit::netflow_tools::installed;
use proptest::collection::vec;
use proptest::prelude::*;

fn datagram(payload: &[u8]) -> Datagram<'_> {
    let exporter = SocketAddr::from(([192, 0, 2, 1], 4000));
    Datagram { exporter, local: exporter, arrival: Timestamp(7), payload }
}

/// Packs the datagrams of one exporter into batches as nf-sender does.
fn batches(payloads: &[Vec<u8>]) -> Vec<Batch> {
    let mut table = ExporterTable::default();
    let mut builder = BatchBuilder::new(STREAM, Compression::Zstd);
    let mut batches = Vec::new();
    for payload in payloads {
        let mut flows = Vec::new();
        table.note_flows(&datagram(payload), BootTime::default(), &mut flows);
        if builder.push_flows(&datagram(payload), &flows) == Err(PushError::Full) {
            batches.extend(builder.finish(Position(0)));
            builder.push_flows(&datagram(payload), &flows).unwrap();
        }
    }
    batches.extend(builder.finish(Position(0)));
    batches
}

/// Reads the payloads of batches from their bytes.
fn payloads(batches: &[Batch]) -> Vec<Vec<u8>> {
    let records = |batch: &Batch| Batch::parse_exact(STREAM, batch.bytes()).unwrap().records().unwrap();
    let owned = |batch| records(batch).iter().map(|datagram| datagram.payload.to_vec()).collect::<Vec<_>>();
    batches.iter().flat_map(owned).collect()
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn set(id: u16, body: &[u8]) -> Vec<u8> {
    [numbers(&[id, u16::try_from(4 + body.len()).unwrap()]).as_slice(), body].concat()
}

/// Generates the fields of a template: addresses, fields of fixed length and of variable length.
fn any_fields() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let addresses = prop_oneof![Just(vec![(8, 4), (12, 4)]), Just(vec![(28, 16), (27, 16)]), Just(vec![])];
    let length = prop_oneof![9 => 0..9_u16, 1 => Just(65_535)];
    (addresses, vec((1..5_u16, length), 0..6)).prop_map(|(addresses, others)| [others, addresses].concat())
}

/// Generates a set of v9 or IPFIX: templates of few ids, so that they are redefined often, or data of few
/// values.
fn any_set(is_ipfix: bool) -> impl Strategy<Value = Vec<u8>> {
    let templates = if is_ipfix { 2 } else { 0 };
    let template = (256..259_u16, any_fields()).prop_map(move |(id, fields)| {
        let fields: Vec<u16> = fields.iter().flat_map(|(kind, length)| [*kind, *length]).collect();
        set(
            templates,
            &numbers(&[&[id, u16::try_from(fields.len() / 2).unwrap()], fields.as_slice()].concat()),
        )
    });
    let data = (256..259_u16, vec(0..2_u8, 0..400)).prop_map(|(id, body)| set(id, &body));
    prop_oneof![template, data]
}

/// Generates a datagram of v5, v9 or IPFIX. Some have a wrong length or count in the header, some are
/// truncated.
fn any_netflow() -> impl Strategy<Value = Vec<u8>> {
    let v5 = (0..31_u16, vec(0..3_u8, 48 * 30)).prop_map(|(flows, body)| {
        [
            numbers(&[5, flows]),
            vec![9; 20],
            body[..usize::from(flows) * 48].iter().take(1440).copied().collect(),
        ]
        .concat()
    });
    let v9 =
        vec(any_set(false), 0..6).prop_map(|sets| [numbers(&[9, 1]), vec![9; 16], sets.concat()].concat());
    let ipfix = vec(any_set(true), 0..6).prop_map(|sets| {
        let length = u16::try_from(16 + sets.concat().len()).unwrap();
        [numbers(&[10, length]), vec![9; 12], sets.concat()].concat()
    });
    let sound = prop_oneof![v5.prop_filter("at most 30 flows", |v5| v5.len() <= 1464), v9, ipfix];
    let damage = prop_oneof![4 => Just(None), 1 => any::<(proptest::sample::Index, u8)>().prop_map(Some)];
    (sound, damage).prop_map(|(mut payload, damage)| {
        if let Some((place, byte)) = damage {
            let place = place.index(payload.len());
            if byte < 128 {
                payload.truncate(place);
            } else {
                payload[place] = byte;
            }
        }
        payload
    })
}

proptest! {
    #[test]
    fn compressed_exports_are_restored(sent in vec(any_netflow(), 1..60)) {
        prop_assert_eq!(payloads(&batches(&sent)), sent);
    }

    #[test]
    fn compressed_random_payloads_are_restored(
        sent in vec(
            (prop_oneof![Just(5_u8), Just(9), Just(10), any::<u8>()], vec(any::<u8>(), 0..2000)),
            1..40,
        ),
    ) {
        let payload = |(version, rest): (u8, Vec<u8>)| [[0, version].as_slice(), &rest].concat();
        let sent: Vec<_> = sent.into_iter().map(payload).collect();
        prop_assert_eq!(payloads(&batches(&sent)), sent);
    }
}

#[test]
fn compressed_vendor_datagrams_are_restored() {
    let Some(sent) = corpus() else {
        eprintln!("skipped: NF_TRANSPORT_CORPUS names no directory of datagrams");
        return;
    };
    let twice = [sent.clone(), sent].concat();
    assert_eq!(payloads(&batches(&twice)), twice);
}

/// Returns the ratio of batch bytes to payload bytes with zstd alone and with nf-sender's method.
fn ratios(version: u8) -> Option<(f64, f64)> {
    if !installed() {
        eprintln!("skipped: needs softflowd and nfdump (Debian packages of these names)");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let (capture, description) = capture(directory.path());
    let exports = Exports::new(exported(&capture, version));
    let raw = u32::try_from(exports.raw()).unwrap();
    let ratio = |compression| {
        let batches = exports.batches(compression, u32::MAX);
        assert_eq!(payloads(&batches), exports.payloads());
        f64::from(u32::try_from(wire(&batches)).unwrap()) / f64::from(raw)
    };
    let (base, columnar) = (ratio(Compression::Zstd), ratio(Compression::Columnar));
    eprintln!("version {version}: {base:.3} with zstd alone, {columnar:.3} columnar; {description}");
    Some((base, columnar))
}

#[test]
fn columns_shrink_netflow_5_of_softflowd() {
    if let Some((base, columnar)) = ratios(5) {
        assert!(base <= 0.6 && columnar <= 0.45 && columnar < 0.9 * base);
    }
}

#[test]
fn columns_shrink_netflow_9_of_softflowd() {
    if let Some((base, columnar)) = ratios(9) {
        assert!(base <= 0.6 && columnar <= 0.45 && columnar < 0.9 * base);
    }
}

#[test]
fn columns_shrink_ipfix_of_softflowd() {
    if let Some((base, columnar)) = ratios(10) {
        assert!(base <= 0.6 && columnar <= 0.45 && columnar < 0.9 * base);
    }
}
