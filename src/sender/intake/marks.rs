//! The marks: how far the intake has come, in words that survive the process.
//!
//! | offset | width | content |
//! |---|---|---|
//! | 0 | 8 | magic and version: `NFINTAK2` |
//! | 8 | 16 | stream id |
//! | 24 | 16 | boot id |
//! | 40 | 16 | id of the run that fills the intake; zeros if the file `stream` does not name that run |
//! | 128 | 32 | mark 0: the position of the next datagram to be encoded |
//! | 160 | 32 | mark 1: acknowledged up to this position |
//! | 192 | 32 | mark 2, ring: offset of the oldest batch, counted in bytes since the ring was made |
//! | 224 | 32 | mark 3, slots: the position of the first datagram that the last recvmmsg returned |
//! | 256 | 32 | mark 4, slots: port of the socket that it was called on |
//!
//! A mark is four words: its value, the check of that, and both again, written in this order. So one copy is whole
//! whenever the process is killed, and a damaged mark is known to be damaged. The check of a value is its complement,
//! exclusive-or the mark's number (from 1) times 0x9E3779B97F4A7C15.
//!
//! Version 1 (`NFINTAK1`) had each mark once and without a check, at offset 64 + 8 times its number. It is still read.

#![expect(unsafe_code, reason = "words of a mapping are used as atomics")]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "mappings start on a page, and every part of them at a multiple of 16"
)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SharedFile;
use super::bus_error::Backing;
use super::mapping::Mapping;
use crate::sequence::{Position, RunId, StreamId};

/// Bytes of the marks: a page, so that the slots start on one.
pub(super) const LEN: usize = 4096;

const MAGIC_PREFIX: &[u8; 7] = b"NFINTAK";
const MAGIC_1: u64 = u64::from_be_bytes(*b"NFINTAK1");
const MAGIC: u64 = u64::from_be_bytes(*b"NFINTAK2");
const WORDS: usize = MARKS_AT + 4 * MARKS;

const WORD_MAGIC: usize = 0;
const WORD_STREAM: usize = 1;
const WORD_BOOT: usize = 3;
const WORD_RUN: usize = 5;
/// Where version 1 had its marks.
const MARKS_1_AT: usize = 8;
const MARKS_AT: usize = 16;

const NEXT: usize = 0;
const ACKNOWLEDGED: usize = 1;
const RING_TAIL: usize = 2;
const SLOTS_FIRST: usize = 3;
const SLOTS_PORT: usize = 4;
const MARKS: usize = 5;

/// What the first bytes of an intake show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An intake of this stream.
    Ours,
    /// An intake of another stream.
    OtherStream,
    /// An intake of a newer format, with this version.
    Newer(char),
    /// Nothing but zeros, as in a new file.
    Blank,
    /// Anything else: a file that was damaged.
    Unknown,
}

/// The marks of an intake. Shared by all threads: every mark is written by one thread.
#[derive(Debug)]
pub(crate) struct Marks {
    map: Mapping,
}

impl Marks {
    pub(super) fn map(file: SharedFile) -> io::Result<Self> {
        Ok(Self { map: Mapping::of(file, 0, LEN)? })
    }

    pub(crate) fn backing(&self) -> Backing {
        self.map.backing()
    }

    pub(crate) fn move_to_memory(&self) -> io::Result<()> {
        self.map.move_to_memory()
    }

    fn words(&self) -> &[AtomicU64; WORDS] {
        const { assert!(WORDS * size_of::<AtomicU64>() <= LEN) }
        // SAFETY: the mapping is LEN bytes long, writable, page-aligned, lives as long as `self`, and is only ever
        // accessed through these atomics.
        unsafe { &*self.map.as_mut_ptr().cast::<[AtomicU64; WORDS]>() }
    }

