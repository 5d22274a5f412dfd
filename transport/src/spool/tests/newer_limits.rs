//! Limits and data of a newer version: it is preserved, which makes no room on the disk.

use super::newer::{drain, kept_names, segment_names, set_header_byte, set_version, with_newer_batches};
use super::*;
use crate::batch::HEADER_LEN;

/// A spool of 12 batches in segments of three, whose first two segments are of a newer version; and the bytes
/// of these.
fn two_newer_of_four() -> (MemoryDisk, Vec<Vec<u8>>) {
    let disk = filled(12);
    let newer = segment_names(&disk)[..2].to_vec();
    for name in &newer {
        set_version(&disk, name, 2);
    }
    let bytes = newer.iter().map(|name| disk.bytes(name)).collect();
    (disk, bytes)
}

fn kept_bytes(disk: &MemoryDisk) -> Vec<Vec<u8>> {
    kept_names(disk).iter().map(|name| disk.bytes(name)).collect()
}

/// The preserved positions, which must be unused ones.
fn preserved(spool: &mut Spool<MemoryDisk>) -> Vec<(u64, u64)> {
    let kept = spool.take_preserved();
    assert!(kept.iter().all(|kept| kept.gap.reason == GapReason::Unused), "{kept:?}");
    kept.iter().map(|kept| (kept.gap.first.0, kept.gap.end.0)).collect()
}

#[test]
fn max_size_drops_no_newer_segment() {
    let (disk, newer) = two_newer_of_four();
    let mut spool = reopen(&disk).spool;
    spool.set_policy(Policy { max_size: spool.size(), ..policy() });
    for number in 12..17 {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
        assert!(spool.size() <= spool.policy.max_size, "preserved segments do not count");
    }
    assert_eq!(spool.take_dropped(), []);
    assert_eq!(preserved(&mut spool), [(0, 9), (9, 18)]);
    assert_eq!(kept_bytes(&disk), newer);
    let spool = reopen(&disk).spool;
    let unused = Gap { first: Position(0), end: Position(18), reason: GapReason::Unused };
    assert_eq!(spool.gaps().collect::<Vec<_>>(), [unused], "the record outlives the run");
    assert_eq!(read_from(&spool, Position(18)).batches.len(), 11);

    let mut spool = open_with(&disk, Policy { max_size: spool.size(), ..policy() }).spool;
    for number in 17..20 {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
    }
    assert!(!spool.take_dropped().is_empty(), "others are dropped as before");
}

#[test]
fn max_age_drops_no_newer_segment() {
    let (disk, newer) = two_newer_of_four();
    let mut spool = open_with(&disk, Policy { max_age: Some(Duration::from_secs(60)), ..policy() }).spool;
    spool.enforce_limits(NOW, Position(0));
    spool.enforce_limits(NOW.plus(Duration::from_secs(100)), Position(0));
    assert_eq!(preserved(&mut spool), [(0, 9), (9, 18)]);
    let dropped: Vec<_> = spool.take_dropped().iter().map(|gap| (gap.first.0, gap.reason)).collect();
    assert_eq!(dropped, [(18, GapReason::TooOld), (27, GapReason::TooOld)]);
    assert_eq!(kept_bytes(&disk), newer);
}

#[test]
fn min_free_does_not_count_on_newer_segments() {
    let (disk, newer) = two_newer_of_four();
    let mut spool = open_with(&disk, Policy { min_free: MinFree::Bytes(1000), ..policy() }).spool;
    disk.set_capacity(disk.used() + 1000);
    spool.append(&batch(36, 3), NOW, Position(0)).unwrap();
    assert_eq!(spool.take_dropped().iter().map(|gap| gap.first.0).collect::<Vec<_>>(), [18]);
    assert_eq!((preserved(&mut spool), kept_names(&disk)), (vec![], vec![]));
    assert_eq!(drain(&mut spool), [27, 30, 33, 36]);
    assert_eq!(kept_bytes(&disk), newer);
}

#[test]
fn newer_segments_in_the_way_drop_nothing() {
    let (disk, _) = two_newer_of_four();
    let mut spool = open_with(&disk, Policy { min_free: MinFree::Bytes(3500), ..policy() }).spool;
    // All four segments would do, and two of them are newer.
    disk.set_capacity(disk.used());
    assert!(spool.size() > 3500 + u64::try_from(batch(36, 3).bytes().len()).unwrap());
    let before = disk.names();
    for _ in 0..2 {
        assert!(matches!(spool.append(&batch(36, 3), NOW, Position(0)), Err(AppendError::NoRoom(_))));
    }
    assert_eq!((spool.take_dropped(), disk.names()), (vec![], before));
    spool.set_policy(policy());
    spool.append(&batch(36, 3), NOW, Position(0)).unwrap();
    assert_eq!(spool.take_dropped().len(), 1, "one segment makes enough room");
}

