use core::time::Duration;

use proptest::prelude::*;

mod disk_trouble;

use super::disk::Entry;
use super::lineage::own_stream;
use super::memory_disk::MemoryDisk;
use super::*;
use crate::batch::{BatchBuilder, Compression};
use crate::datagram::{BootId, BootTime, Datagram, Timestamp};
use crate::limits::DAMAGED_FILES_MAX;

mod newer;
mod newer_limits;
mod newer_refused;
mod thinning;

pub(super) const STREAM: StreamId = StreamId([1; 16]);
/// In a boot without an id, so that headers bear no stamp of its clock.
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

/// All that a spool gives: whole batches, and what is lost between them.
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

/// The batches given must be the ones written, without those that `touched` says may be missing; what lies
/// between them must be told as lost.
fn assert_only_lost(given: &Given, batches: u64, known_end: Position, may_miss: impl Fn(u64) -> bool) {
    let mut position = Position(0);
    let mut lost = given.lost.iter();
    for found in &given.batches {
        while position < found.first() {
            let (from, to) = *lost.next().expect("a hole is told");
            assert_eq!(from, position);
            position = to;
        }
        assert_eq!(*found, batch(found.first().0, 3), "what is given is what was written");
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
fn what_was_appended_is_read_from_any_position_after_a_restart() {
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
fn a_start_reads_names_and_the_last_segment_only() {
    let disk = filled(40);
    let segments: Vec<String> = disk.names().into_iter().filter(|name| name.ends_with(".segment")).collect();
    let before = disk.opened().len();
    reopen(&disk);
    let mut opened = disk.opened()[before..].to_vec();
    opened.dedup();
    assert_eq!(opened, ["stream".to_owned(), segments.last().unwrap().clone()]);
}

#[test]
fn a_survey_gives_the_first_batches_of_both_ends_reads_no_more_and_changes_nothing() {
    let disk = filled(12);
    let (names, before) = (disk.list().unwrap(), disk.opened().len());
    let samples = survey(disk.clone()).unwrap().samples();
    let firsts: Vec<u64> = samples.iter().map(|batch| batch.first().0).collect();
    let segments: Vec<&Entry> = names.iter().filter(|entry| entry.name.ends_with(".segment")).collect();
    let (oldest, newest) = (segments[0].name.clone(), segments[segments.len() - 1].name.clone());
    assert_eq!(format!("{:020}.segment", firsts[1]), newest);
    assert_eq!(firsts[0], 0);
    assert_eq!(disk.opened()[before..], ["stream".to_owned(), oldest, newest]);
    assert_eq!(disk.list().unwrap(), names);
}

#[test]
fn a_survey_passes_over_damage_to_the_first_whole_batch() {
    let disk = filled(2);
    disk.flip(&name::segment(Position(0)), SEGMENT_HEADER_LEN, 1);
    let samples = survey(disk).unwrap().samples();
    assert_eq!(samples, [batch(3, 3), batch(3, 3)]);
}

#[test]
fn a_survey_of_nothing_or_of_damage_alone_gives_nothing() {
    let disk = MemoryDisk::default();
    assert_eq!(survey(disk.clone()).unwrap().samples(), []);
    disk.put(&name::segment(Position(0)), vec![0x5A; 5000]);
    disk.put(&name::segment(Position(9)), Vec::new());
    assert_eq!(survey(disk).unwrap().samples(), []);
}

#[test]
fn segments_are_named_by_position_and_rotated_by_size_and_by_age() {
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
    spool.tend(later.plus(Duration::from_secs(300)), Position(0));
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
fn a_reader_goes_on_where_a_growing_segment_ended() {
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
fn a_full_spool_drops_the_oldest_segment_and_leaves_a_gap_that_lasts() {
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
fn a_full_spool_refuses_what_is_newest_if_told_to() {
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
fn where_nothing_is_to_be_dropped_nothing_is_and_the_policy_stays() {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, Policy { max_size: 2600, ..policy() }).spool;
    let mut taken = 0;
    let append = |spool: &mut Spool<MemoryDisk>, number: u64| {
        spool.append_yielding(&batch(number * 3, 3), NOW, Position(0), Yielding::Nothing)
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
fn what_is_in_flight_is_not_dropped() {
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
fn one_large_segment_does_not_cost_the_whole_spool() {
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
fn a_failing_disk_refuses_a_batch_and_takes_it_later() {
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
fn segments_older_than_max_age_are_dropped() {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, Policy { max_age: Some(Duration::from_secs(60)), ..policy() }).spool;
    for number in 0..4 {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
    }
    spool.tend(NOW.plus(Duration::from_secs(60)), Position(0));
    assert_eq!(spool.take_dropped(), []);
    spool.tend(NOW.plus(Duration::from_nanos(60_000_000_001)), Position(0));
    let gap = |first, end| Gap { first: Position(first), end: Position(end), reason: GapReason::TooOld };
    assert_eq!(spool.take_dropped(), [gap(0, 9), gap(9, 12)]);
}

#[test]
fn what_was_synced_survives_power_loss() {
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
fn what_is_acknowledged_in_time_is_never_forced_to_disk() {
    let disk = MemoryDisk::default();
    let mut spool = reopen(&disk).spool;
    for number in 0..10 {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
    }
    spool.acknowledge(Position(30));
    assert!(spool.sync_job().unwrap().is_none());
}

#[test]
fn the_last_run_is_told() {
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
fn a_lost_stream_file_is_made_up_for_by_the_segments() {
    let disk = filled(5);
    disk.remove("stream").unwrap();
    let opened = open(disk, own_stream(0xEE), policy()).unwrap();
    assert_eq!(opened.spool.stream(), STREAM);
    assert_eq!(opened.spool.lineage().secret(), None);
    assert_eq!(opened.last_run, Some(LastRun::CutShort { start: Position(15) }));
}

#[test]
fn a_stream_file_that_cannot_be_read_does_not_stop_a_start() {
    let disk = filled(10);
    disk.set_unreadable("stream", 0..128);
    let newest = disk.names().into_iter().rfind(|name| name.ends_with(".segment")).unwrap();
    disk.set_unreadable(&newest, 0..1);
    let opened = open(disk.clone(), own_stream(9), policy()).unwrap();
    assert_eq!(opened.spool.stream(), STREAM);
    assert_eq!(opened.last_run, Some(LastRun::CutShort { start: opened.spool.end().unwrap() }));
}

#[test]
fn a_missing_segment_is_a_gap_and_foreign_files_are_left_alone() {
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
fn a_segment_that_a_gap_has_replaced_is_removed_after_a_crash_between_the_two() {
    let disk = filled(6);
    disk.put("00000000000000000000-00000000000000000009-spool-full.gap", vec![]);
    let spool = reopen(&disk).spool;
    assert!(!disk.names().contains(&"00000000000000000000.segment".to_owned()));
    assert_eq!(spool.first(), Some(Position(0)));
    assert_eq!(read_from(&spool, Position(0)).lost, [(Position(0), Position(9))]);
}

#[test]
fn a_payload_that_holds_a_whole_batch_is_never_taken_for_one() {
    let hidden = BatchBuilder::new(StreamId([2; 16]), Compression::None)
        .tap_push(b"forged")
        .finish(Position(4))
        .unwrap();
    let carrier =
        BatchBuilder::new(STREAM, Compression::None).tap_push(hidden.bytes()).finish(Position(0)).unwrap();
    let disk = MemoryDisk::default();
    let mut spool = reopen(&disk).spool;
    spool.append(&carrier, NOW, Position(0)).unwrap();
    spool.append(&batch(1, 3), NOW, Position(0)).unwrap();
    disk.flip("00000000000000000000.segment", SEGMENT_HEADER_LEN + 9, 1);
    let given = read_from(&spool, Position(0));
    assert_eq!(given, Given { batches: vec![batch(1, 3)], lost: vec![(Position(0), Position(1))] });
}

trait TapPush {
    fn tap_push(self, payload: &[u8]) -> Self;
}

impl TapPush for BatchBuilder {
    fn tap_push(mut self, payload: &[u8]) -> Self {
        let address = "192.0.2.7:1".parse().unwrap();
        self.push(&Datagram { exporter: address, local: address, arrival: NOW.wall, payload }).unwrap();
        self
    }
}

/// Which batches of three lie where in a segment that starts at batch `from`.
fn touched(from: u64, byte: usize) -> u64 {
    let length = batch(0, 3).bytes().len();
    from + u64::try_from(byte.saturating_sub(SEGMENT_HEADER_LEN) / length).unwrap()
}

#[test]
fn a_last_segment_cut_at_any_byte_loses_only_the_batches_that_are_cut() {
    let disk = filled(8);
    let name = "00000000000000000018.segment";
    let whole = disk.bytes(name);
    for length in 0..whole.len() {
        let cut = disk.copy();
        cut.cut(name, length);
        let opened = reopen(&cut);
        let end = opened.spool.end().unwrap();
        let given = read_from(&opened.spool, Position(0));
        assert_only_lost(&given, 8, end, |number| number >= touched(6, length));
        // The next start numbers on behind what may have been there, and appends without trouble.
        let mut spool = opened.spool;
        spool.record_gap(Gap { first: end, end: Position(24), reason: GapReason::Corrupt });
        spool.append(&batch(24, 3), NOW, Position(0)).unwrap();
        let given = read_from(&reopen(&cut).spool, Position(0));
        assert_eq!(given.batches.last(), Some(&batch(24, 3)));
    }
}

#[test]
fn a_flipped_byte_anywhere_loses_only_the_batch_it_is_in() {
    let disk = filled(8);
    for (name, from) in [("00000000000000000009.segment", 3), ("00000000000000000018.segment", 6)] {
        for byte in 0..disk.bytes(name).len() {
            let damaged = disk.copy();
            damaged.flip(name, byte, 0xFF);
            let opened = reopen(&damaged);
            let given = read_from(&opened.spool, Position(0));
            let in_header = byte < SEGMENT_HEADER_LEN;
            assert_only_lost(&given, 8, opened.spool.end().unwrap(), |number| {
                !in_header && number == touched(from, byte)
            });
        }
    }
}

proptest! {
    #[test]
    fn damage_of_any_kind_never_stops_a_start_and_never_forges_a_batch(
        hits in proptest::collection::vec((0_usize..4000, any::<u8>(), 1_usize..80), 1..8),
        cut in proptest::option::of(0_usize..1000),
    ) {
        let disk = filled(12);
        let segments: Vec<String> =
            disk.names().into_iter().filter(|name| name.ends_with(".segment")).collect();
        for (at, mask, length) in hits {
            let name = &segments[at % segments.len()];
            let size = disk.bytes(name).len();
            for byte in (at..at + length).map(|byte| byte % size) {
                disk.flip(name, byte, mask);
            }
        }
        if let Some(cut) = cut {
            disk.cut(segments.last().unwrap(), cut);
        }
        let opened = reopen(&disk);
        let end = opened.spool.end().unwrap();
        assert_only_lost(&read_from(&opened.spool, Position(0)), 12, end, |_| true);
    }
}

#[test]
fn damaged_bytes_are_set_aside() {
    let disk = filled(4);
    disk.flip("00000000000000000000.segment", SEGMENT_HEADER_LEN + 60, 0xFF);
    let mut spool = reopen(&disk).spool;
    let mut reader = spool.reader(Position(0), false).unwrap().unwrap();
    let Some(Item::Damage(damage)) = reader.next_item().unwrap() else { panic!("damage comes first") };
    spool.set_aside(Position(0), damage.offset, damage.length).unwrap();
    let length = batch(0, 3).bytes().len();
    let aside = disk.bytes(&format!("damaged/00000000000000000000.segment-64-{length}"));
    assert_eq!(aside, disk.bytes("00000000000000000000.segment")[64..64 + length]);
}

#[test]
fn copies_of_damaged_pieces_are_bounded() {
    let disk = filled(4);
    for number in 0..DAMAGED_FILES_MAX + 10 {
        disk.put(&format!("damaged/{number:020}.segment-64-1"), vec![0]);
    }
    let mut spool = reopen(&disk).spool;
    assert_eq!(spool.damaged(), Aside { files: DAMAGED_FILES_MAX, bytes: DAMAGED_FILES_MAX });
    assert!(!disk.names().contains(&format!("damaged/{:020}.segment-64-1", 9)), "the oldest go");
    assert!(disk.names().contains(&format!("damaged/{:020}.segment-64-1", 10)));
    spool.set_aside(Position(0), 64, 100).unwrap();
    assert_eq!(spool.damaged().files, DAMAGED_FILES_MAX);
}

#[test]
fn blocks_that_cannot_be_read_are_an_error_first_and_damage_once_given_up() {
    let disk = filled(3);
    let spool = reopen(&disk).spool;
    let mut reader = spool.reader(Position(0), false).unwrap().unwrap();
    disk.set_failing(true);
    reader.next_item().unwrap_err();
    reader.give_unreadable_up();
    let Some(Item::Damage(damage)) = reader.next_item().unwrap() else { panic!("all is damage") };
    assert_eq!((damage.first, damage.end), (Position(0), Position(9)));
}

#[test]
fn a_header_that_cannot_be_read_does_not_keep_what_follows_it_from_being_read() {
    let disk = filled(3);
    let spool = reopen(&disk).spool;
    let second = 64 + batch(0, 3).bytes().len();
    disk.set_unreadable("00000000000000000000.segment", second..second + 1);
    spool.reader(Position(3), false).unwrap_err();
    let mut reader = spool.reader(Position(3), true).unwrap().unwrap();
    let Some(Item::Damage(damage)) = reader.next_item().unwrap() else { panic!("damage comes first") };
    assert!(damage.first == Position(3) && damage.end <= Position(9));
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

/// Writes the golden files anew: only for a new version of the format.
#[test]
#[ignore = "writes the golden files; run by hand for a new version of the format"]
fn write_golden_spool() {
    let disk = filled(3);
    reopen(&disk).spool.end_run(Position(0), Position(9)).unwrap();
    let folder = format!("{}/src/spool/golden", env!("CARGO_MANIFEST_DIR"));
    std::fs::write(format!("{folder}/v1.segment"), disk.bytes("00000000000000000000.segment")).unwrap();
    std::fs::write(format!("{folder}/v3.stream"), disk.bytes("stream")).unwrap();
}
