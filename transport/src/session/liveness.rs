//! Heartbeat timers: the next PING, and the time at which a silent peer counts as dead.

use core::time::Duration;
use std::time::Instant;

use crate::limits::HEARTBEATS_MISSED;

/// The two timers of a connection.
#[derive(Debug)]
pub(super) struct Liveness {
    heartbeat: Duration,
    /// Time of the last [`Self::advance_clock`].
    now: Instant,
    next_ping: Instant,
    /// Time at which the peer counts as dead unless a byte is received; `None` while nothing is read from it.
    dead_at: Option<Instant>,
}

impl Liveness {
    pub(super) fn new(heartbeat: Duration, now: Instant) -> Self {
        let mut liveness = Self { heartbeat, now, next_ping: now + heartbeat, dead_at: None };
        liveness.restart_silence_timer(now);
        liveness
    }

    /// Longest allowed silence of the peer.
    pub(super) fn silence_limit(&self) -> Duration {
        self.heartbeat * HEARTBEATS_MISSED
    }

    /// Notes that bytes were received.
    pub(super) fn note_bytes(&mut self, now: Instant) {
        if self.dead_at.is_some() {
            self.restart_silence_timer(now);
        }
    }

    /// Stops the silence timer, because nothing is read from the peer from now on.
    pub(super) fn pause_silence_timer(&mut self) {
        self.dead_at = None;
    }

    /// Starts the silence timer from the beginning.
    pub(super) fn restart_silence_timer(&mut self, now: Instant) {
        self.dead_at = Some(now + self.silence_limit());
    }

    /// True if the peer had been silent for too long at the last [`Self::advance_clock`].
    pub(super) fn is_peer_dead(&self) -> bool {
        self.dead_at.is_some_and(|gone_at| gone_at <= self.now)
    }

    /// Sets the current time. Returns true if a PING is due, once for each heartbeat.
    pub(super) fn advance_clock(&mut self, now: Instant) -> bool {
        self.now = now;
        let is_ping_due = self.next_ping <= now;
        if is_ping_due {
            self.next_ping = now + self.heartbeat;
        }
        is_ping_due
    }

    /// Time at which the next timer expires.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.dead_at.map_or(self.next_ping, |gone_at| gone_at.min(self.next_ping))
    }
}
