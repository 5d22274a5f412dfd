//! The entries of the fuzzers into this folder: everything that is read before a peer has proven who it is.

use std::sync::Arc;

use crate::secure::admission::Admission;
use crate::secure::handshake::{Handshake, ReceiverHandshake, SenderHandshake};
use crate::secure::{Key, Suite};
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
    let mut handshake = SenderHandshake::keyed(&sender, &key, Suite::Aes256Gcm);
    play(&mut handshake, bytes, 24 + 50);
    assert!(handshake.finish().is_none(), "a peer without the key was taken for a receiver");
}

/// Says `rest`, in pieces whose lengths the bytes themselves choose.
fn play(handshake: &mut impl Handshake, mut rest: &[u8], most: usize) {
    let mut read = 0;
    while let Some(first) = rest.first() {
        handshake.take_output();
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
