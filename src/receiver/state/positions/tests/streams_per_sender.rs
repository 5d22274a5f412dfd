//! The limit of streams per sender: which one is forgotten, and how fast new ones may begin.

use std::fs::File;
use std::time::Duration;

use super::*;
use crate::limits::{NEW_STREAMS_BURST, STREAM_KEPT};

/// The stream whose id consists of this number.
fn stream(number: usize) -> StreamId {
    StreamId([u8::try_from(number).unwrap(); 16])
}

/// Stores a position in each of these streams, one after the other, and ends its use.
fn store_each(positions: &Positions, numbers: impl Iterator<Item = usize>) {
    for number in numbers {
        stream_of(positions, stream(number)).unwrap().store(Position(1), RUN).unwrap();
    }
}

#[test]
fn the_stream_begun_last_is_forgotten() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    store_each(&positions, 0..STREAMS_PER_SENDER - 1);
    let in_use = stream_of(&positions, stream(STREAMS_PER_SENDER - 1)).unwrap();
    positions.sync().unwrap();
    store_each(&positions, STREAMS_PER_SENDER..=STREAMS_PER_SENDER);
    let exists = |number| file_of(&state, stream(number)).exists();
    assert!(exists(STREAMS_PER_SENDER - 1), "in use");
    assert!(!exists(STREAMS_PER_SENDER - 2), "begun last of those not in use");
    assert!((0..STREAMS_PER_SENDER - 2).all(exists) && exists(STREAMS_PER_SENDER));
    in_use.store(Position(2), RUN).unwrap();
}

#[test]
fn new_streams_displace_no_known_one_in_a_sync() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    store_each(&positions, 0..1);
    positions.sync().unwrap();
    store_each(&positions, 1..STREAMS_PER_SENDER);
    // Simulates a sync of that file at this moment.
    let syncing = positions.lock().streams.get(&StreamName { sender: sender(), stream: stream(7) }).cloned();
    store_each(&positions, 8..2 * STREAMS_PER_SENDER);
    drop(syncing);
    assert!(file_of(&state, stream(0)).exists());
}

#[test]
fn streams_that_stay_are_synced_later() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    store_each(&positions, 0..=STREAMS_PER_SENDER);
    let names: Vec<StreamName> = positions.lock().streams.keys().cloned().collect();
    assert_eq!(names.len(), STREAMS_PER_SENDER, "a stream that was stored is not due for a sync");
    positions.sync().unwrap();
    assert!(positions.lock().streams.is_empty());
}

#[test]
fn the_order_of_streams_survives_a_copy() {
    let (state, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let positions = Positions::open(state.path()).unwrap();
    store_each(&positions, 0..STREAMS_PER_SENDER);
    std::fs::create_dir(copy.path().join("positions")).unwrap();
    // The copies are made, and were changed, in the opposite order.
    for number in (0..STREAMS_PER_SENDER).rev() {
        std::fs::copy(file_of(&state, stream(number)), file_of(&copy, stream(number))).unwrap();
    }
    let positions = Positions::open(copy.path()).unwrap();
    let begun = |number| positions.begun(&sender(), stream(number)).unwrap();
    assert!((1..STREAMS_PER_SENDER).all(|number| begun(number - 1) < begun(number)));
    store_each(&positions, 100..110);
    let left = (0..STREAMS_PER_SENDER).filter(|number| file_of(&copy, stream(*number)).exists());
    assert_eq!(left.count(), STREAMS_PER_SENDER - 1);
    assert!(!file_of(&copy, stream(STREAMS_PER_SENDER - 1)).exists(), "begun last");
}

#[test]
fn a_session_without_data_keeps_its_stream_seen() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let in_use = stream_of(&positions, STREAM).unwrap();
    let opened = in_use.seen();
    for (hours, marked) in [(1, 0), (24, 24), (25, 24), (48, 48)] {
        in_use.sync(opened + Duration::from_secs(hours * 3600)).unwrap();
        assert_eq!(in_use.seen(), opened + Duration::from_secs(marked * 3600), "{hours} h");
    }
    let stored = in_use.position().clone();
    drop(in_use);
    stored.sync(opened + 3 * STREAM_KEPT).unwrap();
    assert_eq!(stored.seen(), opened + Duration::from_secs(48 * 3600), "not in use");
}

