//! The marks: how far the intake has come, in words that survive the process.
//!
//! | offset | width | content |
//! |---|---|---|
//! | 0 | 8 | magic and version: `NFINTAK2` |
//! | 8 | 16 | stream id |
//! | 24 | 16 | boot id |
//! | 40 | 16 | id of the run that fills the intake; zeros if the file `stream` does not name that run |
//! | 56 | 8 | check of bytes 0 to 55 ([`crate::sender::journal::header`]) |
//! | 128 | 32 | mark 0: the position of the next datagram to be encoded |
//! | 160 | 32 | mark 1: acknowledged up to this position |
//! | 192 | 32 | mark 2, ring: offset of the oldest batch, counted in bytes since the ring was made |
//! | 224 | 32 | mark 3, slots: the position of the first datagram that the last recvmmsg returned |
//! | 256 | 32 | mark 4, slots: port of the socket that it was called on |
//! | 384 | 64 | bytes 0 to 63 once more |
//!
//! A mark is four words: its value, the check of that, and both again, written in this order. So one copy is whole
//! whenever the process is killed, and a damaged mark is known to be damaged. The check of a value is its complement,
//! exclusive-or the mark's number (from 1) times 0x9E3779B97F4A7C15.
//!
//! Version 1 (`NFINTAK1`) had each mark once and without a check, at offset 64 + 8 times its number. It is still read.
//! A newer version must leave no whole copy of this header at offset 384. That distinguishes a damaged version number from a newer one.

#![expect(unsafe_code, reason = "words of a mapping are used as atomics")]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "mappings start on a page, and every part of them at a multiple of 16"
)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::sequence::{Position, RunId, StreamId};

use crate::sender::journal::bus_error::Backing;
use crate::sender::journal::header::{self, CheckpointHeader};
use crate::sender::journal::mapping::Mapping;
use crate::sender::journal::shared_file::SharedFile;

/// Bytes of the marks: a page, so that the slots start on one.
pub(super) const LEN: usize = 4096;

/// Bytes that are in use.
pub(super) const HEAD_LEN: usize = WORDS * size_of::<u64>();

const MAGIC_PREFIX: &[u8; 7] = b"NFINTAK";
const MAGIC_1: u64 = u64::from_be_bytes(*b"NFINTAK1");
const MAGIC: u64 = u64::from_be_bytes(*b"NFINTAK2");
const WORDS: usize = SECOND_HEADER_AT + header::WORDS;

/// Where the copies of the header are.
const HEADERS_AT: [usize; 2] = [0, SECOND_HEADER_AT];
const SECOND_HEADER_AT: usize = 48;
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
pub(super) enum JournalKind {
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
pub(crate) struct Checkpoint {
    map: Mapping,
}

impl Checkpoint {
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
        if self.header().magic == MAGIC_1 {
            return Some(self.word(MARKS_1_AT + mark));
        }
        let copy = |at: usize| {
            let (value, check) = (self.word(at), self.word(at + 1));
            (check == check_of(mark, value)).then_some(value)
        };
        let at = MARKS_AT + 4 * mark;
        copy(at).or_else(|| copy(at + 2))
    }

    /// The value of a mark, for callers that know all marks to be whole: [`Self::are_whole`] or [`Self::claim`] came before.
    #[track_caller]
    fn whole(&self, mark: usize) -> u64 {
        self.get(mark).unwrap_or_else(|| {
            note_internal_error("both copies of an intake's mark are damaged");
            0
        })
    }

    fn set(&self, mark: usize, value: u64) {
        let at = MARKS_AT + 4 * mark;
        let check = check_of(mark, value);
        for (offset, word) in [value, check, value, check].into_iter().enumerate() {
            self.set_word(at + offset, word);
        }
    }

    fn header(&self) -> CheckpointHeader {
        CheckpointHeader::of(HEADERS_AT.map(|at| core::array::from_fn(|word| self.word(at + word))), MAGIC)
    }

    /// Writes one copy after the other, so that one is whole whenever the process is killed. The first copy comes last: an
    /// intake of version 1 has only that one.
    fn set_header(&self, header: CheckpointHeader) {
        for at in HEADERS_AT.into_iter().rev() {
            for (word, value) in (at..).zip(header.encode()) {
                self.set_word(word, value);
            }
        }
    }

    /// The stream that they name.
    pub(super) fn stream(&self) -> StreamId {
        StreamId(self.header().stream)
    }

