mod format;
mod log;
mod streams_per_sender;

use std::path::PathBuf;

use nf_transport_core::sequence::{Position, RunId};
use tempfile::TempDir;

use super::*;

const STREAM: StreamId = StreamId([7; 16]);
const RUN: RunId = RunId([3; 16]);
const GOLDEN: &[u8] = include_bytes!("golden/v2.position");
const GOLDEN_1: &[u8] = include_bytes!("golden/v1.position");

fn sender() -> SenderId {
    "brno-edge".parse().unwrap()
}

/// The only sender with its id.
fn owner() -> StreamOwner {
    StreamOwner { sender: sender(), source: None }
}

fn stream_of(positions: &Positions, stream: StreamId) -> Result<StreamInUse, PositionsError> {
    positions.stream(&owner(), stream, Instant::now())
}

fn file_of(state: &TempDir, stream: StreamId) -> PathBuf {
    state.path().join("positions").join(format!("brno-edge@{stream}"))
}

#[test]
fn a_position_survives_a_restart() {
    let state = TempDir::new().unwrap();
    for stored in 0..5u64 {
        let positions = Positions::open(state.path()).unwrap();
        let position = stream_of(&positions, STREAM).unwrap();
        assert_eq!(position.get(), stored.checked_sub(1).map(Position));
        position.store(Position(stored), RUN).unwrap();
        assert_eq!(position.get(), Some(Position(stored)));
    }
}

#[test]
fn a_position_never_goes_back() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let position = stream_of(&positions, STREAM).unwrap();
    for (stored, expected) in [(5, 5), (3, 5), (5, 5), (6, 6)] {
        position.store(Position(stored), RUN).unwrap();
        assert_eq!(position.get(), Some(Position(expected)));
    }
}

#[test]
fn two_connections_of_a_stream_share_its_position() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let older = stream_of(&positions, STREAM).unwrap();
    let newer = stream_of(&positions, STREAM).unwrap();
    older.store(Position(9), RUN).unwrap();
    assert_eq!(newer.get(), Some(Position(9)));
}

#[test]
fn an_unused_stream_has_no_open_file() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let (older, newer) = (stream_of(&positions, STREAM).unwrap(), stream_of(&positions, STREAM).unwrap());
    let position = older.position().clone();
    position.store(Position(1), RUN).unwrap();
    drop(older);
    assert_eq!(positions.open_files(), 1);
    drop(newer);
    assert_eq!(positions.open_files(), 0);
    // This happens when the daemon stops.
    position.store(Position(2), RUN).unwrap();
    position.store_skip_position(Position(3), RUN).unwrap();
    positions.sync().unwrap();
    assert_eq!((positions.open_files(), position.is_dirty()), (0, false));
    let again = stream_of(&positions, STREAM).unwrap();
    again.store(Position(3), RUN).unwrap();
    assert_eq!(positions.open_files(), 1);
    let restarted = Positions::open(state.path()).unwrap();
    assert_eq!(stream_of(&restarted, STREAM).unwrap().get(), Some(Position(3)));
}

#[test]
fn a_missing_directory_is_reported_with_its_path() {
    let state = TempDir::new().unwrap();
    std::fs::write(state.path().join("positions"), b"a file").unwrap();
    let error = Positions::open(state.path()).unwrap_err().to_string();
    assert!(error.starts_with("cannot make the directory /"), "{error}");
    assert!(error.contains("/positions: "), "{error}");
}

#[test]
fn the_run_that_sent_the_latest_is_stored_with_it() {
    let state = TempDir::new().unwrap();
    let open = || stream_of(&Positions::open(state.path()).unwrap(), STREAM).unwrap();
    assert_eq!(open().run(), RunId::NONE);
    open().store(Position(5), RUN).unwrap();
    assert_eq!(open().run(), RUN);
    open().store_skip_position(Position(9), RunId([4; 16])).unwrap();
    assert_eq!(open().run(), RunId([4; 16]));
    open().store(Position(20), RunId([5; 16])).unwrap();
    assert_eq!(open().run(), RunId([5; 16]));
}
