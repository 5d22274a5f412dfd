//! Bounds of the spool: size, age, free space, and the choice of datagrams to drop.

use core::time::Duration;

/// The datagrams to drop when the spool has no room left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Drops the oldest segment and keeps the newest datagrams.
    #[default]
    DropOldest,
    /// Drops incoming datagrams and keeps the oldest.
    DropNewest,
}

/// The room that a spool leaves free on its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinFree {
    /// 1 GiB, but at most a tenth of the file system.
    #[default]
    Auto,
    /// This number of bytes.
    Bytes(u64),
}

impl MinFree {
    /// The most that [`Self::Auto`] keeps free.
    const AUTO_MAX: u64 = 1 << 30;
    /// The part of a file system that [`Self::Auto`] keeps free.
    const AUTO_PART: u64 = 10;

    /// Bytes to keep free on a file system of `total` bytes.
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Auto => Self::AUTO_MAX.min(total / Self::AUTO_PART),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// The bounds of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A segment takes datagrams for this long by the boot clock, then the next one is begun.
    pub rotate_every: Duration,
    /// A segment takes batches up to this many bytes, or an eighth of `max_size`, then the next one is begun.
    pub rotate_size: u64,
    /// Bytes of all segments together.
    pub max_size: u64,
    /// Segments whose newest datagram is older for certain are dropped; `None` keeps them forever.
    pub max_age: Option<Duration>,
    /// Room that stays free on the spool's file system.
    pub min_free: MinFree,
    /// The datagrams to drop when `max_size` or `min_free` is reached.
    pub when_full: WhenFull,
}

impl Policy {
    /// Minimum number of segments of a full spool, approximately.
    const SEGMENTS_MIN: u64 = 8;

    /// A segment takes batches up to this many bytes: `rotate_size`, but a full spool must not drop most of
    /// its data with its oldest segment.
    pub fn segment_size(&self) -> u64 {
        self.rotate_size.min(self.max_size / Self::SEGMENTS_MIN)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rotate_every: Duration::from_secs(300),
            rotate_size: 64 << 20,
            max_size: 8 << 30,
            max_age: None,
            min_free: MinFree::Auto,
            when_full: WhenFull::DropOldest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_spool_has_eight_segments() {
        let policy = |rotate_size, max_size| Policy { rotate_size, max_size, ..Policy::default() };
        assert_eq!(policy(64, 1 << 20).segment_size(), 64);
        assert_eq!(policy(1 << 20, 1 << 20).segment_size(), 1 << 17);
    }

    #[test]
    fn a_small_file_system_keeps_a_tenth_free() {
        assert_eq!(MinFree::Auto.bytes(900 << 20), 90 << 20);
        assert_eq!(MinFree::Auto.bytes(10 << 30), 1 << 30);
        assert_eq!(MinFree::Auto.bytes(1 << 40), 1 << 30);
        assert_eq!(MinFree::Bytes(5 << 30).bytes(900 << 20), 5 << 30);
    }
}