    /// What these are the marks of, for a run of `stream`.
    pub(super) fn kind(&self, stream: StreamId) -> JournalKind {
        let CheckpointHeader { magic, stream: own, .. } = self.header();
        match magic {
            MAGIC | MAGIC_1 if own == stream.0 => return JournalKind::Ours,
            MAGIC | MAGIC_1 => return JournalKind::OtherStream,
            _ => {}
        }
        match newer_version(magic.to_be_bytes()) {
            Some(version) => JournalKind::Newer(version),
            _ if self.words().iter().all(|word| word.load(Ordering::Acquire) == 0) => JournalKind::Blank,
            _ => JournalKind::Unknown,
        }
    }

    /// Whether all marks are whole, and can be true together.
    pub(super) fn are_whole(&self) -> bool {
        let is_whole = (0..MARKS).all(|mark| self.get(mark).is_some());
        let is_port = |value| u16::try_from(value).is_ok();
        is_whole
            && self.acknowledged() <= self.next()
            && self.ring_tail() < 1 << 62
            && self.get(SLOTS_PORT).is_some_and(is_port)
    }

    /// The boot whose marks these are.
    pub(super) fn boot(&self) -> [u8; 16] {
        self.header().boot
    }

    /// Makes these the marks of `stream`, in the present version. Whole marks of that stream keep their values.
    pub(super) fn claim(&self, stream: StreamId) {
        let keep = self.kind(stream) == JournalKind::Ours && self.are_whole();
        let values: [u64; MARKS] = core::array::from_fn(|mark| if keep { self.whole(mark) } else { 0 });
        for (mark, value) in values.into_iter().enumerate() {
            self.set(mark, value);
        }
        let old = if keep { self.header() } else { CheckpointHeader::default() };
        self.set_header(CheckpointHeader { magic: MAGIC, stream: stream.0, ..old });
    }

    /// From now on the marks are believed by the next start in this boot: to be called once they are right.
    pub(crate) fn set_boot(&self, boot: [u8; 16]) {
        self.set_header(CheckpointHeader { boot, ..self.header() });
    }

    /// The run whose marks these are; `RunId::NONE` if that is not known.
    pub(crate) fn run(&self) -> RunId {
        RunId(self.header().run)
    }

    /// Makes these the marks of `run`, which the file `stream` names as the last one.
    pub(crate) fn set_run(&self, run: RunId) {
        self.set_header(CheckpointHeader { run: run.0, ..self.header() });
    }

    #[track_caller]
    pub(crate) fn next(&self) -> Position {
        Position(self.whole(NEXT))
    }

    pub(crate) fn set_next(&self, position: Position) {
        self.set(NEXT, position.0);
    }

    #[track_caller]
    pub(crate) fn acknowledged(&self) -> Position {
        Position(self.whole(ACKNOWLEDGED))
    }

    pub(crate) fn set_acknowledged(&self, position: Position) {
        self.set(ACKNOWLEDGED, position.0);
    }

    #[track_caller]
    pub(crate) fn ring_tail(&self) -> u64 {
        self.whole(RING_TAIL)
    }

    pub(crate) fn set_ring_tail(&self, offset: u64) {
        self.set(RING_TAIL, offset);
    }

    #[track_caller]
    pub(crate) fn slots_first(&self) -> Position {
        Position(self.whole(SLOTS_FIRST))
    }

    #[track_caller]
    pub(crate) fn slots_port(&self) -> u16 {
        u16::try_from(self.whole(SLOTS_PORT)).unwrap_or_else(|_| {
            note_internal_error("the port in an intake's mark is none");
            0
        })
    }

    /// To be called before each recvmmsg: what it returns starts at `first` and came to `port`.
    pub(crate) fn set_slots(&self, first: Position, port: u16) {
        self.set(SLOTS_FIRST, first.0);
        self.set(SLOTS_PORT, u64::from(port));
    }
}

/// The version of an intake that starts with `bytes`, if it is newer than this one.
pub(super) fn newer_version_of(bytes: &[u8; HEAD_LEN]) -> Option<char> {
    let (words, _) = bytes.as_chunks::<8>();
    let copy = |at: usize| {
        core::array::from_fn(|word| words.get(at + word).map_or(0, |word| u64::from_ne_bytes(*word)))
    };
    newer_version(CheckpointHeader::of(HEADERS_AT.map(copy), MAGIC).magic.to_be_bytes())
}

