//! The messages that sender and receiver exchange, as bytes. Knows what a well-formed message is, never what it
//! is good for at which moment: that is the session's.
//!
//! All numbers are big-endian. A message is a header of 5 bytes and a payload:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | length of the payload | what the type allows, never more than 65,664 |
//! | 4 | 1 | type | 1 to 10 |
//! | 5 | length | payload | |
//!
//! | type | name | payload: width and field | length of the payload |
//! |---|---|---|---|
//! | 1 | HELLO | 2 version = 1; 16 stream id; 8 first position that the sender holds; 4 heartbeat in milliseconds, 1 to 3,600,000; 16 run id; 16 id of the replaced stream, 0 if none; 32 public key and 64 signature of the proof | 158 |
//! | 2 | WELCOME | 8 position to go on from; 4 window in bytes, at least 1; 8 position received, not below the first; 16 run id | 36 |
//! | 3 | DATA | a batch | 1 to 65,664 |
//! | 4 | ACK | 8 position: everything below it | 8 |
//! | 5 | GAP | 8 first position; 8 end, first < end; 1 reason (1 spool full, 2 too old, 3 corrupt, 4 unused); 8 datagrams lost: 0 if unused, else end - first | 25 |
//! | 6 | PING | nothing | 0 |
//! | 7 | REFUSE | 1 code; 0 to 512 of UTF-8 text without control characters | 1 to 513 |
//! | 8 | GOODBYE | nothing | 0 |
//! | 9 | TAKEN | 8 position: what lies below it has come | 8 |
//! | 10 | AGAIN | 8 first position wanted once more; 4 bytes wanted, at least 1 | 12 |
//!
//! A HELLO of another version may be 2 to 1,024 bytes long; of it only the version is read.

mod decoder;
mod error;
mod fuzz;
mod kind;
mod message;
mod payload;

pub use decoder::Decoder;
pub use error::FramingError;
pub use fuzz::fuzz_decoder;
pub use message::{Again, Heartbeat, Hello, Message, Refusal, RefusalCode, StreamProof, Welcome};

/// The version of the messages that this program speaks.
pub const VERSION: u16 = 1;

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 5;

#[cfg(test)]
mod tests;
