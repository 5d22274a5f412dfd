//! Who has to speak by when, and when the other side counts as gone.

use core::time::Duration;
use std::time::Instant;

use crate::limits::HEARTBEATS_MISSED;

/// The two clocks of a connection.
#[derive(Debug)]
pub(super) struct Liveness {
    heartbeat: Duration,
    /// When the clock was last looked at.
    now: Instant,
    next_ping: Instant,
    /// When the other side counts as gone, unless a byte comes; `None` while nobody listens.
    gone_at: Option<Instant>,
}

impl Liveness {
    pub(super) fn new(heartbeat: Duration, now: Instant) -> Self {
        let mut liveness = Self { heartbeat, now, next_ping: now + heartbeat, gone_at: None };
        liveness.listen(now);
        liveness
    }

    /// How long the other side may be silent.
    pub(super) fn patience(&self) -> Duration {
        self.heartbeat * HEARTBEATS_MISSED
    }

    /// Bytes came.
    pub(super) fn heard(&mut self, now: Instant) {
        if self.gone_at.is_some() {
            self.listen(now);
        }
    }

    /// From now on nobody reads what the other side says, so its silence means nothing.
    pub(super) fn stop_listening(&mut self) {
        self.gone_at = None;
    }

    /// Reading goes on: the other side has its whole time again.
    pub(super) fn listen(&mut self, now: Instant) {
        self.gone_at = Some(now + self.patience());
    }

    /// Whether the other side was silent for too long when the clock was last looked at.
    pub(super) fn is_gone(&self) -> bool {
        self.gone_at.is_some_and(|gone_at| gone_at <= self.now)
    }

    /// Moves the time on. Whether a sign of life is due: `true` once for each heartbeat.
    pub(super) fn look_at_clock(&mut self, now: Instant) -> bool {
        self.now = now;
        let is_ping_due = self.next_ping <= now;
        if is_ping_due {
            self.next_ping = now + self.heartbeat;
        }
        is_ping_due
    }

    /// When one of the clocks runs out next.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.gone_at.map_or(self.next_ping, |gone_at| gone_at.min(self.next_ping))
    }
}
