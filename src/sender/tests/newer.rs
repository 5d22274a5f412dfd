//! Segments and batches of a newer version in the queue: every position is counted once, by uplink or
//! flusher.

use std::path::Path;

use nf_transport_core::spool::as_newer::{set_header_byte, set_version};
use nf_transport_core::spool::{Item, Newer, SEGMENT_HEADER_LEN};

use super::*;
use crate::host::both_clocks;
use crate::sender::queue::segments::OpenedSegment;

const BATCHES: u64 = 30;

/// Segments of ten batches that [`push`] makes of 1,000 bytes.
fn ten_to_a_segment() -> Policy {
    Policy { rotate_size: 11_000, ..policy() }
}

/// Creates a spool of `BATCHES` batches in three segments, after an orderly stop. Returns it and the file of
/// its first segment.
fn stopped() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, ten_to_a_segment());
    push(&mut run, BATCHES, 1000);
    spool_all(&run, ten_to_a_segment());
    assert_eq!(segments(&directory), 3);
    let file = directory.path().join("00000000000000000000.segment");
    (directory, file)
}

/// Changes a file as a newer version would have written it.
fn change(file: &Path, change: impl FnOnce(&mut [u8])) {
    let mut bytes = std::fs::read(file).unwrap();
    change(&mut bytes);
    std::fs::write(file, bytes).unwrap();
}

fn kept(directory: &tempfile::TempDir) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory.path().join("newer")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Returns the item that the uplink finds at the first position.
fn first_newer(run: &RecoveredRun) -> Newer {
    let OpenedSegment { first, mut reader, .. } = run.queue.reader(Position(0), false).unwrap().unwrap();
    assert_eq!(first, Position(0));
    let Some(Item::Newer(newer)) = reader.next_item().unwrap() else { panic!("a newer segment") };
    newer
}

/// Lets the first segment be one of a newer version that reaches a limit of the spool after the uplink has
/// read it.
fn dropped_meanwhile(account: impl FnOnce(&RecoveredRun, &Newer)) {
    let (directory, file) = stopped();
    change(&file, |segment| set_version(segment, 2));
    let before = std::fs::read(&file).unwrap();
    let aged = Policy { max_age: Some(Duration::ZERO), ..ten_to_a_segment() };
    let run = start(&directory, aged);
    let newer = first_newer(&run);
    // Like the flusher, which accounts for it later.
    let now = both_clocks();
    for moment in [now, now.plus(Duration::from_secs(10))] {
        run.queue.spool().enforce_limits(moment, Position(0));
    }
    account(&run, &newer);
    let figures = run.queue.figures();
    assert_eq!((figures.counts.recovered, figures.counts.too_old, figures.queued), (20, 20, 0));
    assert_balanced(&run.queue);
    let files = kept(&directory);
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(std::fs::read(&files[0]).unwrap() == before, "not a byte was changed");
}

#[test]
fn a_newer_segment_at_a_limit_counts_once() {
    let policy = ten_to_a_segment();
    dropped_meanwhile(|run, newer| {
        run.queue.preserve_newer(Position(0), newer).unwrap();
        assert_eq!(run.queue.figures().counts.recovered, BATCHES, "the flusher accounts for it");
        spool_all(run, policy);
    });
    dropped_meanwhile(|run, newer| {
        spool_all(run, policy);
        run.queue.preserve_newer(Position(0), newer).unwrap();
    });
}

#[test]
fn a_copy_in_newer_is_not_queued_twice() {
    let (directory, file) = stopped();
    let set_code = |file: &Path, code| {
        change(file, |segment| set_header_byte(segment, SEGMENT_HEADER_LEN, 52, code));
    };
    set_code(&file, 3);
    let run = start(&directory, ten_to_a_segment());
    assert_eq!(drain(&run.queue, Position(0)), (1..BATCHES).collect::<Vec<_>>());
    kill(run);
    let counts = |run: &RecoveredRun| (run.queue.figures().counts.recovered, run.queue.figures().queued);
    let run = start(&directory, ten_to_a_segment());
    assert_eq!(counts(&run), (BATCHES - 1, BATCHES - 1), "a restart does not queue it again");
    spool_all(&run, ten_to_a_segment());
    kill(run);

    set_code(&file, 0);
    set_code(&kept(&directory)[0], 0);
    let run = start(&directory, ten_to_a_segment());
    assert_eq!(counts(&run), (BATCHES, BATCHES), "an upgrade queues it once");
    assert!(kept(&directory).is_empty());
}

#[test]
fn the_directory_newer_is_created_when_needed() {
    let (directory, file) = stopped();
    change(&file, |segment| set_version(segment, 2));
    let run = start(&directory, ten_to_a_segment());
    std::fs::remove_dir(directory.path().join("newer")).unwrap();
    assert_eq!(drain(&run.queue, Position(0)), (10..BATCHES).collect::<Vec<_>>());
    assert_eq!(kept(&directory).len(), 1);
}

