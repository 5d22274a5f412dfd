//! The log of positions: power losses, damage, and the number of syncs.

use std::sync::atomic::Ordering;

use super::*;
use crate::limits::{IDLE_STREAMS_EXAMINED_EVERY, POSITION_FILES_PER_SYNC, POSITIONS_LOG_MAX};
use crate::receiver::state::positions::log_record::RECORD_LEN;

fn log_of(state: &TempDir) -> PathBuf {
    state.path().join("positions.log")
}

fn opened(state: &TempDir) -> Positions {
    Positions::open(state.path()).unwrap()
}

fn syncs(positions: &Positions) -> u64 {
    positions.need.syncs.load(Ordering::Relaxed)
}

/// A stream of its own for each of these senders, in use, with its file synced and a log begun.
fn in_use(positions: &Positions, senders: usize) -> Vec<StreamInUse> {
    let begin = |sender| {
        let sender = format!("edge-{sender}").parse().unwrap();
        positions.stream(&StreamOwner { sender, source: None }, STREAM, Instant::now()).unwrap()
    };
    let streams: Vec<_> = (0..senders).map(begin).collect();
    store_all(&streams, 1);
    while positions.is_sync_due(Instant::now()) {
        positions.sync().unwrap();
    }
    store_all(&streams, 2);
    positions.sync().unwrap();
    streams
}

fn store_all(streams: &[StreamInUse], position: u64) {
    for stream in streams {
        stream.store(Position(position), RUN).unwrap();
    }
}

/// The position of the stream after a start with these bytes in its file, and the present log.
fn after_power_loss(state: &TempDir, file: &[u8]) -> (Option<Position>, Option<Position>) {
    std::fs::write(file_of(state, STREAM), file).unwrap();
    let stream = stream_of(&opened(state), STREAM).unwrap();
    (stream.get(), stream.skip_position())
}

#[test]
fn one_sync_is_enough_for_100_senders() {
    let state = TempDir::new().unwrap();
    let positions = opened(&state);
    let streams = in_use(&positions, 100);
    let before = syncs(&positions);
    store_all(&streams, 3);
    positions.sync().unwrap();
    assert_eq!(syncs(&positions) - before, 1);
}

#[test]
fn no_change_needs_no_sync() {
    let state = TempDir::new().unwrap();
    let positions = opened(&state);
    let streams = in_use(&positions, 2);
    let now = Instant::now();
    assert!(!positions.is_sync_due(now));
    assert!(positions.is_sync_due(now + IDLE_STREAMS_EXAMINED_EVERY), "streams in use without new data");
    let before = syncs(&positions);
    positions.sync().unwrap();
    assert_eq!(syncs(&positions), before);
    store_all(&streams, 3);
    assert!(positions.is_sync_due(now));
    positions.sync().unwrap();
    assert!(!positions.is_sync_due(now));
    drop(streams);
    assert!(positions.is_sync_due(now), "the files of streams that nobody uses");
}

#[test]
fn a_power_loss_resumes_at_the_last_sync() {
    let state = TempDir::new().unwrap();
    let positions = opened(&state);
    let stream = stream_of(&positions, STREAM).unwrap();
    stream.store(Position(5), RUN).unwrap();
    positions.sync().unwrap();
    let synced = std::fs::read(file_of(&state, STREAM)).unwrap();
    for position in [7, 8] {
        stream.store(Position(position), RunId([4; 16])).unwrap();
        stream.store_skip_position(Position(position + 10), RUN).unwrap();
        positions.sync().unwrap();
    }
    stream.store(Position(9), RUN).unwrap();
    let log = std::fs::read(log_of(&state)).unwrap();
    let latest = std::fs::read(file_of(&state, STREAM)).unwrap();
    // The disk may have none of the later writes, all of them, or an empty or damaged file.
    for (file, expected) in [(synced.as_slice(), 8), (&latest, 9), (&[], 8), (&[1; 4200], 8)] {
        std::fs::write(log_of(&state), &log).unwrap();
        let found = after_power_loss(&state, file);
        assert_eq!(found, (Some(Position(expected)), Some(Position(18))));
    }
}

