//! Disks that are full, have no inodes left, or are read-only.

use super::*;

/// A spool with segments of about three batches, and `batches` in it, on a disk that leaves `min_free` bytes.
fn spool_with(batches: u64, policy: Policy) -> (MemoryDisk, Spool<MemoryDisk>) {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, policy).spool;
    for number in 0..batches {
        append(&mut spool, number).unwrap();
    }
    (disk, spool)
}

fn append(spool: &mut Spool<MemoryDisk>, number: u64) -> Result<(), AppendError> {
    spool.append(&batch(number * 3, 3), NOW, Position(0))
}

fn lost(spool: &mut Spool<MemoryDisk>) -> u64 {
    spool.take_dropped().iter().map(Gap::datagrams).sum()
}

fn assert_all_there(disk: &MemoryDisk, batches: u64) {
    let spool = reopen(disk).spool;
    let whole = (0..batches).map(|number| batch(number * 3, 3)).collect::<Vec<_>>();
    assert_eq!(read_from(&spool, Position(0)), Given { batches: whole, lost: vec![] });
}

#[test]
fn a_torn_run_leaves_nothing_behind() {
    let (disk, mut spool) = spool_with(1, Policy { rotate_size: 1 << 20, ..policy() });
    let size = spool.size();
    // Room for one batch and a half.
    disk.promise(10_000);
    disk.set_capacity(disk.used() + 400);
    assert_eq!(spool.append_run(&run(1..5), NOW), 0);
    assert_eq!((spool.size(), lost(&mut spool)), (size, 0));
    append(&mut spool, 1).unwrap();
    assert_all_there(&disk, 2);
}

#[test]
fn an_unreachable_min_free_drops_nothing() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
        let min_free = MinFree::Bytes(20_000);
        let (disk, mut spool) = spool_with(20, Policy { min_free, when_full, ..policy() });
        // Somebody else takes all of the disk, far more than the spool holds.
        disk.set_capacity(disk.used());
        assert!(matches!(append(&mut spool, 20), Err(AppendError::NoRoom(_))));
        assert_eq!(lost(&mut spool), 0);
        disk.set_capacity(u64::MAX);
        append(&mut spool, 20).unwrap();
        assert_all_there(&disk, 21);
    }
}

#[test]
fn segments_in_flight_are_not_droppable() {
    let (disk, mut spool) = spool_with(20, Policy { min_free: MinFree::Bytes(3000), ..policy() });
    disk.set_capacity(disk.used());
    let batch = batch(60, 3);
    assert!(matches!(spool.append(&batch, NOW, Position(50)), Err(AppendError::NoRoom(_))));
    assert_eq!(lost(&mut spool), 0);
    spool.append(&batch, NOW, Position(0)).unwrap();
    assert!(lost(&mut spool) > 0);
}

#[test]
fn a_full_disk_costs_nothing_unless_it_may() {
    let (disk, mut spool) = spool_with(20, policy());
    disk.set_capacity(disk.used());
    let batch = batch(60, 3);
    for yielding in [Yielding::Nothing, Yielding::ToMaxSize] {
        let outcome = spool.append_yielding(&batch, NOW, Position(0), yielding, 0);
        assert!(matches!(outcome, Err(AppendError::NoRoom(_))), "{yielding:?}");
    }
    assert_eq!(lost(&mut spool), 0);
    spool.append_yielding(&batch, NOW, Position(0), Yielding::ToDisk, 0).unwrap();
    assert_eq!(lost(&mut spool), 9, "one segment makes room enough");
}

#[test]
fn room_that_is_freed_late_is_not_made_twice() {
    let (disk, mut spool) = spool_with(30, Policy { min_free: MinFree::Bytes(2000), ..policy() });
    disk.free_late();
    disk.set_capacity(disk.used() + 2000);
    append(&mut spool, 30).unwrap();
    append(&mut spool, 31).unwrap();
    append(&mut spool, 32).unwrap();
    assert_eq!(lost(&mut spool), 9, "the first segment makes room for three batches");
    disk.free_now();
    assert_eq!(disk.space().unwrap().free, 2000);
    append(&mut spool, 33).unwrap();
    assert_eq!(lost(&mut spool), 9);
}

