//! Disks that refuse to move data of a newer version: it stays in place, blocks nothing, and is moved later.

use super::newer::{
    drain, kept_names, renumber, segment_names, set_header_byte, set_version, with_newer_batches,
};
use super::*;
use crate::spool::segment::SegmentHeader;

type Refuse = fn(&MemoryDisk, bool);

/// The ways in which a disk refuses to move a segment.
const REFUSALS: [Refuse; 2] = [MemoryDisk::set_read_only, MemoryDisk::set_flat];

/// Twelve batches in four segments. The second one and the last one are of a newer version.
fn newer_in_the_middle_and_at_the_end() -> (MemoryDisk, [String; 2], Vec<Vec<u8>>) {
    let disk = filled(12);
    let names = segment_names(&disk);
    let newer = [names[1].clone(), names[3].clone()];
    for name in &newer {
        set_version(&disk, name, 2);
    }
    let bytes = newer.iter().map(|name| disk.bytes(name)).collect();
    (disk, newer, bytes)
}

/// Moves all refused files, and checks that they are unchanged and in no other place.
fn assert_moved(disk: &MemoryDisk, spool: &mut Spool<MemoryDisk>, before: &[Vec<u8>]) {
    spool.enforce_limits(NOW, Position(0));
    let after: Vec<_> = kept_names(disk).iter().map(|name| disk.bytes(name)).collect();
    assert!(after == before, "not a byte was changed: {:?}", disk.names());
}

#[test]
fn an_unmovable_newer_segment_blocks_nothing() {
    for refuse in REFUSALS {
        let (disk, newer, before) = newer_in_the_middle_and_at_the_end();
        refuse(&disk, true);
        let mut spool = reopen(&disk).spool;
        for _ in 0..2 {
            let opened = reopen(&disk);
            assert_eq!(opened.newer.map(name::segment).as_ref(), Some(&newer[1]));
            assert_eq!((opened.torn, opened.missing), (0, vec![]));
            spool = opened.spool;
            assert_eq!(spool.end(), Some(Position(28)), "the place of the last one is not used again");
            assert_eq!(drain(&mut spool), [0, 3, 6, 18, 21, 24]);
            assert_eq!((spool.newer().files, kept_names(&disk)), (2, vec![]));
        }
        for _ in 0..2 {
            spool.acknowledge(Position(28));
            spool.enforce_limits(NOW, Position(0));
            for (name, bytes) in newer.iter().zip(&before) {
                assert!(disk.bytes(name) == *bytes, "nothing removes {name}");
            }
            spool = reopen(&disk).spool;
        }
        spool.acknowledge(Position(28));
        refuse(&disk, false);
        assert_moved(&disk, &mut spool, &before);
        assert_eq!((spool.newer().files, segment_names(&disk)), (2, vec![]));
    }
}

#[test]
fn appends_continue_behind_an_unmoved_segment() {
    let (disk, newer, before) = newer_in_the_middle_and_at_the_end();
    disk.set_flat(true);
    let mut spool = reopen(&disk).spool;
    let next = Gap { first: spool.end().unwrap(), end: Position(36), reason: GapReason::Unused };
    spool.record_gap(next);
    spool.append(&batch(36, 3), NOW, Position(0)).unwrap();
    assert_eq!(drain(&mut spool), [0, 3, 6, 18, 21, 24, 36]);
    // A kill, with a record that covers the segment: it is moved anyway, because it is not one that was
    // dropped.
    let mut spool = reopen(&disk).spool;
    assert_eq!((spool.end(), disk.bytes(&newer[1])), (Some(Position(39)), before[1].clone()));
    assert_eq!(drain(&mut spool), [0, 3, 6, 18, 21, 24, 36]);
    disk.set_flat(false);
    assert_moved(&disk, &mut spool, &before);
}

#[test]
fn a_gap_covers_moved_segments_after_a_crash() {
    let (disk, newer, before) = newer_in_the_middle_and_at_the_end();
    // Its record is on disk, and it was not moved yet.
    let gap = Gap { first: Position(9), end: Position(18), reason: GapReason::Unused };
    disk.put(&name::gap(&gap), Vec::new());
    let opened = reopen(&disk);
    let mut spool = opened.spool;
    assert_eq!((opened.missing, spool.gaps().next()), (vec![], Some(gap)));
    assert!(!disk.names().contains(&newer[0]));
    assert_eq!(drain(&mut spool), [0, 3, 6, 18, 21, 24]);
    assert_moved(&disk, &mut spool, &before);
}

