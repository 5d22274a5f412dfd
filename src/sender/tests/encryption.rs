//! An encrypted spool: its content on disk, and its recovery with the right key, another one, or none.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nf_transport_core::batch::{ParsedBatch, Sealing};
use nf_transport_core::secure::{Key, OpenError, SpoolKeys};
use nf_transport_core::sequence::StreamId;
use nf_transport_core::spool::SEGMENT_HEADER_LEN;

use super::*;
use crate::host::DaemonError;
use crate::sender::queue::recovery::error::RecoveryError;
use crate::sender::uplink::segment_source::SegmentSourceError;

fn key(digit: char) -> Key {
    Key::from_text(&digit.to_string().repeat(64)).unwrap()
}

fn sealing(current: char, others: &[char]) -> SpoolKeys {
    SpoolKeys::sealing(key(current), others.iter().map(|digit| key(*digit)))
}

/// Returns every file below `path` with its bytes.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// Returns `true` if a file of the spool contains part of a payload of [`push`]: one non-zero byte many
/// times.
fn shows_payload(directory: &tempfile::TempDir) -> bool {
    let is_payload = |window: &[u8]| window[0] != 0 && window.iter().all(|byte| *byte == window[0]);
    files(directory.path()).values().any(|bytes| bytes.windows(16).any(is_payload))
}

/// Runs with these keys, puts `batches` batches into one segment, and ends with an orderly stop.
fn run_with(directory: &tempfile::TempDir, keys: SpoolKeys, batches: u64) {
    let mut run = start_with(directory, policy(), keys).unwrap();
    push(&mut run, batches, 300);
    spool_all(&run, policy());
    if let Some(path) = run.location.path() {
        journal::remove(path).unwrap();
    }
}

fn all_segments(directory: &tempfile::TempDir) -> Vec<PathBuf> {
    let all = files(directory.path()).into_keys();
    all.filter(|path| path.extension().is_some_and(|kind| kind == "segment")).collect()
}

fn start_with(
    directory: &tempfile::TempDir,
    policy: Policy,
    keys: SpoolKeys,
) -> Result<RecoveredRun, RecoveryError> {
    recover(directory.path(), None, policy, &Arc::new(keys))
}

fn refusal(directory: &tempfile::TempDir, keys: SpoolKeys) -> (u8, String) {
    let error: DaemonError = start_with(directory, policy(), keys).unwrap_err().into();
    let directory = directory.path().display().to_string();
    (u8::from(error.code()), error.to_string().replace(&directory, "DIR"))
}

#[test]
fn a_start_without_the_key_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    run_with(&directory, sealing('1', &[]), 5);
    // An incomplete batch at the end and a gap that covers a segment, which an ordinary start would repair.
    let segment = all_segments(&directory).pop().unwrap();
    let torn = [&std::fs::read(&segment).unwrap()[..], b"NFB1 torn"].concat();
    std::fs::write(&segment, torn).unwrap();
    let gap = format!("{:020}-{:020}-spool-full.gap", 0, 3);
    std::fs::write(directory.path().join(gap), "").unwrap();
    std::fs::remove_file(directory.path().join("stream")).unwrap();
    let before = files(directory.path());

    let ids = ['1', '2', '3'].map(|digit| key(digit).id().to_string());
    let advice = "name the file with that key as spool.previous-key-file; nothing was changed";
    for (keys, given) in [
        (SpoolKeys::default(), "no key is given for it".to_owned()),
        (sealing('2', &[]), format!("the keys given for it are {}", ids[1])),
        (
            SpoolKeys::opening([key('2'), key('3')]),
            format!("the keys given for it are {} and {}", ids[1], ids[2]),
        ),
    ] {
        let message = format!("DIR: the spool is encrypted with key {}, and {given}: {advice}", ids[0]);
        assert_eq!(refusal(&directory, keys), (78, message));
        assert_eq!(files(directory.path()), before);
    }
}

#[test]
fn a_damaged_first_batch_hides_no_missing_key() {
    let directory = tempfile::tempdir().unwrap();
    run_with(&directory, sealing('1', &[]), 3);
    let segment = all_segments(&directory).pop().unwrap();
    let file = std::fs::File::options().write(true).open(&segment).unwrap();
    file.write_all_at(b"????", u64::try_from(SEGMENT_HEADER_LEN).unwrap()).unwrap();
    let before = files(directory.path());
    let (code, message) = refusal(&directory, SpoolKeys::default());
    assert!(code == 78 && message.contains(&key('1').id().to_string()), "{message}");
    assert_eq!(files(directory.path()), before);
}

#[test]
fn the_key_of_the_newest_segment_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    run_with(&directory, SpoolKeys::default(), 3);
    run_with(&directory, sealing('1', &[]), 3);
    let before = files(directory.path());
    let (code, message) = refusal(&directory, sealing('2', &[]));
    assert!(code == 78 && message.contains(&key('1').id().to_string()), "{message}");
    assert_eq!(files(directory.path()), before);
}

/// Creates a spool whose batches from 3 to 6 are encrypted with another key than the others.
fn with_a_locked_middle(directory: &tempfile::TempDir) {
    run_with(directory, sealing('1', &[]), 3);
    run_with(directory, sealing('2', &['1']), 3);
    run_with(directory, sealing('1', &['2']), 3);
}

