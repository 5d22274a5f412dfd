mod passphrases;
mod tampering;

use std::collections::HashSet;
use std::sync::Arc;

use super::*;
use crate::secure::access_policy::{AccessPolicy, Credential};
use crate::secure::channel::{Channel, ChannelBinding};
use crate::secure::preface::{Foreign, Preface, PrefaceError, ReplyStatus};
use crate::sequence::SenderId;

fn edge() -> SenderId {
    "edge".parse().unwrap()
}

/// A fixed key for each number.
fn key(number: u8) -> Key {
    Key::from_text(&format!("{number:02x}").repeat(32)).unwrap()
}

fn every_suite() -> Vec<Suite> {
    Suite::NAMED.map(|(_, suite)| suite).into()
}

/// Policy of a receiver with the shared key 1.
fn shared() -> AccessPolicy {
    AccessPolicy { suites: every_suite(), shared: vec![key(1)], ..AccessPolicy::default() }
}

fn receiver(policy: AccessPolicy) -> ReceiverHandshake {
    ReceiverHandshake::new(Arc::new(policy), false)
}

/// Changes the messages on the path. Its arguments are the number of the message, counted for both sides
/// together, and the message.
pub(in crate::secure) type Tamper<'m> = &'m mut dyn FnMut(usize, Vec<u8>) -> Vec<u8>;

/// Outcome of a handshake at the sender and the receiver; `None` if bytes are missing.
pub(in crate::secure) type Outcomes =
    (Option<Result<Channel, SenderHandshakeError>>, Option<Result<AcceptedSender, HandshakeRejection>>);

/// Runs both sides until neither has output, and lets `tamper` change the messages.
pub(in crate::secure) fn play(
    mut sender: SenderHandshake,
    mut receiver: ReceiverHandshake,
    tamper: Tamper<'_>,
) -> Outcomes {
    let (mut sender_error, mut receiver_error) = (None, None);
    for round in 0.. {
        let to_receiver = sender.take_output();
        if to_receiver.is_empty() {
            break;
        }
        receiver_error = feed(&mut receiver, &tamper(2 * round, to_receiver)).err();
        let to_sender = receiver.take_output();
        if to_sender.is_empty() {
            break;
        }
        sender_error = feed(&mut sender, &tamper(2 * round + 1, to_sender)).err();
        if let Some(derivation) = sender.take_derivation() {
            sender_error = sender.handle_key(derivation.run()).err();
        }
    }
    let at_sender = sender_error.map(Err).or_else(|| sender.finish().map(Ok));
    (at_sender, receiver_error.map(Err).or_else(|| receiver.finish().map(Ok)))
}

/// Passes as many of the `bytes` as are wanted, one by one. Discards the rest.
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
    let (Some(Ok(channel)), Some(Ok(accepted))) = play(sender, receiver(shared()), &mut unchanged) else {
        panic!("the handshake failed");
    };
    (channel, accepted.channel)
}

