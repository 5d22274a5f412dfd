//! Where the intake stands, in words that survive the process.
//!
//! | offset | width | mark |
//! |---|---|---|
//! | 0 | 8 | magic and version: `NFINTAK1` |
//! | 8 | 16 | stream id |
//! | 24 | 16 | boot id |
//! | 64 | 8 | the position of the next datagram to be encoded |
//! | 72 | 8 | acknowledged up to this position |
//! | 80 | 8 | ring: where the oldest batch starts, counted in bytes since the ring was made |
//! | 88 | 8 | slots: the position of the first datagram that the last recvmmsg returned |
//! | 96 | 8 | slots: port of the socket that it was called on |

#![expect(unsafe_code, reason = "words of a mapping are used as atomics")]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "mappings start on a page, and every part of them at a multiple of 16"
)]

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use crate::sequence::{Position, StreamId};

/// Bytes of the marks: a page, so that the slots start on one.
pub(super) const LEN: usize = 4096;

const MAGIC: u64 = u64::from_be_bytes(*b"NFINTAK1");
const WORDS: usize = 13;

const WORD_MAGIC: usize = 0;
const WORD_STREAM: usize = 1;
const WORD_BOOT: usize = 3;
const WORD_NEXT: usize = 8;
const WORD_ACKNOWLEDGED: usize = 9;
const WORD_RING_TAIL: usize = 10;
const WORD_SLOTS_FIRST: usize = 11;
const WORD_SLOTS_PORT: usize = 12;

/// The marks of an intake. Shared by all threads: every mark is one word that one thread writes.
#[derive(Debug)]
pub(crate) struct Marks {
    map: MmapRaw,
}

impl Marks {
    pub(super) fn map(file: &File) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(LEN).map_raw(file)? })
    }

    fn words(&self) -> &[AtomicU64; WORDS] {
        const { assert!(WORDS * size_of::<AtomicU64>() <= LEN) }
        // SAFETY: the mapping is LEN bytes long, writable, page-aligned, lives as long as `self`, and is only ever
        // accessed through these atomics. The file is ours alone (mode 0600, directory locked) and never shrinks.
        unsafe { &*self.map.as_mut_ptr().cast::<[AtomicU64; WORDS]>() }
    }

    fn get(&self, word: usize) -> u64 {
        self.words().get(word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set(&self, word: usize, value: u64) {
        if let Some(word) = self.words().get(word) {
            word.store(value, Ordering::Release);
        }
    }

    fn id(&self, word: usize) -> [u8; 16] {
        let (high, low) = (u128::from(self.get(word)), u128::from(self.get(word + 1)));
        (high << 64 | low).to_be_bytes()
    }

    fn set_id(&self, word: usize, id: [u8; 16]) {
        let low_half = |value: u128| u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0);
        let value = u128::from_be_bytes(id);
        self.set(word, low_half(value >> 64));
        self.set(word + 1, low_half(value));
    }

    /// Whether the marks can be true; bytes that a failing disk made up hardly are.
    pub(super) fn is_sane(&self) -> bool {
        self.acknowledged() <= self.next() && self.ring_tail() < 1 << 62
    }

    /// Whether these are marks of `stream`.
    pub(super) fn is_of(&self, stream: StreamId) -> bool {
        self.get(WORD_MAGIC) == MAGIC && self.id(WORD_STREAM) == stream.0
    }

    /// The boot whose marks these are.
    pub(super) fn boot(&self) -> [u8; 16] {
        self.id(WORD_BOOT)
    }

    /// Makes these the marks of `stream`. Marks of another stream are cleared, and then are of no boot.
    pub(super) fn claim(&self, stream: StreamId) {
        if !self.is_of(stream) {
            (0..WORDS).for_each(|word| self.set(word, 0));
        }
        self.set_id(WORD_STREAM, stream.0);
        self.set(WORD_MAGIC, MAGIC);
    }

    /// From now on the marks are believed by the next start in this boot: to be called once they are right.
    pub(crate) fn set_boot(&self, boot: [u8; 16]) {
        self.set_id(WORD_BOOT, boot);
    }

    pub(crate) fn next(&self) -> Position {
        Position(self.get(WORD_NEXT))
    }

    pub(crate) fn set_next(&self, position: Position) {
        self.set(WORD_NEXT, position.0);
    }

    pub(crate) fn acknowledged(&self) -> Position {
        Position(self.get(WORD_ACKNOWLEDGED))
    }

    pub(crate) fn set_acknowledged(&self, position: Position) {
        self.set(WORD_ACKNOWLEDGED, position.0);
    }

    pub(crate) fn ring_tail(&self) -> u64 {
        self.get(WORD_RING_TAIL)
    }

    pub(crate) fn set_ring_tail(&self, offset: u64) {
        self.set(WORD_RING_TAIL, offset);
    }

    pub(crate) fn slots_first(&self) -> Position {
        Position(self.get(WORD_SLOTS_FIRST))
    }

    pub(crate) fn slots_port(&self) -> u16 {
        u16::try_from(self.get(WORD_SLOTS_PORT)).unwrap_or(0)
    }

    /// To be called before each recvmmsg: what it returns starts at `first` and came to `port`.
    pub(crate) fn set_slots(&self, first: Position, port: u16) {
        self.set(WORD_SLOTS_FIRST, first.0);
        self.set(WORD_SLOTS_PORT, u64::from(port));
    }
}
