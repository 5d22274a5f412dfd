//! Authentication of both sides of a connection, and encryption of connections and of the spool.
//!
//! The module uses no sockets, files or clocks. Its input and output are bytes.
//!
//! | file | content |
//! |---|---|
//! | [`key`] | shared keys |
//! | [`passphrase`] | shared secrets as operators configure them, and keys derived from passphrases |
//! | [`suite`] | cipher suites |
//! | `blowfish`, `resolver` | cryptographic primitives of the channel |
//! | [`at_rest`] | sealing of batches on disk; only this file and the two above touch a cipher |
//! | [`stream_key`] | the secret behind a stream id, and its proof |
//! | [`token`] | invitation tokens |
//! | [`preface`] | the first bytes of a connection, in clear text |
//! | [`access_policy`] | the credentials that a receiver accepts |
//! | [`tls`] | certificates and the configuration of TLS |
//! | [`handshake`] | the handshake of either side, from the first bytes to a channel |
//! | [`channel`] | the protected byte stream for the session |

pub mod access_policy;
pub mod at_rest;
mod blowfish;
pub mod channel;
mod fuzz;
pub mod handshake;
pub mod key;
pub mod passphrase;
pub mod preface;
mod resolver;
pub mod stream_key;
pub mod suite;
pub mod tls;
pub mod token;

pub use access_policy::{AccessPolicy, Credential};
pub use at_rest::{OpenError, SpoolKeys};
pub use channel::{Channel, ChannelBinding, ChannelError};
pub use fuzz::{fuzz_channel, fuzz_receiver_handshake, fuzz_sender_handshake};
pub use handshake::{
    AcceptedSender, Evidence, Handshake, HandshakeRejection, ReceiverHandshake, SenderHandshake,
    SenderHandshakeError,
};
pub use key::{Key, KeyError, KeyId, Strength};
pub use passphrase::{Passphrase, Salt, Secret};
pub use stream_key::{StreamKey, is_proven};
pub use suite::Suite;
pub use tls::{
    Certificate, CertificateExpiry, Pem, ReceiverTls, RevocationFile, RevocationList, SenderTls, TlsError,
};
