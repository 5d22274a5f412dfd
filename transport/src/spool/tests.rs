use core::time::Duration;
use std::io;

use super::disk::FileEntry;
use super::lineage::own_stream;
use super::memory_disk::MemoryDisk;
use super::name;
use super::removal::LEFT_OPEN_MAX;
use super::*;
use crate::batch::{Batch, BatchBuilder, Compression};
use crate::datagram::{BootId, BootTime, Datagram, Moment, Timestamp};
use crate::limits::DAMAGED_FILES_MAX;
use crate::sequence::{Gap, GapReason, Position, RunId, StreamId};
use crate::spool::disk::{Disk, DiskFile};

mod damage;
mod disk_trouble;
mod limits;
mod newer;
mod newer_limits;
mod newer_refused;
mod thinning;

pub(super) const STREAM: StreamId = StreamId([1; 16]);
/// A moment of a boot without an id, so headers have no stamp of the boot clock.
pub(super) const NOW: Moment = Moment {
    wall: Timestamp(1_000_000_000_000),
    boot: BootTime { boot: BootId(0), elapsed: Duration::from_secs(1000) },
};

/// Room for everything, and segments of about three batches.
pub(super) fn policy() -> Policy {
    Policy { rotate_size: 1100, min_free: MinFree::Bytes(0), max_size: u64::MAX, ..Policy::default() }
}

/// A batch of `count` datagrams with distinct payloads.
pub(super) fn batch(first: u64, count: u64) -> Batch {
    let mut builder = BatchBuilder::new(STREAM, Compression::None);
    for number in first..first + count {
        let payload = [&number.to_be_bytes()[..], &[0x5A; 60]].concat();
        let datagram = Datagram {
            exporter: "192.0.2.7:1".parse().unwrap(),
            local: "192.0.2.1:2055".parse().unwrap(),
            arrival: NOW.wall,
            payload: &payload,
        };
        builder.push(&datagram).unwrap();
    }
    builder.finish(Position(first)).unwrap()
}

pub(super) fn open_with(disk: &MemoryDisk, policy: Policy) -> Opened<MemoryDisk> {
    open(disk.clone(), own_stream(1), policy).unwrap()
}

fn reopen(disk: &MemoryDisk) -> Opened<MemoryDisk> {
    open_with(disk, policy())
}

/// A disk whose spool holds `batches` batches of three datagrams, from position 0 on.
fn filled(batches: u64) -> MemoryDisk {
    let disk = MemoryDisk::default();
    let mut spool = reopen(&disk).spool;
    spool.begin_run(RunId([1; 16]), Position(0)).unwrap();
    for number in 0..batches {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
    }
    disk
}

/// All items of a spool: whole batches, and lost positions between them.
#[derive(Debug, Default, PartialEq)]
struct Given {
    batches: Vec<Batch>,
    lost: Vec<(Position, Position)>,
}

fn read_from(spool: &Spool<MemoryDisk>, mut position: Position) -> Given {
    let mut given = Given::default();
    let end = spool.end().unwrap_or(position);
    while position < end {
        let Some(mut reader) = spool.reader(position, false).unwrap() else {
            let gap = spool.gaps().find(|gap| gap.first <= position && position < gap.end).unwrap();
            given.lost.push((position, gap.end));
            position = gap.end;
            continue;
        };
        while let Some(item) = reader.next_item().unwrap() {
            match item {
                Item::Batch(batch) => given.batches.push(batch),
                Item::Damage(damage) if damage.first < damage.end => {
                    given.lost.push((damage.first, damage.end));
                }
                Item::Damage(_) => {}
                Item::Newer(newer) => panic!("{newer:?}"),
            }
        }
        assert!(reader.position() > position, "reading must go on");
        position = reader.position();
    }
    given
}

/// The read batches must equal the written ones, except those that `may_miss` allows. Positions between them
/// must be reported as lost.
fn assert_only_lost(given: &Given, batches: u64, known_end: Position, may_miss: impl Fn(u64) -> bool) {
    let mut position = Position(0);
    let mut lost = given.lost.iter();
    for found in &given.batches {
        while position < found.first() {
            let (from, to) = *lost.next().expect("holes are reported");
            assert_eq!(from, position);
            position = to;
        }
        assert_eq!(*found, batch(found.first().0, 3), "batches are read as written");
        position = found.end();
    }
    for (from, to) in lost {
        assert_eq!(*from, position);
        position = *to;
    }
    assert_eq!(position, known_end);
    for number in 0..batches {
        let there = given.batches.iter().any(|found| found.first().0 == number * 3);
        assert!(there || may_miss(number), "batch {number} is lost without need");
    }
}

