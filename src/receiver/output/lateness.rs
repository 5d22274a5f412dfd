//! The age of datagrams at their delivery.
//!
//! A datagram carries its arrival time by the wall clock of nf-sender's machine, and nf-receiver compares it
//! with its own clock. Both clocks may be stepped while a stream is on its way. A step must not make a
//! datagram older. Three rules exclude steps:
//!
//! - nf-receiver's clock is read without short-lived steps ([`SettledClock`]);
//! - no datagram arrives in the future: one with a later time than now has just arrived;
//! - datagrams are in order of arrival. If their times go back, the sender's clock was set back. From there
//!   on, they are younger
//!   than their times by that step, until the sender's clock shows a time in the future by this measure.
//!
//! A sender's clock that is behind from the start is not recognized: its datagrams count as late until it is
//! set.

use core::net::SocketAddr;
use core::time::Duration;

use nf_transport_core::clock::SettledClock;
use nf_transport_core::datagram::{Datagram, Moment, Timestamp};
use nf_transport_core::limits::CLOCK_STEP;

use crate::limits::{LATE, LISTENERS_MAX};

/// The ages of the datagrams of one stream, which must be asked for in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Lateness {
    /// The clock of this machine; `None` until it is first read.
    clock: Option<SettledClock>,
    /// Amount by which the sender's clock was set back since it last agreed with this one.
    set_back: Duration,
    /// True if the last datagram whose age was looked up was not late.
    was_fresh: bool,
    /// Last arrival time at each of the sender's sockets. Datagrams of several sockets are interleaved, so
    /// times are ordered within one socket only.
    last: Vec<(SocketAddr, Timestamp)>,
}

impl Lateness {
    /// Returns the time since `datagram` arrived at the sender.
    pub(super) fn age(&mut self, datagram: &Datagram<'_>, now: Moment) -> Duration {
        let now = self.clock.get_or_insert_with(|| SettledClock::new(now)).read(now);
        let last = self.note_delivered(datagram);
        let apparent = now - i128::from(datagram.arrival.0);
        let Some(apparent) = u64::try_from(apparent.max(0)).ok().map(Duration::from_nanos) else {
            return Duration::MAX;
        };
        self.set_back = self.set_back.min(apparent);
        let age = apparent.saturating_sub(self.set_back);
        if let Some(last) = last.filter(|last| age >= LATE && went_back(*last, datagram.arrival)) {
            // The times go back by the step, less the time between the two arrivals. That time is known to be
            // short only in a backlog. A stream that was fresh stays fresh.
            let step = if self.was_fresh { age } else { last.since(datagram.arrival) };
            self.set_back += step.min(age);
        }
        let age = apparent.saturating_sub(self.set_back);
        self.was_fresh = age < LATE;
        age
    }

    /// Notes `datagram` as the last one delivered. Returns the arrival time of the previous one at the same
    /// socket.
    pub(super) fn note_delivered(&mut self, datagram: &Datagram<'_>) -> Option<Timestamp> {
        if let Some((_, last)) = self.last.iter_mut().find(|(local, _)| *local == datagram.local) {
            return Some(core::mem::replace(last, datagram.arrival));
        }
        if self.last.len() >= LISTENERS_MAX {
            self.last.remove(0);
        }
        self.last.push((datagram.local, datagram.arrival));
        None
    }
}

/// Returns whether the sender's clock was set back between two arrivals at one socket.
pub(super) fn went_back(before: Timestamp, after: Timestamp) -> bool {
    before.since(after) >= CLOCK_STEP
}

#[cfg(test)]
mod tests {
    use nf_transport_core::datagram::{BootId, BootTime};
    use nf_transport_core::limits::CLOCK_SETTLED_AFTER;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const TEN_YEARS: Duration = Duration::from_secs(10 * 31_557_600);

    /// A moment in 2030, ten days after a boot.
    fn start() -> Moment {
        let wall = Timestamp::from_unix(Duration::from_secs(1_900_000_000));
        Moment { wall, boot: BootTime { boot: BootId(7), elapsed: HOUR * 240 } }
    }