#[test]
fn a_skipped_newer_batch_is_copied_after_a_kill() {
    let (directory, file) = stopped();
    change(&file, |segment| set_header_byte(segment, SEGMENT_HEADER_LEN, 52, 3));
    let run = start(&directory, ten_to_a_segment());
    // Like on a disk that rejected the copy after the start.
    run.checkpoint.set_acknowledged(Position(1));
    kill(run);
    let _run = start(&directory, ten_to_a_segment());
    assert_eq!(kept(&directory).len(), 1);
}

#[test]
fn an_unmovable_newer_journal_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 3, 100);
    kill(run);
    let path = directory.path().join("intake");
    change(&path, |journal| {
        journal[..8].copy_from_slice(&u64::from_be_bytes(*b"NFINTAK3").to_ne_bytes());
        // A newer version leaves no copy of this version's header.
        journal[384..448].fill(0);
    });
    for number in 1..=9 {
        std::fs::write(path.with_extension(format!("newer-{number}")), "").unwrap();
    }
    let before = std::fs::read(&path).unwrap();
    let mut run = start(&directory, policy());
    let reason = run.location.why_in_memory().unwrap();
    assert!(reason.contains("9 receive journals of newer versions are kept already"), "{reason}");
    push(&mut run, 2, 100);
    assert!(std::fs::read(&path).unwrap() == before, "not a byte was changed");
}

/// Bytes of a batch of [`stopped`].
const BATCH_LEN: usize = 56 + 23 + 1000;

/// Keeps a segment of ten batches of a newer version and damages it. Returns the recovered, corrupt and
/// queued datagrams of the start that recovers it, and the number of copies in `damaged/`.
fn recovered_with(damage: impl FnOnce(&mut Vec<u8>)) -> (u64, u64, u64, u64) {
    let (directory, file) = stopped();
    change(&file, |segment| set_version(segment, 2));
    let run = start(&directory, ten_to_a_segment());
    drain(&run.queue, Position(0));
    spool_all(&run, ten_to_a_segment());
    kill(run);
    let file = kept(&directory).remove(0);
    change(&file, |segment| set_version(segment, 1));
    let mut bytes = std::fs::read(&file).unwrap();
    damage(&mut bytes);
    std::fs::write(&file, bytes).unwrap();
    let run = start(&directory, ten_to_a_segment());
    assert_balanced(&run.queue);
    let figures = run.queue.figures();
    (figures.counts.recovered, figures.counts.corrupt, figures.queued, figures.damaged.files)
}

/// Returns the offset of a byte in the body or in the header of a batch.
fn body_of(number: usize) -> usize {
    SEGMENT_HEADER_LEN + number * BATCH_LEN + 500
}

fn header_of(number: usize) -> usize {
    SEGMENT_HEADER_LEN + number * BATCH_LEN + 20
}

#[test]
fn damage_in_a_file_of_newer_is_counted() {
    assert_eq!(recovered_with(|_| {}), (30, 0, 30, 0));
    assert_eq!(recovered_with(|bytes| bytes[body_of(3)] ^= 1), (30, 1, 29, 1));
    assert_eq!(recovered_with(|bytes| bytes[header_of(0)] ^= 1), (30, 1, 29, 1));
    let two_pieces = |bytes: &mut Vec<u8>| {
        bytes[header_of(2)..body_of(4)].fill(0);
        bytes[body_of(7)] ^= 1;
    };
    assert_eq!(recovered_with(two_pieces), (30, 4, 26, 2));
    assert_eq!(recovered_with(|bytes| bytes[body_of(9)] ^= 1), (30, 1, 29, 1), "the header tells");
}

#[test]
fn unknown_damage_in_newer_counts_at_least_one() {
    assert_eq!(recovered_with(|bytes| bytes[header_of(9)] ^= 1), (30, 1, 29, 1));
    assert_eq!(recovered_with(|bytes| bytes[header_of(8)..].fill(0)), (29, 1, 28, 1));
    let torn = |bytes: &mut Vec<u8>| bytes.truncate(body_of(8));
    assert_eq!(recovered_with(torn), (29, 1, 28, 1), "the header of a torn batch is whole");
}

#[test]
fn a_newer_file_without_intact_batch_is_counted() {
    let bodies = |bytes: &mut Vec<u8>| (0..10).for_each(|number| bytes[body_of(number)] ^= 1);
    assert_eq!(recovered_with(bodies), (30, 10, 20, 1));
    assert_eq!(recovered_with(|bytes| bytes[SEGMENT_HEADER_LEN..].fill(0)), (21, 1, 20, 1));
}
