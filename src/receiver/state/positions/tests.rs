use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use nf_transport_core::sequence::{Position, RunId};
use tempfile::TempDir;

use super::*;
use crate::limits::{NEW_STREAMS_BURST, STREAM_KEPT};
use crate::receiver::state::positions::file::{StreamPosition, set_aside_path};

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

/// The position that a daemon finds when it starts with these bytes in the file.
fn position_in(bytes: &[u8]) -> Option<Position> {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    std::fs::write(file_of(&state, STREAM), bytes).unwrap();
    let position = stream_of(&positions, STREAM).unwrap();
    let found = position.get();
    position.store(Position(u64::MAX), RUN).unwrap();
    assert_eq!(position.get(), Some(Position(u64::MAX)));
    found
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
fn an_interrupted_write_keeps_the_last_position() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let position = stream_of(&positions, STREAM).unwrap();
    position.store(Position(1), RUN).unwrap();
    position.store(Position(2), RUN).unwrap();
    let before = std::fs::read(file_of(&state, STREAM)).unwrap();
    position.store(Position(3), RunId([4; 16])).unwrap();
    let after = std::fs::read(file_of(&state, STREAM)).unwrap();
    for cut in 0..slot::SLOT_LEN {
        let torn = [&after[..cut], &before[cut..]].concat();
        assert_eq!(position_in(&torn), Some(Position(2)), "{cut} bytes written");
    }
}

#[test]
fn a_flipped_bit_damages_one_slot_only() {
    assert_eq!(position_in(GOLDEN), Some(Position(0x0102_0304_0506_0709)));
    // The newest slot of the golden file is the first one.
    for (offset, left) in [(0, 0x0102_0304_0506_0708), (4096, 0x0102_0304_0506_0709)] {
        for bit in 0..slot::SLOT_LEN * 8 {
            let mut bytes = GOLDEN.to_vec();
            bytes[offset + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(position_in(&bytes), Some(Position(left)), "bit {bit} at {offset}");
        }
    }
}

#[test]
fn a_truncated_file_keeps_its_first_slot() {
    for length in (0..=slot::SLOT_LEN).chain(4096..4096 + slot::SLOT_LEN) {
        let expected = (length >= slot::SLOT_LEN).then_some(Position(0x0102_0304_0506_0709));
        assert_eq!(position_in(&GOLDEN[..length]), expected, "{length} bytes");
    }
}

#[test]
fn a_file_with_two_damaged_slots_is_set_aside() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let path = file_of(&state, STREAM);
    std::fs::write(&path, vec![1; 4112]).unwrap();
    let position = stream_of(&positions, STREAM).unwrap();
    assert_eq!(position.get(), None);
    assert_eq!(std::fs::read(set_aside_path(&path)).unwrap(), vec![1; 4112]);
    position.store(Position(4), RUN).unwrap();
    let (reopened, set_aside) =
        StreamPosition::open(path, STREAM, SystemTime::now(), SystemTime::now()).unwrap();
    assert_eq!((reopened.get(), set_aside), (Some(Position(4)), false));
}

#[test]
fn the_file_of_another_stream_is_rejected() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    std::fs::write(file_of(&state, StreamId([8; 16])), GOLDEN).unwrap();
    assert_eq!(stream_of(&positions, StreamId([8; 16])).unwrap().get(), None);
}

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
fn the_golden_file_of_version_1_stays_readable() {
    assert_eq!(position_in(GOLDEN_1), Some(Position(0x0102_0304_0506_0709)));
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

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let newer = [b"NFP3".as_slice(), &[7; 60]].concat();
    std::fs::write(file_of(&state, STREAM), &newer).unwrap();
    let error = stream_of(&positions, STREAM).unwrap_err().to_string();
    assert!(error.contains("a newer version of nf-receiver wrote it"), "{error}");
    assert_eq!(std::fs::read(file_of(&state, STREAM)).unwrap(), newer);
}

#[test]
fn the_golden_file_of_version_2_stays_readable() {
    assert_eq!(position_in(GOLDEN), Some(Position(0x0102_0304_0506_0709)));
    assert_eq!(
        golden(),
        GOLDEN,
        "the encoding of a position has changed: that needs a new version of the format"
    );
}

fn golden() -> Vec<u8> {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let position = stream_of(&positions, STREAM).unwrap();
    for last_byte in 7..=9 {
        position.store(Position(0x0102_0304_0506_0700 + last_byte), RUN).unwrap();
    }
    let mut bytes = std::fs::read(file_of(&state, STREAM)).unwrap();
    // The time at which the stream began differs in each run.
    let begun = usize::try_from(begun::BEGUN_OFFSET).unwrap();
    bytes[begun..begun + begun::BEGUN_LEN].fill(0);
    bytes
}

/// Writes the golden file again: only for a new version of the format.
#[test]
#[ignore = "writes the golden file; run by hand for a new version of the format"]
fn write_golden_position() {
    let path = format!("{}/src/receiver/state/positions/golden/v2.position", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(path, golden()).unwrap();
}
