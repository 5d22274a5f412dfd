use super::*;

fn sender() -> SenderId {
    "brno-edge".parse().unwrap()
}

fn plain() -> Vec<u8> {
    Preface::encode_plain(&sender())
}

const KEY: KeyId = KeyId(*b"key-id-1");

/// Mode of a sender with a shared key.
const KEYED: Mode = Mode::Key { suite: 2, key: Some(KEY) };

/// The preface of a sender with a shared key.
fn with_key() -> Vec<u8> {
    Preface::encode_keyed(&sender(), KEY, Suite::ChaCha20Poly1305)
}

const CHALLENGE: [u8; CHALLENGE_LEN] = *b"sixteen by chanc";

const PASSPHRASE: Mode = Mode::Passphrase { suite: 2 };

/// The preface of a sender with a passphrase.
fn with_passphrase() -> Vec<u8> {
    Preface::encode_passphrase(&sender(), Suite::ChaCha20Poly1305)
}

const SALT: Salt = Salt(*b"salt of one site");

/// Accepting replies, each with the requested mode.
fn acceptances() -> [(Mode, Vec<u8>); 3] {
    let acceptance = |mode, challenge| (mode, ReplyStatus::encode_acceptance(mode, challenge, SALT));
    [
        acceptance(Mode::None, [0; CHALLENGE_LEN]),
        acceptance(KEYED, CHALLENGE),
        acceptance(PASSPHRASE, CHALLENGE),
    ]
}

const GOLDEN_PREFACES: [&[u8]; 3] = [
    include_bytes!("../golden/v1-plain.preface"),
    include_bytes!("../golden/v1-key.preface"),
    include_bytes!("../golden/v1-passphrase.preface"),
];
const GOLDEN_REPLIES: [&[u8]; 3] = [
    include_bytes!("../golden/v1-accepted.reply"),
    include_bytes!("../golden/v1-key-accepted.reply"),
    include_bytes!("../golden/v1-passphrase-accepted.reply"),
];

#[test]
fn a_preface_round_trips() {
    let longest: SenderId = "x".repeat(64).parse().unwrap();
    for sender in [sender(), longest] {
        let bytes = Preface::encode_plain(&sender);
        assert_eq!(Preface::parse(&bytes), Ok(Partial::Complete(Preface { mode: Mode::None, sender })));
    }
}

#[test]
fn a_keyed_preface_names_key_and_suite() {
    assert_eq!(with_key(), b"NFR1\x01\x01\x02\x00\x08\x09key-id-1brno-edge");
    let parsed = Preface::parse(&with_key());
    assert_eq!(parsed, Ok(Partial::Complete(Preface { mode: KEYED, sender: sender() })));
}

#[test]
fn a_passphrase_preface_names_no_key() {
    assert_eq!(with_passphrase(), b"NFR1\x01\x02\x02\x00\x00\x09brno-edge");
    let parsed = Preface::parse(&with_passphrase());
    assert_eq!(parsed, Ok(Partial::Complete(Preface { mode: PASSPHRASE, sender: sender() })));
    assert_eq!(Preface::parse(b"NFR1\x01\x02\x03\x00\x04\x01key1x"), Err(PrefaceError::Malformed));
}

#[test]
fn only_a_passphrase_reply_has_a_salt() {
    let [(_, plain), (_, keyed), (_, salted)] = acceptances();
    assert_eq!([plain.len(), keyed.len(), salted.len()], [REPLY_LEN, REPLY_LEN, SALTED_REPLY_LEN]);
    assert_eq!(ReplyStatus::parse_salt(&salted), Partial::Complete(SALT));
    for cut in 0..salted.len() {
        assert_eq!(
            ReplyStatus::parse_salt(&salted[..cut]),
            Partial::NeedMore(SALTED_REPLY_LEN),
            "cut at {cut}"
        );
    }
}

#[test]
fn unknown_key_ids_and_modes_are_parsed() {
    let other = |bytes: &[u8]| match Preface::parse(bytes) {
        Ok(Partial::Complete(preface)) => preface.mode,
        other => panic!("{other:?}"),
    };
    assert_eq!(other(b"NFR1\x01\x01\x03\x00\x04\x01key1x"), Mode::Key { suite: 3, key: None });
    assert_eq!(other(b"NFR1\x01\x03\x03\x00\x04\x01key1x"), Mode::Unknown(3));
}

#[test]
fn a_cut_preface_reports_the_needed_length() {
    for whole in [plain(), with_key(), with_passphrase()] {
        for cut in 0..whole.len() {
            let needed = if cut < HEADER_LEN { HEADER_LEN } else { whole.len() };
            assert_eq!(Preface::parse(&whole[..cut]), Ok(Partial::NeedMore(needed)), "cut at {cut}");
        }
    }
    for (mode, reply) in acceptances() {
        for cut in 0..REPLY_LEN {
            let parsed = ReplyStatus::parse_reply(mode, &reply[..cut]);
            assert_eq!(parsed, Ok(Partial::NeedMore(REPLY_LEN)), "cut at {cut}");
        }
    }
}

