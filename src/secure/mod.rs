//! How two sides come to trust a connection before any message is spoken, and what keeps it secret from then on.
//!
//! Everything here is without sockets, files and clocks: bytes go in, bytes and verdicts come out.
//!
//! | file | owns |
//! |---|---|
//! | [`key`] | the shared secret |
//! | [`suite`] | which ciphers there are |
//! | `blowfish`, `resolver` | the primitives of the channel |
//! | [`at_rest`] | the seal of a batch on disk; no file but these three touches a cipher |
//! | [`preface`] | the first bytes, in clear text |

pub mod at_rest;
mod blowfish;
pub mod key;
pub mod preface;
mod resolver;
pub mod suite;

pub use at_rest::SpoolKeys;
pub use key::{Key, KeyError, KeyId, Strength};
pub use suite::Suite;
