use std::collections::HashSet;
use std::sync::Arc;

use super::*;
use crate::secure::admission::{Admission, Pass};
use crate::secure::channel::{Channel, ChannelBinding};
use crate::secure::preface::{Foreign, Mode, Preface, PrefaceError, Status};
use crate::secure::{Passphrase, Salt, Secret};
use crate::sequence::SenderId;

fn edge() -> SenderId {
    "edge".parse().unwrap()
}

/// A key that is always the same for the same number.
fn key(number: u8) -> Key {
    Key::from_text(&format!("{number:02x}").repeat(32)).unwrap()
}

fn every_suite() -> Vec<Suite> {
    Suite::NAMED.map(|(_, suite)| suite).into()
}

/// A receiver that shares key 1 with everybody.
fn shared() -> Admission {
    Admission { suites: every_suite(), shared: vec![key(1)], ..Admission::default() }
}

fn receiver(admission: Admission) -> ReceiverHandshake {
    ReceiverHandshake::new(Arc::new(admission), false)
}

/// What may be done to what one side says: message by message, the sender's and the receiver's counted as one.
pub(in crate::secure) type Meddle<'m> = &'m mut dyn FnMut(usize, Vec<u8>) -> Vec<u8>;

/// How a handshake ended on either side; an error stands for itself, a lack of bytes for `None`.
pub(in crate::secure) type Ends =
    (Option<Result<Channel, SenderHandshakeError>>, Option<Result<Admitted, Turned>>);

/// Plays both sides until nobody says anything, through somebody who meddles.
pub(in crate::secure) fn play(
    mut sender: SenderHandshake,
    mut receiver: ReceiverHandshake,
    meddle: Meddle<'_>,
) -> Ends {
    let (mut sender_error, mut receiver_error) = (None, None);
    for round in 0.. {
        let to_receiver = sender.take_output();
        if to_receiver.is_empty() {
            break;
        }
        receiver_error = feed(&mut receiver, &meddle(2 * round, to_receiver)).err();
        let to_sender = receiver.take_output();
        if to_sender.is_empty() {
            break;
        }
        sender_error = feed(&mut sender, &meddle(2 * round + 1, to_sender)).err();
        if let Some(derivation) = sender.take_derivation() {
            sender_error = sender.handle_key(derivation.run()).err();
        }
    }
    let at_sender = sender_error.map(Err).or_else(|| sender.finish().map(Ok));
    (at_sender, receiver_error.map(Err).or_else(|| receiver.finish().map(Ok)))
}

/// Hands over as much of `bytes` as is wanted, one by one; the rest is for whoever reads next.
fn feed<H: Handshake>(side: &mut H, bytes: &[u8]) -> Result<(), H::Error> {
    for byte in bytes {
        if side.wanted() == 0 {
            break;
        }
        side.handle_bytes(&[*byte])?;
    }
    Ok(())
}

