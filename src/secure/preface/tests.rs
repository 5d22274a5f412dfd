use super::*;

fn sender() -> SenderId {
    "brno-edge".parse().unwrap()
}

fn plain() -> Vec<u8> {
    Preface::encode_plain(&sender())
}

/// The preface of a sender with a shared key.
fn with_key() -> Vec<u8> {
    b"NFR1\x01\x01\x02\x00\x04\x09key1brno-edge".to_vec()
}

const GOLDEN_PREFACE: &[u8] = include_bytes!("../golden/v1-plain.preface");
const GOLDEN_REPLY: &[u8] = include_bytes!("../golden/v1-accepted.reply");

#[test]
fn a_preface_comes_out_as_it_went_in() {
    let longest: SenderId = "x".repeat(64).parse().unwrap();
    for sender in [sender(), longest] {
        let bytes = Preface::encode_plain(&sender);
        assert_eq!(Preface::parse(&bytes), Ok(Parsed::Here(Preface { mode: Mode::None, sender })));
    }
}

#[test]
fn an_encrypted_sender_is_understood_well_enough_to_be_refused_clearly() {
    let Ok(Parsed::Here(preface)) = Preface::parse(&with_key()) else { panic!("not understood") };
    assert_eq!(preface, Preface { mode: Mode::Encrypted { mode: 1, suite: 2 }, sender: sender() });
    assert_eq!(preface.mode.answer_without_keys(), Status::EncryptionNotConfigured);
    assert_eq!(Mode::None.answer_without_keys(), Status::Accepted);
}

#[test]
fn a_part_of_a_preface_says_how_much_is_needed_and_never_more_than_the_whole() {
    for whole in [plain(), with_key()] {
        for cut in 0..whole.len() {
            let needed = if cut < HEADER_LEN { HEADER_LEN } else { whole.len() };
            assert_eq!(Preface::parse(&whole[..cut]), Ok(Parsed::NeedMore(needed)), "cut at {cut}");
        }
    }
    let reply = Status::Accepted.encode_reply();
    for cut in 0..reply.len() {
        assert_eq!(Status::parse_reply(&reply[..cut]), Ok(Parsed::NeedMore(REPLY_LEN)), "cut at {cut}");
    }
}

#[test]
fn nobody_is_ever_asked_for_more_than_the_longest_preface() {
    assert_eq!(PREFACE_MAX, 138);
    for key_id_len in 0..=255 {
        for sender_len in 0..=255 {
            let header = [b"NFR1".as_slice(), &[1, 1, 1, 0, key_id_len, sender_len]].concat();
            let bounded = key_id_len <= 64 && (1..=64).contains(&sender_len);
            match Preface::parse(&header) {
                Ok(Parsed::NeedMore(needed)) => assert!(bounded && needed <= PREFACE_MAX),
                other => assert!(!bounded && other == Err(PrefaceError::Malformed)),
            }
        }
    }
}

#[test]
fn no_flipped_bit_leaves_a_preface_as_it_was() {
    for whole in [plain(), with_key()] {
        let original = Preface::parse(&whole);
        for bit in 0..whole.len() * 8 {
            let is_key_id = whole == with_key() && (HEADER_LEN..HEADER_LEN + 4).contains(&(bit / 8));
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Preface::parse(&bytes) != original || is_key_id, "bit {bit}");
        }
    }
}

#[test]
fn an_acceptance_with_a_flipped_bit_is_none() {
    let reply = Status::Accepted.encode_reply();
    for bit in 0..8 * 8 {
        let mut bytes = reply;
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(Status::parse_reply(&bytes), Ok(Parsed::Here(Status::Accepted)), "bit {bit}");
    }
}

#[test]
fn every_status_survives_the_way_to_the_sender() {
    for (status, code) in Status::ALL {
        let reply = status.encode_reply();
        assert_eq!(reply[4], code);
        assert_eq!(Status::parse_reply(&reply), Ok(Parsed::Here(status)));
    }
}

#[test]
fn a_status_of_the_future_is_a_refusal_with_its_number() {
    let mut reply = Status::Accepted.encode_reply();
    reply[4] = 77;
    assert_eq!(Status::parse_reply(&reply), Err(PrefaceError::UnknownStatus(77)));
}

#[test]
fn an_acceptance_in_another_mode_is_not_taken() {
    let mut reply = Status::Accepted.encode_reply();
    reply[5] = 1;
    assert_eq!(Status::parse_reply(&reply), Err(PrefaceError::ModeChanged(1)));
}

#[test]
fn another_version_is_named_before_anything_else_of_it_is_read() {
    for rest in [b"".as_slice(), b"\xFF", b"\x01\x02\xFF\xFF\xFF and more"] {
        let bytes = [b"NFR1\x02", rest].concat();
        assert_eq!(Preface::parse(&bytes), Err(PrefaceError::Version(2)));
    }
}

#[test]
fn a_preface_that_breaks_its_bounds_is_damaged() {
    for bytes in [
        b"NFR1\x01\x00\x01\x00\x00\x01x".as_slice(),
        b"NFR1\x01\x00\x00\x01\x00\x01x",
        b"NFR1\x01\x00\x00\x00\x01\x01kx",
        b"NFR1\x01\x00\x00\x00\x00\x00",
        b"NFR1\x01\x00\x00\x00\x00\x02..",
        b"NFR1\x01\x00\x00\x00\x00\x01/",
        b"NFR1\x01\x00\x00\x00\x00\x02\xFF\xFE",
    ] {
        assert_eq!(Preface::parse(bytes), Err(PrefaceError::Malformed), "{}", bytes.escape_ascii());
    }
}

#[test]
fn foreign_protocols_are_recognised_by_either_side() {
    let recognised = [
        (b"GET / HTTP/1.1\r\n".as_slice(), Foreign::Http),
        (b"POST", Foreign::Http),
        (b"HEAD", Foreign::Http),
        (b"PUT ", Foreign::Http),
        (b"OPTIONS *", Foreign::Http),
        (b"CONNECT ", Foreign::Http),
        (b"HTTP/1.1 400 Bad Request\r\n", Foreign::Http),
        (b"\x16\x03\x01\x02\x00\x01", Foreign::Tls),
        (b"\x15\x03\x03\x00\x02\x02\x16", Foreign::Tls),
        (b"SSH-2.0-OpenSSH", Foreign::Other),
        (b"\0\0\0\0", Foreign::Other),
    ];
    for (bytes, foreign) in recognised {
        assert_eq!(Preface::parse(bytes), Err(PrefaceError::Foreign(foreign)));
        assert_eq!(Status::parse_reply(bytes), Err(PrefaceError::Foreign(foreign)));
    }
    assert_eq!(
        PrefaceError::Foreign(Foreign::Http).to_string(),
        "the other side speaks HTTP, not the protocol of nf-transport; check its address and port"
    );
}

#[test]
fn the_golden_preface_and_reply_of_version_1_stay_as_they_are() {
    assert_eq!(plain(), GOLDEN_PREFACE, "the bytes of a preface have changed: that needs a new version");
    assert_eq!(Status::Accepted.encode_reply(), GOLDEN_REPLY, "the bytes of a reply have changed");
}

/// Writes the golden files anew: only for a new version of the protocol.
#[test]
#[ignore = "writes the golden files; run by hand for a new version of the protocol"]
fn write_golden_preface_and_reply() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/secure/golden");
    std::fs::write(format!("{golden}/v1-plain.preface"), plain()).unwrap();
    std::fs::write(format!("{golden}/v1-accepted.reply"), Status::Accepted.encode_reply()).unwrap();
}