/// The clock was years ahead when the streams were first seen, and is right since the restart.
#[test]
fn a_clock_set_back_keeps_recent_streams() {
    let state = TempDir::new().unwrap();
    let seen = |positions: &Positions, number| {
        stream_of(positions, stream(number)).unwrap().store(Position(1), RunId::NONE).unwrap();
        positions.sync().unwrap();
    };
    let before = Positions::open(state.path()).unwrap();
    for number in 0..STREAMS_PER_SENDER {
        seen(&before, number);
        let before = if number == 1 { 2 * STREAM_KEPT } else { Duration::ZERO };
        let ahead = SystemTime::now() + Duration::from_secs(10 * 31_557_600) - before;
        let file = File::options().write(true).open(file_of(&state, stream(number))).unwrap();
        file.set_modified(ahead).unwrap();
    }
    let after = Positions::open(state.path()).unwrap();
    seen(&after, 0);
    stream_of(&after, stream(0)).unwrap().store(Position(2), RunId::NONE).unwrap();
    after.sync().unwrap();
    seen(&after, STREAMS_PER_SENDER);
    let exists = |number| file_of(&state, stream(number)).exists();
    assert!(exists(0), "seen lately");
    assert!(!exists(1), "unseen longest");
    assert!((2..=STREAMS_PER_SENDER).all(exists));
}

#[test]
fn other_files_do_not_count_towards_the_limit() {
    let state = TempDir::new().unwrap();
    std::fs::create_dir(state.path().join("positions")).unwrap();
    for number in 0..STREAMS_PER_SENDER {
        let other = state.path().join("positions").join(format!("brno-edge-{number}@{STREAM}"));
        std::fs::write(&other, b"").unwrap();
        std::fs::write(file_of(&state, StreamId([1; 16])).with_extension(number.to_string()), b"").unwrap();
    }
    stream_of(&Positions::open(state.path()).unwrap(), STREAM).unwrap();
    let left = std::fs::read_dir(state.path().join("positions")).unwrap().count();
    assert_eq!(left, 2 * STREAMS_PER_SENDER + 1);
}

/// Number of operations in the directory for a new stream of a sender at its limit, among files of `others`
/// other senders.
fn operations_among(others: usize) -> u64 {
    let state = TempDir::new().unwrap();
    std::fs::create_dir(state.path().join("positions")).unwrap();
    for number in 0..others {
        std::fs::write(state.path().join("positions").join(format!("other-{number}@{STREAM}")), b"").unwrap();
    }
    let positions = Positions::open(state.path()).unwrap();
    for number in 0..STREAMS_PER_SENDER {
        stream_of(&positions, StreamId([u8::try_from(number).unwrap(); 16])).unwrap();
    }
    positions.sync().unwrap();
    let before = positions.folder.operations();
    stream_of(&positions, StreamId([0xFF; 16])).unwrap();
    assert!(!file_of(&state, stream(STREAMS_PER_SENDER - 1)).exists());
    positions.folder.operations() - before
}

#[test]
fn a_new_stream_costs_the_same_among_many_files() {
    // One file is removed, and one is opened.
    assert_eq!((operations_among(10), operations_among(3000)), (2, 2));
}

#[test]
fn fast_new_streams_stay_within_the_limit() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    for number in 0..NEW_STREAMS_BURST {
        let stream = StreamId([u8::try_from(number).unwrap(); 16]);
        stream_of(&positions, stream).unwrap().store(Position(1), RUN).unwrap();
    }
    let files = std::fs::read_dir(state.path().join("positions")).unwrap();
    assert_eq!(files.count(), STREAMS_PER_SENDER);
}

#[test]
fn too_many_new_streams_of_a_sender_are_rejected() {
    let state = TempDir::new().unwrap();
    let (positions, start) = (Positions::open(state.path()).unwrap(), Instant::now());
    let begin = |number: u8, now| positions.stream(&owner(), StreamId([number; 16]), now);
    for number in 0..u8::try_from(NEW_STREAMS_BURST).unwrap() {
        begin(number, start).unwrap();
    }
    let error = begin(99, start).unwrap_err().to_string();
    assert!(error.contains("may begin the next one in 11 s"), "{error}");
    assert!(error.len() <= nf_transport_core::limits::REFUSAL_TEXT_MAX, "{error}");
    assert!(!file_of(&state, StreamId([99; 16])).exists());
    // A known stream is not a new one, and other senders are not affected.
    begin(15, start).unwrap();
    let other = StreamOwner { sender: "other".parse().unwrap(), source: None };
    positions.stream(&other, STREAM, start).unwrap();
    begin(99, start + crate::limits::NEW_STREAM_INTERVAL).unwrap();
}

#[test]
fn excess_files_are_removed_at_the_start() {
    let state = TempDir::new().unwrap();
    std::fs::create_dir(state.path().join("positions")).unwrap();
    for number in 0..=STREAMS_PER_SENDER {
        let path = file_of(&state, StreamId([u8::try_from(number).unwrap(); 16]));
        let since = if number == 0 { Duration::ZERO } else { 2 * STREAM_KEPT };
        let seen = SystemTime::UNIX_EPOCH + since;
        File::create(path).unwrap().set_modified(seen).unwrap();
    }
    Positions::open(state.path()).unwrap();
    let exists = |number: usize| file_of(&state, StreamId([u8::try_from(number).unwrap(); 16])).exists();
    assert!(!exists(0) && (1..=STREAMS_PER_SENDER).all(exists));
}
