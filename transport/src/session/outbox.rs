//! What waits to be written to the connection. Batches lie here as they came, never copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::framing::Message;

/// Messages as bytes, in order; whoever writes them takes off the front what went.
#[derive(Debug, Default)]
pub struct Outbox {
    /// None of them is empty.
    parts: VecDeque<Bytes>,
    /// Bytes of all parts together.
    len: usize,
    /// Where small messages are put together, one behind the other, so that few allocations serve many.
    scratch: BytesMut,
}

impl Outbox {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether all is written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, message: Message) {
        let batch = message.encode(&mut self.scratch);
        let head = self.scratch.split().freeze();
        for part in [Some(head), batch].into_iter().flatten() {
            self.len += part.len();
            self.parts.push_back(part);
        }
    }
}

impl Buf for Outbox {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let parts = self.parts.iter().map(|part| IoSlice::new(part));
        out.iter_mut().zip(parts).map(|(place, part)| *place = part).count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "more was written than waited");
        self.len -= count;
        while let Some(part) = self.parts.front_mut() {
            if count < part.len() {
                part.advance(count);
                return;
            }
            count -= part.len();
            self.parts.pop_front();
        }
    }
}