#[test]
fn a_restart_reads_from_any_position() {
    let disk = filled(10);
    let spool = reopen(&disk).spool;
    assert!(spool.segments() > 2);
    assert_eq!((spool.first(), spool.end()), (Some(Position(0)), Some(Position(30))));
    for start in 0..30 {
        let given = read_from(&spool, Position(start));
        let expected: Vec<Batch> = (start / 3..10).map(|number| batch(number * 3, 3)).collect();
        assert_eq!(given, Given { batches: expected, lost: vec![] }, "from {start}");
    }
}

#[test]
fn a_start_reads_names_and_the_last_segment() {
    let disk = filled(40);
    let segments: Vec<String> = disk.names().into_iter().filter(|name| name.ends_with(".segment")).collect();
    let before = disk.opened().len();
    reopen(&disk);
    let mut opened = disk.opened()[before..].to_vec();
    opened.dedup();
    assert_eq!(opened, ["stream".to_owned(), segments.last().unwrap().clone()]);
}

#[test]
fn a_survey_reads_both_ends_and_changes_nothing() {
    let disk = filled(12);
    let (names, before) = (disk.list().unwrap(), disk.opened().len());
    let samples = survey(disk.clone()).unwrap().samples();
    let firsts: Vec<u64> = samples.iter().map(|batch| batch.first().0).collect();
    let segments: Vec<&FileEntry> = names.iter().filter(|entry| entry.name.ends_with(".segment")).collect();
    let (oldest, newest) = (segments[0].name.clone(), segments[segments.len() - 1].name.clone());
    assert_eq!(format!("{:020}.segment", firsts[1]), newest);
    assert_eq!(firsts[0], 0);
    assert_eq!(disk.opened()[before..], ["stream".to_owned(), oldest, newest]);
    assert_eq!(disk.list().unwrap(), names);
}

#[test]
fn a_survey_skips_damage() {
    let disk = filled(2);
    disk.flip(&name::segment(Position(0)), SEGMENT_HEADER_LEN, 1);
    let samples = survey(disk).unwrap().samples();
    assert_eq!(samples, [batch(3, 3), batch(3, 3)]);
}

#[test]
fn a_survey_without_whole_batches_is_empty() {
    let disk = MemoryDisk::default();
    assert_eq!(survey(disk.clone()).unwrap().samples(), []);
    disk.put(&name::segment(Position(0)), vec![0x5A; 5000]);
    disk.put(&name::segment(Position(9)), Vec::new());
    assert_eq!(survey(disk).unwrap().samples(), []);
}

fn run(firsts: core::ops::Range<u64>) -> Vec<Batch> {
    firsts.map(|number| batch(number * 3, 3)).collect()
}

#[test]
fn a_run_of_batches_is_one_write() {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, Policy { rotate_size: 1 << 20, ..policy() }).spool;
    spool.append(&batch(0, 3), NOW, Position(0)).unwrap();
    let before = disk.changes_left();
    assert_eq!(spool.append_run(&run(1..10), NOW), 9);
    assert_eq!(before - disk.changes_left(), 1);
    assert_eq!(read_from(&spool, Position(0)), Given { batches: run(0..10), lost: vec![] });
    assert_eq!(read_from(&reopen(&disk).spool, Position(0)), Given { batches: run(0..10), lost: vec![] });
}

#[test]
fn a_run_continues_in_the_next_segment() {
    let disk = MemoryDisk::default();
    let mut spool = reopen(&disk).spool;
    assert_eq!((spool.append_run(&run(0..10), NOW), spool.segments()), (10, 4));
    assert!(disk.list().unwrap().iter().all(|file| file.size <= policy().rotate_size));
    assert_eq!(read_from(&spool, Position(0)), Given { batches: run(0..10), lost: vec![] });
}

