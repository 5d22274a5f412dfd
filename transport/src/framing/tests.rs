use core::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN, MESSAGE_MAX, REFUSAL_TEXT_MAX};
use crate::sequence::{Gap, GapReason, Position, RunId, StreamId};

fn encoded(message: Message) -> Vec<u8> {
    let mut out = BytesMut::new();
    let batch = message.encode(&mut out).unwrap_or_default();
    [out.freeze(), batch].concat()
}

fn decoded(bytes: &[u8]) -> Result<Option<Message>, FramingError> {
    let mut decoder = Decoder::default();
    decoder.extend(bytes);
    decoder.next_message()
}

fn raw(length: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    [length.to_be_bytes().as_slice(), &[kind], payload].concat()
}

fn hello(heartbeat: Duration) -> Message {
    Message::Hello(Hello {
        stream: StreamId([7; 16]),
        first: Position(100),
        heartbeat: Heartbeat::nearest(heartbeat),
        run: RunId([9; 16]),
        replaces: Some(StreamId([6; 16])),
        proof: StreamProof { public_key: [0xA5; 32], signature: [0x5A; 64] },
    })
}

/// One message of each type, with the name of its golden file.
fn examples() -> [(&'static str, Message); 10] {
    let gap = Gap { first: Position(10), end: Position(15), reason: GapReason::TooOld };
    let refusal =
        Refusal::new(RefusalCode::StorageFailed, "no space left on /var/lib/nf-receiver – free some");
    let (resume, received) = (Position(1 << 40), Position(1 << 41));
    let welcome = Welcome { resume, window: 8 << 20, received, run: RunId([9; 16]) };
    [
        ("hello", hello(Duration::from_secs(5))),
        ("welcome", Message::Welcome(welcome)),
        ("data", Message::Data(Bytes::from_static(b"what a batch holds is not looked at here"))),
        ("ack", Message::Ack(Position(0x0102_0304_0506_0708))),
        ("gap", Message::Gap(gap)),
        ("ping", Message::Ping),
        ("refuse", Message::Refuse(refusal)),
        ("goodbye", Message::Goodbye),
        ("received", Message::Received(Position(0x1112_1314_1516_1718))),
        ("resend", Message::Resend(Resend { first: Position(0x2122_2324_2526_2728), bytes: 512 << 10 })),
    ]
}

fn golden_path(name: &str) -> String {
    format!("{}/src/framing/golden/v1-{name}.message", env!("CARGO_MANIFEST_DIR"))
}

fn any_reason() -> impl Strategy<Value = GapReason> {
    (1_u8..=4).prop_map(|code| GapReason::from_code(code).unwrap())
}

fn any_message() -> impl Strategy<Value = Message> {
    let gap = (any::<u64>(), 1..=u64::MAX, any_reason()).prop_map(|(first, length, reason)| {
        let end = first.saturating_add(length);
        Gap { first: Position(first.min(end - 1)), end: Position(end), reason }
    });
    prop_oneof![
        (any::<[u8; 16]>(), any::<u64>(), any::<u32>(), any::<[u8; 32]>(), any::<bool>()).prop_map(
            |(stream, first, millis, public_key, is_replaced)| {
                Message::Hello(Hello {
                    stream: StreamId(stream),
                    first: Position(first),
                    heartbeat: Heartbeat::nearest(Duration::from_millis(millis.into())),
                    run: RunId(stream),
                    replaces: is_replaced.then_some(StreamId([1; 16])),
                    proof: StreamProof { public_key, signature: [3; 64] },
                })
            }
        ),
        (any::<u64>(), 1..=u32::MAX, any::<u64>(), any::<[u8; 16]>()).prop_map(
            |(resume, window, received, run)| {
                let (resume, received) = (Position(resume.min(received)), Position(received));
                Message::Welcome(Welcome { resume, window, received, run: RunId(run) })
            }
        ),
        proptest::collection::vec(any::<u8>(), 1..2000).prop_map(|batch| Message::Data(batch.into())),
        any::<u64>().prop_map(|position| Message::Ack(Position(position))),
        gap.prop_map(Message::Gap),
        Just(Message::Ping),
        (any::<u8>(), ".{0,600}")
            .prop_map(|(code, text)| Message::Refuse(Refusal::new(RefusalCode::from_code(code), &text))),
        Just(Message::Goodbye),
        any::<u64>().prop_map(|position| Message::Received(Position(position))),
        (any::<u64>(), 1..=u32::MAX)
            .prop_map(|(first, bytes)| Message::Resend(Resend { first: Position(first), bytes })),
    ]
}

proptest! {
    #[test]
    fn messages_round_trip_in_any_pieces(
        messages in proptest::collection::vec(any_message(), 1..20),
        piece in 1_usize..500,
    ) {
        let bytes: Vec<u8> = messages.iter().cloned().flat_map(encoded).collect();
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.extend(piece);
            while let Some(message) = decoder.next_message().unwrap() {
                out.push(message);
            }
        }
        prop_assert_eq!(out, messages);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0_u8..12,
        message in any_message(),
        place in any::<prop::sample::Index>(),
    ) {
        fuzz_decoder(&bytes);
        fuzz_decoder(&raw(u32::try_from(bytes.len()).unwrap(), kind, &bytes));
        let mut damaged = encoded(message);
        let place = place.index(damaged.len());
        damaged[place] ^= bytes.first().copied().unwrap_or(1);
        fuzz_decoder(&damaged);
    }
}

