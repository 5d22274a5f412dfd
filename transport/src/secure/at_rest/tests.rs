use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::batch::{BatchBuilder, BatchError, Compression, HEADER_LEN};
use crate::datagram::{Datagram, Timestamp};
use crate::limits::{BATCH_BODY_MAX, PAYLOAD_MAX};
use crate::sequence::Position;

const STREAM: StreamId = StreamId([7; 16]);
const SALT: [u8; SALT_LEN] = [0x5A; SALT_LEN];

fn key(byte: char) -> Key {
    Key::from_text(&byte.to_string().repeat(64)).unwrap()
}

fn batch(first: u64, payloads: &[&[u8]], compression: Compression) -> Batch {
    let mut builder = BatchBuilder::new(STREAM, compression);
    let (exporter, local) = ("192.0.2.1:4000".parse().unwrap(), "[2001:db8::1]:2055".parse().unwrap());
    for payload in payloads {
        let arrival = Timestamp(1_700_000_000_000_000_000);
        builder.push(&Datagram { exporter, local, arrival, payload }).unwrap();
    }
    builder.finish(Position(first)).unwrap()
}

fn few() -> Batch {
    batch(100, &[b"one", b"", &[0xAB; 600]], Compression::None)
}

fn keys() -> SpoolKeys {
    SpoolKeys::sealing(key('1'), [])
}

/// A forgery: `sealed` with another body and matching checksums.
fn forged(sealed: &Batch, body: &[u8]) -> Option<Batch> {
    sealed.with_body(STREAM, Sealing::Aes256Gcm, body)
}

/// A forgery: `sealed` with another header and matching checksums.
fn under(header: &BatchHeader, sealed: &Batch) -> Batch {
    let bytes = [&header.encode(STREAM)[..], &sealed.body()].concat();
    Batch::parse_exact(STREAM, &Bytes::from(bytes)).unwrap()
}

proptest! {
    #[test]
    fn sealed_batches_round_trip_and_hide_payloads(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 12..400), 1..30),
        first in 0..u64::MAX / 2,
        zstd in any::<bool>(),
    ) {
        let compression = if zstd { Compression::Zstd } else { Compression::None };
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let plain = batch(first, &payloads, compression);
        let sealed = keys().seal(STREAM, &plain).unwrap();
        prop_assert_eq!(sealed.bytes().len(), plain.bytes().len() + SEAL_OVERHEAD);
        let shows = |payload: &[u8]| sealed.bytes().windows(payload.len()).any(|window| window == payload);
        prop_assert!(!payloads.iter().any(|payload| shows(payload)));
        let read = Batch::parse_exact(STREAM, sealed.bytes()).unwrap();
        prop_assert_eq!(&read, &sealed);
        prop_assert_eq!(keys().open(STREAM, &read).unwrap(), plain);
    }

    #[test]
    fn an_arbitrary_body_is_rejected(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        ours in any::<bool>(),
    ) {
        let mut with_id = if ours { key('1').id().0.to_vec() } else { Vec::new() };
        with_id.extend(body);
        let forged = forged(&few(), &with_id).unwrap();
        prop_assert!(keys().open(STREAM, &forged).is_err());
    }
}

#[test]
fn the_largest_batch_can_be_sealed() {
    let plain = batch(0, &[&vec![1; PAYLOAD_MAX]], Compression::None);
    let sealed = keys().seal(STREAM, &plain).unwrap();
    assert!(sealed.body().len() <= BATCH_BODY_MAX + SEAL_OVERHEAD);
    assert_eq!(keys().open(STREAM, &Batch::parse_exact(STREAM, sealed.bytes()).unwrap()), Ok(plain));
}

#[test]
fn checksums_detect_every_flipped_bit() {
    let sealed = keys().seal(STREAM, &few()).unwrap();
    for bit in 0..sealed.bytes().len() * 8 {
        let mut bytes = sealed.bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit / 8 < HEADER_LEN { BatchError::Header } else { BatchError::Body };
        assert_eq!(Batch::parse_exact(STREAM, &bytes.into()), Err(expected), "bit {bit}");
    }
}

#[test]
fn the_tag_detects_bits_hidden_from_checksums() {
    let sealed = keys().seal(STREAM, &few()).unwrap();
    let body = sealed.body();
    for bit in 0..body.len() * 8 {
        let mut body = body.to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        let error = keys().open(STREAM, &forged(&sealed, &body).unwrap()).unwrap_err();
        assert_eq!(error == OpenError::Damaged, bit / 8 >= KEY_ID_LEN, "bit {bit}: {error}");
    }
}

#[test]
fn a_body_of_another_length_is_rejected() {
    let sealed = keys().seal(STREAM, &few()).unwrap();
    let body = sealed.body();
    for cut in 0..body.len() {
        let cut = forged(&sealed, &body[..cut]).unwrap();
        assert_eq!(keys().open(STREAM, &cut), Err(OpenError::Damaged));
    }
    let longer = [&body[..], &[0]].concat();
    assert_eq!(keys().open(STREAM, &forged(&sealed, &longer).unwrap()), Err(OpenError::Damaged));
}

