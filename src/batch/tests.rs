use core::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::datagram::Datagram;
use crate::limits::{BATCH_BODY_MAX, PAYLOAD_MAX};

const STREAM: StreamId = StreamId([7; 16]);

/// What a batch is made of, with payloads of its own.
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
    fn what_goes_into_a_batch_comes_out_in_order(
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
    fn bytes_of_any_kind_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut with_magic = MAGIC.to_vec();
        with_magic.extend(&bytes);
        for bytes in [bytes, with_magic] {
            prop_assert!(!matches!(Batch::parse(STREAM, &bytes.into()), Ok(Parsed::Batch(_))));
        }
    }
}

#[test]
fn every_flipped_bit_is_found() {
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
fn a_part_of_a_batch_says_how_much_is_needed() {
    let batch = batch_of(&[datagram(b"some payload")], Compression::None);
    for cut in 0..batch.bytes().len() {
        let needed = if cut < HEADER_LEN { HEADER_LEN } else { batch.bytes().len() };
        assert_eq!(Batch::parse(STREAM, &batch.bytes().slice(..cut)), Ok(Parsed::NeedMore(needed)));
    }
}

#[test]
fn a_batch_of_another_stream_is_not_taken() {
    let batch = batch_of(&[datagram(b"x")], Compression::None);
    assert_eq!(Batch::parse(StreamId([8; 16]), batch.bytes()), Err(BatchError::Header));
}

#[test]
fn the_largest_datagram_fits_and_a_larger_one_is_refused() {
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
fn a_full_batch_refuses_the_next_datagram_and_stays_as_it_was() {
    let mut builder = BatchBuilder::new(STREAM, Compression::None);
    let payload = datagram(&[5; 1464]);
    let mut taken = 0;
    while builder.push(&payload.as_datagram()).is_ok() {
        taken += 1;
    }
    assert_eq!(builder.push(&payload.as_datagram()), Err(PushError::Full));
    assert_eq!(builder.finish(Position(0)).unwrap().datagrams(), taken);
    assert!(builder.finish(Position(0)).is_none());
}

#[test]
fn records_that_decompress_to_more_than_the_header_says_are_refused() {
    let batch = batch_of(&[datagram(&[0; 5000])], Compression::Zstd);
    let mut header = batch.header;
    assert_eq!(header.compression, Compression::Zstd);
    header.records_len -= 1;
    let body = batch.bytes.slice(HEADER_LEN..);
    assert!(matches!(Records::decode(&header, body), Err(BatchError::Records)));
}

#[test]
fn the_golden_batches_of_version_1_stay_readable() {
    let datagrams = [datagram(b"one"), datagram(b""), datagram(&[0xAB; 600])];
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
        "the encoding of a batch has changed: that needs a new version of the format"
    );
}

/// Writes the golden files anew: only for a new version of the format.
#[test]
#[ignore = "writes the golden files; run by hand for a new version of the format"]
fn write_golden_batches() {
    let datagrams = [datagram(b"one"), datagram(b""), datagram(&[0xAB; 600])];
    for (name, compression) in [("plain", Compression::None), ("zstd", Compression::Zstd)] {
        let path = format!("{}/src/batch/golden/v1-{name}.batch", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, batch_of(&datagrams, compression).bytes()).unwrap();
    }
}
