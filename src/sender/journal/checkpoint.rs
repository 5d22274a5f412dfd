//! The checkpoint: the positions and offsets of the receive journal, in words that survive the process.
//!
//! | offset | width | content |
//! |---|---|---|
//! | 0 | 8 | magic and version: `NFINTAK2` |
//! | 8 | 16 | stream id |
//! | 24 | 16 | boot id |
//! | 40 | 16 | id of the run that fills the journal; zeros if the file `stream` does not name that run |
//! | 56 | 8 | check of bytes 0 to 55 ([`crate::sender::journal::header`]) |
//! | 128 | 32 | mark 0: the position of the next datagram to be encoded |
//! | 160 | 32 | mark 1: acknowledged up to this position |
//! | 192 | 32 | mark 2, ring: offset of the oldest batch, counted in bytes since the ring was made |
//! | 224 | 32 | mark 3, slots: the position of the first datagram that the last recvmmsg returned |
//! | 256 | 32 | mark 4, slots: port of the socket that it was called on |
//! | 384 | 64 | bytes 0 to 63 once more |
//!
//! A mark is four words: value, check, and both again, written in this order. So one copy is always intact
//! after a kill, and damage is detected. The check of a value is its complement, exclusive-or the number of
//! the mark (from 1) times 0x9E3779B97F4A7C15.
//!
//! Version 1 (`NFINTAK1`) had each mark once and without a check, at offset 64 + 8 times its number. It is
//! still read. A newer version must leave no intact copy of this header at offset 384. This distinguishes a
//! newer version from a damaged version number.

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

/// The length in bytes: one page, so that the slots start on a page.
pub(super) const LEN: usize = 4096;

/// The bytes in use.
pub(super) const HEAD_LEN: usize = WORDS * size_of::<u64>();

const MAGIC_PREFIX: &[u8; 7] = b"NFINTAK";
const MAGIC_1: u64 = u64::from_be_bytes(*b"NFINTAK1");
const MAGIC: u64 = u64::from_be_bytes(*b"NFINTAK2");
const WORDS: usize = SECOND_HEADER_AT + header::WORDS;

/// The word offsets of the header copies.
const HEADERS_AT: [usize; 2] = [0, SECOND_HEADER_AT];
const SECOND_HEADER_AT: usize = 48;
/// The word offset of the marks in version 1.
const MARKS_1_AT: usize = 8;
const MARKS_AT: usize = 16;

const NEXT: usize = 0;
const ACKNOWLEDGED: usize = 1;
const RING_TAIL: usize = 2;
const SLOTS_FIRST: usize = 3;
const SLOTS_PORT: usize = 4;
const MARKS: usize = 5;

/// The kind of a journal, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JournalKind {
    /// A journal of this stream.
    Ours,
    /// A journal of another stream.
    OtherStream,
    /// A journal of a newer format, with this version.
    Newer(char),
    /// Only zeros, as in a new file.
    Blank,
    /// Anything else: a damaged file.
    Unknown,
}

/// The checkpoint of a journal, shared by all threads. Each mark has one writing thread.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    map: Mapping,
}

impl Checkpoint {
    pub(super) fn map(file: SharedFile) -> io::Result<Self> {
        Ok(Self { map: Mapping::map(file, 0, LEN)? })
    }

    pub(crate) fn backing(&self) -> Backing {
        self.map.backing()
    }

    pub(crate) fn move_to_memory(&self) -> io::Result<()> {
        self.map.move_to_memory()
    }

