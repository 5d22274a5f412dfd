//! Segments of which some datagrams are dropped.

use super::*;
use crate::spool::{Candidate, Sieve, ThinnedSegment};

/// Segments of about ten batches.
fn long_segments() -> Policy {
    Policy { rotate_size: 4000, ..policy() }
}

/// Keeps the datagrams whose numbers are multiples of one number.
struct Multiples {
    of: u64,
    builder: BatchBuilder,
    next: Position,
}

impl Multiples {
    fn new(of: u64, first: Position) -> Self {
        Self { of, builder: BatchBuilder::new(STREAM, Compression::None), next: first }
    }
}

impl Sieve for Multiples {
    fn sift(&mut self, batch: &Batch) -> io::Result<Vec<Batch>> {
        for datagram in batch.records().unwrap().by_position() {
            match datagram.filter(|datagram| number(datagram.payload).is_multiple_of(self.of)) {
                Some(datagram) => self.builder.push(&datagram).unwrap(),
                None => self.builder.push_dropped(batch.earliest()).unwrap(),
            }
        }
        // Some batches become one.
        let is_enough = self.next.plus(5) <= batch.end();
        Ok(if is_enough { self.finish()?.into_iter().collect() } else { Vec::new() })
    }

    fn finish(&mut self) -> io::Result<Option<Batch>> {
        let batch = self.builder.finish(self.next);
        self.next = batch.as_ref().map_or(self.next, Batch::end);
        Ok(batch)
    }
}

fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload[..8].try_into().unwrap())
}

/// A disk with 120 datagrams in three segments or more.
fn segments() -> MemoryDisk {
    let disk = MemoryDisk::default();
    let mut spool = open_with(&disk, long_segments()).spool;
    spool.begin_run(RunId([1; 16]), Position(0)).unwrap();
    for number in 0..40 {
        spool.append(&batch(number * 3, 3), NOW, Position(0)).unwrap();
    }
    if let Some(job) = spool.sync_job().unwrap() {
        job.run().unwrap();
    }
    assert!(spool.candidates(Position(0)).count() >= 3);
    disk
}

fn reopened(disk: &MemoryDisk) -> Spool<MemoryDisk> {
    open_with(disk, long_segments()).spool
}

fn candidate(spool: &Spool<MemoryDisk>, index: usize) -> Candidate {
    spool.candidates(Position(0)).nth(index).unwrap()
}

fn thin(spool: &mut Spool<MemoryDisk>, segment: Candidate, of: u64) -> io::Result<Option<Thinned>> {
    thin_by(spool, segment, of, 1)
}

/// Thins `segment` if that frees at least `least` bytes.
fn thin_by(
    spool: &mut Spool<MemoryDisk>,
    segment: Candidate,
    of: u64,
    least: u64,
) -> io::Result<Option<Thinned>> {
    match write_thinned(spool, segment, of) {
        Ok(Some(written)) => spool.finish_thinning(written, least, Position(0)),
        other => {
            spool.abandon_thinning();
            other.map(|_| None)
        }
    }
}

/// Writes the replacement of `segment`.
fn write_thinned(
    spool: &mut Spool<MemoryDisk>,
    segment: Candidate,
    of: u64,
) -> io::Result<Option<ThinnedSegment>> {
    let Some(job) = spool.start_thinning(segment, Position(0))? else { return Ok(None) };
    job.run(&mut Multiples::new(of, segment.first))
}

/// The datagrams that a spool gives. Each has the position of its number, and all positions are covered.
fn numbers(spool: &Spool<MemoryDisk>) -> Vec<u64> {
    let given = read_from(spool, spool.first().unwrap());
    let mut numbers = Vec::new();
    for batch in &given.batches {
        let records = batch.records().unwrap();
        for (position, datagram) in (batch.first().0..).zip(records.by_position()) {
            let Some(datagram) = datagram else { continue };
            assert_eq!(number(datagram.payload), position);
            numbers.push(position);
        }
    }
    assert_eq!(given.batches.last().map(Batch::end), spool.end());
    let missing: u64 = given.lost.iter().map(|(from, to)| to.since(*from)).sum();
    let covered: u64 = given.batches.iter().map(|batch| u64::from(batch.datagrams())).sum();
    assert_eq!(covered + missing, spool.end().unwrap().since(spool.first().unwrap()));
    numbers
}

/// All numbers but those that a thinning of `segment` drops.
fn without(segment: Candidate, of: u64) -> Vec<u64> {
    let stays =
        |number: &u64| !(segment.first.0..segment.end.0).contains(number) || number.is_multiple_of(of);
    (0..120).filter(stays).collect()
}

fn dropped(spool: &Spool<MemoryDisk>) -> u64 {
    spool.thinned().map(|thinned| thinned.datagrams).sum()
}

