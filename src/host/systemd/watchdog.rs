//! The watchdog: tells the service manager that all is well, as long as every loop of the service goes round.
//!
//! Each loop has a [`Pulse`] and beats it each time that it goes round, which it does at least every [`ROUND`] even if
//! there is nothing to do. No timer beats for it. Who waits for something that a restart would not mend, such as a
//! disk, is away for so long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::time::{Duration, Instant};

use crate::host::systemd::notify;

/// How long a loop may wait for something to do before it goes round all the same.
pub const ROUND: Duration = Duration::from_secs(1);

/// How long a loop may stand still where the service manager has no watchdog.
const USUAL: Duration = Duration::from_secs(30);

const STILL: u8 = 0;
const BEAT: u8 = 1;
const AWAY: u8 = 2;

/// A loop's sign of life. Until its first beat the loop is not expected to go round.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<AtomicU8>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(AWAY)))
    }
}

impl Pulse {
    /// The loop went round.
    pub fn beat(&self) {
        self.0.store(BEAT, Ordering::Relaxed);
    }

    /// The loop waits for something outside of this process until the returned value is dropped.
    pub fn away(&self) -> Away<'_> {
        self.0.store(AWAY, Ordering::Relaxed);
        Away(self)
    }

    /// Whether the loop went round, or was away, since this was asked last.
    fn is_alive(&self) -> bool {
        let beat = self.0.compare_exchange(BEAT, STILL, Ordering::Relaxed, Ordering::Relaxed);
        beat != Err(STILL)
    }
}

/// While this lives, a loop waits for something outside of this process.
#[derive(Debug)]
pub struct Away<'a>(&'a Pulse);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.beat();
    }
}

/// Watches the loops, and feeds the service manager's watchdog.
#[derive(Debug)]
pub struct Watchdog {
    loops: Vec<Watched>,
    /// How long a loop may stand still.
    patience: Duration,
    looked: Instant,
    message_id: &'static str,
}

#[derive(Debug)]
struct Watched {
    name: &'static str,
    pulse: Pulse,
    seen: Instant,
    is_told: bool,
}

impl Watchdog {
    /// A watchdog that says under this number that a loop stands still.
    ///
    /// A loop may do so for half of the service manager's time (`WATCHDOG_USEC`). Then feeding stops, so that the
    /// manager acts within that time after the last feed.
    pub fn new(message_id: &'static str) -> Self {
        let patience = sd_notify::watchdog_enabled().unwrap_or(USUAL) / 2;
        Self { loops: Vec::new(), patience, looked: Instant::now(), message_id }
    }

    /// The pulse of another loop.
    pub fn pulse(&mut self, name: &'static str) -> Pulse {
        let pulse = Pulse::default();
        self.loops.push(Watched { name, pulse: pulse.clone(), seen: Instant::now(), is_told: false });
        pulse
    }

    /// The pulse of another loop that is about to begin, and is expected to go round from now on.
    pub fn running(&mut self, name: &'static str) -> Pulse {
        let pulse = self.pulse(name);
        pulse.beat();
        pulse
    }

    /// To be called every [`ROUND`]: feeds the service manager's watchdog, unless a loop stands still.
    pub fn look(&mut self) {
        if self.all_alive() {
            notify::watchdog();
        }
    }

    fn all_alive(&mut self) -> bool {
        let (patience, message_id) = (self.patience, self.message_id);
        // Who asks has gone round late: the whole process stood still, and no loop is to blame for that.
        let late = self.looked.elapsed().saturating_sub(2 * ROUND);
        self.looked = Instant::now();
        self.loops.iter_mut().for_each(|watched| watched.seen += late);
        let mut all = true;
        for watched in &mut self.loops {
            all &= watched.is_alive(patience, message_id);
        }
        all
    }
}

impl Watched {
    fn is_alive(&mut self, patience: Duration, message_id: &str) -> bool {
        if self.pulse.is_alive() {
            (self.seen, self.is_told) = (Instant::now(), false);
            return true;
        }
        let still_s = self.seen.elapsed().as_secs();
        let is_alive = self.seen.elapsed() < patience;
        if !is_alive && !core::mem::replace(&mut self.is_told, true) {
            tracing::error!(
                message_id,
                still_s,
                "the loop {:?} does not go round any more: the service manager's watchdog restarts \
                 this service",
                self.name
            );
        }
        is_alive
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_loop_that_stands_still_is_enough_to_stop_feeding_until_it_goes_round_again() {
        let mut watchdog = Watchdog::new("");
        let (ingest, link) = (watchdog.pulse("ingest"), watchdog.pulse("link"));
        for _ in 0..60 {
            advance(ROUND).await;
            ingest.beat();
            link.beat();
            assert!(watchdog.all_alive());
        }
        let mut fed = 0;
        for _ in 0..60 {
            advance(ROUND).await;
            ingest.beat();
            fed += u64::from(watchdog.all_alive());
        }
        assert_eq!(fed, watchdog.patience.as_secs() - 1);
        link.beat();
        assert!(watchdog.all_alive());
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stood_still_as_a_whole_blames_no_loop() {
        let mut watchdog = Watchdog::new("");
        let ingest = watchdog.pulse("ingest");
        ingest.beat();
        assert!(watchdog.all_alive());
        advance(10 * watchdog.patience).await;
        assert!(watchdog.all_alive());
        advance(ROUND).await;
        assert!(watchdog.all_alive());
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_loop_that_never_goes_round_stands_still_and_one_that_did_not_begin_does_not() {
        let mut watchdog = Watchdog::new("");
        let _gate = watchdog.pulse("gate");
        for _ in 0..60 {
            advance(ROUND).await;
            assert!(watchdog.all_alive());
        }
        let _ingest = watchdog.running("ingest");
        for _ in 0..=watchdog.patience.as_secs() {
            advance(ROUND).await;
            watchdog.all_alive();
        }
        assert!(!watchdog.all_alive());
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_waits_for_the_outside_is_alive_and_beats_when_it_is_back() {
        let mut watchdog = Watchdog::new("");
        let keeper = watchdog.pulse("keeper");
        let away = keeper.away();
        for _ in 0..100 {
            advance(ROUND).await;
            assert!(watchdog.all_alive());
        }
        drop(away);
        assert!(watchdog.all_alive());
        for _ in 0..watchdog.patience.as_secs() {
            advance(ROUND).await;
            watchdog.all_alive();
        }
        assert!(!watchdog.all_alive());
    }
}