#[test]
fn a_swapped_batch_is_rejected() {
    let [one, other] =
        [0, 50].map(|first| keys().seal(STREAM, &batch(first, &[b"payload"], Compression::None)).unwrap());
    let swapped = forged(&one, &other.body()).unwrap();
    assert_eq!(keys().open(STREAM, &swapped), Err(OpenError::Damaged));
}

#[test]
fn the_seal_covers_every_header_field() {
    let sealed = keys().seal(STREAM, &few()).unwrap();
    let header = *sealed.header();
    let later = Timestamp(header.latest.0 + 1);
    let forgeries = [
        BatchHeader { first: header.first.plus(1), ..header },
        BatchHeader { earliest: Timestamp(0), ..header },
        BatchHeader { latest: later, ..header },
        BatchHeader { datagrams: header.datagrams + 1, ..header },
        BatchHeader { payload_bytes: header.payload_bytes - 1, ..header },
        BatchHeader { records_len: header.records_len + 1, ..header },
        BatchHeader { compression: Compression::Zstd, ..header },
    ];
    for forgery in forgeries {
        assert_eq!(keys().open(STREAM, &under(&forgery, &sealed)), Err(OpenError::Damaged), "{forgery:?}");
    }
    assert_eq!(keys().open(STREAM, &under(&header, &sealed)), Ok(few()));
}

#[test]
fn a_batch_of_another_stream_is_rejected() {
    let sealed = keys().seal(STREAM, &few()).unwrap();
    assert_eq!(keys().open(StreamId([8; 16]), &sealed), Err(OpenError::Damaged));
}

#[test]
fn removing_the_seal_flag_gives_no_records() {
    let sealed = keys().seal(STREAM, &few()).unwrap();
    assert!(matches!(sealed.records(), Err(BatchError::Sealed)));
    let bare = sealed.with_body(STREAM, Sealing::None, &sealed.body()).unwrap();
    assert!(matches!(bare.records(), Err(BatchError::Records)));
}

#[test]
fn a_missing_key_is_reported_by_its_id() {
    let sealed = keys().seal(STREAM, &few()).unwrap();
    for others in [SpoolKeys::default(), SpoolKeys::opening([key('2')]), SpoolKeys::sealing(key('2'), [])] {
        assert_eq!(others.open(STREAM, &sealed), Err(OpenError::UnknownKey(key('1').id())));
        assert_eq!(others.missing(&sealed), Some(key('1').id()));
    }
    assert_eq!((keys().missing(&sealed), keys().missing(&few())), (None, None));
}

#[test]
fn the_previous_key_opens_and_the_current_one_seals() {
    let old = keys().seal(STREAM, &few()).unwrap();
    let rotated = SpoolKeys::sealing(key('2'), [key('1')]);
    assert_eq!(rotated.open(STREAM, &old), Ok(few()));
    let new = rotated.seal(STREAM, &few()).unwrap();
    assert!(new.body().starts_with(&key('2').id().0));
    assert_eq!(rotated.open(STREAM, &new), Ok(few()));
}

#[test]
fn keys_for_opening_only_do_not_seal() {
    let sealed = keys().seal(STREAM, &few()).unwrap();
    let opening = SpoolKeys::opening([key('1')]);
    assert!(keys().seals() && !opening.seals());
    assert_eq!(opening.seal(STREAM, &few()), Ok(few()));
    assert_eq!(opening.open(STREAM, &sealed), Ok(few()));
    assert_eq!(keys().open(STREAM, &few()), Ok(few()), "an unsealed batch needs no key");
}

#[test]
fn sealing_a_batch_twice_gives_different_bytes() {
    let [one, two] = [(); 2].map(|()| keys().seal(STREAM, &few()).unwrap().body());
    assert_ne!(one[KEY_ID_LEN..CIPHERTEXT_AT], two[KEY_ID_LEN..CIPHERTEXT_AT]);
    assert_ne!(one[CIPHERTEXT_AT..], two[CIPHERTEXT_AT..]);
}

#[test]
fn the_golden_sealed_batch_stays_readable() {
    let golden = include_bytes!("../golden/v1-sealed.batch").as_slice();
    let parsed = Batch::parse_exact(STREAM, &Bytes::from_static(golden)).unwrap();
    assert_eq!(keys().open(STREAM, &parsed), Ok(few()));
    assert_eq!(
        seal(&key('1'), SALT, STREAM, &few()).unwrap().bytes().as_ref(),
        golden,
        "the sealing of a batch has changed, which needs a new version of the format"
    );
}

/// Rewrites the golden file. Only for a new version of the format.
#[test]
#[ignore = "writes the golden file; run by hand for a new version of the format"]
fn write_golden_sealed_batch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/secure/golden/v1-sealed.batch");
    std::fs::write(path, seal(&key('1'), SALT, STREAM, &few()).unwrap().bytes()).unwrap();
}
