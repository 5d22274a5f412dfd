use std::sync::Arc;

use nf_transport_core::internal_error::expecting_internal_errors;

use super::*;

const STREAM: StreamId = StreamId([4; 16]);

fn unclaimed() -> Checkpoint {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    Checkpoint::map(Arc::new(file)).unwrap()
}

fn claimed() -> Checkpoint {
    let checkpoint = unclaimed();
    checkpoint.claim(STREAM);
    checkpoint.set_next(Position(9));
    checkpoint.set_acknowledged(Position(7));
    checkpoint
}

#[test]
fn one_copy_of_a_mark_is_always_intact() {
    let checkpoint = claimed();
    let at = MARKS_AT + 4 * NEXT;
    let check = check_of(NEXT, 12);
    for (step, word) in [12, check, 12, check].into_iter().enumerate() {
        checkpoint.set_word(at + step, word);
        let value = checkpoint.get(NEXT).unwrap();
        assert_eq!(value, if step == 0 { 9 } else { 12 }, "after {} words", step + 1);
    }
}

#[test]
fn one_damaged_copy_does_no_harm() {
    let checkpoint = claimed();
    for mark in 0..MARKS {
        let at = MARKS_AT + 4 * mark;
        let value = checkpoint.get(mark);
        for first in 0..2 {
            checkpoint.set_word(at + first, !checkpoint.word(at + first));
            assert_eq!(checkpoint.get(mark), value);
            checkpoint.set_word(at + first, !checkpoint.word(at + first));
        }
        checkpoint.set_word(at, 1);
        checkpoint.set_word(at + 2, 2);
        assert!(!checkpoint.is_intact(), "mark {mark}");
        checkpoint.set(mark, value.unwrap());
    }
    assert!(checkpoint.is_intact());
}

#[test]
fn a_mark_with_two_damaged_copies_is_reported() {
    type Read = fn(&Checkpoint) -> u64;
    let reads: [Read; MARKS] = [
        |checkpoint| checkpoint.next().0,
        |checkpoint| checkpoint.acknowledged().0,
        Checkpoint::ring_tail,
        |checkpoint| checkpoint.slots_first().0,
        |checkpoint| checkpoint.slots_port().into(),
    ];
    for (mark, read) in reads.into_iter().enumerate() {
        let checkpoint = claimed();
        let at = MARKS_AT + 4 * mark;
        for copy in [at, at + 2] {
            checkpoint.set_word(copy, !checkpoint.word(copy));
        }
        assert_eq!(expecting_internal_errors(|| read(&checkpoint)), (0, 1), "mark {mark}");
    }
    let checkpoint = claimed();
    checkpoint.set(SLOTS_PORT, 65_536);
    assert!(!checkpoint.is_intact(), "a port has 16 bits");
}

#[test]
fn zeros_and_ones_are_invalid_marks() {
    for value in [0, u64::MAX] {
        let checkpoint = claimed();
        (MARKS_AT..WORDS).for_each(|word| checkpoint.set_word(word, value));
        assert_eq!(checkpoint.kind(STREAM), JournalKind::Ours);
        assert!(!checkpoint.is_intact());
    }
}

#[test]
fn version_1_is_read_and_becomes_version_2() {
    let checkpoint = unclaimed();
    assert_eq!(checkpoint.kind(STREAM), JournalKind::Blank);
    let [unchecked @ .., _] =
        CheckpointHeader { magic: MAGIC_1, stream: STREAM.0, ..CheckpointHeader::default() }.encode();
    unchecked.into_iter().enumerate().for_each(|(word, value)| checkpoint.set_word(word, value));
    (0..MARKS)
        .zip([90, 70, 5, 88, 2055])
        .for_each(|(mark, value)| checkpoint.set_word(MARKS_1_AT + mark, value));
    for _ in 0..2 {
        assert_eq!((checkpoint.kind(STREAM), checkpoint.is_intact()), (JournalKind::Ours, true));
        assert_eq!((checkpoint.next(), checkpoint.acknowledged()), (Position(90), Position(70)));
        assert_eq!((checkpoint.ring_tail(), checkpoint.slots_first()), (5, Position(88)));
        assert_eq!(checkpoint.slots_port(), 2055);
        checkpoint.claim(STREAM);
        assert_eq!(checkpoint.header().magic, MAGIC);
    }
}

#[test]
fn a_newer_version_differs_from_damage() {
    let checkpoint = claimed();
    for (magic, kind) in [
        (b"NFINTAK3", JournalKind::Newer('3')),
        (b"NFINTAKB", JournalKind::Newer('B')),
        (b"NFINTAK\0", JournalKind::Unknown),
        (b"\0FINTAK3", JournalKind::Unknown),
    ] {
        checkpoint.set_word(0, u64::from_be_bytes(*magic));
        assert_eq!(checkpoint.kind(STREAM), JournalKind::Ours, "the other copy is whole");
        checkpoint.set_word(SECOND_HEADER_AT, 0);
        assert_eq!(checkpoint.kind(STREAM), kind);
        checkpoint.claim(STREAM);
    }
}

#[test]
fn the_golden_checkpoint_stays_readable() {
    let checkpoint = claimed();
    checkpoint.set_run(RunId([5; 16]));
    checkpoint.set_boot([6; 16]);
    checkpoint.set_slots(Position(88), 2055);
    checkpoint.set_ring_tail(4096);
    let golden = include_bytes!("../golden/v2.marks").as_chunks::<8>().0;
    // The file is in the order of a little-endian machine.
    let golden: Vec<u64> = golden.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let words: Vec<u64> = (0..WORDS).map(|word| checkpoint.word(word)).collect();
    assert_eq!(words, golden);
}

#[test]
fn no_flipped_bit_changes_the_marks() {
    let checkpoint = claimed();
    checkpoint.set_run(RunId([5; 16]));
    checkpoint.set_boot([6; 16]);
    checkpoint.set_slots(Position(8), 2055);
    checkpoint.set_ring_tail(4096);
    let content = |checkpoint: &Checkpoint| {
        let values: Vec<_> = (0..MARKS).map(|mark| checkpoint.get(mark)).collect();
        (checkpoint.kind(STREAM), checkpoint.is_intact(), checkpoint.run(), checkpoint.boot(), values)
    };
    let before = content(&checkpoint);
    assert_eq!((before.0, before.1), (JournalKind::Ours, true));
    for bit in 0..WORDS * 64 {
        let word = checkpoint.word(bit / 64);
        checkpoint.set_word(bit / 64, word ^ 1 << (bit % 64));
        assert_eq!(content(&checkpoint), before, "bit {bit}");
        checkpoint.set_word(bit / 64, word);
    }
}
