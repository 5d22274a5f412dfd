use bytes::{Bytes, BytesMut};

use super::*;
use crate::secure::handshake::tests::connected;

/// Seals `plain` with `from`.
fn sealed(from: &mut Channel, plain: &[u8]) -> BytesMut {
    let (mut plain, mut wire) = (Bytes::copy_from_slice(plain), BytesMut::new());
    while !plain.is_empty() {
        let mut more = BytesMut::new();
        from.seal(&mut plain, &mut more).unwrap();
        wire.extend_from_slice(&more);
    }
    wire
}

/// Opens `wire` with `to`, in pieces of `piece` bytes.
fn opened(to: &mut Channel, wire: &[u8], piece: usize) -> Result<Vec<u8>, ChannelError> {
    let mut plain = Vec::new();
    for piece in wire.chunks(piece) {
        to.open(piece, &mut |bytes| plain.extend_from_slice(bytes))?;
    }
    Ok(plain)
}

fn suites() -> impl Iterator<Item = Suite> {
    Suite::NAMED.into_iter().map(|(_, suite)| suite)
}

/// Bytes that do not repeat soon.
fn text(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from((index * 7 + index / 251) % 256).unwrap()).collect()
}

#[test]
fn bytes_round_trip_in_pieces_of_any_length() {
    for suite in suites() {
        let (mut sender, mut receiver) = connected(suite);
        assert_eq!(sender.cipher(), suite.name());
        for (length, piece) in [(1, 1), (100, 3), (65_519, 65_537), (65_520, 1000), (300_000, 4096)] {
            let plain = text(length);
            let wire = sealed(&mut sender, &plain);
            assert_eq!(opened(&mut receiver, &wire, piece).unwrap(), plain, "{suite} {length}");
            let back = sealed(&mut receiver, &plain);
            assert_eq!(opened(&mut sender, &back, piece).unwrap(), plain, "{suite} {length}");
        }
    }
}

#[test]
fn clear_text_is_unchanged() {
    let (mut sender, mut receiver) = (Channel::plain(), Channel::plain());
    let wire = sealed(&mut sender, b"flows");
    assert_eq!(&wire[..], b"flows");
    assert_eq!(opened(&mut receiver, &wire, 2).unwrap(), b"flows");
    assert!(sender.is_plain() && !sender.is_exhausted());
}

#[test]
fn a_flipped_bit_ends_the_channel() {
    for suite in suites() {
        let (mut sender, _) = connected(suite);
        let wire = sealed(&mut sender, b"some flow records");
        for bit in 0..wire.len() * 8 {
            let (mut sender, mut receiver) = connected(suite);
            let mut damaged = sealed(&mut sender, b"some flow records");
            let after = sealed(&mut sender, b"later");
            damaged[bit / 8] ^= 1 << (bit % 8);
            // A record with an increased length needs more bytes before it fails.
            let all = [&damaged[..], &after, &vec![0; 65_537]].concat();
            let mut handed_on = Vec::new();
            let outcome = receiver.open(&all, &mut |bytes| handed_on.extend_from_slice(bytes));
            assert!(outcome.is_err(), "{suite} bit {bit}");
            assert!(handed_on.is_empty(), "{suite} bit {bit}");
            assert!(opened(&mut receiver, &after, 100).is_err(), "{suite} bit {bit}: after the error");
        }
    }
}

#[test]
fn reordered_or_replayed_records_are_rejected() {
    for suite in suites() {
        let records = |sender: &mut Channel| [b"one", b"two"].map(|plain| sealed(sender, plain));
        let (mut sender, mut receiver) = connected(suite);
        let [one, two] = records(&mut sender);
        assert_eq!(opened(&mut receiver, &[&one[..], &one].concat(), 99), Err(ChannelError::Forged(2)));

        let (mut sender, mut receiver) = connected(suite);
        let [other, left_out] = records(&mut sender);
        assert_eq!(opened(&mut receiver, &left_out, 99), Err(ChannelError::Forged(1)), "left out");
        let (_, mut receiver) = connected(suite);
        assert_eq!(opened(&mut receiver, &two, 99), Err(ChannelError::Forged(1)), "of another connection");
        assert_eq!(opened(&mut sender, &other, 99), Err(ChannelError::Forged(0)), "sent back");

        let (mut sender, mut receiver) = connected(suite);
        let [one, two] = records(&mut sender);
        assert_eq!(opened(&mut receiver, &[&two[..], &one].concat(), 99), Err(ChannelError::Forged(1)));
    }
}

#[test]
fn a_record_shorter_than_its_tag_is_rejected() {
    let (_, mut receiver) = connected(Suite::Aes256Gcm);
    assert_eq!(opened(&mut receiver, &[0, 15], 1), Err(ChannelError::Short(15)));
}

#[test]
fn keys_change_in_both_directions() {
    for suite in suites() {
        let (mut sender, mut receiver) = connected(suite);
        for number in 0..2 * REKEY_EVERY + 10 {
            let plain = number.to_be_bytes();
            let wire = sealed(&mut sender, &plain);
            assert_eq!(opened(&mut receiver, &wire, 99).unwrap(), plain, "{suite} {number}");
            let back = sealed(&mut receiver, &plain);
            assert_eq!(opened(&mut sender, &back, 99).unwrap(), plain, "{suite} {number}");
        }
    }
}

#[test]
fn a_one_sided_key_change_fails() {
    let (mut sender, mut receiver) = connected(Suite::ChaCha20Poly1305);
    let Layer::Keyed(records) = &mut sender.layer else { panic!("not encrypted") };
    records.transport.rekey_outgoing();
    let wire = sealed(&mut sender, b"flows");
    assert_eq!(opened(&mut receiver, &wire, 99), Err(ChannelError::Forged(1)));
}

#[test]
fn a_channel_is_exhausted_after_its_bytes() {
    let (mut sender, _) = connected(Suite::Blowfish);
    assert!(!sender.is_exhausted());
    let Layer::Keyed(records) = &mut sender.layer else { panic!("not encrypted") };
    records.sealed = CHANNEL_BYTES_MAX - 1;
    sealed(&mut sender, b"x");
    assert!(sender.is_exhausted());
}

#[test]
fn an_idle_channel_holds_no_memory() {
    let (mut sender, mut receiver) = connected(Suite::Aes256Gcm);
    let wire = sealed(&mut sender, &text(60_000));
    opened(&mut receiver, &wire, 1000).unwrap();
    let Layer::Keyed(records) = &receiver.layer else { panic!("not encrypted") };
    assert_eq!(records.input.capacity(), 0);
}

proptest::proptest! {
    #[test]
    fn forged_records_are_never_opened(suite: u8, bytes: Vec<u8>, length: u8) {
        crate::secure::fuzz_channel(&[[suite].as_slice(), &bytes].concat());
        // A record of the stated length.
        let record = [[suite, 0, length].as_slice(), &bytes, &[0; 256]].concat();
        crate::secure::fuzz_channel(&record);
    }
}