fn unchanged(_: usize, bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

/// Both ends of a channel.
pub(in crate::secure) fn connected(suite: Suite) -> (Channel, Channel) {
    let sender = SenderHandshake::keyed(&edge(), &key(1), suite);
    let (Some(Ok(channel)), Some(Ok(admitted))) = play(sender, receiver(shared()), &mut unchanged) else {
        panic!("the handshake failed");
    };
    (channel, admitted.channel)
}

/// What the receiver says of a sender that it turns away, and what the sender hears.
fn refused(sender: SenderHandshake, admission: Admission) -> (String, Status) {
    match play(sender, receiver(admission), &mut unchanged) {
        (Some(Err(SenderHandshakeError::Refused(status))), Some(Err(turned))) => (turned.to_string(), status),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sender_with_the_right_key_is_let_in_under_every_suite_and_known_by_its_id() {
    for suite in every_suite() {
        let sender = SenderHandshake::keyed(&edge(), &key(1), suite);
        let (at_sender, at_receiver) = play(sender, receiver(shared()), &mut unchanged);
        assert_eq!(at_sender.unwrap().unwrap().cipher(), suite.name());
        let admitted = at_receiver.unwrap().unwrap();
        assert_eq!((admitted.sender, admitted.channel.cipher()), (edge(), suite.name()));
        assert_eq!(admitted.pass, Pass::Key { id: key(1).id(), suite });
    }
}

/// The bindings of both ends of a connection.
pub(in crate::secure) fn bindings(
    sender: SenderHandshake,
    receiver: ReceiverHandshake,
) -> (ChannelBinding, ChannelBinding) {
    match play(sender, receiver, &mut unchanged) {
        (Some(Ok(channel)), Some(Ok(admitted))) => {
            (channel.binding().unwrap(), admitted.channel.binding().unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_ends_share_a_binding_that_no_other_connection_has() {
    let clear_text = || Admission { plaintext: true, ..Admission::default() };
    let plain = || bindings(SenderHandshake::plain(&edge()), receiver(clear_text()));
    let keyed = |suite| bindings(SenderHandshake::keyed(&edge(), &key(1), suite), receiver(shared()));
    let mut all = vec![plain(), plain()];
    all.extend(every_suite().into_iter().flat_map(|suite| [keyed(suite), keyed(suite)]));
    let different: HashSet<_> = all.iter().map(|(at_sender, _)| at_sender.0).collect();
    assert_eq!(different.len(), all.len());
    assert!(all.iter().all(|(at_sender, at_receiver)| at_sender == at_receiver), "{all:?}");
}

#[test]
fn a_reply_that_is_changed_on_the_way_changes_the_binding() {
    let admission = Admission { plaintext: true, ..Admission::default() };
    let mut meddle = |message: usize, mut bytes: Vec<u8>| {
        if message == 1 {
            *bytes.last_mut().unwrap() ^= 1;
        }
        bytes
    };
    let (at_sender, at_receiver) = play(SenderHandshake::plain(&edge()), receiver(admission), &mut meddle);
    let at_receiver = at_receiver.unwrap().unwrap().channel;
    assert_ne!(at_sender.unwrap().unwrap().binding(), at_receiver.binding());
}

#[test]
fn a_handshake_reads_no_byte_beyond_its_own() {
    let mut sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    let mut receiver = receiver(shared());
    let mut lengths = Vec::new();
    while sender.wanted() + receiver.wanted() > 0 {
        let said = [sender.take_output(), receiver.take_output()].concat();
        lengths.push(said.len());
        if lengths.len() % 2 == 1 {
            feed(&mut receiver, &said).unwrap();
        } else {
            feed(&mut sender, &said).unwrap();
        }
    }
    assert_eq!(lengths, [10 + 8 + 4, 24, 2 + 48, 2 + 48, 2 + 16]);
}

#[test]
fn another_key_is_refused_and_both_sides_hear_which_keys_differ() {
    for suite in every_suite() {
        let (turned, status) = refused(SenderHandshake::keyed(&edge(), &key(2), suite), shared());
        let expected = format!(
            "sender edge uses key {}, and the key of edge here is {}: both sides need the same key",
            key(2).id(),
            key(1).id()
        );
        assert_eq!((turned, status), (expected, Status::AuthenticationFailed));
    }
}

#[test]
fn a_sender_with_a_key_of_its_own_is_let_in_by_no_other_and_nobody_else_takes_its_id() {
    let own = || {
        let senders = [(edge(), vec![key(5), key(4)])].into();
        Admission { suites: every_suite(), shared: vec![key(1)], senders, ..Admission::default() }
    };
    let admits = |id: &str, number| {
        let sender = SenderHandshake::keyed(&id.parse().unwrap(), &key(number), Suite::Aes256Gcm);
        matches!(play(sender, receiver(own()), &mut unchanged).1, Some(Ok(_)))
    };
    assert!(admits("edge", 5) && admits("edge", 4), "the key, and the one before it");
    assert!(!admits("edge", 1), "the shared key");
    let clear_text = receiver(Admission { plaintext: true, ..own() });
    let outcome = play(SenderHandshake::plain(&edge()), clear_text, &mut unchanged).1;
    assert!(matches!(outcome, Some(Err(Turned::ClearText(_)))), "clear text, though others may use it");
    assert!(admits("other", 1) && !admits("other", 5), "another sender");
}

#[test]
fn without_keys_an_encrypted_sender_is_told_so() {
    let sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Blowfish);
    let (turned, status) = refused(sender, Admission { suites: every_suite(), ..Admission::default() });
    assert_eq!(status, Status::EncryptionNotConfigured);
    assert!(turned.contains("this receiver has none"), "{turned}");
}

#[test]
fn a_cipher_that_is_not_allowed_is_refused_with_those_that_are() {
    let admission = Admission { suites: vec![Suite::Aes256Gcm], ..shared() };
    let (turned, status) = refused(SenderHandshake::keyed(&edge(), &key(1), Suite::Blowfish), admission);
    assert_eq!(status, Status::SuiteNotAllowed);
    assert_eq!(
        turned,
        "sender edge uses the cipher blowfish, which 'ciphers' does not allow; allowed: aes-256-gcm"
    );
}

#[test]
fn clear_text_is_let_in_where_it_was_asked_for_and_from_this_machine_where_no_key_is() {
    let admits = |plaintext, has_key: bool, is_local| {
        let shared = has_key.then(|| key(1)).into_iter().collect();
        let admission = Admission { plaintext, shared, suites: every_suite(), ..Admission::default() };
        let receiver = ReceiverHandshake::new(Arc::new(admission), is_local);
        match play(SenderHandshake::plain(&edge()), receiver, &mut unchanged) {
            (Some(Ok(channel)), Some(Ok(admitted))) => {
                assert!(channel.is_plain() && admitted.channel.is_plain());
                true
            }
            (Some(Err(SenderHandshakeError::Refused(Status::EncryptionRequired))), Some(Err(_))) => false,
            other => panic!("{other:?}"),
        }
    };
    assert!(admits(true, false, false) && admits(true, true, false) && admits(false, false, true));
    assert!(!admits(false, false, false) && !admits(false, true, true) && !admits(false, true, false));
}

#[test]
fn no_flipped_bit_of_any_handshake_message_leads_to_a_channel_on_both_sides() {
    for suite in every_suite() {
        for flipped in 0..5 {
            let mut length = 0;
            let mut bit = 0;
            while bit == 0 || bit < length * 8 {
                let sender = SenderHandshake::keyed(&edge(), &key(1), suite);
                let mut meddle = |number, mut bytes: Vec<u8>| {
                    if number == flipped {
                        length = bytes.len();
                        bytes[bit / 8] ^= 1 << (bit % 8);
                    }
                    bytes
                };
                let (at_sender, at_receiver) = play(sender, receiver(shared()), &mut meddle);
                assert!(!matches!(at_receiver, Some(Ok(_))), "{suite}, message {flipped}, bit {bit}");
                // Only the sender's own last word can be changed without its knowing; it hears nothing after it.
                let is_last = flipped == 4;
                let sender_has_channel = matches!(at_sender, Some(Ok(_)));
                assert_eq!(sender_has_channel, is_last, "{suite}, message {flipped}, bit {bit}");
                bit += 1;
            }
        }
    }
}

#[test]
fn a_mode_that_is_stripped_on_the_way_is_noticed_by_the_sender_also_where_clear_text_is_let_in() {
    let admission = Admission { plaintext: true, ..shared() };
    let sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    let mut strip = |number, bytes: Vec<u8>| {
        if number == 0 { Preface::encode_plain(&edge()) } else { bytes }
    };
    let (at_sender, _) = play(sender, receiver(admission), &mut strip);
    let Some(Err(error)) = at_sender else { panic!("{at_sender:?}") };
    assert!(matches!(
        error,
        SenderHandshakeError::Preface(PrefaceError::ModeChanged { asked: 1, answered: 0 })
    ));
    assert!(error.is_refusal());
}

#[test]
fn another_id_or_a_weaker_cipher_written_in_on_the_way_is_refused() {
    let rewritten = |rewrite: &mut dyn FnMut(&mut Vec<u8>)| {
        let sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
        let mut meddle = |number, mut bytes: Vec<u8>| {
            if number == 0 {
                rewrite(&mut bytes);
            } else if number == 1 {
                bytes[6] = 3; // the reply too, so that the sender sees what it asked for
            }
            bytes
        };
        match play(sender, receiver(shared()), &mut meddle) {
            (
                Some(Err(SenderHandshakeError::Refused(Status::AuthenticationFailed))),
                Some(Err(turned @ Turned::Unproven(_))),
            ) => turned.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let told = rewritten(&mut |bytes| bytes[18..22].copy_from_slice(b"evil"));
    assert!(told.starts_with("sender evil could not prove that it has the key that it names"), "{told}");
    rewritten(&mut |bytes| bytes[6] = 1);
}

/// What a peer is answered that says it is `sender`: in clear text, and with a key that is none of the receiver's.
fn answers(admission: impl Fn() -> Admission, sender: &str) -> Vec<String> {
    let sender: SenderId = sender.parse().unwrap();
    let handshakes =
        [SenderHandshake::plain(&sender), SenderHandshake::keyed(&sender, &key(9), Suite::Aes256Gcm)];
    let outcome = |handshake| match play(handshake, receiver(admission()), &mut unchanged).0 {
        Some(Ok(_)) => "accepted".to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "closed".to_owned(),
    };
    handshakes.map(outcome).into()
}

#[test]
fn known_and_unknown_ids_are_answered_alike() {
    let named = || Admission { senders: [(edge(), vec![key(5)])].into(), shared: Vec::new(), ..shared() };
    let expected = [Status::EncryptionRequired.to_string(), Status::AuthenticationFailed.to_string()];
    for sender in ["edge", "unknown"] {
        assert_eq!(answers(named, sender), expected, "{sender}");
        assert_eq!(answers(shared, sender), expected, "{sender}");
    }
    // Where clear text is let in, the answer shows which ids have keys: SECURITY.md says so.
    let with_clear_text = || Admission { plaintext: true, ..named() };
    assert_eq!(answers(with_clear_text, "edge")[0], expected[0]);
    assert_eq!(answers(with_clear_text, "unknown")[0], "accepted");
}

#[test]
fn a_recorded_handshake_is_worth_nothing_later() {
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
    assert!(matches!(feed(&mut again, &recorded[1]), Err(Turned::Unproven(_))));
    assert_eq!(again.take_output(), [0, 1, 5]);
    assert_eq!(again.wanted(), 0);
}

#[test]
fn a_receiver_that_does_not_have_the_key_is_not_believed() {
    let sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    let mut forge = |number, bytes: Vec<u8>| if number == 3 { frame(&[7; MESSAGE_LEN]) } else { bytes };
    let (at_sender, _) = play(sender, receiver(shared()), &mut forge);
    assert!(matches!(at_sender, Some(Err(SenderHandshakeError::Unproven))));
    let mut sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    feed(&mut sender, &[b"NFR1\0\x01\x03\0".as_slice(), &[7; 16]].concat()).unwrap();
    assert!(feed(&mut sender, &frame(&[7; MESSAGE_LEN])).is_err());
    assert!(sender.finish().is_none(), "not even in clear text");
}

#[test]
fn lengths_that_no_message_has_end_the_handshake_at_once() {
    let mut handshake = receiver(shared());
    let preface = Preface::encode_keyed(&edge(), key(1).id(), Suite::Aes256Gcm);
    feed(&mut handshake, &preface).unwrap();
    assert!(matches!(feed(&mut handshake, &[0xff, 0xff]), Err(Turned::Length(65_535, 48))));
    let mut sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    let reply = [b"NFR1\0\x01\x03\0".as_slice(), &[7; 16]].concat();
    feed(&mut sender, &reply).unwrap();
    sender.take_output();
    assert!(matches!(feed(&mut sender, &[0, 2, 0, 0]), Err(SenderHandshakeError::Length(2))));
}

#[test]
fn strangers_of_any_kind_are_named() {
    for (bytes, foreign) in [(b"GET / HT".as_slice(), Foreign::Http), (b"SSH-2.0-", Foreign::Other)] {
        let mut handshake = receiver(shared());
        let error = feed(&mut handshake, bytes).unwrap_err();
        assert!(matches!(error, Turned::Preface(PrefaceError::Foreign(found)) if found == foreign));
        assert!(handshake.take_output().is_empty());
    }
    let mut sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    let error = feed(&mut sender, b"\x15\x03\x03\x00\x02\x02\x16").unwrap_err();
    assert!(error.to_string().contains("speaks TLS"), "{error}");
}

#[test]
fn a_sender_of_another_version_is_told_so() {
    let mut handshake = receiver(shared());
    assert!(feed(&mut handshake, b"NFR1\x02").is_err());
    assert_eq!(handshake.take_output()[4], 1);
}

#[test]
fn what_a_sender_may_do_follows_the_keys_of_the_moment() {
    let admission = Admission { senders: [(edge(), vec![key(5)])].into(), ..shared() };
    let pass = |number, suite| Pass::Key { id: key(number).id(), suite };
    let other: SenderId = "other".parse().unwrap();
    assert!(admission.still_admits(&edge(), &pass(5, Suite::Blowfish)));
    assert!(!admission.still_admits(&edge(), &pass(1, Suite::Blowfish)));
    assert!(admission.still_admits(&other, &pass(1, Suite::Blowfish)));
    assert!(!admission.still_admits(&other, &Pass::ClearText { is_local: true }));
    let stricter = Admission { suites: vec![Suite::Aes256Gcm], ..admission };
    assert!(!stricter.still_admits(&edge(), &pass(5, Suite::Blowfish)));
}

const LONG: &str = "correct horse battery staple";
const SHORT: &str = "tajne";

fn passphrase(text: &str) -> Passphrase {
    let Secret::Passphrase(passphrase) = Secret::from_text(text).unwrap() else { panic!("a key") };
    passphrase
}

/// A receiver that shares these secrets with everybody.
fn sharing(texts: &[&str]) -> Admission {
    let salt = Salt(*b"sixteen by chanc");
    let shared = texts.iter().map(|text| Secret::from_text(text).unwrap().derive(salt).unwrap()).collect();
    Admission { salt, suites: every_suite(), shared, ..Admission::default() }
}

#[test]
fn a_sender_with_the_passphrase_is_accepted() {
    let sender = passphrase(LONG);
    for suite in every_suite() {
        let handshake = SenderHandshake::with_passphrase(&edge(), &sender, suite);
        let (at_sender, at_receiver) = play(handshake, receiver(sharing(&[LONG])), &mut unchanged);
        assert_eq!(at_sender.unwrap().unwrap().cipher(), suite.name());
        let admitted = at_receiver.unwrap().unwrap();
        assert_eq!((admitted.sender, admitted.channel.cipher()), (edge(), suite.name()));
        assert!(sharing(&[LONG]).still_admits(&edge(), &admitted.pass));
    }
}

#[test]
fn the_previous_passphrase_is_accepted_too() {
    let handshake = SenderHandshake::with_passphrase(&edge(), &passphrase(LONG), Suite::Aes256Gcm);
    let admission = sharing(&["a newer passphrase", LONG]);
    assert!(matches!(play(handshake, receiver(admission), &mut unchanged).1, Some(Ok(_))));
}

#[test]
fn a_short_passphrase_is_accepted_with_blowfish_only() {
    let handshake = |suite| SenderHandshake::with_passphrase(&edge(), &passphrase(SHORT), suite);
    let outcome = play(handshake(Suite::Blowfish), receiver(sharing(&[SHORT])), &mut unchanged).1;
    assert!(matches!(outcome, Some(Ok(_))));
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        let (turned, status) = refused(handshake(suite), sharing(&[SHORT]));
        let expected = format!(
            "sender edge uses a passphrase with the cipher {suite}, and the key of edge here is a short passphrase (for \
             the cipher blowfish only): both sides need the same key"
        );
        assert_eq!((turned, status), (expected, Status::AuthenticationFailed));
    }
}

#[test]
fn another_passphrase_and_a_random_key_are_refused_alike() {
    for admission in [sharing(&["another passphrase"]), shared()] {
        let handshake = SenderHandshake::with_passphrase(&edge(), &passphrase(LONG), Suite::Aes256Gcm);
        assert_eq!(refused(handshake, admission).1, Status::AuthenticationFailed);
    }
    let keyed = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    assert_eq!(refused(keyed, sharing(&[LONG])).1, Status::AuthenticationFailed);
}

#[test]
fn a_key_is_derived_once_for_each_salt() {
    let sender = passphrase(LONG);
    let mut derivations = Vec::new();
    for salt in [Salt([1; 16]), Salt([1; 16]), Salt([2; 16])] {
        let mut handshake = SenderHandshake::with_passphrase(&edge(), &sender, Suite::Aes256Gcm);
        let mode = Mode::Passphrase { suite: 3 };
        feed(&mut handshake, &Status::encode_acceptance(mode, [7; 16], salt)).unwrap();
        let derivation = handshake.take_derivation();
        derivations.push(derivation.is_some());
        if let Some(derivation) = derivation {
            handshake.handle_key(derivation.run()).unwrap();
        }
        handshake.take_output();
        assert_eq!(handshake.wanted(), 2, "message 2 is next");
    }
    assert_eq!(derivations, [true, false, true]);
}

#[test]
fn a_salt_that_was_changed_leads_to_no_channel() {
    for bit in [24 * 8, 40 * 8 - 1] {
        let handshake = SenderHandshake::with_passphrase(&edge(), &passphrase(LONG), Suite::Aes256Gcm);
        let mut flip = |number, mut bytes: Vec<u8>| {
            if number == 1 {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            bytes
        };
        let (at_sender, at_receiver) = play(handshake, receiver(sharing(&[LONG])), &mut flip);
        assert!(matches!(at_sender, Some(Err(_))) && matches!(at_receiver, Some(Err(_))), "bit {bit}");
    }
}

proptest::proptest! {
    #[test]
    fn bytes_of_any_kind_never_lead_to_a_channel(bytes: Vec<u8>, with_magic: bool) {
        let start: &[u8] = if with_magic { b"NFR1\x01\x01\x03\0\x08\x04" } else { b"" };
        let bytes = [start, &bytes].concat();
        crate::secure::fuzz_receiver_handshake(&bytes);
        for mode in [1, 2] {
            let start: &[u8] = if with_magic { &[b'N', b'F', b'R', b'1', 0, mode, 3, 0] } else { b"" };
            crate::secure::fuzz_sender_handshake(&[start, &bytes].concat());
        }
    }
}