/// Reason in the log of the receiver, and status that the rejected sender receives.
fn rejected(sender: SenderHandshake, policy: AccessPolicy) -> (String, ReplyStatus) {
    match play(sender, receiver(policy), &mut unchanged) {
        (Some(Err(SenderHandshakeError::Rejected(status))), Some(Err(rejection))) => {
            (rejection.to_string(), status)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_right_key_is_accepted_with_every_suite() {
    for suite in every_suite() {
        let sender = SenderHandshake::keyed(&edge(), &key(1), suite);
        let (at_sender, at_receiver) = play(sender, receiver(shared()), &mut unchanged);
        assert_eq!(at_sender.unwrap().unwrap().cipher(), suite.name());
        let accepted = at_receiver.unwrap().unwrap();
        assert_eq!((accepted.sender, accepted.channel.cipher()), (edge(), suite.name()));
        assert_eq!(accepted.credential, Credential::Key { id: key(1).id(), suite });
    }
}

/// Bindings of both ends of a connection.
pub(in crate::secure) fn bindings(
    sender: SenderHandshake,
    receiver: ReceiverHandshake,
) -> (ChannelBinding, ChannelBinding) {
    match play(sender, receiver, &mut unchanged) {
        (Some(Ok(channel)), Some(Ok(accepted))) => {
            (channel.binding().unwrap(), accepted.channel.binding().unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_connection_has_its_own_binding() {
    let clear_text = || AccessPolicy { plaintext: true, ..AccessPolicy::default() };
    let plain = || bindings(SenderHandshake::plain(&edge()), receiver(clear_text()));
    let keyed = |suite| bindings(SenderHandshake::keyed(&edge(), &key(1), suite), receiver(shared()));
    let mut all = vec![plain(), plain()];
    all.extend(every_suite().into_iter().flat_map(|suite| [keyed(suite), keyed(suite)]));
    let different: HashSet<_> = all.iter().map(|(at_sender, _)| at_sender.0).collect();
    assert_eq!(different.len(), all.len());
    assert!(all.iter().all(|(at_sender, at_receiver)| at_sender == at_receiver), "{all:?}");
}

#[test]
fn a_changed_reply_changes_the_binding() {
    let policy = AccessPolicy { plaintext: true, ..AccessPolicy::default() };
    let mut tamper = |message: usize, mut bytes: Vec<u8>| {
        if message == 1 {
            *bytes.last_mut().unwrap() ^= 1;
        }
        bytes
    };
    let (at_sender, at_receiver) = play(SenderHandshake::plain(&edge()), receiver(policy), &mut tamper);
    let at_receiver = at_receiver.unwrap().unwrap().channel;
    assert_ne!(at_sender.unwrap().unwrap().binding(), at_receiver.binding());
}

#[test]
fn a_handshake_reads_only_its_own_bytes() {
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
fn a_wrong_key_is_reported_with_both_key_ids() {
    for suite in every_suite() {
        let (rejection, status) = rejected(SenderHandshake::keyed(&edge(), &key(2), suite), shared());
        let expected = format!(
            "sender edge uses key {}, and the key of edge here is {}: both sides need the same key",
            key(2).id(),
            key(1).id()
        );
        assert_eq!((rejection, status), (expected, ReplyStatus::AuthenticationFailed));
    }
}

#[test]
fn only_its_own_keys_authenticate_a_sender() {
    let own = || {
        let senders = [(edge(), vec![key(5), key(4)])].into();
        AccessPolicy { suites: every_suite(), shared: vec![key(1)], senders, ..AccessPolicy::default() }
    };
    let accepts = |id: &str, number| {
        let sender = SenderHandshake::keyed(&id.parse().unwrap(), &key(number), Suite::Aes256Gcm);
        matches!(play(sender, receiver(own()), &mut unchanged).1, Some(Ok(_)))
    };
    assert!(accepts("edge", 5) && accepts("edge", 4), "the current and the previous key");
    assert!(!accepts("edge", 1), "the shared key");
    let clear_text = receiver(AccessPolicy { plaintext: true, ..own() });
    let outcome = play(SenderHandshake::plain(&edge()), clear_text, &mut unchanged).1;
    assert!(
        matches!(outcome, Some(Err(HandshakeRejection::ClearText(_)))),
        "clear text, although other senders may use it"
    );
    assert!(accepts("other", 1) && !accepts("other", 5), "another sender");
}

#[test]
fn a_receiver_without_keys_reports_it() {
    let sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Blowfish);
    let (rejection, status) =
        rejected(sender, AccessPolicy { suites: every_suite(), ..AccessPolicy::default() });
    assert_eq!(status, ReplyStatus::EncryptionNotConfigured);
    assert!(rejection.contains("this receiver has none"), "{rejection}");
}

#[test]
fn a_rejected_cipher_names_the_allowed_ones() {
    let policy = AccessPolicy { suites: vec![Suite::Aes256Gcm], ..shared() };
    let (rejection, status) = rejected(SenderHandshake::keyed(&edge(), &key(1), Suite::Blowfish), policy);
    assert_eq!(status, ReplyStatus::SuiteNotAllowed);
    assert_eq!(
        rejection,
        "sender edge uses the cipher blowfish, which 'ciphers' does not allow; allowed: aes-256-gcm"
    );
}

#[test]
fn clear_text_needs_plaintext_or_a_keyless_host() {
    let accepts = |plaintext, has_key: bool, is_local| {
        let shared = has_key.then(|| key(1)).into_iter().collect();
        let policy = AccessPolicy { plaintext, shared, suites: every_suite(), ..AccessPolicy::default() };
        let receiver = ReceiverHandshake::new(Arc::new(policy), is_local);
        match play(SenderHandshake::plain(&edge()), receiver, &mut unchanged) {
            (Some(Ok(channel)), Some(Ok(accepted))) => {
                assert!(channel.is_plain() && accepted.channel.is_plain());
                true
            }
            (Some(Err(SenderHandshakeError::Rejected(ReplyStatus::EncryptionRequired))), Some(Err(_))) => {
                false
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(accepts(true, false, false) && accepts(true, true, false) && accepts(false, false, true));
    assert!(!accepts(false, false, false) && !accepts(false, true, true) && !accepts(false, true, false));
}

/// Answers to a peer that claims to be `sender`: in clear text, and with an unknown key.
fn answers(policy: impl Fn() -> AccessPolicy, sender: &str) -> Vec<String> {
    let sender: SenderId = sender.parse().unwrap();
    let handshakes =
        [SenderHandshake::plain(&sender), SenderHandshake::keyed(&sender, &key(9), Suite::Aes256Gcm)];
    let outcome = |handshake| match play(handshake, receiver(policy()), &mut unchanged).0 {
        Some(Ok(_)) => "accepted".to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "closed".to_owned(),
    };
    handshakes.map(outcome).into()
}

#[test]
fn known_and_unknown_ids_get_the_same_answer() {
    let named = || AccessPolicy { senders: [(edge(), vec![key(5)])].into(), shared: Vec::new(), ..shared() };
    let expected =
        [ReplyStatus::EncryptionRequired.to_string(), ReplyStatus::AuthenticationFailed.to_string()];
    for sender in ["edge", "unknown"] {
        assert_eq!(answers(named, sender), expected, "{sender}");
        assert_eq!(answers(shared, sender), expected, "{sender}");
    }
    // With clear text, the answer reveals which ids have keys. SECURITY.md documents this.
    let with_clear_text = || AccessPolicy { plaintext: true, ..named() };
    assert_eq!(answers(with_clear_text, "edge")[0], expected[0]);
    assert_eq!(answers(with_clear_text, "unknown")[0], "accepted");
}

#[test]
fn a_receiver_without_the_key_is_rejected() {
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
fn invalid_lengths_end_the_handshake() {
    let mut handshake = receiver(shared());
    let preface = Preface::encode_keyed(&edge(), key(1).id(), Suite::Aes256Gcm);
    feed(&mut handshake, &preface).unwrap();
    assert!(matches!(feed(&mut handshake, &[0xff, 0xff]), Err(HandshakeRejection::Length(65_535, 48))));
    let mut sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    let reply = [b"NFR1\0\x01\x03\0".as_slice(), &[7; 16]].concat();
    feed(&mut sender, &reply).unwrap();
    sender.take_output();
    assert!(matches!(feed(&mut sender, &[0, 2, 0, 0]), Err(SenderHandshakeError::Length(2))));
}

#[test]
fn foreign_protocols_are_named() {
    for (bytes, foreign) in [(b"GET / HT".as_slice(), Foreign::Http), (b"SSH-2.0-", Foreign::Other)] {
        let mut handshake = receiver(shared());
        let error = feed(&mut handshake, bytes).unwrap_err();
        assert!(
            matches!(error, HandshakeRejection::Preface(PrefaceError::Foreign(found)) if found == foreign)
        );
        assert!(handshake.take_output().is_empty());
    }
    let mut sender = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    let error = feed(&mut sender, b"\x15\x03\x03\x00\x02\x02\x16").unwrap_err();
    assert!(error.to_string().contains("uses TLS"), "{error}");
}

#[test]
fn another_version_gets_a_reply() {
    let mut handshake = receiver(shared());
    assert!(feed(&mut handshake, b"NFR1\x02").is_err());
    assert_eq!(handshake.take_output()[4], 1);
}

#[test]
fn accepted_credentials_follow_the_current_policy() {
    let policy = AccessPolicy { senders: [(edge(), vec![key(5)])].into(), ..shared() };
    let credential = |number, suite| Credential::Key { id: key(number).id(), suite };
    let other: SenderId = "other".parse().unwrap();
    assert!(policy.still_accepts(&edge(), &credential(5, Suite::Blowfish)));
    assert!(!policy.still_accepts(&edge(), &credential(1, Suite::Blowfish)));
    assert!(policy.still_accepts(&other, &credential(1, Suite::Blowfish)));
    assert!(!policy.still_accepts(&other, &Credential::ClearText { is_local: true }));
    let stricter = AccessPolicy { suites: vec![Suite::Aes256Gcm], ..policy };
    assert!(!stricter.still_accepts(&edge(), &credential(5, Suite::Blowfish)));
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_lead_to_a_channel(bytes: Vec<u8>, with_magic: bool) {
        let start: &[u8] = if with_magic { b"NFR1\x01\x01\x03\0\x08\x04" } else { b"" };
        let bytes = [start, &bytes].concat();
        crate::secure::fuzz_receiver_handshake(&bytes);
        for mode in [1, 2] {
            let start: &[u8] = if with_magic { &[b'N', b'F', b'R', b'1', 0, mode, 3, 0] } else { b"" };
            crate::secure::fuzz_sender_handshake(&[start, &bytes].concat());
        }
    }
}
