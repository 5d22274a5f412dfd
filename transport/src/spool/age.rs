//! Minimum ages of segments, independent of steps of the wall clock.
//!
//! `max-age` drops data, so the lower age counts when the age is in doubt. The spool then keeps too much,
//! which `max-size` bounds.
//!
//! | a segment that was written | has its age by |
//! |---|---|
//! | by this run | the boot clock |
//! | by an earlier run in the same boot | the boot clock and the header (a step ends a segment) |
//! | in an earlier boot, with a steady wall clock then and now | the wall clock |
//! | in any other way | the time since this run began |

use core::time::Duration;

use crate::clock::{ClockStep, ClockWatch};
use crate::datagram::{Moment, Timestamp};
use crate::limits::FILE_TIME_LAG;
use crate::sequence::Position;
use crate::spool::clocks::{Clocks, WrongClock};
use crate::spool::disk::{Disk, DiskFile};
use crate::spool::extent::{Extent, LastWrite};
use crate::spool::name;
use crate::spool::segment::{Begun, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::spool::state::Spool;

impl<D: Disk> Spool<D> {
    /// Returns the latest error of the wall clock since the last call.
    pub fn take_wrong_clock(&mut self) -> Option<WrongClock> {
        self.clocks.as_mut()?.wrong.take()
    }

    /// Watches the clocks. Callers do this before anything else that depends on `now`.
    pub(super) fn look_at_clocks(&mut self, now: Moment) {
        if let Some(clocks) = &mut self.clocks {
            let step = clocks.watch.look(now).map(WrongClock::Set);
            clocks.wrong = step.or(clocks.wrong);
        } else {
            let wrong = self.wrong_clock_at_start(now);
            self.clocks = Some(Clocks { opened: now.boot, watch: ClockWatch::new(now), wrong });
        }
    }

    fn wrong_clock_at_start(&self, now: Moment) -> Option<WrongClock> {
        let (first, written) = self.extents.iter().rev().find_map(segment)?;
        let begun = self.begun(first)?;
        let ahead = begun.wall_ahead().filter(|_| now.boot.since(begun.boot.unwrap_or_default()).is_some());
        if let Some(ahead) = ahead {
            return ClockStep::between(ahead, now.wall_ahead()).map(WrongClock::SetBefore);
        }
        let latest = match written {
            LastWrite::Earlier(modified) => modified.max(begun.wall),
            LastWrite::ThisRun(_) => begun.wall,
        };
        ClockStep::between(i128::from(now.wall.0), i128::from(latest.0))
            .filter(|step| step.is_forward)
            .map(|step| WrongClock::Behind(step.size))
    }

    /// The time stamps of a segment that is begun now.
    pub(super) fn begin_at(&self, now: Moment) -> Begun {
        let is_steady = self.clocks.is_some_and(|clocks| clocks.watch.is_steady(now));
        Begun { wall: now.wall, boot: (now.boot.boot.0 != 0).then_some(now.boot), is_steady }
    }

    /// True if all datagrams of the oldest segment that is not in flight are older than `max-age`.
    pub(super) fn is_oldest_too_old(&self, now: Moment, in_flight: Position, max_age: Duration) -> bool {
        let oldest = self.idle_segments(in_flight).next();
        oldest.is_some_and(|idle| self.age(idle.first, idle.written, now) > max_age)
    }

    /// The minimum age of the newest datagram of a segment.
    fn age(&self, first: Position, written: LastWrite, now: Moment) -> Duration {
        let modified = match written {
            LastWrite::ThisRun(written) => return now.boot.since(written).unwrap_or_default(),
            LastWrite::Earlier(modified) => modified,
        };
        let Some(clocks) = &self.clocks else { return Duration::ZERO };
        let in_this_run = now.boot.since(clocks.opened).unwrap_or_default();
        let is_steady = clocks.watch.is_steady(now);
        let recorded = self.begun(first).map(|begun| begun.age_of_last(modified, now, is_steady));
        recorded.unwrap_or_default().max(in_this_run)
    }

    /// The start of a segment by its header; `None` if the header cannot be read.
    pub(super) fn begun(&self, first: Position) -> Option<Begun> {
        let mut header = [0; SEGMENT_HEADER_LEN];
        let read = self.disk.open(&name::segment(first)).ok()?.read_at(&mut header, 0).ok()?;
        header.get(..read).and_then(SegmentHeader::parse).map(|header| header.begun)
    }
}

fn segment((first, extent): (&Position, &Extent)) -> Option<(Position, LastWrite)> {
    extent.last_write().map(|written| (*first, written))
}

impl Begun {
    /// The time since then: exact within one boot, else by the wall clock.
    pub fn age(&self, now: Moment) -> Duration {
        let in_this_boot = self.boot.and_then(|boot| now.boot.since(boot));
        in_this_boot.unwrap_or_else(|| now.wall.since(self.wall))
    }

    /// The lead of the wall clock over the boot clock; `None` if the segment has no stamp of the boot clock.
    fn wall_ahead(&self) -> Option<i128> {
        Some(Moment { wall: self.wall, boot: self.boot? }.wall_ahead())
    }

    /// The minimum age of the last write to the segment, whose file has the modification time `modified`.
    fn age_of_last(&self, modified: Timestamp, now: Moment, is_steady: bool) -> Duration {
        let is_in_order = self.wall.since(modified) <= FILE_TIME_LAG;
        match self.boot {
            Some(boot) if boot.boot == now.boot.boot && is_in_order => {
                let since_begun = now.boot.since(boot).unwrap_or_default();
                since_begun.saturating_sub(modified.since(self.wall))
            }
            Some(boot) if boot.boot != now.boot.boot && is_in_order && is_steady && self.is_steady => {
                now.wall.since(modified)
            }
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests;
