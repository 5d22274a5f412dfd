use core::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::datagram::{Datagram, Timestamp};
use crate::flow_layout::{AddressFamily, FlowAddresses, FlowLayout, FlowRun};
use crate::limits::{BATCH_BODY_MAX, PAYLOAD_MAX};
use crate::sequence::{Position, StreamId};

const STREAM: StreamId = StreamId([7; 16]);

/// A datagram that owns its payload.
#[derive(Clone, Debug, PartialEq)]
struct Owned {
    exporter: SocketAddr,
    local: SocketAddr,
    arrival: u64,
    payload: Vec<u8>,
}

impl Owned {
    fn as_datagram(&self) -> Datagram<'_> {
        Datagram {
            exporter: self.exporter,
            local: self.local,
            arrival: Timestamp(self.arrival),
            payload: &self.payload,
        }
    }
}

fn owned(datagram: Datagram<'_>) -> Owned {
    Owned {
        exporter: datagram.exporter,
        local: datagram.local,
        arrival: datagram.arrival.0,
        payload: datagram.payload.to_vec(),
    }
}

fn datagram(payload: &[u8]) -> Owned {
    Owned {
        exporter: "192.0.2.1:4000".parse().unwrap(),
        local: "[2001:db8::1]:2055".parse().unwrap(),
        arrival: 1_700_000_000_000_000_000,
        payload: payload.to_vec(),
    }
}

fn batch_of(datagrams: &[Owned], compression: Compression) -> Batch {
    let mut builder = BatchBuilder::new(STREAM, compression);
    for datagram in datagrams {
        builder.push(&datagram.as_datagram()).unwrap();
    }
    builder.finish(Position(100)).unwrap()
}

/// A NetFlow v5 datagram of ten flows. The flows of each pair of hosts are consecutive.
fn v5(number: u8) -> Owned {
    let flow = |flow: u8| {
        let hosts = [[10, 0, number, flow / 2], [192, 0, 2, flow / 4]];
        let [source, destination] = if flow.is_multiple_of(2) { hosts } else { [hosts[1], hosts[0]] };
        [source.as_slice(), &destination, &[flow; 4], &[number; 4], &[0; 32]].concat()
    };
    let header = [[0, 5, 0, 10].as_slice(), &[number; 20]].concat();
    datagram(&[header, (0..10).flat_map(flow).collect()].concat())
}

/// Location of the flows in a datagram of [`v5`].
const V5_FLOWS: FlowRun = FlowRun {
    start: 24,
    records: 10,
    template: 0,
    layout: FlowLayout {
        length: 48,
        addresses: Some(FlowAddresses { source: 0, destination: 4, family: AddressFamily::V4 }),
    },
};