#[test]
fn a_cut_message_needs_more_bytes() {
    for (name, message) in examples() {
        let bytes = encoded(message);
        for cut in 0..bytes.len() {
            assert_eq!(decoded(&bytes[..cut]), Ok(None), "{name} cut at {cut}");
        }
    }
}

#[test]
fn a_wrong_length_is_rejected_from_the_header() {
    let longest = u32::try_from(MESSAGE_MAX).unwrap();
    let hostile = [
        (1, 1),
        (1, 1025),
        (2, 35),
        (2, 37),
        (3, 0),
        (3, longest + 1),
        (3, u32::MAX),
        (4, 7),
        (4, 9),
        (5, 24),
        (5, 26),
        (6, 1),
        (7, 0),
        (7, u32::try_from(REFUSAL_TEXT_MAX).unwrap() + 2),
        (8, 1),
        (9, 7),
        (10, 11),
    ];
    for (kind, length) in hostile {
        let refused = decoded(&raw(length, kind, b""));
        assert!(
            matches!(refused, Err(FramingError::Length { .. })),
            "type {kind}, {length} bytes: {refused:?}"
        );
    }
    assert_eq!(decoded(&raw(longest, 3, b"")), Ok(None));
    assert_eq!(
        decoded(&raw(u32::MAX, 3, b"")).unwrap_err().to_string(),
        "a DATA message of 4294967295 bytes, where 1 to 65664 are allowed"
    );
}

#[test]
fn an_unknown_type_is_rejected_with_its_number() {
    for kind in [0, 11, 255] {
        assert_eq!(decoded(&raw(0, kind, b"")), Err(FramingError::UnknownType(kind)));
    }
    assert_eq!(FramingError::UnknownType(9).to_string(), "a message of the unknown type 9");
}

#[test]
fn only_the_version_of_a_newer_hello_is_read() {
    for rest in [vec![], vec![0xFF; 28], vec![0xFF; 1022]] {
        let payload = [&[0, 7], rest.as_slice()].concat();
        let hello = raw(u32::try_from(payload.len()).unwrap(), 1, &payload);
        assert_eq!(decoded(&hello), Err(FramingError::Version(7)));
    }
    assert_eq!(
        FramingError::Version(7).to_string(),
        "protocol version 7 is not supported, only version 1: update the older side"
    );
    let short = raw(157, 1, &[&[0, 1], [0; 155].as_slice()].concat());
    assert!(matches!(decoded(&short), Err(FramingError::Length { shortest: 158, longest: 158, .. })));
}

