//! Pacing: a limit in datagrams a second, and a multiple of the rate of arrival.

use core::num::NonZeroU32;
use core::time::Duration;

use nf_transport_core::datagram::Timestamp;
use tokio::time::Instant;

use crate::limits::PACE_WAIT_MAX;

/// Time by which sending may run ahead, and also by which it may catch up after a delay. Together they allow
/// a fiftieth of a second's datagrams at once, which timers with a resolution of a millisecond can follow.
const BURST: Duration = Duration::from_millis(10);

/// Longest lag behind the catch-up schedule that is made up by sending faster.
const LAG_MAX: Duration = Duration::from_secs(1);

/// A token bucket in datagrams a second, with a burst of at most [`BURST`].
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenBucket {
    /// Time that each datagram costs.
    cost: Duration,
    /// Due time of the next datagram.
    due: Instant,
}

impl TokenBucket {
    /// Returns a full bucket with `rate` datagrams a second.
    pub(super) fn new(rate: NonZeroU32) -> Self {
        Self { cost: Duration::from_secs(1) / rate.get(), due: Instant::now() }
    }

    /// Returns how many of `wanted` datagrams, at least one, may be sent now; or the due time of the next one
    /// as `Err`.
    pub(super) fn admit(&self, wanted: usize, now: Instant) -> Result<usize, Instant> {
        if self.due > now {
            return Err(self.due);
        }
        let behind = now.duration_since(self.due).min(BURST);
        let more = (behind + BURST).as_nanos() / self.cost.as_nanos().max(1);
        Ok(wanted.min(usize::try_from(more).unwrap_or(usize::MAX).max(1)))
    }

    /// Charges `count` sent datagrams.
    pub(super) fn charge(&mut self, count: usize, now: Instant) {
        let began = now.checked_sub(BURST).map_or(self.due, |earliest| self.due.max(earliest));
        self.due = began + self.cost * u32::try_from(count).unwrap_or(u32::MAX);
    }
}

/// The schedule of one stream while a collector catches up. Late datagrams keep the intervals of their
/// arrival, divided by the pace.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CatchUp {
    /// Start of the catch-up, and the arrival time of its first datagram.
    began: Option<(Instant, Timestamp)>,
}

impl CatchUp {
    /// Ends the catch-up: the current datagrams are not late.
    pub(super) fn is_over(&mut self) {
        self.began = None;
    }

    /// Returns the due time of a late datagram that arrived at `arrival`, at `pace` times the original rate;
    /// `None` if it may be sent at once. No datagram waits longer than [`PACE_WAIT_MAX`]: the schedule
    /// restarts from there.
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

    /// Number of datagrams that a bucket admits in `time`, if it is asked every millisecond for more than it
    /// has.
    async fn through(bucket: &mut TokenBucket, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut count = 0;
        while Instant::now() < end {
            while let Ok(admitted) = bucket.admit(64, Instant::now()) {
                bucket.charge(admitted, Instant::now());
                count += admitted;
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_limits_rate_and_burst() {
        for per_second in [1, 10, 500, 1000, 7777, 20_000, 1_000_000] {
            let mut bucket = TokenBucket::new(rate(per_second));
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
    async fn an_idle_bucket_saves_one_burst() {
        let mut bucket = TokenBucket::new(rate(1000));
        through(&mut bucket, Duration::from_secs(1)).await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        let count = through(&mut bucket, Duration::from_secs(1)).await;
        assert!((1000..=1025).contains(&count), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn late_datagrams_keep_scaled_intervals() {
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
    async fn a_long_delay_causes_no_burst() {
        let mut catch_up = CatchUp::default();
        assert_eq!(catch_up.due(rate(2), Timestamp(0), Instant::now()), None);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(catch_up.due(rate(2), Timestamp(1_000_000_000), Instant::now()), None);
        let next = catch_up.due(rate(2), Timestamp(3_000_000_000), Instant::now());
        assert_eq!(next, Some(Instant::now() + Duration::from_secs(1)));
    }

    /// Waiting time of each datagram with these arrival times, in seconds, at a pace of 4.
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
    async fn a_clock_set_back_stops_nothing() {
        let mut catch_up = CatchUp::default();
        assert_eq!(catch_up.due(rate(2), Timestamp(9_000_000_000), Instant::now()), None);
        assert_eq!(catch_up.due(rate(2), Timestamp(1_000_000_000), Instant::now()), None);
        let next = catch_up.due(rate(2), Timestamp(2_000_000_000), Instant::now());
        assert_eq!(next, Some(Instant::now() + Duration::from_millis(500)));
    }
}
