//! Data of a newer version on its way from the queue to `newer/`.

use std::collections::BTreeMap;

use crate::sequence::{Gap, Position};
use crate::spool::item::Damage;

/// Positions that were removed from the queue because a newer version wrote their data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preserved {
    /// The removed positions.
    pub gap: Gap,
    /// The formats that a reader must know, in words.
    pub needs: String,
}

/// State of the moves and copies to `newer/`.
#[derive(Debug, Default)]
pub(super) struct Preservation {
    /// Segments that have left the queue and could not be moved, by first position.
    pub(super) unmoved: BTreeMap<Position, Unmoved>,
    /// Pieces that could not be copied, by the first position of their segment. The segment may have left the
    /// queue, too.
    pub(super) uncopied: BTreeMap<Position, Vec<Damage>>,
    /// Positions removed from the queue since the last call of `take_preserved`.
    pub(super) kept: Vec<Preserved>,
    /// True once the log has reported that the disk refuses.
    pub(super) is_reported: bool,
}

/// A segment that has to be moved.
#[derive(Debug)]
pub(super) struct Unmoved {
    pub(super) to: String,
    pub(super) size: u64,
}