fn newer_version(magic: [u8; 8]) -> Option<char> {
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

    use nf_transport_core::internal_error::expecting_internal_errors;

    use super::*;

    const STREAM: StreamId = StreamId([4; 16]);

    fn marks() -> Checkpoint {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        Checkpoint::map(Arc::new(file)).unwrap()
    }

    fn claimed() -> Checkpoint {
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
    fn a_mark_with_two_damaged_copies_is_reported() {
        type Read = fn(&Checkpoint) -> u64;
        let reads: [Read; MARKS] = [
            |marks| marks.next().0,
            |marks| marks.acknowledged().0,
            Checkpoint::ring_tail,
            |marks| marks.slots_first().0,
            |marks| marks.slots_port().into(),
        ];
        for (mark, read) in reads.into_iter().enumerate() {
            let marks = claimed();
            let at = MARKS_AT + 4 * mark;
            for copy in [at, at + 2] {
                marks.set_word(copy, !marks.word(copy));
            }
            assert_eq!(expecting_internal_errors(|| read(&marks)), (0, 1), "mark {mark}");
        }
        let marks = claimed();
        marks.set(SLOTS_PORT, 65_536);
        assert!(!marks.are_whole(), "a port has 16 bits");
    }

    #[test]
    fn zeros_and_ones_are_no_marks() {
        for value in [0, u64::MAX] {
            let marks = claimed();
            (MARKS_AT..WORDS).for_each(|word| marks.set_word(word, value));
            assert_eq!(marks.kind(STREAM), JournalKind::Ours);
            assert!(!marks.are_whole());
        }
    }

    #[test]
    fn version_1_is_read_and_becomes_version_2() {
        let marks = marks();
        assert_eq!(marks.kind(STREAM), JournalKind::Blank);
        let [unchecked @ .., _] =
            CheckpointHeader { magic: MAGIC_1, stream: STREAM.0, ..CheckpointHeader::default() }.encode();
        unchecked.into_iter().enumerate().for_each(|(word, value)| marks.set_word(word, value));
        (0..MARKS)
            .zip([90, 70, 5, 88, 2055])
            .for_each(|(mark, value)| marks.set_word(MARKS_1_AT + mark, value));
        for _ in 0..2 {
            assert_eq!((marks.kind(STREAM), marks.are_whole()), (JournalKind::Ours, true));
            assert_eq!((marks.next(), marks.acknowledged()), (Position(90), Position(70)));
            assert_eq!((marks.ring_tail(), marks.slots_first()), (5, Position(88)));
            assert_eq!(marks.slots_port(), 2055);
            marks.claim(STREAM);
            assert_eq!(marks.header().magic, MAGIC);
        }
    }

    #[test]
    fn a_newer_version_is_known_from_damage() {
        let marks = claimed();
        for (magic, kind) in [
            (b"NFINTAK3", JournalKind::Newer('3')),
            (b"NFINTAKB", JournalKind::Newer('B')),
            (b"NFINTAK\0", JournalKind::Unknown),
            (b"\0FINTAK3", JournalKind::Unknown),
        ] {
            marks.set_word(0, u64::from_be_bytes(*magic));
            assert_eq!(marks.kind(STREAM), JournalKind::Ours, "the other copy is whole");
            marks.set_word(SECOND_HEADER_AT, 0);
            assert_eq!(marks.kind(STREAM), kind);
            marks.claim(STREAM);
        }
    }

    #[test]
    fn the_golden_marks_stay_readable() {
        let marks = claimed();
        marks.set_run(RunId([5; 16]));
        marks.set_boot([6; 16]);
        marks.set_slots(Position(88), 2055);
        marks.set_ring_tail(4096);
        let golden = include_bytes!("golden/v2.marks").as_chunks::<8>().0;
        // The file is in the order of a little-endian machine.
        let golden: Vec<u64> = golden.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let words: Vec<u64> = (0..WORDS).map(|word| marks.word(word)).collect();
        assert_eq!(words, golden);
    }

    #[test]
    fn no_flipped_bit_changes_the_marks() {
        let marks = claimed();
        marks.set_run(RunId([5; 16]));
        marks.set_boot([6; 16]);
        marks.set_slots(Position(8), 2055);
        marks.set_ring_tail(4096);
        let said = |marks: &Checkpoint| {
            let values: Vec<_> = (0..MARKS).map(|mark| marks.get(mark)).collect();
            (marks.kind(STREAM), marks.are_whole(), marks.run(), marks.boot(), values)
        };
        let before = said(&marks);
        assert_eq!((before.0, before.1), (JournalKind::Ours, true));
        for bit in 0..WORDS * 64 {
            let word = marks.word(bit / 64);
            marks.set_word(bit / 64, word ^ 1 << (bit % 64));
            assert_eq!(said(&marks), before, "bit {bit}");
            marks.set_word(bit / 64, word);
        }
    }
}