/// Checks that with the key of the ends alone, the start is read and the middle waits.
fn assert_the_middle_waits(directory: &tempfile::TempDir) {
    let before = all_segments(directory);
    let run = start_with(directory, policy(), sealing('1', &[])).unwrap();
    let mut backlog = SegmentSource::new(run.queue.clone());
    let front = backlog.read(Position(0)).unwrap();
    assert_eq!(front.iter().map(|batch| batch.first().0).collect::<Vec<_>>(), [0, 1, 2]);
    for _ in 0..10 {
        match backlog.read(Position(3)) {
            Err(SegmentSourceError::Sealed(OpenError::UnknownKey(missing))) => {
                assert_eq!(missing, key('2').id());
            }
            other => panic!("{other:?}"),
        }
    }
    let figures = run.queue.figures();
    assert_eq!((figures.queued, figures.counts.corrupt), (9, 0));
    drop(run);
    assert_eq!(all_segments(directory), before);
    let run = start_with(directory, policy(), sealing('1', &['2'])).unwrap();
    assert_eq!(drain(&run.queue, Position(0)), (0..9).collect::<Vec<_>>());
    assert_balanced(&run.queue);
}

#[test]
fn batches_of_an_unknown_key_wait() {
    let directory = tempfile::tempdir().unwrap();
    with_a_locked_middle(&directory);
    let segments = all_segments(&directory);
    let mut joined = std::fs::read(&segments[0]).unwrap();
    joined.extend(&std::fs::read(&segments[1]).unwrap()[SEGMENT_HEADER_LEN..]);
    std::fs::write(&segments[0], joined).unwrap();
    std::fs::remove_file(&segments[1]).unwrap();
    assert_the_middle_waits(&directory);
}

/// Changes the encrypted body of the batch at `position` and corrects the checksums, as an attacker would.
fn forge(segment: &Path, stream: StreamId, position: Position) {
    let bytes = Bytes::from(std::fs::read(segment).unwrap());
    let mut forged = bytes[..SEGMENT_HEADER_LEN].to_vec();
    let mut rest = bytes.slice(SEGMENT_HEADER_LEN..);
    while !rest.is_empty() {
        let ParsedBatch::Batch(batch) = Batch::parse(stream, &rest).unwrap() else { panic!("a cut segment") };
        rest = rest.slice(batch.bytes().len()..);
        let mut body = batch.body().to_vec();
        *body.last_mut().unwrap() ^= u8::from(batch.first() == position);
        forged.extend_from_slice(batch.with_body(stream, Sealing::Aes256Gcm, &body).unwrap().bytes());
    }
    std::fs::write(segment, forged).unwrap();
}

#[test]
fn a_forged_batch_counts_as_damage() {
    let directory = tempfile::tempdir().unwrap();
    run_with(&directory, sealing('1', &[]), 5);
    let stream = start_with(&directory, policy(), sealing('1', &[])).unwrap().stream;
    forge(&all_segments(&directory)[0], stream, Position(2));
    let run = start_with(&directory, policy(), sealing('1', &[])).unwrap();
    // The last start was cut short with its journal in memory, so the numbering skipped ahead.
    assert_eq!(drain(&run.queue, Position(0)), [0, 1, 3, 4]);
    assert_eq!(run.queue.figures().counts.corrupt, 1);
    assert_balanced(&run.queue);
    let aside = files(&directory.path().join("damaged"));
    assert_eq!(aside.len(), 1);
    let (_, piece) = aside.first_key_value().unwrap();
    let ParsedBatch::Batch(batch) = Batch::parse(stream, &Bytes::from(piece.clone())).unwrap() else {
        panic!()
    };
    assert_eq!((batch.first(), batch.bytes().len()), (Position(2), piece.len()));
    assert!(!shows_payload(&directory));
}

#[test]
fn without_a_runtime_directory_all_is_encrypted() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start_with(&directory, policy(), sealing('1', &[])).unwrap();
    assert_eq!(run.location.path(), None);
    push(&mut run, 5, 300);
    kill(run);
    assert!(!directory.path().join("intake").exists() && !shows_payload(&directory));
}

#[test]
fn a_newer_encrypted_segment_waits_for_its_key() {
    let directory = tempfile::tempdir().unwrap();
    run_with(&directory, sealing('1', &[]), 251);
    let segment = all_segments(&directory).remove(0);
    let stream = StreamId(std::fs::read(&segment).unwrap()[16..32].try_into().unwrap());
    let kept = directory.path().join(format!("newer/{:020}-{stream}.segment", 0));
    std::fs::rename(&segment, &kept).unwrap();
    run_with(&directory, SpoolKeys::opening([key('2')]), 0);
    assert!(kept.exists());

    let run = start_with(&directory, policy(), sealing('2', &['1'])).unwrap();
    assert!(!kept.exists());
    assert_eq!(drain(&run.queue, run.queue.acknowledged()), (251..502).collect::<Vec<_>>());
    assert_balanced(&run.queue);
    assert!(!shows_payload(&directory));
}