#[test]
fn a_segment_with_newer_batches_is_kept_whole() {
    let (disk, name, _) = with_newer_batches(12, [0, 2]);
    let whole = disk.bytes(&name);
    let mut spool = reopen(&disk).spool;
    spool.acknowledge(Position(1));
    // The link has passed the first batch, but not the last one.
    let mut reader = spool.reader(Position(1), false).unwrap().unwrap();
    let Some(Item::Newer(newer)) = reader.next_item().unwrap() else { panic!("a newer batch comes first") };
    let kept = spool.preserve_newer(Position(0), newer.place).unwrap().unwrap();
    assert_eq!((kept.first, kept.end), (Position(1), Position(3)));
    assert_eq!(kept_names(&disk).len(), 1);
    spool.acknowledge(Position(3));

    spool.set_policy(Policy { max_size: spool.size(), ..policy() });
    spool.append(&batch(36, 3), NOW, Position(0)).unwrap();
    assert_eq!((spool.take_dropped(), preserved(&mut spool)), (vec![], vec![(3, 9)]));
    let expected = [name::newer(Position(1), STREAM), name::newer(Position(3), STREAM)];
    assert_eq!(kept_names(&disk), expected, "positions of the copy do not count in the other file");
    assert_eq!(disk.bytes(&expected[1]), whole);
}

#[test]
fn a_preserved_segment_replaces_its_copies() {
    let (disk, ..) = with_newer_batches(12, [1]);
    let mut spool = reopen(&disk).spool;
    drain(&mut spool);
    assert_eq!(kept_names(&disk), [name::newer(Position(3), STREAM)]);
    spool.set_policy(Policy { max_size: spool.size(), ..policy() });
    spool.append(&batch(36, 3), NOW, Position(0)).unwrap();
    assert_eq!(preserved(&mut spool), [(0, 9)]);
    assert_eq!(kept_names(&disk), [name::newer(Position(0), STREAM)]);
}

#[test]
fn a_segment_continued_by_this_run_stays() {
    let (disk, ..) = with_newer_batches(1, [0]);
    let mut spool = reopen(&disk).spool;
    disk.set_files_max(disk.names().len());
    for number in 1..4 {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
    }
    spool.set_policy(Policy { max_size: spool.size(), ..policy() });
    assert!(matches!(spool.append(&batch(12, 3), NOW, Position(0)), Err(AppendError::Full)));
    assert_eq!((spool.take_dropped(), preserved(&mut spool)), (vec![], vec![]));
}

#[test]
fn a_segment_is_not_preserved_twice() {
    let (disk, _) = two_newer_of_four();
    let mut spool = reopen(&disk).spool;
    let mut reader = spool.reader(Position(0), false).unwrap().unwrap();
    let Some(Item::Newer(newer)) = reader.next_item().unwrap() else { panic!("a newer segment") };
    spool.set_policy(Policy { max_size: spool.size(), ..policy() });
    spool.append(&batch(36, 3), NOW, Position(0)).unwrap();
    assert_eq!(preserved(&mut spool), [(0, 9)]);
    let before = disk.names();
    assert_eq!(spool.preserve_newer(Position(0), newer.place).unwrap(), None);
    assert_eq!(disk.names(), before);
}

#[test]
fn the_search_for_newer_batches_passes_damage() {
    let length = batch(0, 3).bytes().len();
    let disk = filled(3);
    let name = segment_names(&disk)[0].clone();
    disk.flip(&name, SEGMENT_HEADER_LEN + 10, 0xFF);
    assert_eq!(reopen(&disk).spool.newer_in(Position(0)).unwrap(), None);
    set_header_byte(&disk, &name, SEGMENT_HEADER_LEN + 2 * length, 52, 3);
    disk.flip(&name, SEGMENT_HEADER_LEN + length + HEADER_LEN + 1, 0xFF);
    let needs = reopen(&disk).spool.newer_in(Position(0)).unwrap();
    assert_eq!(needs.as_deref(), Some("compression 3, this version reads 0 to 2"));
}
