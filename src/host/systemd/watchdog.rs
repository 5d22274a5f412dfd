//! The watchdog: feeds that of the service manager while every loop of the service makes progress.
//!
//! Each loop has a [`Pulse`] and beats it in each iteration, at least every [`Pulse::idle_round`] even if
//! there is nothing to do. No timer beats for it. A loop is away while it waits for something that a restart
//! would not fix, such as a disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::time::{Duration, Instant};

use crate::host::systemd::notify;

/// The longest time for which a loop waits before it starts its next iteration, if it has timely work.
///
/// A multiple of 64 ms: tokio keeps later timers in slots of 64 ms since the start of the runtime. It wakes
/// up at the start of a slot, and again for each timer inside of the slot.
pub const ROUND: Duration = Duration::from_millis(1024);

/// The longest time for which a loop without work waits: an idle daemon should hardly wake up.
const IDLE_ROUND: Duration = ROUND.saturating_mul(5);

/// Watchdog time if the service manager has no watchdog.
const USUAL: Duration = Duration::from_secs(30);

const STILL: u8 = 0;
const BEAT: u8 = 1;
const AWAY: u8 = 2;

/// A loop's sign of life. Before its first beat, no progress of the loop is expected.
#[derive(Clone, Debug)]
pub struct Pulse {
    sign: Arc<AtomicU8>,
    idle_round: Duration,
    /// The start of the runtime, from which rounds are counted.
    started: Instant,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { sign: Arc::new(AtomicU8::new(AWAY)), idle_round: IDLE_ROUND, started: Instant::now() }
    }
}

impl Pulse {
    /// Reports an iteration of the loop.
    pub fn beat(&self) {
        self.sign.store(BEAT, Ordering::Relaxed);
    }

    /// Returns the longest time for which the loop may wait if it has no work.
    pub fn idle_round(&self) -> Duration {
        self.idle_round
    }

    /// Returns the latest time until which the loop may wait if it has no work: the start of a round, when
    /// the daemon wakes up anyway.
    pub fn idle_until(&self) -> Instant {
        let latest = Instant::now() + self.idle_round;
        if self.idle_round < ROUND * 2 {
            // The start of the round may be past: the service manager's watchdog time is short.
            return latest;
        }
        let into_round = latest.duration_since(self.started).as_nanos() % ROUND.as_nanos();
        latest - Duration::from_nanos(u64::try_from(into_round).unwrap_or_default())
    }

    /// Reports that the loop waits for something outside of this process until the returned value is dropped.
    pub fn away(&self) -> Away<'_> {
        self.sign.store(AWAY, Ordering::Relaxed);
        Away(self)
    }

    /// Returns whether the loop beat or was away since the last call.
    fn is_alive(&self) -> bool {
        let beat = self.sign.compare_exchange(BEAT, STILL, Ordering::Relaxed, Ordering::Relaxed);
        beat != Err(STILL)
    }
}

/// A guard that exists while a loop waits for something outside of this process.
#[derive(Debug)]
pub struct Away<'a>(&'a Pulse);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.beat();
    }
}

/// Watches the loops and feeds the service manager's watchdog.
#[derive(Debug)]
pub struct Watchdog {
    service: &'static str,
    started: Instant,
    loops: Vec<WatchedLoop>,
    /// The longest time without progress of a loop.
    patience: Duration,
    /// The time of the last look, if any.
    looked: Option<Instant>,
    message_id: &'static str,
}

#[derive(Debug)]
struct WatchedLoop {
    name: &'static str,
    pulse: Pulse,
    seen: Instant,
    is_reported: bool,
}

impl Watchdog {
    /// Returns a watchdog that logs hung loops of `service` under `message_id`.
    ///
    /// A loop is hung after half of the service manager's time (`WATCHDOG_USEC`) without progress. Then
    /// feeding stops, and the manager acts within that time after the last feed. Rounds are counted from
    /// `started`, the start of the runtime.
    pub fn new(service: &'static str, started: Instant, message_id: &'static str) -> Self {
        let patience = sd_notify::watchdog_enabled().unwrap_or(USUAL) / 2;
        Self { service, started, loops: Vec::new(), patience, looked: None, message_id }
    }

