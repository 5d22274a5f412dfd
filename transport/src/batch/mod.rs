//! A batch: consecutive datagrams of one stream, encoded once.
//!
//! Segments on disk and DATA messages carry the same bytes. All numbers are big-endian.
//! A batch is a header of 56 bytes and a body:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic | `NFB1` |
//! | 4 | 4 | CRC32C of the stream id (16 bytes) followed by bytes 8 to 55 | |
//! | 8 | 8 | position of the first datagram | first + datagrams <= 2^64 - 1 |
//! | 16 | 8 | earliest arrival, nanoseconds since 1970-01-01 | |
//! | 24 | 8 | latest arrival, nanoseconds since 1970-01-01 | earliest <= latest |
//! | 32 | 4 | number of datagrams, one for each position | 1 <= n |
//! | 36 | 4 | payload bytes of all datagrams together | <= length of the records |
//! | 40 | 4 | length of the body as stored | <= 65,600; <= 65,640 if sealed |
//! | 44 | 4 | length of the records: the decompressed body | <= 65,600 |
//! | 48 | 4 | CRC32C of the body as stored | |
//! | 52 | 1 | compression of the body | 0 none, 1 zstd, 2 zstd of the columnar form |
//! | 53 | 1 | sealing of the body | 0 none, 1 AES-256-GCM; 0 in a DATA message |
//! | 54 | 2 | number of datagrams that the sender dropped from a full spool | <= n |
//!
//! The module `columnar` describes the columnar form, and [`crate::secure::at_rest`] the sealing.
//!
//! The body holds one record for each datagram, in order of arrival. The record of a dropped datagram is a
//! single byte with the value 128. Other records:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | 1 | bit 0: the exporter address is IPv6 |
//! | | | bit 1: the local address is IPv6 |
//! | | | bit 2: the exporter has a scope id |
//! | | | other bits: 0 |
//! | 1 | 2 | length of the payload, 0 to 65,507 |
//! | 3 | 8 | arrival, nanoseconds since 1970-01-01 |
//! | 11 | 4 or 16 | exporter address |
//! | | 2 | exporter port |
//! | | 0 or 4 | if bit 2 is set: scope id of the exporter, not 0, only with a link-local address |
//! | | 4 or 16 | local address |
//! | | 2 | local port |
//! | | length | payload |
//!
//! The header's checksum covers the stream id. So a reader that searches damaged bytes for the next whole
//! batch never accepts a payload that looks like a batch.

mod builder;
mod chunks;
mod columnar;
mod compression;
mod encoded;
mod error;
mod format;
mod fuzz;
mod header;
mod newer;
mod record;
mod sealing;

pub use builder::{BatchBuilder, PushError};
pub use columnar::fuzz_columnar;
pub use compression::Compression;
pub use encoded::{Batch, ParsedBatch};
pub use error::BatchError;
pub use format::{HEADER_LEN, MAGIC};
pub use fuzz::fuzz_batch;
pub use header::BatchHeader;
pub use newer::{Needs, NewerBatch, is_newer_than_1};
pub use record::{Records, encoded_len as record_len};
pub use sealing::Sealing;

#[cfg(test)]
mod tests;