#[test]
fn datagrams_that_stay_keep_their_positions() {
    let disk = segments();
    let mut spool = reopened(&disk);
    let (segment, before) = (candidate(&spool, 1), spool.size());
    let thinned = thin(&mut spool, segment, 5).unwrap().unwrap();
    let expected = without(segment, 5);
    assert_eq!(u64::try_from(expected.len()).unwrap() + thinned.datagrams, 120);
    assert_eq!(numbers(&spool), expected);
    assert!(spool.size() < before - segment.size / 2);
    assert_eq!(spool.take_dropped(), [], "no gap stands for them");
    let again = reopened(&disk);
    assert_eq!((numbers(&again), again.size()), (expected, spool.size()));
    assert_eq!(dropped(&again), thinned.datagrams, "a start knows how many were dropped");
}

#[test]
fn a_thinning_keeps_no_space_allocated_ahead() {
    let disk = segments();
    disk.preallocate();
    let mut spool = reopened(&disk);
    let segment = candidate(&spool, 1);
    let _written = write_thinned(&mut spool, segment, 5).unwrap().unwrap();
    assert_eq!(disk.space().unwrap().free, u64::MAX - disk.used());
}

#[test]
fn a_segment_can_be_thinned_again_and_dropped() {
    let disk = segments();
    let mut spool = reopened(&disk);
    let segment = candidate(&spool, 0);
    thin(&mut spool, segment, 2).unwrap().unwrap();
    let segment = candidate(&spool, 0);
    let thinned = thin(&mut spool, segment, 5).unwrap().unwrap();
    assert_eq!(numbers(&spool), without(segment, 10));
    assert!(thinned.datagrams > 0 && thinned.datagrams < dropped(&spool));
    spool.drop_candidate(candidate(&spool, 0)).unwrap();
    assert_eq!((dropped(&spool), spool.gaps().count()), (0, 1));
    assert!(disk.names().iter().all(|name| !name.ends_with(".thinned")), "{:?}", disk.names());
}

#[test]
fn small_thinned_segments_become_one() {
    let disk = segments();
    let mut spool = reopened(&disk);
    let count = spool.segments();
    let [first, second] = [candidate(&spool, 0), candidate(&spool, 1)];
    thin(&mut spool, first, 1000).unwrap().unwrap();
    thin(&mut spool, second, 1000).unwrap().unwrap();
    assert_eq!(spool.segments(), count - 1);
    let expected: Vec<u64> = [0].into_iter().chain(second.end.0..120).collect();
    assert_eq!(numbers(&spool), expected);
    let again = reopened(&disk);
    assert_eq!((numbers(&again), dropped(&again)), (expected, dropped(&spool)));
    assert_eq!(dropped(&again), second.end.0 - 1);
}

#[test]
fn a_segment_of_which_too_little_would_go_stays() {
    let disk = segments();
    let mut spool = reopened(&disk);
    let names = disk.names();
    let segment = candidate(&spool, 0);
    let outcome = thin_by(&mut spool, segment, 1, segment.size / 2);
    assert_eq!(outcome.unwrap(), None);
    assert_eq!((disk.names(), numbers(&spool)), (names, (0..120).collect()));
}

#[test]
fn a_damaged_segment_is_not_thinned() {
    let disk = segments();
    disk.flip("00000000000000000000.segment", 300, 1);
    let mut spool = reopened(&disk);
    let segment = candidate(&spool, 0);
    assert_eq!(thin(&mut spool, segment, 5).unwrap(), None);
    assert!(disk.names().iter().all(|name| !name.contains("thinned")));
}

#[test]
fn segments_in_flight_and_the_last_are_exempt() {
    let disk = segments();
    let spool = reopened(&disk);
    let all: Vec<Candidate> = spool.candidates(Position(0)).collect();
    assert!(all.iter().all(|segment| segment.end < spool.end().unwrap()));
    let idle: Vec<Candidate> = spool.candidates(all[1].first).collect();
    assert_eq!(idle, all[1..]);
}

#[test]
fn a_crash_while_joining_loses_nothing() {
    for thinned_before in [false, true] {
        crash_at_each_change(thinned_before);
    }
}

/// Joins two segments, of which the second may be thinned already, on a disk that stops after each number of
/// changes.
fn crash_at_each_change(thinned_before: bool) {
    let original = segments();
    let mut spool = reopened(&original);
    let [first, mut second] = [candidate(&spool, 0), candidate(&spool, 1)];
    if thinned_before {
        thin(&mut spool, second, 2).unwrap().unwrap();
        second = candidate(&spool, 1);
    }
    thin(&mut spool, first, 1000).unwrap().unwrap();
    let before = numbers(&spool);
    let after: Vec<u64> = [0].into_iter().chain(second.end.0..120).collect();
    drop(spool);
    let mut is_over = false;
    for changes in 0.. {
        let disk = original.copy();
        let mut spool = reopened(&disk);
        disk.set_changes_left(changes);
        let outcome = thin(&mut spool, second, 1000);
        is_over |= outcome.is_ok_and(|_| disk.changes_left() > 0);
        drop(spool);
        disk.set_changes_left(usize::MAX);
        for has_power in [true, false] {
            if !has_power {
                disk.lose_power();
            }
            let again = reopened(&disk);
            let found = numbers(&again);
            assert!(found == before || found == after, "after {changes} changes: {found:?}");
            assert_eq!(dropped(&again), 120 - u64::try_from(found.len()).unwrap(), "after {changes} changes");
            assert!(!disk.names().contains(&name::UNFINISHED_THINNED.to_owned()));
        }
        if is_over {
            break;
        }
    }
}

