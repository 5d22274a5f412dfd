//! How two sides come to trust a connection before any message is spoken, and what keeps it secret from then on.
//!
//! Everything here is without sockets, files and clocks: bytes go in, bytes and verdicts come out.
//!
//! | file | owns |
//! |---|---|
//! | [`key`] | the shared key |
//! | [`passphrase`] | shared secrets as operators give them, and keys derived from them |
//! | [`suite`] | which ciphers there are |
//! | `blowfish`, `resolver` | the primitives of the channel |
//! | [`at_rest`] | the seal of a batch on disk; no file but these three touches a cipher |
//! | [`stream_key`] | the secret behind a stream id, and the proof of it |
//! | [`token`] | what an invited sender needs to join |
//! | [`preface`] | the first bytes, in clear text |
//! | [`admission`] | whom a receiver lets in |
//! | [`tls`] | certificates, and what TLS is told |
//! | [`handshake`] | the way from the first bytes to a channel, for either side |
//! | [`channel`] | the stream of bytes that the session speaks over |

pub mod admission;
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

pub use admission::{Admission, Pass};
pub use at_rest::{OpenError, SpoolKeys};
pub use channel::{Channel, ChannelBinding, ChannelError};
pub use fuzz::{fuzz_channel, fuzz_receiver_handshake, fuzz_sender_handshake};
pub use handshake::{
    Admitted, Handshake, ReceiverHandshake, SenderHandshake, SenderHandshakeError, Shown, Turned,
};
pub use key::{Key, KeyError, KeyId};
pub use passphrase::{Passphrase, Salt, Secret, Strength};
pub use stream_key::{StreamKey, is_proven};
pub use suite::Suite;
pub use tls::{
    Certificate, CertificateEnds, Pem, ReceiverTls, RevocationFile, RevocationList, SenderTls, TlsError,
};