#[test]
fn a_heartbeat_outside_its_bounds_is_rejected() {
    let of = |millis: u32| {
        let mut bytes = encoded(hello(Duration::from_secs(1)));
        let place = HEADER_LEN + 26;
        bytes[place..place + 4].copy_from_slice(&millis.to_be_bytes());
        decoded(&bytes)
    };
    for millis in [0, 9, 60_001, 3_600_000, u32::MAX] {
        assert_eq!(of(millis), Err(FramingError::Heartbeat(millis)));
    }
    assert!(of(10).is_ok() && of(60_000).is_ok());
    assert_eq!(Heartbeat::nearest(Duration::ZERO).duration(), HEARTBEAT_MIN);
    assert_eq!(Heartbeat::nearest(Duration::MAX).duration(), HEARTBEAT_MAX);
}

#[test]
fn an_empty_window_or_request_is_rejected() {
    assert_eq!(decoded(&raw(36, 2, &[0; 36])), Err(FramingError::Window));
    assert_eq!(decoded(&raw(12, 10, &[0; 12])), Err(FramingError::Resend));
}

#[test]
fn received_below_resume_is_rejected() {
    let (resume, received) = (Position(5), Position(4));
    let welcome = Welcome { resume, window: 1, received, run: RunId::NONE };
    assert_eq!(
        decoded(&encoded(Message::Welcome(welcome))),
        Err(FramingError::Received { resume, received })
    );
}

#[test]
fn an_inconsistent_gap_is_rejected() {
    let of = |first: u64, end: u64, reason: u8, count: u64| {
        let numbers = [first.to_be_bytes(), end.to_be_bytes()].concat();
        decoded(&raw(25, 5, &[&numbers, [reason].as_slice(), &count.to_be_bytes()].concat()))
    };
    assert!(of(3, 5, 1, 2).is_ok() && of(3, 5, 4, 0).is_ok());
    let (first, end) = (Position(5), Position(5));
    assert_eq!(of(5, 5, 1, 0), Err(FramingError::GapRange { first, end }));
    assert_eq!(of(3, 5, 9, 2), Err(FramingError::GapReason(9)));
    assert_eq!(of(3, 5, 1, 3), Err(FramingError::GapCount { count: 3, expected: 2 }));
    assert_eq!(of(3, 5, 4, 2), Err(FramingError::GapCount { count: 2, expected: 0 }));
}

#[test]
fn a_refusal_text_is_safe_for_logs() {
    for text in [b"\xFF".as_slice(), b"one line\nand a forged one", b"\x1B[2J"] {
        let payload = [&[4], text].concat();
        let refused = decoded(&raw(u32::try_from(payload.len()).unwrap(), 7, &payload));
        assert_eq!(refused, Err(FramingError::RefusalText));
    }
    let refusal = Refusal::new(RefusalCode::StorageFailed, &format!("a\nb{}", "ü".repeat(400)));
    assert!(refusal.text().starts_with("a bü") && refusal.text().len() <= REFUSAL_TEXT_MAX);
    let message = Message::Refuse(refusal);
    assert_eq!(decoded(&encoded(message.clone())), Ok(Some(message)));
}

#[test]
fn a_refusal_with_an_unknown_code_is_accepted() {
    let refusal = Refusal::new(RefusalCode::Other(200), "it is Sunday");
    assert_eq!(decoded(&raw(13, 7, b"\xC8it is Sunday")), Ok(Some(Message::Refuse(refusal))));
}

#[test]
fn encoding_does_not_copy_the_batch() {
    let batch = Bytes::from(vec![5; 1000]);
    let mut out = BytesMut::new();
    let returned = Message::Data(batch.clone()).encode(&mut out).unwrap();
    assert_eq!(out.as_ref(), [0, 0, 0x03, 0xE8, 3]);
    assert_eq!(returned.as_ptr(), batch.as_ptr());
}

#[test]
fn golden_messages_of_version_1_do_not_change() {
    for (name, message) in examples() {
        let golden = std::fs::read(golden_path(name)).unwrap();
        assert_eq!(decoded(&golden), Ok(Some(message.clone())), "{name} cannot be decoded any more");
        assert_eq!(encoded(message), golden, "the bytes of {name} have changed, which needs a new version");
    }
}

/// Rewrites the golden files. Only for a new version of the protocol.
#[test]
#[ignore = "writes the golden files; run by hand for a new version of the protocol"]
fn write_golden_messages() {
    for (name, message) in examples() {
        std::fs::write(golden_path(name), encoded(message)).unwrap();
    }
}