/// Datagrams that 30 batches drop on a disk with these properties, and room for half of them.
fn lost_on(set: impl Fn(&MemoryDisk)) -> u64 {
    let disk = MemoryDisk::default();
    set(&disk);
    let min_free = 10_000;
    let mut spool = open_with(&disk, Policy { min_free: MinFree::Bytes(min_free), ..policy() }).spool;
    disk.set_capacity(min_free + 5500);
    for number in 0..30 {
        append(&mut spool, number).unwrap();
    }
    lost(&mut spool)
}

#[test]
fn space_allocated_ahead_drops_nothing_more() {
    let needed = lost_on(|_| {});
    assert_eq!(lost_on(MemoryDisk::preallocate), needed);
    let like_xfs = |disk: &MemoryDisk| {
        disk.preallocate();
        disk.free_late();
    };
    assert_eq!(lost_on(like_xfs), needed);
}

#[test]
fn without_inodes_the_open_segment_grows() {
    let (disk, mut spool) = spool_with(1, policy());
    disk.set_files_max(disk.names().len());
    for number in 1..40 {
        append(&mut spool, number).unwrap();
    }
    assert_eq!((lost(&mut spool), spool.segments()), (0, 1));
    assert!(spool.stuck().is_some());
    disk.set_files_max(usize::MAX);
    let later = NOW.plus(Duration::from_secs(1));
    spool.append(&batch(120, 3), later, Position(0)).unwrap();
    assert_eq!((spool.segments(), spool.stuck()), (2, None));
    assert_all_there(&disk, 41);
}

#[test]
fn without_inodes_the_last_segment_is_reopened() {
    let (disk, _) = spool_with(7, policy());
    disk.set_files_max(disk.names().len());
    let mut spool = open_with(&disk, policy()).spool;
    for number in 7..20 {
        append(&mut spool, number).unwrap();
    }
    assert_eq!(lost(&mut spool), 0);
    assert_all_there(&disk, 20);
}

#[test]
fn without_inodes_the_spare_file_is_used() {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, policy()).spool;
    spool.enforce_limits(NOW, Position(0));
    disk.set_files_max(disk.names().len());
    for number in 0..20 {
        append(&mut spool, number).unwrap();
    }
    assert_eq!(lost(&mut spool), 0);
    assert_all_there(&disk, 20);
    spool.acknowledge(Position(60));
    spool.enforce_limits(NOW, Position(0));
    append(&mut spool, 20).unwrap();
}

#[test]
fn without_inodes_a_gap_loses_nothing_behind_it() {
    let (disk, mut spool) = spool_with(4, policy());
    disk.set_files_max(disk.names().len());
    let gap = Gap { first: Position(12), end: Position(30), reason: GapReason::SpoolFull };
    spool.record_gap(gap);
    for number in 10..20 {
        append(&mut spool, number).unwrap();
    }
    let given = |spool: &Spool<MemoryDisk>| read_from(spool, Position(0));
    let expected = (0..4).chain(10..20).map(|number| batch(number * 3, 3)).collect::<Vec<_>>();
    let expected = Given { batches: expected, lost: vec![(gap.first, gap.end)] };
    assert_eq!(given(&spool), expected);
    assert_eq!(given(&reopen(&disk).spool), expected);
    assert_eq!(lost(&mut spool), 0);
}

#[test]
fn no_data_is_appended_under_a_gap_record() {
    let (disk, mut spool) = spool_with(4, policy());
    let gap = Gap { first: Position(12), end: Position(30), reason: GapReason::SpoolFull };
    spool.record_gap(gap);
    disk.set_files_max(disk.names().len());
    append(&mut spool, 10).unwrap();
    let expected = (0..4).chain([10]).map(|number| batch(number * 3, 3)).collect::<Vec<_>>();
    let given = read_from(&reopen(&disk).spool, Position(0));
    assert_eq!(given, Given { batches: expected, lost: vec![(gap.first, gap.end)] });
}

