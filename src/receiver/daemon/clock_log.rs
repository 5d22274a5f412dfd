//! Log lines about steps of the wall clock.

use nf_transport_core::clock::ClockWatch;
use nf_transport_core::limits::CLOCK_SETTLED_AFTER;

use crate::host::systemd::messages::receiver;
use crate::host::{LogLimit, Suppressed, both_clocks};

/// Logs steps of the wall clock.
pub(super) struct ClockLog {
    watch: ClockWatch,
    /// By direction: a clock that was stepped and corrected gives two lines.
    limit: LogLimit<bool>,
}

impl ClockLog {
    pub(super) fn new() -> Self {
        Self { watch: ClockWatch::new(both_clocks()), limit: LogLimit::default() }
    }

    /// Call it once a second.
    pub(super) fn look(&mut self) {
        let Some(step) = self.watch.look(both_clocks()) else { return };
        let Some(held_back) = self.limit.admit(step.is_forward, std::time::Instant::now()) else { return };
        tracing::warn!(
            message_id = receiver::CLOCK_SET,
            milliseconds = step.milliseconds(),
            held_back,
            "the system clock was set {step}: delivery continues; datagrams count as late by the new time \
             once it has been stable for {} s{}",
            CLOCK_SETTLED_AFTER.as_secs(),
            Suppressed(held_back)
        );
    }
}