    fn word(&self, word: usize) -> u64 {
        self.words().get(word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set_word(&self, word: usize, value: u64) {
        if let Some(word) = self.words().get(word) {
            word.store(value, Ordering::Release);
        }
    }

    /// The value of a mark; `None` if it is damaged.
    fn get(&self, mark: usize) -> Option<u64> {
        if self.word(WORD_MAGIC) == MAGIC_1 {
            return Some(self.word(MARKS_1_AT + mark));
        }
        let copy = |at: usize| {
            let (value, check) = (self.word(at), self.word(at + 1));
            (check == check_of(mark, value)).then_some(value)
        };
        let at = MARKS_AT + 4 * mark;
        copy(at).or_else(|| copy(at + 2))
    }

    fn set(&self, mark: usize, value: u64) {
        let at = MARKS_AT + 4 * mark;
        let check = check_of(mark, value);
        for (offset, word) in [value, check, value, check].into_iter().enumerate() {
            self.set_word(at + offset, word);
        }
    }

    fn id(&self, word: usize) -> [u8; 16] {
        let (high, low) = (u128::from(self.word(word)), u128::from(self.word(word + 1)));
        (high << 64 | low).to_be_bytes()
    }

    fn set_id(&self, word: usize, id: [u8; 16]) {
        let low_half = |value: u128| u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0);
        let value = u128::from_be_bytes(id);
        self.set_word(word, low_half(value >> 64));
        self.set_word(word + 1, low_half(value));
    }

    /// The stream that they name.
    pub(super) fn stream(&self) -> StreamId {
        StreamId(self.id(WORD_STREAM))
    }

    /// What these are the marks of, for a run of `stream`.
    pub(super) fn kind(&self, stream: StreamId) -> Kind {
        let magic = self.word(WORD_MAGIC);
        match magic {
            MAGIC | MAGIC_1 if self.id(WORD_STREAM) == stream.0 => return Kind::Ours,
            MAGIC | MAGIC_1 => return Kind::OtherStream,
            _ => {}
        }
        match newer_version(magic.to_be_bytes()) {
            Some(version) => Kind::Newer(version),
            _ if self.words().iter().all(|word| word.load(Ordering::Acquire) == 0) => Kind::Blank,
            _ => Kind::Unknown,
        }
    }

    /// Whether all marks are whole, and can be true together.
    pub(super) fn are_whole(&self) -> bool {
        let is_whole = (0..MARKS).all(|mark| self.get(mark).is_some());
        is_whole && self.acknowledged() <= self.next() && self.ring_tail() < 1 << 62
    }

    /// The boot whose marks these are.
    pub(super) fn boot(&self) -> [u8; 16] {
        self.id(WORD_BOOT)
    }

    /// Makes these the marks of `stream`, in the present version. Whole marks of that stream keep their values.
    pub(super) fn claim(&self, stream: StreamId) {
        let keep = self.kind(stream) == Kind::Ours && self.are_whole();
        let values: [u64; MARKS] =
            core::array::from_fn(|mark| if keep { self.get(mark).unwrap_or(0) } else { 0 });
        if !keep {
            self.set_id(WORD_BOOT, [0; 16]);
            self.set_run(RunId::NONE);
        }
        for (mark, value) in values.into_iter().enumerate() {
            self.set(mark, value);
        }
        self.set_id(WORD_STREAM, stream.0);
        self.set_word(WORD_MAGIC, MAGIC);
    }

    /// From now on the marks are believed by the next start in this boot: to be called once they are right.
    pub(crate) fn set_boot(&self, boot: [u8; 16]) {
        self.set_id(WORD_BOOT, boot);
    }

    /// The run whose marks these are; `RunId::NONE` if that is not known.
    pub(crate) fn run(&self) -> RunId {
        RunId(self.id(WORD_RUN))
    }

    /// Makes these the marks of `run`, which the file `stream` names as the last one.
    pub(crate) fn set_run(&self, run: RunId) {
        self.set_id(WORD_RUN, run.0);
    }

    pub(crate) fn next(&self) -> Position {
        Position(self.get(NEXT).unwrap_or(0))
    }

    pub(crate) fn set_next(&self, position: Position) {
        self.set(NEXT, position.0);
    }

    pub(crate) fn acknowledged(&self) -> Position {
        Position(self.get(ACKNOWLEDGED).unwrap_or(0))
    }

    pub(crate) fn set_acknowledged(&self, position: Position) {
        self.set(ACKNOWLEDGED, position.0);
    }

    pub(crate) fn ring_tail(&self) -> u64 {
        self.get(RING_TAIL).unwrap_or(0)
    }

    pub(crate) fn set_ring_tail(&self, offset: u64) {
        self.set(RING_TAIL, offset);
    }

    pub(crate) fn slots_first(&self) -> Position {
        Position(self.get(SLOTS_FIRST).unwrap_or(0))
    }

    pub(crate) fn slots_port(&self) -> u16 {
        self.get(SLOTS_PORT).and_then(|port| u16::try_from(port).ok()).unwrap_or(0)
    }

    /// To be called before each recvmmsg: what it returns starts at `first` and came to `port`.
    pub(crate) fn set_slots(&self, first: Position, port: u16) {
        self.set(SLOTS_FIRST, first.0);
        self.set(SLOTS_PORT, u64::from(port));
    }
}

/// The version that the first bytes of an intake name, if it is newer than this one.
pub(super) fn newer_version(magic: [u8; 8]) -> Option<char> {
    match magic.strip_prefix(MAGIC_PREFIX) {
        Some([version @ (b'3'..=b'9' | b'A'..=b'Z')]) => Some(char::from(*version)),
        _ => None,
    }
}

/// No value and its check are both zero, nor all ones.
fn check_of(mark: usize, value: u64) -> u64 {
    let number = u64::try_from(mark).unwrap_or(u64::MAX).wrapping_add(1);
    !value ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const STREAM: StreamId = StreamId([4; 16]);

    fn marks() -> Marks {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        Marks::map(Arc::new(file)).unwrap()
    }

    fn claimed() -> Marks {
        let marks = marks();
        marks.claim(STREAM);
        marks.set_next(Position(9));
        marks.set_acknowledged(Position(7));
        marks
    }

    #[test]
    fn one_copy_of_a_mark_is_always_whole() {
        let marks = claimed();
        let at = MARKS_AT + 4 * NEXT;
        let check = check_of(NEXT, 12);
        for (step, word) in [12, check, 12, check].into_iter().enumerate() {
            marks.set_word(at + step, word);
            let value = marks.get(NEXT).unwrap();
            assert_eq!(value, if step == 0 { 9 } else { 12 }, "after {} words", step + 1);
        }
    }

    #[test]
    fn a_damaged_copy_costs_nothing_and_two_are_noticed() {
        let marks = claimed();
        for mark in 0..MARKS {
            let at = MARKS_AT + 4 * mark;
            let value = marks.get(mark);
            for first in 0..2 {
                marks.set_word(at + first, !marks.word(at + first));
                assert_eq!(marks.get(mark), value);
                marks.set_word(at + first, !marks.word(at + first));
            }
            marks.set_word(at, 1);
            marks.set_word(at + 2, 2);
            assert!(!marks.are_whole(), "mark {mark}");
            marks.set(mark, value.unwrap());
        }
        assert!(marks.are_whole());
    }

    #[test]
    fn zeros_and_ones_are_no_marks() {
        for value in [0, u64::MAX] {
            let marks = claimed();
            (MARKS_AT..WORDS).for_each(|word| marks.set_word(word, value));
            assert_eq!(marks.kind(STREAM), Kind::Ours);
            assert!(!marks.are_whole());
        }
    }

    #[test]
    fn version_1_is_read_and_becomes_version_2() {
        let marks = marks();
        assert_eq!(marks.kind(STREAM), Kind::Blank);
        marks.set_id(WORD_STREAM, STREAM.0);
        marks.set_word(WORD_MAGIC, MAGIC_1);
        (0..MARKS)
            .zip([90, 70, 5, 88, 2055])
            .for_each(|(mark, value)| marks.set_word(MARKS_1_AT + mark, value));
        for _ in 0..2 {
            assert_eq!((marks.kind(STREAM), marks.are_whole()), (Kind::Ours, true));
            assert_eq!((marks.next(), marks.acknowledged()), (Position(90), Position(70)));
            assert_eq!((marks.ring_tail(), marks.slots_first()), (5, Position(88)));
            assert_eq!(marks.slots_port(), 2055);
            marks.claim(STREAM);
            assert_eq!(marks.word(WORD_MAGIC), MAGIC);
        }
    }

    #[test]
    fn a_newer_version_is_known_from_damage() {
        let marks = claimed();
        for (magic, kind) in [
            (b"NFINTAK3", Kind::Newer('3')),
            (b"NFINTAKB", Kind::Newer('B')),
            (b"NFINTAK\0", Kind::Unknown),
            (b"\0FINTAK3", Kind::Unknown),
        ] {
            marks.set_word(WORD_MAGIC, u64::from_be_bytes(*magic));
            assert_eq!(marks.kind(STREAM), kind);
        }
    }
}
