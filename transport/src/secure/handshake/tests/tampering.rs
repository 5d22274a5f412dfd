//! Handshakes that are changed or replayed on the path.

use super::*;

#[test]
fn a_flipped_bit_fails_the_handshake() {
    for suite in every_suite() {
        for flipped in 0..5 {
            let mut length = 0;
            let mut bit = 0;
            while bit == 0 || bit < length * 8 {
                let sender = SenderHandshake::keyed(&edge(), &key(1), suite);
                let mut tamper = |number, mut bytes: Vec<u8>| {
                    if number == flipped {
                        length = bytes.len();
                        bytes[bit / 8] ^= 1 << (bit % 8);
                    }
                    bytes
                };
                let (at_sender, at_receiver) = play(sender, receiver(shared()), &mut tamper);
                assert!(!matches!(at_receiver, Some(Ok(_))), "{suite}, message {flipped}, bit {bit}");
                // The sender cannot detect a change of its last message, because it receives nothing after
                // it.
                let is_last = flipped == 4;
                let sender_has_channel = matches!(at_sender, Some(Ok(_)));
                assert_eq!(sender_has_channel, is_last, "{suite}, message {flipped}, bit {bit}");
                bit += 1;
            }
        }
    }
}

#[test]
fn a_sender_detects_a_downgrade_to_clear_text() {
    let policy = AccessPolicy { plaintext: true, ..shared() };
    let sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    let mut strip = |number, bytes: Vec<u8>| {
        if number == 0 { Preface::encode_plain(&edge()) } else { bytes }
    };
    let (at_sender, _) = play(sender, receiver(policy), &mut strip);
    let Some(Err(error)) = at_sender else { panic!("{at_sender:?}") };
    assert!(matches!(
        error,
        SenderHandshakeError::Preface(PrefaceError::ModeChanged { asked: 1, answered: 0 })
    ));
    assert!(error.is_rejection());
}

#[test]
fn a_tampered_id_or_cipher_is_rejected() {
    let rewritten = |rewrite: &mut dyn FnMut(&mut Vec<u8>)| {
        let sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
        let mut tamper = |number, mut bytes: Vec<u8>| {
            if number == 0 {
                rewrite(&mut bytes);
            } else if number == 1 {
                bytes[6] = 3; // Restores the requested suite in the reply.
            }
            bytes
        };
        match play(sender, receiver(shared()), &mut tamper) {
            (
                Some(Err(SenderHandshakeError::Rejected(ReplyStatus::AuthenticationFailed))),
                Some(Err(rejection @ HandshakeRejection::Unproven(_))),
            ) => rejection.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let message = rewritten(&mut |bytes| bytes[18..22].copy_from_slice(b"evil"));
    assert!(
        message.starts_with("sender evil could not prove that it has the key that it names"),
        "{message}"
    );
    rewritten(&mut |bytes| bytes[6] = 1);
}

#[test]
fn a_recorded_handshake_cannot_be_replayed() {
    let mut recorded = Vec::new();
    let sender = SenderHandshake::keyed(&edge(), &key(1), Suite::ChaCha20Poly1305);
    let mut record = |number: usize, bytes: Vec<u8>| {
        if number.is_multiple_of(2) {
            recorded.push(bytes.clone());
        }
        bytes
    };
    assert!(matches!(play(sender, receiver(shared()), &mut record).1, Some(Ok(_))));
    let mut again = receiver(shared());
    feed(&mut again, &recorded[0]).unwrap();
    assert_eq!(again.take_output().len(), 24);
    assert!(matches!(feed(&mut again, &recorded[1]), Err(HandshakeRejection::Unproven(_))));
    assert_eq!(again.take_output(), [0, 1, 5]);
    assert_eq!(again.wanted(), 0);
}