#[test]
fn segments_rotate_by_size_and_by_age() {
    let disk = MemoryDisk::default();
    let mut spool = reopen(&disk).spool;
    let later = NOW.plus(Duration::from_secs(300));
    for (number, now) in [(0, NOW), (1, NOW), (2, NOW), (3, NOW), (4, later), (5, later)] {
        spool.append(&batch(number * 3, 3), now, Position(0)).unwrap();
    }
    let size = spool.segment_at(Position(0)).unwrap().2;
    assert!(size <= policy().rotate_size && size + 300 > policy().rotate_size, "{size}");
    assert_eq!(
        disk.names(),
        ["00000000000000000000.segment", "00000000000000000009.segment", "00000000000000000012.segment"]
    );
    spool.enforce_limits(later.plus(Duration::from_secs(300)), Position(0));
    spool.append(&batch(18, 3), later, Position(0)).unwrap();
    assert!(disk.names().contains(&"00000000000000000018.segment".to_owned()));
}

#[test]
fn a_segment_goes_once_all_of_it_is_acknowledged() {
    let disk = filled(7);
    let mut spool = reopen(&disk).spool;
    spool.acknowledge(Position(8));
    assert_eq!(spool.first(), Some(Position(0)));
    spool.acknowledge(Position(9));
    assert_eq!(spool.first(), Some(Position(9)));
    spool.acknowledge(Position(21));
    assert_eq!((spool.first(), spool.size()), (None, 0));
    assert_eq!(disk.names(), ["stream"]);
    spool.append(&batch(50, 3), NOW, Position(0)).unwrap();
    assert_eq!(read_from(&spool, Position(50)).batches, [batch(50, 3)]);
}

#[test]
fn a_reader_follows_a_growing_segment() {
    let disk = MemoryDisk::default();
    let mut spool = reopen(&disk).spool;
    spool.append(&batch(0, 3), NOW, Position(0)).unwrap();
    let mut reader = spool.reader(Position(0), false).unwrap().unwrap();
    assert_eq!(reader.next_item().unwrap(), Some(Item::Batch(batch(0, 3))));
    assert_eq!(reader.next_item().unwrap(), None);
    spool.append(&batch(3, 3), NOW, Position(0)).unwrap();
    let (_, end, size) = spool.segment_at(Position(3)).unwrap();
    reader.extend(end, size);
    assert_eq!(reader.next_item().unwrap(), Some(Item::Batch(batch(3, 3))));
}

#[test]
fn a_batch_is_accepted_after_a_disk_failure() {
    let disk = MemoryDisk::default();
    let mut spool = reopen(&disk).spool;
    spool.append(&batch(0, 3), NOW, Position(0)).unwrap();
    disk.set_failing(true);
    assert!(matches!(spool.append(&batch(3, 3), NOW, Position(0)), Err(AppendError::Disk(_))));
    disk.set_failing(false);
    spool.append(&batch(3, 3), NOW, Position(0)).unwrap();
    assert_only_lost(&read_from(&spool, Position(0)), 2, Position(6), |_| false);
}

#[test]
fn synced_batches_survive_power_loss() {
    let disk = filled(3);
    let mut spool = reopen(&disk).spool;
    spool.append(&batch(9, 3), NOW, Position(0)).unwrap();
    spool.sync_job().unwrap().unwrap().run().unwrap();
    assert!(spool.sync_job().unwrap().is_none());
    spool.append(&batch(12, 3), NOW, Position(0)).unwrap();
    disk.lose_power();
    let spool = reopen(&disk).spool;
    assert!(read_from(&spool, Position(9)).batches.contains(&batch(9, 3)));
}

#[test]
fn acknowledged_batches_are_never_synced() {
    let disk = MemoryDisk::default();
    let mut spool = reopen(&disk).spool;
    for number in 0..10 {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
    }
    spool.acknowledge(Position(30));
    assert!(spool.sync_job().unwrap().is_none());
}

#[test]
fn files_of_removed_segments_stay_open() {
    let disk = filled(90);
    let mut spool = reopen(&disk).spool;
    let kept = spool.segments();
    assert!(spool.acknowledge(Position(2)).is_empty(), "the first segment is still needed");
    let (_, end, _) = spool.segment_at(Position(0)).unwrap();
    let removed = spool.acknowledge(end);
    assert_eq!((removed.len(), spool.segments()), (1, kept - 1));
    assert!(!disk.names().contains(&name::segment(Position(0))));
    let mut start = [0; SEGMENT_HEADER_LEN];
    assert_eq!(removed.first().unwrap().read_at(&mut start, 0).unwrap(), start.len());
}

#[test]
fn few_files_of_removed_segments_stay_open() {
    let mut spool = reopen(&filled(90)).spool;
    assert!(spool.segments() > LEFT_OPEN_MAX + 1);
    assert_eq!(spool.acknowledge(Position(270)).len(), LEFT_OPEN_MAX);
    assert_eq!(spool.segments(), 0);
}

