//! How two sides that share a key prove it to each other, and agree on keys for this connection alone.
//!
//! Noise `NNpsk0` (<https://noiseprotocol.org/noise.html>, revision 34) after a preface in clear text:
//!
//! | | bytes | |
//! |---|---|---|
//! | sender | preface | who it is, which key and suite; or that it has a passphrase |
//! | receiver | reply | accepted, with a challenge made by chance; for a passphrase with a salt |
//! | sender | length (2), message 1 (48) | `psk, e` |
//! | receiver | length (2), message 2 (48) | `e, ee`; or length 1 and a [`Status`](crate::secure::preface::Status): refused |
//! | sender | length (2), record 0 (16) | empty; proves that it is no replay |
//!
//! Preface and reply are the prologue, so nothing in them can be changed on the way. The challenge makes every message
//! 1 that was recorded worthless. Neither side trusts the other before it has opened something that only a holder of
//! the key can have sealed for this very connection: the sender with message 2, the receiver with record 0.
//!
//! A sender with a certificate begins with TLS instead of a preface; see [`crate::secure::tls`].
//!
//! Both sides are machines without sockets: [`Handshake`] says how they are driven.

mod receiver;
mod sender;

pub use receiver::{Admitted, ReceiverHandshake, Shown, Turned};
use rustls::{ConnectionCommon, SideData};
pub use sender::{SenderHandshake, SenderHandshakeError};
use snow::params::{
    BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HandshakeModifier, HandshakeModifierList,
    HandshakePattern, HashChoice, NoiseParams,
};
use snow::{Builder, HandshakeState};

use crate::secure::resolver::Resolver;
use crate::secure::{Key, KeyError, Passphrase, Salt, Suite};

/// Bytes of either handshake message: a public key and the tag of an empty payload.
const MESSAGE_LEN: usize = 32 + 16;

/// Bytes of the record that confirms the key: the tag of an empty payload.
const CONFIRMATION_LEN: usize = 16;

/// The derivation of a key that a handshake waits for. It is slow, so the caller runs it where it blocks nothing.
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

/// One side of a handshake. What it has to say is written before anything more is read, also after an error.
pub trait Handshake {
    /// What a good end gives.
    type Outcome;
    /// What a bad end gives.
    type Error;

    /// What is to be written now; empty if nothing is.
    fn take_output(&mut self) -> Vec<u8>;

    /// The derivation that the handshake waits for, once; its result goes to [`Self::handle_key`].
    fn take_derivation(&mut self) -> Option<Derivation> {
        None
    }

    /// Accepts the result of the derivation.
    fn handle_key(&mut self, _key: Result<Key, KeyError>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// How many bytes may be read at the most; 0 once the handshake is done.
    fn wanted(&self) -> usize;

    /// Takes in what was read, not more than [`Self::wanted`]. After an error the handshake is over.
    fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// What it came to, once nothing is wanted any more.
    fn finish(self) -> Option<Self::Outcome>;
}

/// The protocol of this suite. Its cipher is a placeholder: the resolver knows the suite's own.
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

/// The next handshake message with an empty payload, behind its length.
fn framed(state: &mut HandshakeState) -> Result<Vec<u8>, snow::Error> {
    let mut message = [0; MESSAGE_LEN];
    let length = state.write_message(&[], &mut message)?;
    Ok(frame(message.get(..length).unwrap_or_default()))
}

/// `message` behind its length.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [length.to_be_bytes().as_slice(), message].concat()
}

/// How many bytes are missing until a frame is whole whose message may have as many bytes as `longest`; `Err` if its
/// length says more.
fn missing_of_frame(input: &[u8], longest: usize) -> Result<usize, usize> {
    let Some(length) = input.first_chunk() else { return Ok(2 - input.len()) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > longest { Err(length) } else { Ok((2 + length).saturating_sub(input.len())) }
}

/// Bytes that a TLS handshake reads at once.
const TLS_READ: usize = 4096;

/// Appends to `output` what TLS has to say.
fn tls_output(connection: &mut ConnectionCommon<impl SideData>, output: &mut Vec<u8>) {
    // Writing to memory never fails, so this ends.
    while connection.wants_write() && connection.write_tls(output).is_ok() {}
}

/// Hands `bytes` to TLS.
fn tls_input(connection: &mut ConnectionCommon<impl SideData>, mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).map_err(|error| error.to_string())?;
        connection.process_new_packets().map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
pub(in crate::secure) mod tests;
