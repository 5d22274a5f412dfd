//! A spool whose key changes from run to run, or is missing.

use nf_transport_core::secure::{Key, SpoolKeys};

use super::*;
use crate::sender::queue::recovery::error::RecoveryError;

fn spool_key(byte: char) -> Key {
    Key::from_text(&byte.to_string().repeat(64)).unwrap()
}

/// Starts with these keys and a runtime directory, so that the journal is not in the spool directory.
fn start_sealed(
    directory: &tempfile::TempDir,
    runtime: &tempfile::TempDir,
    keys: SpoolKeys,
) -> Result<RecoveredRun, RecoveryError> {
    recover(directory.path(), Some(runtime.path()), policy(), &Arc::new(keys))
}

/// Returns every file of the spool with its content.
fn contents(directory: &tempfile::TempDir) -> std::collections::BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file());
    files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn an_encrypted_spool_drains_after_a_key_change() {
    let (directory, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let runs = [
        SpoolKeys::opening([]),
        SpoolKeys::sealing(spool_key('1'), []),
        SpoolKeys::sealing(spool_key('2'), [spool_key('1')]),
        SpoolKeys::opening([spool_key('2'), spool_key('1')]),
    ];
    for (number, keys) in runs.into_iter().enumerate() {
        let mut run = start_sealed(&directory, &runtime, keys).unwrap();
        let given = drain(&run.queue, Position(0));
        assert_eq!(given, (0..30 * u64::try_from(number).unwrap()).collect::<Vec<_>>());
        push(&mut run, 30, 700);
        let before = contents(&directory);
        spool_all(&run, policy());
        let new: Vec<u8> = contents(&directory)
            .into_iter()
            .filter(|(name, _)| !before.contains_key(name))
            .flat_map(|(_, bytes)| bytes)
            .collect();
        let shows =
            new.windows(64).any(|window| window.iter().all(|byte| *byte == window[0]) && window[0] > 0);
        assert_eq!(shows, number == 0 || number == 3, "run {number}");
        assert_balanced(&run.queue);
        kill(run);
    }
}

#[test]
fn without_its_key_a_spool_stays_unchanged() {
    let (directory, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut run = start_sealed(&directory, &runtime, SpoolKeys::sealing(spool_key('1'), [])).unwrap();
    push(&mut run, 10, 100);
    spool_all(&run, policy());
    kill(run);
    let before = contents(&directory);
    for (keys, given) in [
        (SpoolKeys::default(), "no key is given for it"),
        (
            SpoolKeys::sealing(spool_key('2'), []),
            &format!("the keys given for it are {}", spool_key('2').id()),
        ),
    ] {
        let refusal = start_sealed(&directory, &runtime, keys).unwrap_err().to_string();
        assert!(
            refusal.contains(&format!("encrypted with key {}, and {given}", spool_key('1').id())),
            "{refusal}"
        );
        assert_eq!(contents(&directory), before);
    }
    let run = start_sealed(&directory, &runtime, SpoolKeys::opening([spool_key('1')])).unwrap();
    assert_eq!(drain(&run.queue, Position(0)), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_segment_without_its_key_is_waited_for() {
    let (directory, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for key in ['1', '2', '1'] {
        let keys = SpoolKeys::sealing(spool_key(key), [spool_key('1'), spool_key('2')]);
        let mut run = start_sealed(&directory, &runtime, keys).unwrap();
        push(&mut run, 5, 100);
        spool_all(&run, policy());
        kill(run);
    }
    let run = start_sealed(&directory, &runtime, SpoolKeys::sealing(spool_key('1'), [])).unwrap();
    let mut backlog = SegmentSource::new(run.queue.clone());
    let first = backlog.read(Position(0)).unwrap();
    assert_eq!(first.last().unwrap().end(), Position(5));
    for _ in 0..10 {
        let error = backlog.read(Position(5)).unwrap_err().to_string();
        assert!(error.contains(&spool_key('2').id().to_string()), "{error}");
    }
    assert_eq!(run.queue.figures().counts.corrupt, 0);
    assert_eq!(run.queue.figures().queued, 15);
    drop(backlog);
    kill(run);
    let both = SpoolKeys::opening([spool_key('1'), spool_key('2')]);
    let run = start_sealed(&directory, &runtime, both).unwrap();
    assert_eq!(drain(&run.queue, Position(0)), (0..15).collect::<Vec<_>>());
}

#[test]
fn encryption_loses_no_unencrypted_journal() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 3, 100);
    kill(run);
    let sealing = || Arc::new(SpoolKeys::sealing(spool_key('1'), []));
    let refusal = recover(directory.path(), None, policy(), &sealing()).unwrap_err().to_string();
    assert!(
        refusal.contains("start once without spool.encrypt: an orderly stop then moves them"),
        "{refusal}"
    );
    let run = start(&directory, policy());
    assert_eq!(drain(&run.queue, Position(0)), [0, 1, 2]);
    spool_all(&run, policy());
    std::fs::remove_file(directory.path().join("intake")).unwrap();
    kill(run);
    let mut run = recover(directory.path(), None, policy(), &sealing()).unwrap();
    push(&mut run, 3, 100);
    assert!(!directory.path().join("intake").exists());
    assert_eq!(drain(&run.queue, Position(0)), [0, 1, 2, 3, 4, 5]);
}