#[test]
fn a_joined_segment_has_the_age_of_its_newest() {
    let disk = MemoryDisk::default();
    let policy = Policy { max_age: Some(Duration::from_secs(60)), ..long_segments() };
    let mut spool = open_with(&disk, policy).spool;
    spool.begin_run(RunId([1; 16]), Position(0)).unwrap();
    let later = NOW.plus(Duration::from_secs(50));
    let mut now = NOW;
    for number in 0..40 {
        if spool.candidates(Position(0)).count() > 0 {
            now = later;
        }
        spool.append(&batch(number * 3, 3), now, Position(0)).unwrap();
    }
    let [first, second] = [candidate(&spool, 0), candidate(&spool, 1)];
    thin(&mut spool, first, 1000).unwrap().unwrap();
    thin(&mut spool, second, 1000).unwrap().unwrap();
    assert_eq!(candidate(&spool, 0).end, second.end, "both are one file");
    spool.enforce_limits(NOW.plus(Duration::from_secs(100)), Position(0));
    assert_eq!(spool.take_dropped(), []);
}

#[test]
fn a_restart_keeps_the_age_of_thinned_segments() {
    let disk = MemoryDisk::default();
    let policy = Policy { max_age: Some(Duration::from_secs(60)), ..long_segments() };
    let boot = BootTime { boot: BootId(7), ..NOW.boot };
    let at = |seconds| Moment { boot, ..NOW }.plus(Duration::from_secs(seconds));
    disk.set_time(NOW.wall);
    let mut spool = open_with(&disk, policy).spool;
    spool.begin_run(RunId([1; 16]), Position(0)).unwrap();
    for number in 0..40 {
        spool.append(&batch(number * 3, 3), at(0), Position(0)).unwrap();
    }
    let segments = [candidate(&spool, 0), candidate(&spool, 1)];
    disk.set_time(at(50).wall);
    for segment in segments {
        thin(&mut spool, segment, 1000).unwrap().unwrap();
    }
    drop(spool);
    let mut spool = open_with(&disk, policy).spool;
    spool.enforce_limits(at(70), Position(0));
    assert_eq!(spool.first().unwrap(), segments[0].first);
    let dropped = spool.take_dropped();
    assert_eq!(dropped.first().map(|gap| gap.end), Some(segments[1].end), "{dropped:?}");
}

#[test]
fn an_acknowledgement_abandons_a_thinning() {
    let disk = segments();
    let mut spool = reopened(&disk);
    let segment = candidate(&spool, 0);
    let written = write_thinned(&mut spool, segment, 5).unwrap().unwrap();
    spool.acknowledge(segment.first.plus(1));
    let names: Vec<String> =
        disk.names().into_iter().filter(|name| name != name::UNFINISHED_THINNED).collect();
    assert_eq!(spool.finish_thinning(written, 1, Position(0)).unwrap(), None);
    assert_eq!((disk.names(), numbers(&spool)), (names, (0..120).collect()));
}

#[test]
fn a_thinning_waits_for_no_append() {
    let disk = segments();
    let mut spool = reopened(&disk);
    let segment = candidate(&spool, 1);
    let job = spool.start_thinning(segment, Position(0)).unwrap().unwrap();
    spool.append(&batch(120, 3), NOW, Position(0)).unwrap();
    let written = job.run(&mut Multiples::new(5, segment.first)).unwrap().unwrap();
    spool.append(&batch(123, 3), NOW, Position(0)).unwrap();
    spool.finish_thinning(written, 1, Position(0)).unwrap().unwrap();
    let expected: Vec<u64> = without(segment, 5).into_iter().chain(120..126).collect();
    assert_eq!(numbers(&spool), expected);
    assert_eq!(numbers(&reopened(&disk)), expected);
}

#[test]
fn a_segment_in_flight_is_not_thinned() {
    let disk = segments();
    let mut spool = reopened(&disk);
    let segment = candidate(&spool, 1);
    let written = write_thinned(&mut spool, segment, 5).unwrap().unwrap();
    assert_eq!(spool.finish_thinning(written, 1, segment.first.plus(1)).unwrap(), None);
    assert_eq!(numbers(&spool), (0..120).collect::<Vec<u64>>());
}