/// Encodes all datagrams as one batch, with the flow runs of the NetFlow v5 datagrams.
fn batch_of_flows(datagrams: &[Owned], compression: Compression) -> Batch {
    let mut builder = BatchBuilder::new(STREAM, compression);
    for datagram in datagrams {
        let flows: &[FlowRun] = if datagram.payload.starts_with(&[0, 5]) { &[V5_FLOWS] } else { &[] };
        builder.push_flows(&datagram.as_datagram(), flows).unwrap();
    }
    builder.finish(Position(100)).unwrap()
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    (any::<core::net::IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

prop_compose! {
    fn any_datagram()(
        exporter in any_address(),
        local in any_address(),
        arrival in any::<u64>(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) -> Owned {
        Owned { exporter, local, arrival, payload }
    }
}

proptest! {
    #[test]
    fn datagrams_round_trip_in_order(
        datagrams in proptest::collection::vec(any_datagram(), 1..40),
        zstd in any::<bool>(),
    ) {
        let compression = if zstd { Compression::Zstd } else { Compression::None };
        let batch = batch_of(&datagrams, compression);
        let parsed = Batch::parse_exact(STREAM, batch.bytes()).unwrap();
        prop_assert_eq!(&parsed, &batch);
        prop_assert_eq!(parsed.first(), Position(100));
        prop_assert_eq!(usize::try_from(parsed.datagrams()).unwrap(), datagrams.len());
        let out: Vec<Owned> = parsed.records().unwrap().iter().map(owned).collect();
        prop_assert_eq!(out, datagrams);
    }

    #[test]
    fn arbitrary_bytes_are_never_a_batch(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut with_magic = MAGIC.to_vec();
        with_magic.extend(&bytes);
        for bytes in [bytes, with_magic] {
            prop_assert!(!matches!(Batch::parse(STREAM, &bytes.into()), Ok(ParsedBatch::Batch(_))));
        }
    }
}

proptest! {
    #[test]
    fn an_arbitrary_body_agrees_with_its_header(
        choice in any::<[u8; 7]>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        datagrams in proptest::collection::vec(any_datagram(), 1..5),
        damage in any::<(prop::sample::Index, u8)>(),
    ) {
        fuzz_batch(&[choice.as_slice(), &bytes].concat());
        for compression in [Compression::None, Compression::Zstd] {
            let batch = batch_of(&datagrams, compression);
            fuzz_batch(batch.bytes());
            let header = batch.header();
            let [.., a, b] = header.records_len.to_be_bytes();
            let [.., c, d] = header.payload_bytes.to_be_bytes();
            let code = u8::from(compression == Compression::Zstd);
            let count = u8::try_from(header.datagrams).unwrap();
            let mut body = [[code, count, 0, a, b, c, d].as_slice(), &batch.body()].concat();
            fuzz_batch(&body);
            let place = damage.0.index(body.len());
            body[place] ^= damage.1;
            fuzz_batch(&body);
        }
    }
}

#[test]
fn every_flipped_bit_is_detected() {
    let batch = batch_of(&[datagram(b"one"), datagram(b""), datagram(b"three")], Compression::None);
    for bit in 0..batch.bytes().len() * 8 {
        let mut bytes = batch.bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let bytes = Bytes::from(bytes);
        let expected = if bit / 8 < HEADER_LEN { BatchError::Header } else { BatchError::Body };
        assert_eq!(Batch::parse(STREAM, &bytes), Err(expected), "bit {bit}");
    }
}

#[test]
fn a_cut_batch_reports_the_needed_length() {
    let batch = batch_of(&[datagram(b"some payload")], Compression::None);
    for cut in 0..batch.bytes().len() {
        let needed = if cut < HEADER_LEN { HEADER_LEN } else { batch.bytes().len() };
        assert_eq!(Batch::parse(STREAM, &batch.bytes().slice(..cut)), Ok(ParsedBatch::NeedMore(needed)));
    }
}

#[test]
fn a_batch_of_another_stream_is_rejected() {
    let batch = batch_of(&[datagram(b"x")], Compression::None);
    assert_eq!(Batch::parse(StreamId([8; 16]), batch.bytes()), Err(BatchError::Header));
}

#[test]
fn only_datagrams_up_to_the_udp_limit_fit() {
    let mut largest = datagram(&vec![1; PAYLOAD_MAX]);
    largest.exporter = "[2001:db8::2]:1".parse().unwrap();
    let batch = batch_of(std::slice::from_ref(&largest), Compression::None);
    assert!(batch.bytes().len() <= HEADER_LEN + BATCH_BODY_MAX);
    assert_eq!(batch.records().unwrap().iter().map(owned).collect::<Vec<_>>(), [largest]);

    let mut builder = BatchBuilder::new(STREAM, Compression::None);
    let too_long = datagram(&vec![1; PAYLOAD_MAX + 1]);
    assert_eq!(builder.push(&too_long.as_datagram()), Err(PushError::TooLong));
    assert!(builder.is_empty());
}

#[test]
fn a_full_batch_rejects_the_next_datagram() {
    let mut builder = BatchBuilder::new(STREAM, Compression::None);
    let payload = datagram(&[5; 1464]);
    let mut pushed = 0;
    while builder.push(&payload.as_datagram()).is_ok() {
        pushed += 1;
    }
    assert_eq!(builder.push(&payload.as_datagram()), Err(PushError::Full));
    assert_eq!(builder.finish(Position(0)).unwrap().datagrams(), pushed);
    assert!(builder.finish(Position(0)).is_none());
}

#[test]
fn records_longer_than_stated_are_rejected() {
    let batch = batch_of(&[datagram(&[0; 5000])], Compression::Zstd);
    let mut header = batch.header;
    assert_eq!(header.compression, Compression::Zstd);
    header.records_len -= 1;
    let body = batch.bytes.slice(HEADER_LEN..);
    assert!(matches!(Records::decode(&header, body), Err(BatchError::Records)));
}

#[test]
fn flow_records_are_compressed_in_columnar_form() {
    let datagrams = [v5(1), datagram(b"no flows"), v5(2)];
    let [none, columnar] =
        [Compression::None, Compression::Zstd].map(|wanted| batch_of_flows(&datagrams, wanted));
    let plain = batch_of(&datagrams, Compression::Zstd);
    assert_eq!(none.header.compression, Compression::None);
    assert_eq!(plain.header.compression, Compression::Zstd, "without flow runs");
    assert_eq!(columnar.header.compression, Compression::Columnar);
    assert_eq!(columnar.records().unwrap().iter().map(owned).collect::<Vec<_>>(), datagrams);
}

#[test]
fn flow_runs_of_a_rejected_datagram_are_not_kept() {
    let mut builder = BatchBuilder::new(STREAM, Compression::Zstd);
    let (large, small) = (datagram(&vec![5; 65_000]), v5(1));
    builder.push_flows(&large.as_datagram(), &[]).unwrap();
    assert_eq!(builder.push_flows(&small.as_datagram(), &[V5_FLOWS]), Err(PushError::Full));
    assert_eq!(
        builder.finish(Position(0)).unwrap().records().unwrap().iter().map(owned).collect::<Vec<_>>(),
        [large]
    );
    builder.push_flows(&small.as_datagram(), &[V5_FLOWS]).unwrap();
    let batch = builder.finish(Position(1)).unwrap();
    assert_eq!(batch.header.compression, Compression::Columnar);
    assert_eq!(batch.records().unwrap().iter().map(owned).collect::<Vec<_>>(), [small]);
}

#[test]
fn a_damaged_compressed_body_never_panics() {
    let batch = batch_of_flows(&[v5(1), v5(2)], Compression::Zstd);
    let body = batch.body();
    for cut in 0..body.len() {
        assert!(matches!(Records::decode(&batch.header, body.slice(..cut)), Err(BatchError::Records)));
    }
    for bit in 0..body.len() * 8 {
        let mut damaged = body.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match Records::decode(&batch.header, damaged.into()) {
            Ok(records) => assert_eq!(records.iter().count(), 2, "bit {bit}"),
            Err(error) => assert_eq!(error, BatchError::Records, "bit {bit}"),
        }
    }
}

#[test]
fn golden_batches_of_version_1_stay_readable() {
    let datagrams = [datagram(b"one"), datagram(b""), datagram(&[0xAB; 600])];
    let flows = [v5(1), datagram(b"no flows"), v5(2)];
    let columnar = Bytes::from_static(include_bytes!("golden/v1-columnar.batch"));
    let columnar = Batch::parse_exact(STREAM, &columnar).unwrap();
    assert_eq!(columnar.header.compression, Compression::Columnar);
    assert_eq!(columnar.records().unwrap().iter().map(owned).collect::<Vec<_>>(), flows);
    for (golden, compression) in [
        (include_bytes!("golden/v1-plain.batch").as_slice(), Compression::None),
        (include_bytes!("golden/v1-zstd.batch").as_slice(), Compression::Zstd),
    ] {
        let parsed = Batch::parse_exact(STREAM, &Bytes::from_static(golden)).unwrap();
        assert_eq!(parsed.header.compression, compression);
        assert_eq!(parsed.records().unwrap().iter().map(owned).collect::<Vec<_>>(), datagrams);
    }
    assert_eq!(
        batch_of(&datagrams, Compression::None).bytes().as_ref(),
        include_bytes!("golden/v1-plain.batch"),
        "the encoding of a batch has changed, which needs a new version of the format"
    );
}

/// A batch of three datagrams, of which the second one was dropped.
fn with_dropped(compression: Compression) -> Batch {
    let mut builder = BatchBuilder::new(STREAM, compression);
    builder.push(&datagram(b"one").as_datagram()).unwrap();
    builder.push_dropped(Timestamp(1_700_000_000_000_000_000)).unwrap();
    builder.push(&datagram(&[0xAB; 600]).as_datagram()).unwrap();
    builder.finish(Position(100)).unwrap()
}

#[test]
fn a_dropped_datagram_keeps_its_position() {
    let golden = Bytes::from_static(include_bytes!("golden/v1-dropped.batch"));
    assert_eq!(with_dropped(Compression::None).bytes(), &golden);
    let parsed = Batch::parse_exact(STREAM, &golden).unwrap();
    for batch in [parsed, with_dropped(Compression::Zstd)] {
        assert_eq!((batch.datagrams(), batch.dropped(), batch.end()), (3, 1, Position(103)));
        let records = batch.records().unwrap();
        let by_position: Vec<Option<Owned>> = records.by_position().map(|found| found.map(owned)).collect();
        assert_eq!(by_position, [Some(datagram(b"one")), None, Some(datagram(&[0xAB; 600]))]);
        assert_eq!(records.iter().count(), 2);
    }
}

#[test]
fn a_wrong_count_of_dropped_datagrams_is_rejected() {
    let batch = with_dropped(Compression::None);
    for dropped in [0, 2, 3] {
        let header = BatchHeader { dropped, ..batch.header };
        assert!(matches!(Records::decode(&header, batch.body()), Err(BatchError::Records)), "{dropped}");
    }
    assert!(!BatchHeader { dropped: 4, ..batch.header }.is_within_bounds());
}

#[test]
fn a_batch_of_only_dropped_datagrams_is_bounded() {
    let mut builder = BatchBuilder::new(STREAM, Compression::None);
    let mut count = 0;
    while builder.push_dropped(Timestamp(5)).is_ok() {
        count += 1;
    }
    let batch = builder.finish(Position(0)).unwrap();
    assert_eq!(count, batch.end().0);
    assert_eq!(u32::from(batch.dropped()), batch.datagrams());
    assert_eq!(batch.records().unwrap().iter().count(), 0);
}

/// Two exporters with the same link-local address on interfaces 2 and 3, and one with a global address.
fn link_local() -> [Owned; 3] {
    let of = |exporter: &str, payload| Owned { exporter: exporter.parse().unwrap(), ..datagram(payload) };
    [of("[fe80::1%2]:2055", b"two"), of("[fe80::1%3]:2055", b"three"), of("[2001:db8::1]:2055", b"none")]
}

#[test]
fn exporters_keep_their_scope_id() {
    let golden = include_bytes!("golden/v1-scope.batch").as_slice();
    assert_eq!(batch_of(&link_local(), Compression::None).bytes().as_ref(), golden);
    let parsed = Batch::parse_exact(STREAM, &Bytes::from_static(golden)).unwrap();
    assert_eq!(parsed.records().unwrap().iter().map(owned).collect::<Vec<_>>(), link_local());
}

#[test]
fn flows_of_link_local_exporters_use_columnar_form() {
    let exporter = "[fe80::1%2]:2055".parse().unwrap();
    let flows = [1, 2, 3].map(|number| Owned { exporter, ..v5(number) });
    let batch = batch_of_flows(&flows, Compression::Zstd);
    assert_eq!(batch.header.compression, Compression::Columnar);
    assert_eq!(batch.records().unwrap().iter().map(owned).collect::<Vec<_>>(), flows);
}

#[test]
fn a_scope_id_of_another_address_is_malformed() {
    let of = |change: &dyn Fn(&mut [u8])| {
        let mut body = batch_of(&link_local()[..1], Compression::None).bytes()[HEADER_LEN..].to_vec();
        change(&mut body);
        let batch = batch_of(&link_local()[..1], Compression::None);
        batch.with_body(STREAM, Sealing::None, &body).unwrap().records().map(|_| ())
    };
    assert_eq!(of(&|_| ()), Ok(()));
    assert_eq!(of(&|body| body[11] = 0x20), Err(BatchError::Records), "a global address");
    assert_eq!(of(&|body| body[29..33].fill(0)), Err(BatchError::Records), "no scope");
    assert_eq!(of(&|body| body[0] |= 8), Err(BatchError::Records), "an unknown bit");
}

/// Rewrites the golden files. Only for a new version of the format.
#[test]
#[ignore = "writes the golden files; run by hand for a new version of the format"]
fn write_golden_batches() {
    let datagrams = [datagram(b"one"), datagram(b""), datagram(&[0xAB; 600])];
    for (name, compression) in [("plain", Compression::None), ("zstd", Compression::Zstd)] {
        let path = format!("{}/src/batch/golden/v1-{name}.batch", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, batch_of(&datagrams, compression).bytes()).unwrap();
    }
    let path = format!("{}/src/batch/golden/v1-dropped.batch", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(path, with_dropped(Compression::None).bytes()).unwrap();
    let path = format!("{}/src/batch/golden/v1-scope.batch", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(path, batch_of(&link_local(), Compression::None).bytes()).unwrap();
    let path = format!("{}/src/batch/golden/v1-columnar.batch", env!("CARGO_MANIFEST_DIR"));
    let batch = batch_of_flows(&[v5(1), datagram(b"no flows"), v5(2)], Compression::Zstd);
    std::fs::write(path, batch.bytes()).unwrap();
}
