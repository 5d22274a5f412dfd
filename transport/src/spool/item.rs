//! The items of a segment in order: batches, damage and batches of a newer version.

use crate::batch::Batch;
use crate::sequence::Position;

/// The next item of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole batch.
    Batch(Batch),
    /// Bytes that cannot be used, or positions whose bytes are missing.
    Damage(Damage),
    /// Whole batches that a newer version wrote.
    Newer(Newer),
}

/// A run of batches that this version does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newer {
    /// Their bytes and positions.
    pub place: Damage,
    /// The formats that a reader must know, in words.
    pub needs: String,
}

/// A damaged piece of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Offset of the damaged bytes in the segment.
    pub offset: u64,
    /// Number of damaged bytes; 0 if bytes are missing.
    pub length: u64,
    /// The first position lost.
    pub first: Position,
    /// The position after the last one lost; `first <= end`.
    pub end: Position,
}