    /// Returns the age of a datagram that arrived at `port` at this moment of the sender's clocks.
    fn age(lateness: &mut Lateness, port: u16, arrival: Moment, now: Moment) -> Duration {
        let local = SocketAddr::from(([192, 0, 2, 1], port));
        let exporter = SocketAddr::from(([192, 0, 2, 7], 1));
        lateness.age(&Datagram { exporter, local, arrival: arrival.wall, payload: b"" }, now)
    }

    #[test]
    fn synchronized_clocks_give_the_true_age() {
        let mut lateness = Lateness::default();
        for late in [HOUR, 30 * SECOND, SECOND, Duration::ZERO] {
            let now = start().plus(HOUR);
            assert_eq!(age(&mut lateness, 1, start().plus(HOUR.saturating_sub(late)), now), late);
        }
    }

    #[test]
    fn a_future_arrival_has_just_arrived() {
        for ahead in [HOUR, TEN_YEARS] {
            let mut lateness = Lateness::default();
            for second in 0..100 {
                let now = start().plus(second * SECOND);
                assert_eq!(age(&mut lateness, 1, now.set(ahead, true), now), Duration::ZERO);
            }
        }
    }

    #[test]
    fn fresh_stays_fresh_with_a_wrong_sender_clock() {
        for is_forward in [true, false] {
            let mut lateness = Lateness::default();
            for second in 0..200 {
                let now = start().plus(second * SECOND);
                let is_wrong = (50..53).contains(&second) || second > 150;
                let arrival = if is_wrong { now.set(TEN_YEARS, is_forward) } else { now };
                assert_eq!(age(&mut lateness, 1, arrival, now), Duration::ZERO, "second {second}");
            }
        }
    }

    #[test]
    fn late_returns_once_the_sender_clock_is_right() {
        for is_forward in [true, false] {
            let mut lateness = Lateness::default();
            age(&mut lateness, 1, start(), start());
            age(&mut lateness, 1, start().set(HOUR, is_forward), start());
            age(&mut lateness, 1, start().plus(SECOND), start().plus(SECOND));
            let now = start().plus(HOUR);
            assert_eq!(age(&mut lateness, 1, start().plus(HOUR / 2), now), HOUR / 2);
        }
    }

    #[test]
    fn a_step_back_in_a_backlog_adds_no_age() {
        let mut lateness = Lateness::default();
        let now = start().plus(HOUR);
        assert_eq!(age(&mut lateness, 1, start(), now), HOUR);
        assert_eq!(age(&mut lateness, 1, start().set(TEN_YEARS, false), now), HOUR);
        let second_later = start().plus(SECOND).set(TEN_YEARS, false);
        assert_eq!(age(&mut lateness, 1, second_later, now), HOUR.saturating_sub(SECOND));
    }

    #[test]
    fn a_short_step_of_the_own_clock_is_ignored() {
        let mut lateness = Lateness::default();
        for second in 0..100 {
            let now = start().plus(second * SECOND);
            let shown = if (50..53).contains(&second) { now.set(TEN_YEARS, true) } else { now };
            assert_eq!(age(&mut lateness, 1, now, shown), Duration::ZERO, "second {second}");
        }
    }

    #[test]
    fn a_corrected_own_clock_counts_after_a_minute() {
        let mut lateness = Lateness::default();
        let an_hour_ahead = start().set(HOUR, true);
        assert_eq!(age(&mut lateness, 1, start(), an_hour_ahead), HOUR);
        age(&mut lateness, 1, start(), start());
        let later = start().plus(CLOCK_SETTLED_AFTER);
        assert_eq!(age(&mut lateness, 1, later, later), Duration::ZERO);
    }

    #[test]
    fn interleaved_sockets_are_no_clock_step() {
        let mut lateness = Lateness::default();
        let now = start().plus(HOUR);
        assert_eq!(age(&mut lateness, 1, now, now), Duration::ZERO);
        assert_eq!(age(&mut lateness, 2, start(), now), HOUR, "waited in the other socket");
        assert_eq!(age(&mut lateness, 1, now, now), Duration::ZERO);
        assert_eq!(age(&mut lateness, 2, start().plus(SECOND), now), HOUR.saturating_sub(SECOND));
    }
}
