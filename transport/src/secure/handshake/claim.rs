//! The identity that a peer claims in its preface, and the keys that can prove it.

use snow::HandshakeState;

use crate::secure::handshake::{HandshakeRejection, responder};
use crate::secure::{Key, Strength, Suite};
use crate::sequence::SenderId;

/// Sender id claimed in a preface, and the keys with which the peer may authenticate it.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) sender: SenderId,
    pub(super) suite: Suite,
    /// Kind or id of the peer's key, as stated in the preface.
    pub(super) offered: String,
    /// The key that the preface names, if the sender has it; or all keys derived from passphrases.
    pub(super) keys: Vec<Key>,
}

impl Claim {
    /// Decrypts message 1 with the first matching key.
    ///
    /// Without any key it tries a random one, so that an unknown sender gets the same answer as one with a
    /// wrong key.
    pub(super) fn open(
        &self,
        prologue: &[u8],
        message: &[u8],
    ) -> Result<Option<(Option<Key>, HandshakeState)>, HandshakeRejection> {
        let unknown = Key::generate().map_err(|_| HandshakeRejection::System)?;
        let candidates = self.keys.iter().map(Some).chain(self.keys.is_empty().then_some(None));
        for key in candidates {
            let mut state = responder(self.suite, key.unwrap_or(&unknown), prologue)
                .map_err(|_| HandshakeRejection::System)?;
            if state.read_message(message, &mut []).is_ok() {
                return Ok(Some((key.cloned(), state)));
            }
        }
        Ok(None)
    }
}

/// Name of a key in messages: its id, or the kind of passphrase, because the id of a derived key depends on
/// the salt.
pub(super) fn key_name(key: &Key) -> String {
    match key.strength() {
        Strength::Random => key.id().to_string(),
        derived => derived.name().to_owned(),
    }
}
