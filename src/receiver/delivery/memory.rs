//! The memory that the lanes of all streams take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::LANES_MAX;

/// What all lanes hold, in bytes.
#[derive(Debug, Default)]
pub(crate) struct LaneMemory {
    used: AtomicUsize,
}

/// What the lanes of one stream hold.
#[derive(Debug)]
pub(super) struct Part {
    all: Arc<LaneMemory>,
    bytes: usize,
}

impl Part {
    pub(super) fn of(all: &Arc<LaneMemory>) -> Self {
        Self { all: all.clone(), bytes: 0 }
    }

    /// These lanes hold so many bytes now.
    pub(super) fn set(&mut self, bytes: usize) {
        self.all.used.fetch_add(bytes, Ordering::Relaxed);
        self.all.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// Whether all lanes together hold as much as they may.
    pub(super) fn is_spent(&self) -> bool {
        self.all.used.load(Ordering::Relaxed) >= LANES_MAX
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_stream_holds_is_missing_to_the_others_until_it_is_let_go() {
        let all = Arc::default();
        let (mut one, mut other) = (Part::of(&all), Part::of(&all));
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
