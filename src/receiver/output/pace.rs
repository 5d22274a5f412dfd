//! How fast datagrams may go: a limit of datagrams a second, and a multiple of the pace at which they arrived.

use core::num::NonZeroU32;
use core::time::Duration;

use nf_transport_core::datagram::Timestamp;
use tokio::time::Instant;

use crate::limits::PACE_WAIT_MAX;

/// For how long ahead may be sent at once, and for how long after it may be made good: together a fiftieth of a second's
/// worth, which timers of a millisecond keep up with.
const BURST: Duration = Duration::from_millis(10);

/// How far catching up may lag behind its schedule, for whatever reason, and make good for it by going faster.
const LAG_MAX: Duration = Duration::from_secs(1);

/// A token bucket: datagrams a second, and at most [`BURST`] of them at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// The time that each datagram takes.
    cost: Duration,
    /// When the next datagram is due.
    due: Instant,
}

impl Bucket {
    /// A full bucket that gives `rate` datagrams a second.
    pub(super) fn new(rate: NonZeroU32) -> Self {
        Self { cost: Duration::from_secs(1) / rate.get(), due: Instant::now() }
    }

    /// How many of `wanted` datagrams may go now, at least one; or else when the next one may.
    pub(super) fn admit(&self, wanted: usize, now: Instant) -> Result<usize, Instant> {
        if self.due > now {
            return Err(self.due);
        }
        let behind = now.duration_since(self.due).min(BURST);
        let more = (behind + BURST).as_nanos() / self.cost.as_nanos().max(1);
        Ok(wanted.min(usize::try_from(more).unwrap_or(usize::MAX).max(1)))
    }

    /// Notes that `count` datagrams went.
    pub(super) fn take(&mut self, count: usize, now: Instant) {
        let began = now.checked_sub(BURST).map_or(self.due, |earliest| self.due.max(earliest));
        self.due = began + self.cost * u32::try_from(count).unwrap_or(u32::MAX);
    }
}

/// The schedule of one stream while a collector catches up with it: late datagrams keep the distances in which they
/// arrived, divided by the pace.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CatchUp {
    /// When catching up began, and the arrival of the datagram that was first then.
    began: Option<(Instant, Timestamp)>,
}

impl CatchUp {
    /// The datagrams that go now are not late.
    pub(super) fn is_over(&mut self) {
        self.began = None;
    }

    /// When a late datagram that arrived at `arrival` may go, at `pace` times the speed of then; `None`: at once. No datagram
    /// waits for longer than `PACE_WAIT_MAX`: the schedule goes on from there.
    pub(super) fn due(&mut self, pace: NonZeroU32, arrival: Timestamp, now: Instant) -> Option<Instant> {
        let (began, first) = *self.began.get_or_insert((now, arrival));
        let wait = (arrival.since(first) / pace.get()).saturating_sub(now.duration_since(began));
        if wait > PACE_WAIT_MAX {
            self.began = Some((now + PACE_WAIT_MAX, arrival));
            return Some(now + PACE_WAIT_MAX);
        }
        let due = began + arrival.since(first) / pace.get();
        if due > now {
            return Some(due);
        }
        if arrival < first || now.duration_since(due) > LAG_MAX {
            self.began = Some((now, arrival));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    /// How many datagrams a bucket lets through in `time`, asked every millisecond for more than it gives.
    async fn through(bucket: &mut Bucket, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut count = 0;
        while Instant::now() < end {
            while let Ok(admitted) = bucket.admit(64, Instant::now()) {
                bucket.take(admitted, Instant::now());
                count += admitted;
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_its_rate_and_little_more_at_once() {
        for per_second in [1, 10, 500, 1000, 7777, 20_000, 1_000_000] {
            let mut bucket = Bucket::new(rate(per_second));
            let first = through(&mut bucket, Duration::from_millis(1)).await;
            let burst = usize::try_from(per_second).unwrap() / 50;
            assert!((1..=burst + 2).contains(&first), "{per_second}/s: {first} at once");
            let expected = usize::try_from(per_second).unwrap() * 10;
            let count = through(&mut bucket, Duration::from_secs(10)).await;
            let tolerance = expected / 100 + 2;
            assert!(count.abs_diff(expected) <= tolerance, "{per_second}/s: {count} in 10 s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_saves_nothing_for_later_but_one_burst() {
        let mut bucket = Bucket::new(rate(1000));
        through(&mut bucket, Duration::from_secs(1)).await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        let count = through(&mut bucket, Duration::from_secs(1)).await;
        assert!((1000..=1025).contains(&count), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn late_datagrams_keep_their_distances_divided_by_the_pace() {
        let mut catch_up = CatchUp::default();
        let began = Instant::now();
        for second in 0..60 {
            let arrival = Timestamp(second * 1_000_000_000);
            while let Some(due) = catch_up.due(rate(4), arrival, Instant::now()) {
                tokio::time::sleep_until(due).await;
            }
            let expected = Duration::from_millis(250 * second);
            assert!(began.elapsed().abs_diff(expected) < Duration::from_millis(2), "{second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_held_on_the_way_is_not_made_good_for_in_a_burst() {
        let mut catch_up = CatchUp::default();
        assert_eq!(catch_up.due(rate(2), Timestamp(0), Instant::now()), None);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(catch_up.due(rate(2), Timestamp(1_000_000_000), Instant::now()), None);
        let next = catch_up.due(rate(2), Timestamp(3_000_000_000), Instant::now());
        assert_eq!(next, Some(Instant::now() + Duration::from_secs(1)));
    }

    /// How long each of the datagrams with these arrivals, in seconds, waits at a pace of 4.
    async fn waits(arrivals: &[u64]) -> Vec<Duration> {
        let mut catch_up = CatchUp::default();
        let mut waits = Vec::new();
        for second in arrivals {
            let asked = Instant::now();
            while let Some(due) = catch_up.due(rate(4), Timestamp(second * 1_000_000_000), Instant::now()) {
                tokio::time::sleep_until(due).await;
            }
            waits.push(asked.elapsed());
        }
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_forward_costs_one_minute_at_most() {
        let hour = 3600;
        for (set_from, to) in [(1_900_000_000 - hour, 1_900_000_000), (0, 1_900_000_000), (0, 18_000_000_000)]
        {
            let waits = waits(&[set_from, set_from + 4, to, to + 4, to + 8]).await;
            let second = Duration::from_secs(1);
            assert_eq!(waits, [Duration::ZERO, second, PACE_WAIT_MAX, second, second], "{set_from} to {to}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_schedule_asked_again_waits_no_longer() {
        let mut catch_up = CatchUp::default();
        assert_eq!(catch_up.due(rate(4), Timestamp(0), Instant::now()), None);
        let began = Instant::now();
        let far = Timestamp(1_000_000_000_000_000);
        for asked in 0..60 {
            let due = catch_up.due(rate(4), far, Instant::now());
            assert_eq!(due, Some(began + PACE_WAIT_MAX), "asked after {asked} s");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(catch_up.due(rate(4), far, Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_back_stops_nothing() {
        let mut catch_up = CatchUp::default();
        assert_eq!(catch_up.due(rate(2), Timestamp(9_000_000_000), Instant::now()), None);
        assert_eq!(catch_up.due(rate(2), Timestamp(1_000_000_000), Instant::now()), None);
        let next = catch_up.due(rate(2), Timestamp(2_000_000_000), Instant::now());
        assert_eq!(next, Some(Instant::now() + Duration::from_millis(500)));
    }
}
