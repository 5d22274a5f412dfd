//! The format of a position file: golden files, and damage to each part.

use std::fs::File;

use super::*;
use crate::receiver::state::positions::file::StreamPosition;
use crate::receiver::state::positions::slot_file::set_aside_path;

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
fn a_failed_sync_writes_the_slots_again() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let position = stream_of(&positions, STREAM).unwrap();
    position.store(Position(6), RUN).unwrap();
    position.store(Position(7), RUN).unwrap();
    position.store_skip_position(Position(9), RUN).unwrap();
    let written = std::fs::read(file_of(&state, STREAM)).unwrap();
    position.while_sync_fails(|| assert!(positions.sync().is_err()));
    // The kernel drops the pages that it could not write.
    let file = File::options().write(true).open(file_of(&state, STREAM)).unwrap();
    file.set_len(4096).unwrap();
    drop(file);
    positions.sync().unwrap();
    let again = std::fs::read(file_of(&state, STREAM)).unwrap();
    assert_eq!(again, written);
    let found = stream_of(&Positions::open(state.path()).unwrap(), STREAM).unwrap();
    assert_eq!((found.get(), found.skip_position()), (Some(Position(7)), Some(Position(9))));
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
    let name = StreamName { sender: sender(), stream: STREAM };
    let (reopened, set_aside) =
        StreamPosition::open(path, name, Arc::default(), SystemTime::now(), SystemTime::now()).unwrap();
    assert_eq!((reopened.get(), set_aside), (Some(Position(4)), false));
}

#[test]
fn the_file_of_another_stream_is_rejected() {
    let state = TempDir::new().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    std::fs::write(file_of(&state, StreamId([8; 16])), GOLDEN).unwrap();
    assert_eq!(stream_of(&positions, StreamId([8; 16])).unwrap().get(), None);
}

#[test]
fn the_golden_file_of_version_1_stays_readable() {
    assert_eq!(position_in(GOLDEN_1), Some(Position(0x0102_0304_0506_0709)));
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
