//! The memory that the lanes of all streams use together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::LANES_MAX;

/// Bytes in all lanes.
#[derive(Debug, Default)]
pub(crate) struct LaneMemory {
    used: AtomicUsize,
}

/// Bytes in the lanes of one stream.
#[derive(Debug)]
pub(super) struct StreamMemory {
    all: Arc<LaneMemory>,
    bytes: usize,
}

impl StreamMemory {
    pub(super) fn within(all: &Arc<LaneMemory>) -> Self {
        Self { all: all.clone(), bytes: 0 }
    }

    /// Sets the number of bytes in these lanes.
    pub(super) fn set(&mut self, bytes: usize) {
        self.all.used.fetch_add(bytes, Ordering::Relaxed);
        self.all.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// Returns whether all lanes together have reached their bound.
    pub(super) fn is_spent(&self) -> bool {
        self.all.used.load(Ordering::Relaxed) >= LANES_MAX
    }
}

impl Drop for StreamMemory {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_one_bound_of_memory() {
        let all = Arc::default();
        let (mut one, mut other) = (StreamMemory::within(&all), StreamMemory::within(&all));
        one.set(LANES_MAX - 1);
        other.set(1);
        assert!(one.is_spent() && other.is_spent());
        other.set(0);
        assert!(!one.is_spent());
        other.set(2);
        drop(one);
        assert!(!other.is_spent());
    }
}
