//! Memory for encoding batches, in large chunks.
//!
//! A chunk is reused when no batch in it is referenced any more.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::batch::HEADER_LEN;
use crate::limits::BATCH_BODY_MAX;

/// Length of a chunk in bytes: seven full batches, or hundreds of small ones.
const CHUNK_LEN: usize = 512 * 1024;

/// Full chunks that are kept for reuse. Others are freed with their last batch.
const FULL_CHUNKS_MAX: usize = 4;

/// Length of the longest batch in bytes.
const BATCH_MAX: usize = HEADER_LEN + BATCH_BODY_MAX;

/// Chunks of one builder.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Full chunks, oldest first.
    full: VecDeque<BytesMut>,
}

impl Chunks {
    /// Ensures that the empty buffer `chunk` has room for a batch, and replaces it by another chunk if it has
    /// not.
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
        if self.full.len() > FULL_CHUNKS_MAX {
            self.full.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a batch of the greatest length off `chunk`.
    fn split_batch(chunks: &mut Chunks, chunk: &mut BytesMut) -> bytes::Bytes {
        chunks.make_room(chunk);
        assert!(chunk.is_empty());
        chunk.resize(BATCH_MAX, 7);
        chunk.split().freeze()
    }

    #[test]
    fn memory_of_dropped_batches_is_reused() {
        let (mut chunks, mut chunk) = (Chunks::default(), BytesMut::new());
        let mut places = std::collections::HashSet::new();
        for _ in 0..1000 {
            places.insert(split_batch(&mut chunks, &mut chunk).as_ptr());
        }
        assert!(places.len() <= 2 * CHUNK_LEN / BATCH_MAX, "{}", places.len());
    }

    #[test]
    fn batches_in_use_are_not_overwritten() {
        let (mut chunks, mut chunk) = (Chunks::default(), BytesMut::new());
        let held: Vec<_> = (0..100).map(|_| split_batch(&mut chunks, &mut chunk)).collect();
        assert!(held.iter().all(|batch| batch.iter().all(|byte| *byte == 7)));
        let places: std::collections::HashSet<_> = held.iter().map(|batch| batch.as_ptr()).collect();
        assert_eq!(places.len(), 100);
        assert!(chunks.full.len() <= FULL_CHUNKS_MAX);
    }
}
