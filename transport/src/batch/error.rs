//! Errors of parsing a batch.

use crate::batch::NewerBatch;

/// Reason why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes do not start with a batch header of this stream.
    #[error("no batch header of this stream")]
    Header,
    /// The header is valid and of this stream, but from a newer version.
    #[error("a batch of a newer version: {}", .0.needs)]
    Newer(NewerBatch),
    /// The header is valid, but the body does not match its checksum or length.
    #[error("the batch's body does not match its checksum")]
    Body,
    /// Header and body are valid, but the records in the body are malformed.
    #[error("the batch's records are malformed")]
    Records,
    /// The body is sealed. Only an encrypted spool may hold such a batch.
    #[error("the batch is sealed")]
    Sealed,
}