#[test]
fn acknowledging_preserves_newer_segments() {
    let (disk, _, before) = newer_in_the_middle_and_at_the_end();
    let mut spool = reopen(&disk).spool;
    // The run that skipped the second segment has left it where it was.
    spool.acknowledge(Position(27));
    assert_moved(&disk, &mut spool, &before);
    assert_eq!(segment_names(&disk), Vec::<String>::new());
}

#[test]
fn a_read_only_disk_skips_newer_batches() {
    let (disk, name, [at]) = with_newer_batches(6, [1]);
    let bytes = disk.bytes(&name);
    let copy = [&bytes[..64], &bytes[at..at + batch(0, 3).bytes().len()]].concat();
    reopen(&disk).spool.end_run(Position(0), Position(18)).unwrap();
    disk.set_read_only(true);
    let mut spool = reopen(&disk).spool;
    assert_eq!(drain(&mut spool), [0, 6, 9, 12, 15]);
    spool.acknowledge(Position(18));
    spool.enforce_limits(NOW, Position(0));

    // The next run reads the progress of this one from the journal and continues there.
    let mut spool = reopen(&disk).spool;
    spool.preserve_passed(Position(18), &[]);
    spool.acknowledge(Position(18));
    assert_eq!(spool.end(), None);
    disk.set_read_only(false);
    assert_moved(&disk, &mut spool, &[copy]);
    assert_eq!(segment_names(&disk), Vec::<String>::new(), "delivered segments are removed");
}

#[test]
fn a_segment_of_newer_batches_survives_a_restart() {
    for refuse in REFUSALS {
        let (disk, name, _) = with_newer_batches(6, [0, 1, 2]);
        let before = disk.bytes(&name);
        reopen(&disk).spool.end_run(Position(0), Position(18)).unwrap();
        refuse(&disk, true);
        let mut spool = reopen(&disk).spool;
        let mut reader = spool.reader(Position(0), false).unwrap().unwrap();
        let Some(Item::Newer(newer)) = reader.next_item().unwrap() else { panic!("newer batches") };
        let kept = spool.preserve_newer(Position(0), newer.place);
        if kept.is_ok() {
            // A run that records nothing, and has gone on to the end.
            spool = reopen(&disk).spool;
            spool.preserve_passed(Position(18), &[]);
            spool.acknowledge(Position(18));
        } else {
            assert_eq!(spool.end(), Some(Position(18)), "it waits for room, as nothing else would tell");
        }
        refuse(&disk, false);
        drain(&mut spool);
        assert_moved(&disk, &mut spool, core::slice::from_ref(&before));
    }
}

#[test]
fn delivered_batches_are_not_preserved_again() {
    let (disk, ..) = with_newer_batches(3, [0, 2]);
    reopen(&disk).spool.end_run(Position(3), Position(9)).unwrap();
    let opened = reopen(&disk);
    let mut spool = opened.spool;
    spool.preserve_passed(Position(9), &opened.copied);
    spool.acknowledge(Position(9));
    assert_eq!(kept_names(&disk), [name::newer(Position(6), STREAM)]);
}

#[test]
fn a_full_disk_moves_instead_of_copying() {
    let (disk, ..) = with_newer_batches(6, [1]);
    let mut spool = reopen(&disk).spool;
    disk.set_capacity(disk.used());
    let mut reader = spool.reader(Position(3), false).unwrap().unwrap();
    let Some(Item::Newer(newer)) = reader.next_item().unwrap() else { panic!("a newer batch") };
    let before = disk.names();
    let refused = spool.preserve_newer(Position(0), newer.place).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "the first batch may have to be sent again");
    assert_eq!(disk.names(), before);
    spool.acknowledge(Position(3));
    let gap = spool.preserve_newer(Position(0), newer.place).unwrap().unwrap();
    assert_eq!((gap.first, gap.end), (Position(3), Position(9)));
    assert_eq!(kept_names(&disk), [name::newer(Position(3), STREAM)]);
    assert_eq!(drain(&mut spool), [9, 12, 15]);
}

