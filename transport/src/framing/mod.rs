//! Encoding and decoding of the messages between sender and receiver.
//!
//! This module checks that a message is well formed. [`crate::session`] checks that it is allowed at the
//! moment.
//!
//! All numbers are big-endian. A message is a header of 5 bytes and a payload:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | length of the payload | see the table of types; at most 65,664 |
//! | 4 | 1 | type | 1 to 10 |
//! | 5 | length | payload | |
//!
//! | type | name | payload: width and field | length of the payload |
//! |---|---|---|---|
//! | 1 | HELLO | see below | 158 |
//! | 2 | WELCOME | see below | 36 |
//! | 3 | DATA | a batch | 1 to 65,664 |
//! | 4 | ACK | 8 position below which everything is delivered | 8 |
//! | 5 | GAP | see below | 25 |
//! | 6 | PING | nothing | 0 |
//! | 7 | REFUSE | 1 code; 0 to 512 of UTF-8 text without control characters | 1 to 513 |
//! | 8 | GOODBYE | nothing | 0 |
//! | 9 | RECEIVED | 8 position below which everything is received | 8 |
//! | 10 | RESEND | 8 first position to resend; 4 bytes to resend, at least 1 | 12 |
//!
//! HELLO:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 2 | version | 1 |
//! | 2 | 16 | stream id | |
//! | 18 | 8 | first position that the sender holds | |
//! | 26 | 4 | heartbeat in milliseconds | 10 to 60,000 |
//! | 30 | 16 | run id | |
//! | 46 | 16 | id of the replaced stream | 0 for none |
//! | 62 | 32 | public key of the stream proof | |
//! | 94 | 64 | signature of the stream proof | |
//!
//! A HELLO of another version may be 2 to 1,024 bytes long. Only its version is read.
//!
//! WELCOME:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 8 | position from which the sender resumes | |
//! | 8 | 4 | window in bytes | at least 1 |
//! | 12 | 8 | position below which everything is received | not below the first field |
//! | 20 | 16 | run id | |
//!
//! GAP:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 8 | first position | |
//! | 8 | 8 | end position | first < end |
//! | 16 | 1 | reason | 1 spool full, 2 too old, 3 corrupt, 4 unused |
//! | 17 | 8 | number of lost datagrams | 0 if unused, else end - first |

mod decoder;
mod error;
mod fuzz;
mod message;
mod message_type;
mod payload;

pub use decoder::Decoder;
pub use error::FramingError;
pub use fuzz::fuzz_decoder;
pub use message::{Heartbeat, Hello, Message, Refusal, RefusalCode, Resend, StreamProof, Welcome};

/// Version of the protocol that this program supports.
pub const VERSION: u16 = 1;

/// Length of a message's header in bytes.
pub const HEADER_LEN: usize = 5;

#[cfg(test)]
mod tests;
