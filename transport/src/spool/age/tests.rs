use super::*;
use crate::datagram::{BootId, BootTime};
use crate::limits::CLOCK_STEADY_AFTER;
use crate::spool::memory_disk::MemoryDisk;
use crate::spool::tests::{batch, open_with, policy};
use crate::spool::{Opened, Policy};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const MAX_AGE: Duration = Duration::from_secs(86_400);
const TEN_YEARS: Duration = Duration::from_secs(10 * 31_557_600);

/// In 2030, so long after a boot.
fn in_boot(boot: u64, elapsed: Duration) -> Moment {
    let wall = Timestamp::from_unix(Duration::from_secs(1_900_000_000));
    Moment { wall, boot: BootTime { boot: BootId(boot), elapsed } }
}

fn start() -> Moment {
    in_boot(7, HOUR)
}

/// A spool that drops datagrams older than a day.
struct Case {
    disk: MemoryDisk,
    spool: Spool<MemoryDisk>,
    next: u64,
}

impl Case {
    fn begin(now: Moment) -> Self {
        let disk = MemoryDisk::default();
        let spool = Self::open(&disk).spool;
        let mut case = Self { disk, spool, next: 0 };
        case.spool.enforce_limits(now, Position(0));
        case
    }

    fn open(disk: &MemoryDisk) -> Opened<MemoryDisk> {
        open_with(disk, Policy { max_age: Some(MAX_AGE), rotate_size: 1 << 20, ..policy() })
    }

    /// A later run begins.
    fn restart(&mut self, now: Moment) {
        self.spool = Self::open(&self.disk).spool;
        self.spool.enforce_limits(now, Position(0));
    }

    fn append(&mut self, now: Moment) {
        self.append_stamped(now, now.wall);
    }

    /// Appends, on a file system that reports `modified` as the time.
    fn append_stamped(&mut self, now: Moment, modified: Timestamp) {
        self.disk.set_time(modified);
        self.spool.append(&batch(self.next, 3), now, Position(0)).unwrap();
        self.next += 3;
    }

    /// The number of segments after the limits are enforced at this moment.
    fn left(&mut self, now: Moment) -> usize {
        self.spool.enforce_limits(now, Position(0));
        self.spool.segments()
    }
}

#[test]
fn a_short_step_forward_drops_nothing() {
    let mut case = Case::begin(start());
    case.append(start());
    for second in 1..4 {
        assert_eq!(case.left(start().plus(second * SECOND).set(TEN_YEARS, true)), 1);
    }
    let size = WrongClock::Set(ClockStep { is_forward: true, size: TEN_YEARS });
    assert_eq!(case.spool.take_wrong_clock(), Some(size));
    assert_eq!(case.left(start().plus(4 * SECOND)), 1);
    let size = WrongClock::Set(ClockStep { is_forward: false, size: TEN_YEARS });
    assert_eq!((case.spool.take_wrong_clock(), case.spool.take_wrong_clock()), (Some(size), None));
}

#[test]
fn a_step_back_keeps_nothing_beyond_its_age() {
    let mut case = Case::begin(start());
    case.append(start());
    let set_back = |later| start().plus(later).set(TEN_YEARS, false);
    assert_eq!(case.left(set_back(MAX_AGE)), 1);
    assert_eq!(case.left(set_back(MAX_AGE + SECOND)), 0);
}

#[test]
fn a_step_between_runs_of_one_boot_drops_nothing() {
    let mut case = Case::begin(start());
    case.append(start());
    case.append(start().plus(HOUR));
    let set = |later| start().plus(HOUR + later).set(TEN_YEARS, true);
    case.restart(set(SECOND));
    let step = WrongClock::SetBefore(ClockStep { is_forward: true, size: TEN_YEARS });
    assert_eq!(case.spool.take_wrong_clock(), Some(step));
    assert_eq!(case.left(set(2 * SECOND)), 2, "the first is an hour older");
    assert_eq!(case.left(set(MAX_AGE)), 1);
    assert_eq!(case.left(set(MAX_AGE + SECOND)), 0);
}

#[test]
fn ages_of_one_boot_go_on_over_a_restart() {
    let mut case = Case::begin(start());
    case.append(start());
    case.append(start().plus(200 * SECOND));
    case.restart(start().plus(MAX_AGE));
    assert_eq!(case.spool.take_wrong_clock(), None);
    assert_eq!(case.left(start().plus(MAX_AGE + 200 * SECOND)), 1);
    assert_eq!(case.left(start().plus(MAX_AGE + 201 * SECOND)), 0);
}

/// A segment of another boot, whose clock was steady since so long.
fn of_earlier_boot(steady: Duration) -> (Case, Moment) {
    let mut case = Case::begin(start());
    let written = start().plus(steady);
    case.append(written);
    (case, written)
}

