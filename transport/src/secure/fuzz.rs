//! The entries of the fuzzers into this folder: everything that is read before a peer has proven who it is, and what comes
//! over a channel that somebody on the way changes.

use std::sync::Arc;

use crate::secure::admission::Admission;
use crate::secure::handshake::{Handshake, ReceiverHandshake, SenderHandshake};
use crate::secure::{Channel, Key, Secret, Suite};
use crate::sequence::SenderId;

/// Plays a peer that says `bytes`, whatever they are, to a receiver with a key that nobody knows.
///
/// # Panics
///
/// If the peer is let in, or the receiver reads on without an end.
pub fn fuzz_receiver_handshake(bytes: &[u8]) {
    let shared = Key::generate().into_iter().collect();
    let suites = Suite::NAMED.map(|(_, suite)| suite).into();
    let admission = Admission { suites, shared, ..Admission::default() };
    let mut handshake = ReceiverHandshake::new(Arc::new(admission), true);
    play(&mut handshake, bytes, 138 + 50);
    assert!(handshake.finish().is_none(), "a peer without the key was let in");
}

/// Plays a peer that says `bytes`, whatever they are, to a sender with a key that nobody knows.
///
/// # Panics
///
/// If the peer is taken for a receiver, or the sender reads on without an end.
pub fn fuzz_sender_handshake(bytes: &[u8]) {
    let (Ok(key), Ok(sender)) = (Key::generate(), "edge".parse::<SenderId>()) else { return };
    let Ok(Secret::Passphrase(passphrase)) = Secret::from_text("of the fuzzers alone") else { return };
    for mut handshake in [
        SenderHandshake::keyed(&sender, &key, Suite::Aes256Gcm),
        SenderHandshake::with_passphrase(&sender, &passphrase, Suite::Aes256Gcm),
    ] {
        play(&mut handshake, bytes, 24 + 16 + 50);
        assert!(handshake.finish().is_none(), "a peer without the key was taken for a receiver");
    }
}

/// Takes `bytes`, whatever they are, for what came over an encrypted channel. The first of them chooses the cipher.
///
/// # Panics
///
/// If the channel takes something for what the other side sealed.
pub fn fuzz_channel(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let suite = Suite::NAMED.get(usize::from(*first) % Suite::NAMED.len());
    let Some(mut channel) = suite.and_then(|(_, suite)| receiving_channel(*suite)) else { return };
    let mut opened = 0;
    let outcome = channel.open(bytes, &mut |plain| opened += plain.len());
    assert_eq!(opened, 0, "what nobody sealed was opened: {outcome:?}");
}

/// A receiver's channel with a sender that says nothing on it; `None` if the system gives no randomness.
fn receiving_channel(suite: Suite) -> Option<Channel> {
    let key = Key::generate().ok()?;
    let mut sender = SenderHandshake::keyed(&"edge".parse().ok()?, &key, suite);
    let admission = Admission { suites: vec![suite], shared: vec![key], ..Admission::default() };
    let mut receiver = ReceiverHandshake::new(Arc::new(admission), false);
    pass(&mut sender, &mut receiver)?;
    pass(&mut receiver, &mut sender)?;
    pass(&mut sender, &mut receiver)?;
    pass(&mut receiver, &mut sender)?;
    pass(&mut sender, &mut receiver)?;
    receiver.finish().map(|admitted| admitted.channel)
}

/// Hands what one side of a handshake says to the other.
fn pass(from: &mut impl Handshake, to: &mut impl Handshake) -> Option<()> {
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

/// Says `rest`, in pieces whose lengths the bytes themselves choose.
fn play(handshake: &mut impl Handshake, mut rest: &[u8], most: usize) {
    let mut read = 0;
    while let Some(first) = rest.first() {
        handshake.take_output();
        // A real derivation would take most of the time, and its key does not matter here.
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
        assert!(read <= most, "more is read than a handshake has");
        if handshake.handle_bytes(now).is_err() {
            return;
        }
        rest = later;
    }
}
