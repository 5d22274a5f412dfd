//! Handshakes with keys that are derived from passphrases.

use super::*;
use crate::secure::preface::Mode;
use crate::secure::{Passphrase, Salt, Secret};

const LONG: &str = "correct horse battery staple";
const SHORT: &str = "tajne";

fn passphrase(text: &str) -> Passphrase {
    let Secret::Passphrase(passphrase) = Secret::from_text(text).unwrap() else { panic!("a key") };
    passphrase
}

/// Policy of a receiver with these shared secrets.
fn sharing(texts: &[&str]) -> AccessPolicy {
    let salt = Salt(*b"sixteen by chanc");
    let shared = texts.iter().map(|text| Secret::from_text(text).unwrap().derive(salt).unwrap()).collect();
    AccessPolicy { salt, suites: every_suite(), shared, ..AccessPolicy::default() }
}

#[test]
fn a_sender_with_the_passphrase_is_accepted() {
    let sender = passphrase(LONG);
    for suite in every_suite() {
        let handshake = SenderHandshake::with_passphrase(&edge(), &sender, suite);
        let (at_sender, at_receiver) = play(handshake, receiver(sharing(&[LONG])), &mut unchanged);
        assert_eq!(at_sender.unwrap().unwrap().cipher(), suite.name());
        let accepted = at_receiver.unwrap().unwrap();
        assert_eq!((accepted.sender, accepted.channel.cipher()), (edge(), suite.name()));
        assert!(sharing(&[LONG]).still_accepts(&edge(), &accepted.credential));
    }
}

#[test]
fn the_previous_passphrase_is_accepted_too() {
    let handshake = SenderHandshake::with_passphrase(&edge(), &passphrase(LONG), Suite::Aes256Gcm);
    let policy = sharing(&["a newer passphrase", LONG]);
    assert!(matches!(play(handshake, receiver(policy), &mut unchanged).1, Some(Ok(_))));
}

#[test]
fn a_short_passphrase_is_accepted_with_blowfish_only() {
    let handshake = |suite| SenderHandshake::with_passphrase(&edge(), &passphrase(SHORT), suite);
    let outcome = play(handshake(Suite::Blowfish), receiver(sharing(&[SHORT])), &mut unchanged).1;
    assert!(matches!(outcome, Some(Ok(_))));
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        let (rejection, status) = rejected(handshake(suite), sharing(&[SHORT]));
        let expected = format!(
            "sender edge uses a passphrase with the cipher {suite}, and the key of edge here is a short \
             passphrase (for the cipher blowfish only): both sides need the same key"
        );
        assert_eq!((rejection, status), (expected, ReplyStatus::AuthenticationFailed));
    }
}

#[test]
fn wrong_passphrases_and_keys_get_the_same_reply() {
    for policy in [sharing(&["another passphrase"]), shared()] {
        let handshake = SenderHandshake::with_passphrase(&edge(), &passphrase(LONG), Suite::Aes256Gcm);
        assert_eq!(rejected(handshake, policy).1, ReplyStatus::AuthenticationFailed);
    }
    let keyed = SenderHandshake::keyed(&edge(), &key(1), Suite::Aes256Gcm);
    assert_eq!(rejected(keyed, sharing(&[LONG])).1, ReplyStatus::AuthenticationFailed);
}

#[test]
fn a_key_is_derived_once_for_each_salt() {
    let sender = passphrase(LONG);
    let mut derivations = Vec::new();
    for salt in [Salt([1; 16]), Salt([1; 16]), Salt([2; 16])] {
        let mut handshake = SenderHandshake::with_passphrase(&edge(), &sender, Suite::Aes256Gcm);
        let mode = Mode::Passphrase { suite: 3 };
        feed(&mut handshake, &ReplyStatus::encode_acceptance(mode, [7; 16], salt)).unwrap();
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
fn a_changed_salt_fails_the_handshake() {
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