#[test]
fn a_copy_replaces_batches_of_the_queue() {
    let (disk, name, [at]) = with_newer_batches(6, [1]);
    drain(&mut reopen(&disk).spool);
    let copied = [Gap { first: Position(3), end: Position(6), reason: GapReason::Unused }];
    assert_eq!(reopen(&disk).copied, copied);
    // The same for a version that reads it: it is delivered once, by the copy.
    let kept = kept_names(&disk).remove(0);
    set_header_byte(&disk, &name, at, 52, 0);
    set_header_byte(&disk, &kept, SEGMENT_HEADER_LEN, 52, 0);
    let opened = reopen(&disk);
    assert_eq!(opened.copied, copied);
    let mut spool = opened.spool;
    let file = spool.newer_files().unwrap().remove(0);
    assert_eq!(
        spool.reimport(&file, Position(18), renumber).unwrap(),
        Reimported::Until(Position(21), Broken::default())
    );
    assert_eq!(reopen(&disk).copied, []);
}

#[test]
fn a_torn_copy_replaces_whole_batches_only() {
    let (disk, ..) = with_newer_batches(3, [0, 1]);
    drain(&mut reopen(&disk).spool);
    let kept = kept_names(&disk).remove(0);
    disk.cut(&kept, disk.bytes(&kept).len() - 1);
    let ends: Vec<_> = reopen(&disk).copied.iter().map(|gap| (gap.first.0, gap.end.0)).collect();
    assert_eq!(ends, [(0, 3)]);
}

#[test]
fn a_move_without_a_gap_record_is_no_loss() {
    let disk = filled(12);
    let names = segment_names(&disk);
    disk.rename(&names[1], &name::newer(Position(9), STREAM)).unwrap();
    let opened = reopen(&disk);
    assert_eq!((opened.missing, opened.spool.end()), (vec![], Some(Position(36))));
    let places: Vec<_> = opened.copied.iter().map(|gap| (gap.first.0, gap.end.0)).collect();
    assert_eq!(places, [(9, 12), (12, 15), (15, 18)]);
}

#[test]
fn a_newer_segment_before_a_leap_is_not_cut() {
    let disk = filled(3);
    let name = segment_names(&disk)[0].clone();
    set_version(&disk, &name, 2);
    let mut bytes = disk.bytes(&name);
    bytes.extend([0xAA; 50]);
    disk.put(&name, bytes.clone());
    let header = SegmentHeader { stream: STREAM, first: Position(1 << 50), begun: Begun::default() };
    let far = [&header.encode()[..], batch(1 << 50, 3).bytes()].concat();
    disk.put(&name::segment(header.first), far);
    let mut spool = reopen(&disk).spool;
    assert_eq!(disk.bytes(&kept_names(&disk)[0]), bytes);
    assert_eq!(drain(&mut spool), [1 << 50]);
}

#[test]
fn no_segment_takes_the_name_of_one_that_stays() {
    let disk = filled(1);
    let name = name::segment(Position(3));
    let header = SegmentHeader { stream: StreamId([2; 16]), first: Position(3), begun: Begun::default() };
    disk.put(&name, header.encode().to_vec());
    disk.set_flat(true);
    let mut spool = reopen(&disk).spool;
    spool.enforce_limits(NOW, Position(0));
    spool.append(&batch(3, 3), NOW, Position(0)).unwrap();
    assert_eq!(disk.bytes(&name), header.encode());
    disk.set_flat(false);
    spool.enforce_limits(NOW, Position(0));
    assert_eq!(kept_names(&disk), [name::newer(Position(3), header.stream)]);
    assert_eq!(drain(&mut spool), [0, 3]);
}

#[test]
fn an_unrecorded_gap_that_grows_has_one_end() {
    let disk = filled(3);
    let mut spool = reopen(&disk).spool;
    let gap = |first, end| Gap { first: Position(first), end: Position(end), reason: GapReason::Unused };
    spool.record_gap(gap(9, 12));
    disk.set_read_only(true);
    spool.record_gap(gap(12, 15));
    disk.set_read_only(false);
    spool.enforce_limits(NOW, Position(0));
    spool.append(&batch(15, 3), NOW, Position(0)).unwrap();
    let opened = reopen(&disk);
    assert_eq!((opened.missing, opened.spool.end()), (vec![], Some(Position(18))));
}
