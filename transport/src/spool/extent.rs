//! One extent of the queue on disk: a segment, or the record of a gap.

use crate::datagram::{BootTime, Timestamp};
use crate::sequence::{GapReason, Position};

/// A run of positions on disk, or the record that they are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Segment { end: Position, size: u64, written: LastWrite, formats: Formats },
    Gap { end: Position, reason: GapReason },
}

impl Extent {
    pub(super) fn end(&self) -> Position {
        match self {
            Self::Segment { end, .. } | Self::Gap { end, .. } => *end,
        }
    }

    /// The time of the last write to it, if it is a segment.
    pub(super) fn last_write(&self) -> Option<LastWrite> {
        match self {
            Self::Segment { written, .. } => Some(*written),
            Self::Gap { .. } => None,
        }
    }
}

/// The time of the last write to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastWrite {
    /// By this run.
    ThisRun(BootTime),
    /// By an earlier run, at the modification time of the file.
    Earlier(Timestamp),
}

/// The writers of the batches of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Formats {
    /// Not examined yet.
    Unknown,
    /// This version reads all of them.
    Own,
    /// A newer version wrote some.
    Newer,
}

impl Formats {
    /// True if a segment with this last write may leave the queue whole. A segment that this run continued
    /// has datagrams that no newer version has seen.
    pub(super) fn may_go(self, written: LastWrite) -> bool {
        self == Self::Own || matches!(written, LastWrite::Earlier(_))
    }
}
