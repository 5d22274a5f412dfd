//! Reasons why a receiver rejects a peer during the handshake.

use crate::secure::preface::PrefaceError;
use crate::sequence::SenderId;

/// Reason why a receiver rejected a peer.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeRejection {
    /// The first bytes are invalid.
    #[error("{0}")]
    Preface(#[from] PrefaceError),
    /// The sender requests clear text, which the policy does not allow.
    #[error(
        "sender {0} uses clear text, which is not accepted from there: invite it (nf-receiver invite {0}), \
         give both sides the same key, or start with --plaintext"
    )]
    ClearText(SenderId),
    /// The sender requests encryption, but the receiver has no key.
    #[error(
        "sender {0} uses a key and this receiver has none: give it the same key, or invite it \
         (nf-receiver invite {0})"
    )]
    NoKeys(SenderId),
    /// The sender requests a mode that this version does not define.
    #[error("sender {sender} requests the unknown mode {mode} of the protocol: update the older side")]
    Mode {
        /// Claimed id of the sender.
        sender: SenderId,
        /// Requested mode.
        mode: u8,
    },
    /// The policy does not allow the sender's cipher suite.
    #[error("sender {sender} uses the cipher {suite}, which 'ciphers' does not allow; allowed: {allowed}")]
    SuiteNotAllowed {
        /// Claimed id of the sender.
        sender: SenderId,
        /// Requested suite.
        suite: String,
        /// Allowed suites.
        allowed: String,
    },
    /// The sender has another key.
    #[error(
        "sender {sender} uses {offered}, and the key of {sender} here is {expected}: \
         both sides need the same key"
    )]
    WrongKey {
        /// Claimed id of the sender.
        sender: SenderId,
        /// Kind or id of the key of the sender, as stated in its preface.
        offered: String,
        /// Keys that the policy accepts for this id.
        expected: String,
    },
    /// The claimed id is reserved for the holder of a certificate.
    #[error(
        "sender {0} is accepted with its certificate only ('senders' in [tls], or [[sender]] without a key): \
         give the other sender another id, or invite this one (nf-receiver invite {0})"
    )]
    Reserved(SenderId),
    /// The sender names the right key but does not prove its possession, or the handshake was changed or
    /// replayed.
    #[error(
        "sender {0} could not prove that it has the key that it names: the handshake may have been changed \
         or replayed on the path"
    )]
    Unproven(SenderId),
    /// A handshake message has an invalid length.
    #[error("the sender's handshake message has {0} bytes, where {1} are allowed")]
    Length(usize, usize),
    /// TLS failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The certificate is valid but has no name that can be a sender id.
    #[error("its certificate has no name (DNS name or common name) that can be a sender id")]
    NoName,
    /// The certificate is valid but the policy does not allow its name.
    #[error("the certificate of {0} is valid, but 'senders' in [tls] does not contain this name")]
    NameNotAllowed(SenderId),
    /// The system does not provide randomness.
    #[error("cannot prepare the handshake: the system provides no randomness")]
    System,
}
