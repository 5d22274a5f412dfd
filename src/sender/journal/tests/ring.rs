//! The ring of batches: wrapped, damaged, in any order, and after a kill at each write.

use super::*;

#[test]
fn a_wrapped_ring_returns_live_batches_only() {
    let directory = directory();
    let file =
        File::options().read(true).write(true).create_new(true).open(directory.path().join("ring")).unwrap();
    file.set_len(4096 + 3000).unwrap();
    let file = Arc::new(file);
    let mut ring = Ring::map(file.clone(), 4096, 3000).unwrap();
    let mut live: Vec<RingEntry> = Vec::new();
    for first in 0..400 {
        let next = batch(first, &vec![3; usize::try_from(first * 37 % 700).unwrap()]);
        while !ring.fits(&next, live.first().map_or(ring.head(), |oldest| oldest.start)) {
            live.remove(0);
        }
        live.push(ring.write(next).unwrap());
        let tail = live[0].start;
        let floor = live[0].batch.first();
        let mut again = Ring::map(file.clone(), 4096, 3000).unwrap();
        let found = again.recover(STREAM, tail, floor);
        assert_eq!(
            found.iter().map(|held| (held.batch.first(), held.start, held.end)).collect::<Vec<_>>(),
            live.iter().map(|held| (held.batch.first(), held.start, held.end)).collect::<Vec<_>>(),
        );
        assert_eq!(again.head(), ring.head());
        let empty = Ring::map(file.clone(), 4096, 3000).unwrap().recover(
            STREAM,
            ring.head(),
            live.last().unwrap().batch.end(),
        );
        assert!(empty.is_empty(), "behind the newest batch nothing is live");
    }
}

/// The size of a ring that wraps after a few batches.
const SMALL_RING: u64 = 3000;

#[test]
fn a_flipped_bit_in_a_wrapped_ring_hits_one_batch() {
    let (file, live, whole) = wrapped_ring();
    let (tail, floor) = (live[0].start, live[0].batch.first());
    let lap = |held: &RingEntry| held.start / SMALL_RING;
    assert!(lap(&live[5]) == lap(&live[0]) && lap(&live[11]) > lap(&live[0]), "{:?}", firsts(&live));
    for hit in &live {
        let start = hit.start % SMALL_RING * 8;
        // A prime step hits headers and bodies at many places.
        for bit in (start..start + (hit.end - hit.start) * 8).step_by(7) {
            let mut damaged = whole.clone();
            damaged[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
            file.write_all_at(&damaged, 0).unwrap();
            let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
            let found = firsts(&ring.recover_all(STREAM, Some((tail, Position(26))), floor));
            let mut expected = firsts(&live);
            expected.retain(|first| *first != hit.batch.first().0);
            assert_eq!(found, expected, "bit {bit}, in batch {}", hit.batch.first());
        }
    }
}

/// Creates a small ring with the batches `live` after a few laps. Returns its file, entries and bytes.
fn wrapped_ring() -> (Arc<File>, Vec<RingEntry>, Vec<u8>) {
    let file = Arc::new(File::from(rustix::fs::memfd_create("ring", MemfdFlags::CLOEXEC).unwrap()));
    file.set_len(SMALL_RING).unwrap();
    let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
    let mut live: Vec<RingEntry> = Vec::new();
    for first in 0..26 {
        let next = batch(first, &[7; 100]);
        while !ring.fits(&next, live.first().map_or(ring.head(), |oldest| oldest.start)) {
            live.remove(0);
        }
        live.push(ring.write(next).unwrap());
    }
    let bytes = bytes_of(&file);
    (file, live, bytes)
}

fn bytes_of(ring: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SMALL_RING).unwrap()];
    ring.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn recovery_writes_nothing_to_a_damaged_ring() {
    let (file, live, mut damaged) = wrapped_ring();
    damaged[usize::try_from(live[3].start % SMALL_RING).unwrap() + 70] ^= 1;
    for marks in [None, Some((live[0].start, Position(26)))] {
        file.write_all_at(&damaged, 0).unwrap();
        let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
        let held = ring.recover_all(STREAM, marks, live[0].batch.first());
        assert_eq!(held.len(), live.len() - 1);
        assert!(bytes_of(&file) == damaged, "a kill in the middle would lose what was written over");
    }
}

/// Kills and recovers after each write of a new batch, while the oldest one is freed.
fn never_loses_a_held_batch(file: &Arc<File>, floor: Position) {
    let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
    let mut held = ring.recover_all(STREAM, None, floor);
    for first in 26..80 {
        let next = batch(first, &[8; 90]);
        while !ring.fits(&next, held.first().map_or(ring.head(), |oldest| oldest.start)) {
            held.remove(0);
        }
        let before = firsts(&held);
        held.push(ring.write(next).unwrap());
        let marks = Some((held[0].start, Position(first + 1)));
        for marks in [marks, None] {
            let mut killed = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
            let found = firsts(&killed.recover_all(STREAM, marks, held[0].batch.first()));
            let lost: Vec<_> = before.iter().filter(|batch| !found.contains(batch)).collect();
            assert!(lost.is_empty() && found.contains(&first), "{lost:?} at {first}: {found:?}");
        }
    }
}

#[test]
fn a_kill_after_each_write_to_a_salvaged_ring() {
    for hit in 0..12 {
        let (file, live, mut damaged) = wrapped_ring();
        damaged[usize::try_from(live[hit].start % SMALL_RING).unwrap() + 70] ^= 1;
        file.write_all_at(&damaged, 0).unwrap();
        never_loses_a_held_batch(&file, live[0].batch.first());
    }
}

#[test]
fn a_ring_with_batches_in_no_order() {
    let (file, live, _) = wrapped_ring();
    let length = batch(0, &[7; 100]).bytes().len();
    for order in [[5_u64, 1, 4, 2, 3], [1, 2, 5, 3, 4], [3, 4, 5, 1, 2]] {
        let mut bytes = vec![0; usize::try_from(SMALL_RING).unwrap()];
        for (place, first) in order.into_iter().enumerate() {
            let at = place * (length + 40);
            bytes[at..at + length].copy_from_slice(batch(first, &[7; 100]).bytes());
        }
        file.write_all_at(&bytes, 0).unwrap();
        let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
        let held = ring.recover_all(STREAM, None, Position(0));
        assert_eq!(firsts(&held), [1, 2, 3, 4, 5], "{order:?}");
        assert!(held.is_sorted_by_key(|held| held.start) && held.iter().all(|held| held.start < held.end));
        assert_eq!((ring.head(), bytes_of(&file) == bytes), (held[4].end, true), "{order:?}");
        never_loses_a_held_batch(&file, Position(0));
    }
    drop(live);
}

#[test]
fn a_batch_that_does_not_fit_is_returned() {
    let file = Arc::new(File::from(rustix::fs::memfd_create("ring", MemfdFlags::CLOEXEC).unwrap()));
    file.set_len(4096).unwrap();
    let mut ring = Ring::map(file, 0, 100).unwrap();
    let long = batch(0, &[7; 100]);
    assert_eq!(ring.write(long.clone()).unwrap_err(), long);
    assert_eq!(ring.head(), 0, "the ring is as it was");
}