    /// Returns the time from which rounds are counted.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Registers a loop and returns its pulse.
    pub fn pulse(&mut self, name: &'static str) -> Pulse {
        let idle_round = IDLE_ROUND.min(self.patience / 3);
        let pulse = Pulse { idle_round, started: self.started, ..Pulse::default() };
        self.loops.push(WatchedLoop { name, pulse: pulse.clone(), seen: Instant::now(), is_reported: false });
        pulse
    }

    /// Registers a loop whose progress is expected from now on, and returns its pulse.
    pub fn running(&mut self, name: &'static str) -> Pulse {
        let pulse = self.pulse(name);
        pulse.beat();
        pulse
    }

    /// Feeds the service manager's watchdog unless a loop is hung. Callers repeat this every [`ROUND`].
    pub fn look(&mut self) {
        if self.all_alive() {
            notify::watchdog();
        }
    }

    fn all_alive(&mut self) -> bool {
        let (service, patience, message_id) = (self.service, self.patience, self.message_id);
        // If this call is late, the whole process was stopped, and no loop is to blame.
        let since = self.looked.map_or(Duration::ZERO, |looked| looked.elapsed());
        let late = since.saturating_sub(2 * ROUND);
        self.looked = Some(Instant::now());
        self.loops.iter_mut().for_each(|watched| watched.seen += late);
        let mut all = true;
        for watched in &mut self.loops {
            all &= watched.is_alive(service, patience, message_id);
        }
        all
    }
}

impl WatchedLoop {
    fn is_alive(&mut self, service: &str, patience: Duration, message_id: &str) -> bool {
        if self.pulse.is_alive() {
            (self.seen, self.is_reported) = (Instant::now(), false);
            return true;
        }
        let still_s = self.seen.elapsed().as_secs();
        let is_alive = self.seen.elapsed() < patience;
        if !is_alive && !core::mem::replace(&mut self.is_reported, true) {
            tracing::error!(
                message_id,
                still_s,
                "{service} is hung (internal thread {:?} made no progress for {still_s} s): the service \
                 manager's watchdog restarts it; unacknowledged datagrams are kept",
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
    async fn one_hung_loop_stops_feeding_until_it_recovers() {
        let mut watchdog = Watchdog::new("nf-test", Instant::now(), "");
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
    async fn idle_loops_wake_up_at_the_start_of_a_round() {
        let mut watchdog = Watchdog::new("nf-test", Instant::now(), "");
        let started = watchdog.started();
        let pulse = watchdog.pulse("link");
        for _ in 0..20 {
            advance(Duration::from_millis(300)).await;
            let rounds = (pulse.idle_until() - started).as_nanos() / ROUND.as_nanos();
            assert_eq!(pulse.idle_until(), started + ROUND * u32::try_from(rounds).unwrap());
            let wait = pulse.idle_until() - Instant::now();
            assert!(wait <= pulse.idle_round() && wait + ROUND > pulse.idle_round(), "{wait:?}");
        }
        let hasty = Pulse { idle_round: ROUND, ..pulse };
        assert_eq!(hasty.idle_until(), Instant::now() + ROUND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_process_blames_no_loop() {
        let mut watchdog = Watchdog::new("nf-test", Instant::now(), "");
        let ingest = watchdog.pulse("ingest");
        ingest.beat();
        assert!(watchdog.all_alive());
        advance(10 * watchdog.patience).await;
        assert!(watchdog.all_alive());
        advance(ROUND).await;
        assert!(watchdog.all_alive());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_start_gives_no_loop_more_time() {
        let mut watchdog = Watchdog::new("nf-test", Instant::now(), "");
        advance(10 * watchdog.patience).await;
        let _ingest = watchdog.running("ingest");
        let mut fed = 0;
        for _ in 0..60 {
            fed += u64::from(watchdog.all_alive());
            advance(ROUND).await;
        }
        assert_eq!(fed, watchdog.patience.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn only_started_loops_can_hang() {
        let mut watchdog = Watchdog::new("nf-test", Instant::now(), "");
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
    async fn a_loop_that_is_away_is_alive() {
        let mut watchdog = Watchdog::new("nf-test", Instant::now(), "");
        let flusher = watchdog.pulse("flusher");
        let away = flusher.away();
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
