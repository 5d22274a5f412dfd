//! How fast something goes, from counters that only grow.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Seconds that rates are taken over.
const WINDOW: usize = 10;

/// What was counted in the last seconds.
#[derive(Debug, Default)]
pub struct Pace {
    /// When, and how many datagrams and bytes there had been by then; oldest first.
    samples: VecDeque<(Instant, u64, u64)>,
}

impl Pace {
    /// To be called once a second with the datagrams and bytes since the start of the process.
    pub fn note(&mut self, (datagrams, bytes): (u64, u64)) {
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back((Instant::now(), datagrams, bytes));
    }

    /// Datagrams and bytes a second.
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

/// A count as a fraction's part: exact up to 2^32 times 2^20.
pub fn to_f64(count: u64) -> f64 {
    let high = u32::try_from(count >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(count & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_count_that_falls_is_no_rate() {
        let mut pace = Pace::default();
        pace.note((1000, 100_000));
        tokio::time::advance(core::time::Duration::from_secs(1)).await;
        pace.note((900, 100_500));
        assert_eq!(pace.rates(), (0.0, 500.0));
    }
}
