//! Memory that batches are encoded into: in large chunks, each used again once nothing of what lies in it is needed any more.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::batch::HEADER_LEN;
use crate::limits::BATCH_BODY_MAX;

/// Bytes of a chunk: seven full batches, or hundreds of small ones.
const CHUNK_LEN: usize = 512 * 1024;

/// Chunks that are waited for. What lies in others is forgotten with the last batch there.
const WAITED_FOR: usize = 4;

/// Room that any batch needs at the most.
const BATCH_MAX: usize = HEADER_LEN + BATCH_BODY_MAX;

/// The chunks of one builder.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Those that are full, oldest first.
    full: VecDeque<BytesMut>,
}

impl Chunks {
    /// Gives `chunk`, which is empty, room for a batch: goes on with another if that has none.
    pub(super) fn make_room(&mut self, chunk: &mut BytesMut) {
        if chunk.capacity() >= BATCH_MAX {
            return;
        }
        let is_free = self.full.front_mut().is_some_and(|oldest| oldest.try_reclaim(CHUNK_LEN));
        let free = if is_free { self.full.pop_front() } else { None };
        let next = free.unwrap_or_else(|| BytesMut::with_capacity(CHUNK_LEN));
        let full = core::mem::replace(chunk, next);
        if full.capacity() > 0 {
            self.full.push_back(full);
        }
        if self.full.len() > WAITED_FOR {
            self.full.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a batch of the greatest length out of `chunk`, and says where it lies.
    fn take(chunks: &mut Chunks, chunk: &mut BytesMut) -> bytes::Bytes {
        chunks.make_room(chunk);
        assert!(chunk.is_empty());
        chunk.resize(BATCH_MAX, 7);
        chunk.split().freeze()
    }

    #[test]
    fn memory_is_used_again_once_all_in_it_is_gone() {
        let (mut chunks, mut chunk) = (Chunks::default(), BytesMut::new());
        let mut places = std::collections::HashSet::new();
        for _ in 0..1000 {
            places.insert(take(&mut chunks, &mut chunk).as_ptr());
        }
        assert!(places.len() <= 2 * CHUNK_LEN / BATCH_MAX, "{}", places.len());
    }

    #[test]
    fn what_is_still_held_stays_as_it_is() {
        let (mut chunks, mut chunk) = (Chunks::default(), BytesMut::new());
        let held: Vec<_> = (0..100).map(|_| take(&mut chunks, &mut chunk)).collect();
        assert!(held.iter().all(|batch| batch.iter().all(|byte| *byte == 7)));
        let places: std::collections::HashSet<_> = held.iter().map(|batch| batch.as_ptr()).collect();
        assert_eq!(places.len(), 100);
        assert!(chunks.full.len() <= WAITED_FOR);
    }
}
