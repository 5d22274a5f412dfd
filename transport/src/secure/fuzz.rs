//! Fuzzing entries for all input from unauthenticated peers and for tampered channels.

use std::sync::Arc;

use crate::secure::access_policy::AccessPolicy;
use crate::secure::handshake::{Handshake, ReceiverHandshake, SenderHandshake};
use crate::secure::{Channel, Key, Secret, Suite};
use crate::sequence::SenderId;

/// Sends arbitrary `bytes` to the handshake of a receiver with a secret key.
///
/// # Panics
///
/// If the peer is accepted, or if the receiver reads more bytes than a handshake has.
pub fn fuzz_receiver_handshake(bytes: &[u8]) {
    let shared = Key::generate().into_iter().collect();
    let suites = Suite::NAMED.map(|(_, suite)| suite).into();
    let policy = AccessPolicy { suites, shared, ..AccessPolicy::default() };
    let mut handshake = ReceiverHandshake::new(Arc::new(policy), true);
    play(&mut handshake, bytes, 138 + 50);
    assert!(handshake.finish().is_none(), "a peer without the key was accepted");
}

/// Sends arbitrary `bytes` to the handshake of a sender with a secret key.
///
/// # Panics
///
/// If the peer is accepted as a receiver, or if the sender reads more bytes than a handshake has.
pub fn fuzz_sender_handshake(bytes: &[u8]) {
    let (Ok(key), Ok(sender)) = (Key::generate(), "edge".parse::<SenderId>()) else { return };
    let Ok(Secret::Passphrase(passphrase)) = Secret::from_text("of the fuzzers alone") else { return };
    for mut handshake in [
        SenderHandshake::keyed(&sender, &key, Suite::Aes256Gcm),
        SenderHandshake::with_passphrase(&sender, &passphrase, Suite::Aes256Gcm),
    ] {
        play(&mut handshake, bytes, 24 + 16 + 50);
        assert!(handshake.finish().is_none(), "a peer without the key was accepted as a receiver");
    }
}

/// Opens arbitrary `bytes` as records of an encrypted channel. The first byte chooses the cipher.
///
/// # Panics
///
/// If the channel accepts a record that the other side did not seal.
pub fn fuzz_channel(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let suite = Suite::NAMED.get(usize::from(*first) % Suite::NAMED.len());
    let Some(mut channel) = suite.and_then(|(_, suite)| receiving_channel(*suite)) else { return };
    let mut opened = 0;
    let outcome = channel.open(bytes, &mut |plain| opened += plain.len());
    assert_eq!(opened, 0, "a record that nobody sealed was opened: {outcome:?}");
}

/// A receiver's channel whose sender sends nothing; `None` if the system provides no randomness.
fn receiving_channel(suite: Suite) -> Option<Channel> {
    let key = Key::generate().ok()?;
    let mut sender = SenderHandshake::keyed(&"edge".parse().ok()?, &key, suite);
    let policy = AccessPolicy { suites: vec![suite], shared: vec![key], ..AccessPolicy::default() };
    let mut receiver = ReceiverHandshake::new(Arc::new(policy), false);
    transfer(&mut sender, &mut receiver)?;
    transfer(&mut receiver, &mut sender)?;
    transfer(&mut sender, &mut receiver)?;
    transfer(&mut receiver, &mut sender)?;
    transfer(&mut sender, &mut receiver)?;
    receiver.finish().map(|accepted| accepted.channel)
}

/// Passes the output of one side of a handshake to the other.
fn transfer(from: &mut impl Handshake, to: &mut impl Handshake) -> Option<()> {
    let output = from.take_output();
    let mut rest = output.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(to.wanted().min(rest.len()));
        if now.is_empty() {
            return None;
        }
        to.handle_bytes(now).ok()?;
        rest = later;
    }
    Some(())
}

/// Sends `rest` in pieces. The bytes themselves choose the lengths of the pieces.
fn play(handshake: &mut impl Handshake, mut rest: &[u8], most: usize) {
    let mut read = 0;
    while let Some(first) = rest.first() {
        handshake.take_output();
        // A real derivation would take most of the time, and the result does not matter here.
        if handshake.take_derivation().is_some() {
            handshake.handle_key(Key::generate()).ok();
            continue;
        }
        let wanted = handshake.wanted();
        if wanted == 0 {
            return;
        }
        let piece = usize::from(*first).clamp(1, wanted.min(rest.len()));
        let (now, later) = rest.split_at(piece);
        read += piece;
        assert!(read <= most, "more bytes are read than a handshake has");
        if handshake.handle_bytes(now).is_err() {
            return;
        }
        rest = later;
    }
}
