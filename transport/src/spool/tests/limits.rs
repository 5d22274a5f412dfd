//! Limits of the spool: size, age and free space.

use super::*;

#[test]
fn a_full_spool_replaces_segments_with_a_gap() {
    let disk = MemoryDisk::default();
    let small = Policy { max_size: 2600, ..policy() };
    let mut spool = open_with(&disk, small).spool;
    let mut dropped = Vec::new();
    for number in 0..20 {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
        dropped.extend(spool.take_dropped());
        assert!(spool.size() <= small.max_size);
    }
    let lost: u64 = dropped.iter().map(Gap::datagrams).sum();
    assert!(dropped.iter().all(|gap| gap.reason == GapReason::SpoolFull));
    let whole = Gap { first: Position(0), end: Position(lost), reason: GapReason::SpoolFull };
    assert_eq!(spool.gaps().collect::<Vec<_>>(), [whole], "neighbours are one gap");
    let spool = open_with(&disk, small).spool;
    assert_eq!(spool.gaps().collect::<Vec<_>>(), [whole]);
    let given = read_from(&spool, Position(0));
    assert_only_lost(&given, 20, Position(60), |number| number * 3 < lost);
}

#[test]
fn drop_newest_rejects_new_batches() {
    let disk = MemoryDisk::default();
    let small = Policy { max_size: 1500, when_full: WhenFull::DropNewest, ..policy() };
    let mut spool = open_with(&disk, small).spool;
    let taken =
        (0..20).take_while(|number| spool.append(&batch(number * 3, 3), NOW, Position(0)).is_ok()).count();
    let taken = u64::try_from(taken).unwrap();
    assert!(matches!(spool.append(&batch(taken * 3, 3), NOW, Position(0)), Err(AppendError::Full)));
    assert_eq!(spool.take_dropped(), []);
    assert_only_lost(&read_from(&spool, Position(0)), taken, Position(taken * 3), |_| false);
}

#[test]
fn yielding_nothing_drops_nothing() {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, Policy { max_size: 2600, ..policy() }).spool;
    let mut taken = 0;
    let append = |spool: &mut Spool<MemoryDisk>, number: u64| {
        spool.append_yielding(&batch(number * 3, 3), NOW, Position(0), Yielding::Nothing, 0)
    };
    while append(&mut spool, taken).is_ok() {
        taken += 1;
    }
    assert!(taken > 0);
    assert!(matches!(append(&mut spool, taken), Err(AppendError::Full)));
    assert_eq!((spool.first(), spool.take_dropped()), (Some(Position(0)), Vec::new()));
    spool.append(&batch(taken * 3, 3), NOW, Position(0)).unwrap();
    assert!(!spool.take_dropped().is_empty());
}

#[test]
fn a_run_drops_nothing() {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, Policy { max_size: 2600, ..policy() }).spool;
    spool.append(&batch(0, 3), NOW, Position(0)).unwrap();
    let size = spool.size();
    assert_eq!(spool.append_run(&run(1..20), NOW), 0);
    assert_eq!((spool.size(), spool.end(), spool.take_dropped()), (size, Some(Position(3)), Vec::new()));
    disk.set_capacity(disk.used() + 900);
    assert_eq!(spool.append_run(&run(1..5), NOW), 0, "min-free and the disk count, too");
    assert_eq!((spool.size(), spool.take_dropped()), (size, Vec::new()));
}

#[test]
fn a_ceiling_overrides_a_smaller_max_size() {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, Policy { max_size: 1500, ..policy() }).spool;
    let mut append = |number: u64, ceiling| {
        let outcome =
            spool.append_yielding(&batch(number * 3, 3), NOW, Position(0), Yielding::Nothing, ceiling);
        outcome.map(|()| spool.size())
    };
    let most = (0..).map_while(|number| append(number, 2600).ok()).last().unwrap();
    assert!((1501..=2600).contains(&most), "{most}");
    assert!(matches!(append(20, 0), Err(AppendError::Full)));
    assert_eq!(spool.take_dropped(), []);
}

#[test]
fn segments_in_flight_are_not_dropped() {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, Policy { max_size: 2600, ..policy() }).spool;
    for number in 0..20 {
        spool.append(&batch(number * 3, 3), NOW, Position(4)).unwrap();
    }
    assert_eq!(spool.first(), Some(Position(0)));
    let (_, end, _) = spool.segment_at(Position(4)).unwrap();
    assert_eq!(spool.gaps().map(|gap| gap.first).collect::<Vec<_>>(), [end]);
}

#[test]
fn one_drop_keeps_most_of_the_spool() {
    let disk = MemoryDisk::default();
    let max_size = 8000;
    let mut spool = open_with(&disk, Policy { max_size, rotate_size: max_size, ..policy() }).spool;
    let mut number = 0;
    while spool.take_dropped().is_empty() {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
        number += 1;
    }
    assert!(spool.size() > max_size * 3 / 4, "{} of {max_size} are left", spool.size());
}

#[test]
fn min_free_is_kept_and_enospc_is_survived() {
    for min_free in [600, 0] {
        let disk = MemoryDisk::default();
        disk.set_capacity(4000);
        let mut spool = open_with(&disk, Policy { min_free: MinFree::Bytes(min_free), ..policy() }).spool;
        for number in 0..30 {
            spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
            assert!(disk.space().unwrap().free >= min_free);
        }
        let first_kept = spool.gaps().map(|gap| gap.end).max().unwrap();
        assert!(first_kept > Position(0));
        assert_only_lost(&read_from(&spool, Position(0)), 30, Position(90), |number| {
            number * 3 < first_kept.0
        });
    }
}

#[test]
fn segments_older_than_max_age_are_dropped() {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, Policy { max_age: Some(Duration::from_secs(60)), ..policy() }).spool;
    for number in 0..4 {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
    }
    spool.enforce_limits(NOW.plus(Duration::from_secs(60)), Position(0));
    assert_eq!(spool.take_dropped(), []);
    spool.enforce_limits(NOW.plus(Duration::from_nanos(60_000_000_001)), Position(0));
    let gap = |first, end| Gap { first: Position(first), end: Position(end), reason: GapReason::TooOld };
    assert_eq!(spool.take_dropped(), [gap(0, 9), gap(9, 12)]);
}