#[test]
fn no_preface_needs_more_than_the_maximum() {
    assert_eq!(PREFACE_MAX, 138);
    for key_id_len in 0..=255 {
        for sender_len in 0..=255 {
            let header = [b"NFR1".as_slice(), &[1, 1, 1, 0, key_id_len, sender_len]].concat();
            let bounded = key_id_len <= 64 && (1..=64).contains(&sender_len);
            match Preface::parse(&header) {
                Ok(Partial::NeedMore(needed)) => assert!(bounded && needed <= PREFACE_MAX),
                other => assert!(!bounded && other == Err(PrefaceError::Malformed)),
            }
        }
    }
}

#[test]
fn every_flipped_bit_changes_a_preface() {
    for whole in [plain(), with_key(), with_passphrase()] {
        let original = Preface::parse(&whole);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Preface::parse(&bytes) != original, "bit {bit}");
        }
    }
}

#[test]
fn a_flipped_bit_invalidates_an_acceptance() {
    for (mode, reply) in acceptances() {
        for bit in 0..8 * 8 {
            let mut bytes = reply.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(
                ReplyStatus::parse_reply(mode, &bytes),
                Ok(Partial::Complete(ReplyStatus::Accepted)),
                "bit {bit}"
            );
        }
    }
}

#[test]
fn every_status_round_trips() {
    for (status, code) in ReplyStatus::ALL {
        for mode in [Mode::None, KEYED, PASSPHRASE] {
            let reply = status.encode_reply(mode, CHALLENGE);
            assert_eq!(reply[4], code);
            assert_eq!(ReplyStatus::parse_reply(mode, &reply), Ok(Partial::Complete(status)));
        }
    }
}

#[test]
fn an_unknown_status_is_reported_by_its_number() {
    let mut reply = ReplyStatus::Accepted.encode_reply(Mode::None, CHALLENGE);
    reply[4] = 77;
    assert_eq!(ReplyStatus::parse_reply(Mode::None, &reply), Err(PrefaceError::UnknownStatus(77)));
}

#[test]
fn an_acceptance_in_another_mode_is_rejected() {
    let [(plain, plain_reply), (keyed, keyed_reply), (passphrase, _)] = acceptances();
    let changed = |asked, answered| Err(PrefaceError::ModeChanged { asked, answered });
    assert_eq!(ReplyStatus::parse_reply(plain, &keyed_reply), changed(0, 1));
    assert_eq!(ReplyStatus::parse_reply(keyed, &plain_reply), changed(1, 0));
    assert_eq!(ReplyStatus::parse_reply(passphrase, &keyed_reply), changed(2, 1));
    let other_suite = Mode::Key { suite: 1, key: Some(KEY) };
    assert_eq!(ReplyStatus::parse_reply(other_suite, &keyed_reply), Err(PrefaceError::Malformed));
}

#[test]
fn only_the_version_of_a_newer_preface_is_read() {
    for rest in [b"".as_slice(), b"\xFF", b"\x01\x02\xFF\xFF\xFF and more"] {
        let bytes = [b"NFR1\x02", rest].concat();
        assert_eq!(Preface::parse(&bytes), Err(PrefaceError::Version(2)));
    }
}

#[test]
fn a_preface_out_of_bounds_is_malformed() {
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
fn foreign_protocols_are_recognized() {
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
        assert_eq!(ReplyStatus::parse_reply(Mode::None, bytes), Err(PrefaceError::Foreign(foreign)));
    }
    assert_eq!(
        PrefaceError::Foreign(Foreign::Http).to_string(),
        "the other side uses HTTP, not the protocol of nf-transport: check address and port"
    );
}

#[test]
fn golden_prefaces_and_replies_do_not_change() {
    let changed = "the bytes have changed, which needs a new version";
    assert_eq!([plain(), with_key(), with_passphrase()], GOLDEN_PREFACES, "{changed}");
    assert_eq!(acceptances().map(|(_, reply)| reply), GOLDEN_REPLIES, "{changed}");
}

/// Rewrites the golden files. Only for a new version of the protocol.
#[test]
#[ignore = "writes the golden files; run by hand for a new version of the protocol"]
fn write_golden_preface_and_reply() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/secure/golden");
    let [(_, plain_reply), (_, key_reply), (_, passphrase_reply)] = acceptances();
    for (name, bytes) in [
        ("v1-plain.preface", plain().as_slice()),
        ("v1-key.preface", &with_key()),
        ("v1-passphrase.preface", &with_passphrase()),
        ("v1-accepted.reply", &plain_reply),
        ("v1-key-accepted.reply", &key_reply),
        ("v1-passphrase-accepted.reply", &passphrase_reply),
    ] {
        std::fs::write(format!("{golden}/{name}"), bytes).unwrap();
    }
}
