//! Rates, from counters that only grow.

use core::time::Duration;
use std::collections::VecDeque;

use tokio::time::Instant;

use crate::status::show::units::grouped;

/// Seconds over which rates are averaged.
const WINDOW: usize = 10;

/// Counts of the last ten seconds, one sample a second.
#[derive(Debug, Default)]
pub struct Pace {
    /// The time of each sample, and the datagrams and bytes counted by then; oldest first.
    samples: VecDeque<(Instant, u64, u64)>,
}

impl Pace {
    /// Adds a sample: the datagrams and bytes since the start of the process. Call it once a second.
    pub fn add_sample(&mut self, (datagrams, bytes): (u64, u64)) {
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back((Instant::now(), datagrams, bytes));
    }

    /// Datagrams and bytes per second.
    pub fn rates(&self) -> (f64, f64) {
        let (Some((from, datagrams, bytes)), Some((to, datagrams_now, bytes_now))) =
            (self.samples.front(), self.samples.back())
        else {
            return (0.0, 0.0);
        };
        let seconds = to.duration_since(*from).as_secs_f64();
        let rate = |count: u64| if seconds > 0.0 { to_f64(count) / seconds } else { 0.0 };
        (rate(datagrams_now.saturating_sub(*datagrams)), rate(bytes_now.saturating_sub(*bytes)))
    }
}

/// Converts a count to a floating-point number; exact up to 2^52.
pub fn to_f64(count: u64) -> f64 {
    let high = u32::try_from(count >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(count & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

/// An earlier status, from which rates are computed.
#[derive(Debug)]
pub struct Earlier<'s, S> {
    /// The earlier status.
    pub status: &'s S,
    /// Time since then.
    pub ago: Duration,
}

impl<S> Clone for Earlier<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Earlier<'_, S> {}

/// The rate of a counter that went from `before` to `now`, as in `1,000/s`; 0 if the service restarted in
/// between.
pub(super) fn per_second(now: u64, before: u64, ago: Duration) -> String {
    let milliseconds = ago.as_millis().max(1);
    let rate = u128::from(now.saturating_sub(before)) * 1000 / milliseconds;
    format!("{}/s", grouped(u64::try_from(rate).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_count_that_falls_is_no_rate() {
        let mut pace = Pace::default();
        pace.add_sample((1000, 100_000));
        tokio::time::advance(Duration::from_secs(1)).await;
        pace.add_sample((900, 100_500));
        assert_eq!(pace.rates(), (0.0, 500.0));
    }
}
