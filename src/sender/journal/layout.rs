//! The offsets of the journal's parts in its file.

use crate::limits::JOURNAL_RING;
use crate::sender::journal::{checkpoint, slots};

/// The offset of the slots, in bytes.
pub(super) fn slots_at() -> u64 {
    u64::try_from(checkpoint::LEN).unwrap_or(u64::MAX)
}

/// The offset of the ring, in bytes.
pub(super) fn ring_at() -> u64 {
    slots_at() + u64::try_from(slots::total_len()).unwrap_or(u64::MAX)
}

/// The length of the file, in bytes.
pub(super) fn file_len() -> u64 {
    ring_at() + JOURNAL_RING
}