#[test]
fn a_recovered_position_is_synced_to_its_file() {
    const RECOVERED: usize = 3 * POSITION_FILES_PER_SYNC / 2;
    let state = TempDir::new().unwrap();
    let positions = opened(&state);
    stream_of(&positions, STREAM).unwrap().store(Position(1), RUN).unwrap();
    let streams = in_use(&positions, RECOVERED);
    let seen: Vec<SystemTime> = streams.iter().map(|stream| stream.seen()).collect();
    drop(positions);
    let restarted = opened(&state);
    let other = stream_of(&restarted, STREAM).unwrap();
    // A log that is begun meanwhile has the positions of the files that are not synced yet.
    for (stored, syncs_of_log, left) in [(2, 2, RECOVERED - POSITION_FILES_PER_SYNC), (3, 1, 0)] {
        let (before, recovered) = (syncs(&restarted), restarted.lock().streams.len() - 1);
        other.store(Position(stored), RUN).unwrap();
        restarted.sync().unwrap();
        let files = u64::try_from(recovered - left).unwrap();
        assert_eq!(syncs(&restarted) - before, files + syncs_of_log);
        assert_eq!(restarted.lock().streams.len() - 1, left);
        assert!(locked(&restarted.log).read().len() > left);
    }
    assert!(!restarted.is_sync_due(Instant::now()));
    for (number, seen) in seen.into_iter().enumerate() {
        let name = StreamName { sender: format!("edge-{number}").parse().unwrap(), stream: STREAM };
        let file = state.path().join("positions").join(name.to_string());
        assert_eq!(file.metadata().unwrap().modified().unwrap(), seen, "a start does not mark it as seen");
    }
}

#[test]
fn a_damaged_record_costs_only_itself() {
    let state = TempDir::new().unwrap();
    let positions = opened(&state);
    let stream = stream_of(&positions, STREAM).unwrap();
    stream.store(Position(1), RUN).unwrap();
    positions.sync().unwrap();
    let synced = std::fs::read(file_of(&state, STREAM)).unwrap();
    for position in 2..=4 {
        stream.store(Position(position), RUN).unwrap();
        positions.sync().unwrap();
    }
    let log = std::fs::read(log_of(&state)).unwrap();
    let damaged = |record: usize| {
        let mut log = log.clone();
        log[record * RECORD_LEN..][..RECORD_LEN - 1].fill(0xFF);
        log
    };
    let torn = log[..3 * RECORD_LEN - 1].to_vec();
    let cases =
        [(damaged(0), 4), (damaged(1), 4), (damaged(2), 3), (torn, 3), (vec![9; 1000], 1), (vec![], 1)];
    for (log, expected) in cases {
        std::fs::write(log_of(&state), log).unwrap();
        assert_eq!(after_power_loss(&state, &synced).0, Some(Position(expected)));
    }
}

#[test]
fn the_log_is_bounded() {
    let state = TempDir::new().unwrap();
    let positions = opened(&state);
    let streams = in_use(&positions, 100);
    let (mut longest, mut shortest) = (0, u64::MAX);
    for position in 3..3 + u64::try_from(2 * POSITIONS_LOG_MAX / RECORD_LEN / 100).unwrap() {
        store_all(&streams, position);
        positions.sync().unwrap();
        let length = log_of(&state).metadata().unwrap().len();
        (longest, shortest) = (length.max(longest), length.min(shortest));
    }
    assert_eq!(usize::try_from(longest).unwrap(), POSITIONS_LOG_MAX);
    assert_eq!(usize::try_from(shortest).unwrap(), crate::limits::POSITIONS_LOG_RESERVED);
}

#[test]
fn after_a_failed_log_each_file_is_synced() {
    let state = TempDir::new().unwrap();
    let positions = opened(&state);
    let streams = in_use(&positions, 5);
    locked(&positions.log).fail_next_write();
    store_all(&streams[..2], 3);
    let before = syncs(&positions);
    positions.sync().unwrap();
    assert_eq!(syncs(&positions) - before, 5, "also those that the log had");
    assert!(streams.iter().all(|stream| !stream.is_dirty()));
    // A new log has only what is stored from now on.
    store_all(&streams[..1], 4);
    positions.sync().unwrap();
    assert_eq!(locked(&positions.log).read().len(), 1);
    let before = syncs(&positions);
    store_all(&streams, 5);
    positions.sync().unwrap();
    assert_eq!(syncs(&positions) - before, 1);
}

#[test]
fn an_orderly_stop_leaves_only_synced_files() {
    let state = TempDir::new().unwrap();
    let positions = opened(&state);
    let streams = in_use(&positions, 2 * POSITION_FILES_PER_SYNC);
    assert!(log_of(&state).exists());
    store_all(&streams, 3);
    positions.finish().unwrap();
    assert!(log_of(&state).exists(), "sessions use the streams");
    drop(streams);
    positions.finish().unwrap();
    assert!(!log_of(&state).exists());
    assert!(positions.lock().streams.is_empty());
}

#[test]
fn the_log_does_not_bring_removed_files_back() {
    let state = TempDir::new().unwrap();
    let positions = opened(&state);
    let _streams = in_use(&positions, 1);
    let file = state.path().join("positions").join(format!("edge-0@{STREAM}"));
    std::fs::remove_file(&file).unwrap();
    let restarted = opened(&state);
    assert!(!file.exists());
    let owner = StreamOwner { sender: "edge-0".parse().unwrap(), source: None };
    assert_eq!(restarted.stream(&owner, STREAM, Instant::now()).unwrap().get(), None);
}
