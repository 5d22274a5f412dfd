//! How much the spool holds, for how long, and what gives way.

use core::time::Duration;

/// What is dropped when the spool has no room left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest segment: what is newest is kept.
    #[default]
    DropOldest,
    /// What arrives: what is oldest is kept.
    DropNewest,
}

/// The bounds of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A segment takes datagrams for this long, then the next one is begun.
    pub rotate_every: Duration,
    /// A segment takes batches up to this many bytes, then the next one is begun.
    pub rotate_size: u64,
    /// Bytes of all segments together.
    pub max_size: u64,
    /// Segments whose newest datagram is older are dropped; `None` keeps them for ever.
    pub max_age: Option<Duration>,
    /// Bytes that stay free on the spool's file system.
    pub min_free: u64,
    /// What is dropped when `max_size` or `min_free` is reached.
    pub when_full: WhenFull,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rotate_every: Duration::from_secs(300),
            rotate_size: 64 << 20,
            max_size: 8 << 30,
            max_age: None,
            min_free: 1 << 30,
            when_full: WhenFull::DropOldest,
        }
    }
}
