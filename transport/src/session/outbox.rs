//! Output buffer of a session. Batches are queued by reference and never copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::framing::Message;

/// Encoded messages in order. The daemon writes from the front and removes the written bytes with
/// [`Buf::advance`].
#[derive(Debug, Default)]
pub struct Outbox {
    /// Encoded parts, none of them empty.
    parts: VecDeque<Bytes>,
    /// Length of all parts together in bytes.
    len: usize,
    /// Buffer in which small messages are encoded, so that many of them share an allocation.
    scratch: BytesMut,
}

impl Outbox {
    /// Unwritten bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if everything is written.
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
        assert!(count <= self.len, "more bytes were written than the outbox held");
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