#[test]
fn a_gap_that_could_not_be_recorded_is_later() {
    let (disk, mut spool) = spool_with(4, policy());
    disk.set_files_max(disk.names().len());
    let gap = Gap { first: Position(12), end: Position(30), reason: GapReason::SpoolFull };
    spool.record_gap(gap);
    disk.set_files_max(usize::MAX);
    spool.enforce_limits(NOW, Position(0));
    assert_eq!(reopen(&disk).spool.gaps().collect::<Vec<_>>(), [gap]);
}

#[test]
fn nothing_goes_into_a_segment_whose_sync_failed() {
    let (disk, mut spool) = spool_with(4, policy());
    let last = spool.last_segment().unwrap().0;
    let before = disk.bytes(&name::segment(last));
    spool.enforce_limits(NOW, Position(0));
    spool.sync_failed();
    disk.set_files_max(disk.names().len());
    append(&mut spool, 4).unwrap();
    assert_eq!(disk.bytes(&name::segment(last)), before, "the spare was taken");
}

#[test]
fn a_read_only_disk_drops_nothing_and_is_read() {
    let (disk, _) = spool_with(10, policy());
    disk.put("00000000000000000030.segment", vec![0x5A; 100]);
    disk.set_read_only(true);
    let opened = open_with(&disk, Policy { max_size: 1000, ..policy() });
    let mut spool = opened.spool;
    assert!(spool.begin_run(RunId([2; 16]), Position(30)).is_err());
    assert!(matches!(append(&mut spool, 10), Err(AppendError::Disk(_))));
    spool.enforce_limits(NOW, Position(0));
    assert_eq!(lost(&mut spool), 0);
    assert_eq!(read_from(&spool, Position(0)).batches.len(), 10);

    disk.set_read_only(false);
    spool.set_policy(policy());
    spool.enforce_limits(NOW, Position(0));
    append(&mut spool, 10).unwrap();
    assert_eq!(reopen(&disk).last_run, Some(LastRun::CutShort { start: Position(30) }));
    assert_all_there(&disk, 11);
}

#[test]
fn files_of_a_read_only_disk_are_removed_later() {
    let (disk, mut spool) = spool_with(10, policy());
    disk.set_read_only(true);
    spool.acknowledge(Position(30));
    assert!(disk.names().iter().any(|name| name.ends_with(".segment")));
    disk.set_read_only(false);
    spool.enforce_limits(NOW, Position(0));
    assert!(!disk.names().iter().any(|name| name.ends_with(".segment")));
}

#[test]
fn a_new_segment_survives_an_old_failed_removal() {
    let (disk, mut spool) = spool_with(0, policy());
    spool.remove_file("nothing");
    disk.put(&name::segment(Position(0)), Vec::new());
    disk.set_read_only(true);
    spool.remove_file(&name::segment(Position(0)));
    disk.set_read_only(false);
    append(&mut spool, 0).unwrap();
    spool.enforce_limits(NOW, Position(0));
    assert_all_there(&disk, 1);
}

#[test]
fn max_age_drops_nothing_on_a_refusing_disk() {
    let (disk, mut spool) = spool_with(4, Policy { max_age: Some(Duration::from_secs(60)), ..policy() });
    disk.set_read_only(true);
    let later = NOW.plus(Duration::from_secs(100));
    spool.enforce_limits(later, Position(0));
    assert_eq!(lost(&mut spool), 0);
    disk.set_read_only(false);
    spool.enforce_limits(later, Position(0));
    assert_eq!(lost(&mut spool), 12);
}

#[test]
fn the_default_keeps_a_tenth_of_the_disk_free() {
    let disk = MemoryDisk::default();
    disk.set_total(20_000);
    disk.set_capacity(20_000);
    let mut spool = open_with(&disk, Policy { min_free: MinFree::Auto, ..policy() }).spool;
    assert_eq!(spool.room().unwrap().bytes, 18_000);
    for number in 0..200 {
        append(&mut spool, number).unwrap();
        assert!(disk.space().unwrap().free >= 2000);
    }
}