    fn words(&self) -> &[AtomicU64; WORDS] {
        const { assert!(WORDS * size_of::<AtomicU64>() <= LEN) }
        // SAFETY: the mapping is LEN bytes long, writable, page-aligned, lives as long as `self`, and is only
        // ever accessed through these atomics.
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

    /// Reads a mark; `None` if it is damaged.
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

    /// Reads a mark that is known to be intact, after [`Self::is_intact`] or [`Self::claim`].
    #[track_caller]
    fn intact(&self, mark: usize) -> u64 {
        self.get(mark).unwrap_or_else(|| {
            note_internal_error("both copies of a journal mark are damaged");
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
        CheckpointHeader::first_intact(
            HEADERS_AT.map(|at| core::array::from_fn(|word| self.word(at + word))),
            MAGIC,
        )
    }

    /// Writes one copy after the other, so that one is intact after a kill. The first copy comes last: a
    /// version 1 journal has only that one.
    fn set_header(&self, header: CheckpointHeader) {
        for at in HEADERS_AT.into_iter().rev() {
            for (word, value) in (at..).zip(header.encode()) {
                self.set_word(word, value);
            }
        }
    }

    /// The stream of the journal.
    pub(super) fn stream(&self) -> StreamId {
        StreamId(self.header().stream)
    }

    /// Classifies the journal for a run of `stream`.
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

    /// Returns `true` if all marks are intact and consistent with each other.
    pub(super) fn is_intact(&self) -> bool {
        let is_whole = (0..MARKS).all(|mark| self.get(mark).is_some());
        let is_port = |value| u16::try_from(value).is_ok();
        is_whole
            && self.acknowledged() <= self.next()
            && self.ring_tail() < 1 << 62
            && self.get(SLOTS_PORT).is_some_and(is_port)
    }

    /// The boot that wrote the checkpoint.
    pub(super) fn boot(&self) -> [u8; 16] {
        self.header().boot
    }

    /// Claims the journal for `stream`, in the current version. Intact marks of that stream keep their
    /// values.
    pub(super) fn claim(&self, stream: StreamId) {
        let keep = self.kind(stream) == JournalKind::Ours && self.is_intact();
        let values: [u64; MARKS] = core::array::from_fn(|mark| if keep { self.intact(mark) } else { 0 });
        for (mark, value) in values.into_iter().enumerate() {
            self.set(mark, value);
        }
        let old = if keep { self.header() } else { CheckpointHeader::default() };
        self.set_header(CheckpointHeader { magic: MAGIC, stream: stream.0, ..old });
    }

    /// Sets the boot, which makes the next start in this boot trust the marks. Call it only once they are
    /// valid.
    pub(crate) fn set_boot(&self, boot: [u8; 16]) {
        self.set_header(CheckpointHeader { boot, ..self.header() });
    }

    /// The run that wrote the checkpoint; `RunId::NONE` if unknown.
    pub(crate) fn run(&self) -> RunId {
        RunId(self.header().run)
    }

    /// Sets the run, which the file `stream` names as the last one.
    pub(crate) fn set_run(&self, run: RunId) {
        self.set_header(CheckpointHeader { run: run.0, ..self.header() });
    }

    #[track_caller]
    pub(crate) fn next(&self) -> Position {
        Position(self.intact(NEXT))
    }

    pub(crate) fn set_next(&self, position: Position) {
        self.set(NEXT, position.0);
    }

    #[track_caller]
    pub(crate) fn acknowledged(&self) -> Position {
        Position(self.intact(ACKNOWLEDGED))
    }

    pub(crate) fn set_acknowledged(&self, position: Position) {
        self.set(ACKNOWLEDGED, position.0);
    }

    #[track_caller]
    pub(crate) fn ring_tail(&self) -> u64 {
        self.intact(RING_TAIL)
    }

    pub(crate) fn set_ring_tail(&self, offset: u64) {
        self.set(RING_TAIL, offset);
    }

    #[track_caller]
    pub(crate) fn slots_first(&self) -> Position {
        Position(self.intact(SLOTS_FIRST))
    }

    #[track_caller]
    pub(crate) fn slots_port(&self) -> u16 {
        u16::try_from(self.intact(SLOTS_PORT)).unwrap_or_else(|_| {
            note_internal_error("the port in a journal mark is not a port");
            0
        })
    }

    /// Sets the first position and the port of the next recvmmsg. Call it before each one.
    pub(crate) fn set_slots(&self, first: Position, port: u16) {
        self.set(SLOTS_FIRST, first.0);
        self.set(SLOTS_PORT, u64::from(port));
    }
}

/// Returns the version of a journal that starts with `bytes` if it is newer than this one.
pub(super) fn newer_version_of(bytes: &[u8; HEAD_LEN]) -> Option<char> {
    let (words, _) = bytes.as_chunks::<8>();
    let copy = |at: usize| {
        core::array::from_fn(|word| words.get(at + word).map_or(0, |word| u64::from_ne_bytes(*word)))
    };
    newer_version(CheckpointHeader::first_intact(HEADERS_AT.map(copy), MAGIC).magic.to_be_bytes())
}

fn newer_version(magic: [u8; 8]) -> Option<char> {
    match magic.strip_prefix(MAGIC_PREFIX) {
        Some([version @ (b'3'..=b'9' | b'A'..=b'Z')]) => Some(char::from(*version)),
        _ => None,
    }
}

/// Computes the check of a value. Value and check are never both zero nor all ones.
fn check_of(mark: usize, value: u64) -> u64 {
    let number = u64::try_from(mark).unwrap_or(u64::MAX).wrapping_add(1);
    !value ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests;
