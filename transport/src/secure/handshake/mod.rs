//! Mutual authentication with a shared key, and agreement on keys for one connection.
//!
//! Noise `NNpsk0` (<https://noiseprotocol.org/noise.html>, revision 34) after a preface in clear text:
//!
//! | side | bytes | content |
//! |---|---|---|
//! | sender | preface | sender id, mode, suite and, for a key, its id |
//! | receiver | reply | accepted, with a random challenge; for a passphrase with a salt |
//! | sender | length (2), message 1 (48) | `psk, e` |
//! | receiver | length (2), message 2 (48) | `e, ee` |
//! | sender | length (2), record 0 (16) | empty; proves that the handshake is not a replay |
//!
//! Instead of message 2, a receiver that rejects the sender sends the length 1 and a
//! [`ReplyStatus`](crate::secure::preface::ReplyStatus).
//!
//! Preface and reply are the Noise prologue, so a change on the path makes the handshake fail. The challenge
//! makes a recorded message 1 useless. Each side trusts the other only after it has decrypted something that
//! only a holder of the key can have encrypted for this connection: the sender message 2, the receiver record
//! 0.
//!
//! A sender with a certificate starts with TLS instead of a preface, see [`crate::secure::tls`].
//!
//! Both sides are state machines without sockets, which the caller drives through [`Handshake`].

mod claim;
mod receiver;
mod rejection;
mod sender;

pub use receiver::{AcceptedSender, Evidence, ReceiverHandshake};
pub use rejection::HandshakeRejection;
use rustls::{ConnectionCommon, SideData};
pub use sender::{SenderHandshake, SenderHandshakeError};
use snow::params::{
    BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HandshakeModifier, HandshakeModifierList,
    HandshakePattern, HashChoice, NoiseParams,
};
use snow::{Builder, HandshakeState};

use crate::secure::resolver::Resolver;
use crate::secure::{Key, KeyError, Passphrase, Salt, Suite};

/// Length of either handshake message in bytes: a public key and the tag of an empty payload.
const MESSAGE_LEN: usize = 32 + 16;

/// Length in bytes of the record that confirms the key: the tag of an empty payload.
const CONFIRMATION_LEN: usize = 16;

/// A key derivation that a handshake waits for. It is slow, so the caller runs it on a thread that may block.
#[derive(Debug)]
pub struct Derivation {
    passphrase: Passphrase,
    salt: Salt,
}

impl Derivation {
    /// Derives the key.
    pub fn run(self) -> Result<Key, KeyError> {
        self.passphrase.derive(self.salt)
    }
}

/// One side of a handshake. The caller writes all output before it reads more input, also after an error.
pub trait Handshake {
    /// Result of a successful handshake.
    type Outcome;
    /// Reason of a failed handshake.
    type Error;

    /// Returns the bytes to write now; empty if there are none.
    fn take_output(&mut self) -> Vec<u8>;

    /// Returns the derivation that the handshake waits for. The caller passes its result to
    /// [`Self::handle_key`].
    fn take_derivation(&mut self) -> Option<Derivation> {
        None
    }

    /// Accepts the result of the derivation.
    fn handle_key(&mut self, _key: Result<Key, KeyError>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Most bytes that may be read now; 0 when the handshake is done.
    fn wanted(&self) -> usize;

    /// Processes bytes that were read, at most [`Self::wanted`]. After an error the handshake is over.
    fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Returns the result when [`Self::wanted`] is 0; `None` if the handshake did not succeed.
    fn finish(self) -> Option<Self::Outcome>;
}

/// Noise parameters of a suite. The cipher is a placeholder, because the resolver uses the cipher of its
/// suite.
fn params(suite: Suite) -> NoiseParams {
    let modifiers = HandshakeModifierList { list: vec![HandshakeModifier::Psk(0)] };
    NoiseParams::new(
        suite.protocol().to_owned(),
        BaseChoice::Noise,
        HandshakeChoice { pattern: HandshakePattern::NN, modifiers },
        DHChoice::Curve25519,
        CipherChoice::ChaChaPoly,
        HashChoice::SHA256,
    )
}

fn initiator(suite: Suite, key: &Key, prologue: &[u8]) -> Result<HandshakeState, snow::Error> {
    builder(suite).psk(0, key.bytes())?.prologue(prologue)?.build_initiator()
}

fn responder(suite: Suite, key: &Key, prologue: &[u8]) -> Result<HandshakeState, snow::Error> {
    builder(suite).psk(0, key.bytes())?.prologue(prologue)?.build_responder()
}

fn builder(suite: Suite) -> Builder<'static> {
    Builder::with_resolver(params(suite), Box::new(Resolver(suite)))
}

/// Writes the next handshake message with an empty payload and its length in front.
fn framed(state: &mut HandshakeState) -> Result<Vec<u8>, snow::Error> {
    let mut message = [0; MESSAGE_LEN];
    let length = state.write_message(&[], &mut message)?;
    Ok(frame(message.get(..length).unwrap_or_default()))
}

/// Puts the length in front of `message`.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [length.to_be_bytes().as_slice(), message].concat()
}

/// Number of bytes that a frame in `input` still lacks; `Err` with its length if that exceeds `longest`.
fn missing_of_frame(input: &[u8], longest: usize) -> Result<usize, usize> {
    let Some(length) = input.first_chunk() else { return Ok(2 - input.len()) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > longest { Err(length) } else { Ok((2 + length).saturating_sub(input.len())) }
}

/// Most bytes that a TLS handshake reads at once.
const TLS_READ: usize = 4096;

/// Appends the pending TLS messages to `output`.
fn tls_output(connection: &mut ConnectionCommon<impl SideData>, output: &mut Vec<u8>) {
    // Writing to memory never fails, so the loop ends.
    while connection.wants_write() && connection.write_tls(output).is_ok() {}
}

/// Passes `bytes` to TLS.
fn tls_input(connection: &mut ConnectionCommon<impl SideData>, mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).map_err(|error| error.to_string())?;
        connection.process_new_packets().map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
pub(in crate::secure) mod tests;