/// The wall clock shows that so much time has passed since `moment`, in a boot that began a minute ago.
fn rebooted(moment: Moment, later: Duration) -> Moment {
    Moment { wall: moment.plus(later).wall, ..in_boot(8, 60 * SECOND) }
}

#[test]
fn a_steady_clock_drops_an_earlier_boot() {
    let (mut case, written) = of_earlier_boot(CLOCK_STEADY_AFTER);
    let now = rebooted(written, 2 * MAX_AGE);
    case.restart(now);
    assert_eq!(case.left(now.plus(CLOCK_STEADY_AFTER.saturating_sub(SECOND))), 1);
    assert_eq!(case.left(now.plus(CLOCK_STEADY_AFTER)), 0);
}

/// The first write to a segment can bear an earlier time than its header: file times come from the kernel's
/// last tick.
#[test]
fn a_file_time_that_lags_keeps_nothing_longer() {
    let written = start().plus(CLOCK_STEADY_AFTER);
    for now in [written.plus(2 * MAX_AGE), rebooted(written, 2 * MAX_AGE)] {
        let mut case = Case::begin(start());
        case.append_stamped(written, Timestamp(written.wall.0 - 4_000_000));
        case.restart(now);
        assert_eq!(case.left(now.plus(CLOCK_STEADY_AFTER)), 0);
    }
}

#[test]
fn a_wrong_clock_after_a_boot_drops_nothing() {
    let (mut case, written) = of_earlier_boot(CLOCK_STEADY_AFTER);
    let wrong = rebooted(written, TEN_YEARS);
    case.restart(wrong);
    assert_eq!(case.left(wrong.plus(HOUR / 2)), 1);
    let right = |later| rebooted(written, 60 * SECOND).plus(later);
    assert_eq!(case.left(right(HOUR / 2 + SECOND)), 1, "set right");
    assert_eq!(case.left(right(3 * HOUR)), 1, "steady, and young");
}

#[test]
fn unsteady_stamps_count_from_this_run() {
    let (mut case, written) = of_earlier_boot(CLOCK_STEADY_AFTER / 2);
    let now = rebooted(written, TEN_YEARS);
    case.restart(now);
    assert_eq!(case.left(now.plus(MAX_AGE)), 1);
    assert_eq!(case.left(now.plus(MAX_AGE + SECOND)), 0);
}

#[test]
fn a_clock_behind_the_spool_drops_nothing() {
    let (mut case, written) = of_earlier_boot(CLOCK_STEADY_AFTER);
    let behind = Moment { wall: Timestamp(0), ..in_boot(8, 60 * SECOND) };
    case.restart(behind);
    let size = Duration::from_nanos(written.wall.0);
    assert_eq!(case.spool.take_wrong_clock(), Some(WrongClock::Behind(size)));
    assert_eq!(case.left(behind.plus(MAX_AGE)), 1);
    assert_eq!(case.left(behind.plus(MAX_AGE + SECOND)), 0);
}

#[test]
fn headers_without_boot_time_count_from_this_run() {
    let (mut case, written) = of_earlier_boot(CLOCK_STEADY_AFTER);
    let name = name::segment(Position(0));
    let mut bytes = case.disk.bytes(&name);
    let header = SegmentHeader::parse(&bytes).unwrap();
    let begun = Begun { wall: header.begun.wall, ..Begun::default() };
    bytes[..SEGMENT_HEADER_LEN].copy_from_slice(&SegmentHeader { begun, ..header }.encode());
    case.disk.put(&name, bytes);
    let now = written.plus(10 * MAX_AGE);
    case.restart(now);
    assert_eq!(case.left(now.plus(MAX_AGE)), 1);
    assert_eq!(case.left(now.plus(MAX_AGE + SECOND)), 0);
}

#[test]
fn a_segment_ends_with_a_step_and_after_its_time() {
    for is_forward in [true, false] {
        let mut case = Case::begin(start());
        let set = |later| start().plus(later).set(TEN_YEARS, is_forward);
        case.append(start());
        (1..10).for_each(|second| case.append(set(second * SECOND)));
        assert_eq!(case.spool.segments(), 2, "one more for the step");
        case.append(set(policy().rotate_every));
        assert_eq!(case.spool.segments(), 2, "its time is not over");
        case.append(set(policy().rotate_every + SECOND));
        assert_eq!(case.spool.segments(), 3);
    }
}

#[test]
fn the_age_of_the_oldest_follows_no_step() {
    let mut case = Case::begin(start());
    case.append(start());
    let begun = case.spool.oldest().unwrap();
    for is_forward in [true, false] {
        assert_eq!(begun.age(start().plus(HOUR).set(TEN_YEARS, is_forward)), HOUR);
    }
    assert_eq!(begun.age(rebooted(start(), HOUR)), HOUR);
}