#[test]
fn a_start_reports_the_last_run() {
    let disk = MemoryDisk::default();
    assert_eq!(reopen(&disk).last_run, None);
    let mut spool = reopen(&disk).spool;
    spool.begin_run(RunId([2; 16]), Position(7)).unwrap();
    assert_eq!(reopen(&disk).last_run, Some(LastRun::CutShort { start: Position(7) }));
    spool.end_run(Position(8), Position(9)).unwrap();
    let orderly = LastRun::Orderly { acknowledged: Position(8), next: Position(9) };
    assert_eq!(reopen(&disk).last_run, Some(orderly));
}

#[test]
fn segments_replace_a_lost_stream_file() {
    let disk = filled(5);
    disk.remove("stream").unwrap();
    let opened = open(disk, own_stream(0xEE), policy()).unwrap();
    assert_eq!(opened.spool.stream(), STREAM);
    assert_eq!(opened.spool.lineage().secret(), None);
    assert_eq!(opened.last_run, Some(LastRun::CutShort { start: Position(15) }));
}

#[test]
fn a_start_survives_an_unreadable_stream_file() {
    let disk = filled(10);
    disk.set_unreadable("stream", 0..128);
    let newest = disk.names().into_iter().rfind(|name| name.ends_with(".segment")).unwrap();
    disk.set_unreadable(&newest, 0..1);
    let opened = open(disk.clone(), own_stream(9), policy()).unwrap();
    assert_eq!(opened.spool.stream(), STREAM);
    assert_eq!(opened.last_run, Some(LastRun::CutShort { start: opened.spool.end().unwrap() }));
}

#[test]
fn a_missing_segment_is_a_gap() {
    let disk = filled(12);
    disk.put("README", b"not ours".to_vec());
    disk.remove("00000000000000000009.segment").unwrap();
    let opened = reopen(&disk);
    let gap = Gap { first: Position(0), end: Position(18), reason: GapReason::Corrupt };
    assert_eq!(opened.missing, [], "the segment before it seems to reach up to the next");
    assert_only_lost(&read_from(&opened.spool, Position(0)), 12, Position(36), |number| {
        (gap.first.0..gap.end.0).contains(&(number * 3)) && number >= 3
    });
    assert!(disk.names().contains(&"README".to_owned()));
}

#[test]
fn a_start_removes_segments_that_a_gap_covers() {
    let disk = filled(6);
    disk.put("00000000000000000000-00000000000000000009-spool-full.gap", vec![]);
    let spool = reopen(&disk).spool;
    assert!(!disk.names().contains(&"00000000000000000000.segment".to_owned()));
    assert_eq!(spool.first(), Some(Position(0)));
    assert_eq!(read_from(&spool, Position(0)).lost, [(Position(0), Position(9))]);
}

#[test]
fn the_golden_spools_stay_readable() {
    let (v1, v2) = (include_bytes!("golden/v1.stream").as_slice(), include_bytes!("golden/v2.stream"));
    for stream in [v1, v2, include_bytes!("golden/v3.stream")] {
        let disk = MemoryDisk::default();
        disk.put("00000000000000000000.segment", include_bytes!("golden/v1.segment").to_vec());
        disk.put("stream", stream.to_vec());
        let opened = reopen(&disk);
        assert_eq!(opened.last_run, Some(LastRun::Orderly { acknowledged: Position(0), next: Position(9) }));
        assert_eq!(read_from(&opened.spool, Position(0)).batches, [batch(0, 3), batch(3, 3), batch(6, 3)]);
    }
    let written = filled(3);
    reopen(&written).spool.end_run(Position(0), Position(9)).unwrap();
    assert_eq!(written.bytes("00000000000000000000.segment"), include_bytes!("golden/v1.segment"));
    assert_eq!(written.bytes("stream"), include_bytes!("golden/v3.stream"));
}

/// Writes the golden files again, only for a new version of the format.
#[test]
#[ignore = "writes the golden files; run by hand for a new version of the format"]
fn write_golden_spool() {
    let disk = filled(3);
    reopen(&disk).spool.end_run(Position(0), Position(9)).unwrap();
    let folder = format!("{}/src/spool/golden", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(format!("{folder}/v1.segment"), disk.bytes("00000000000000000000.segment")).unwrap();
    std::fs::write(format!("{folder}/v3.stream"), disk.bytes("stream")).unwrap();
}
