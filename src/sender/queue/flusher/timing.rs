//! Decides when the flusher has work.

use std::time::{Duration, Instant};

use super::Flusher;
use super::task::{FlushTask, Spill};
use crate::host::wait_on_for;
use crate::sender::queue::state::{QueueState, ShutdownStage};

/// The shortest interval at which the flusher checks an empty tail for new batches.
const TAIL_CHECK_MIN: Duration = Duration::from_millis(1);

impl Flusher {
    /// Waits until there is work.
    pub(super) fn wait(&self) -> FlushTask {
        let mut state = self.queue.state();
        loop {
            let now = Instant::now();
            let due = self.due(&state, now);
            if due <= now {
                return self.task(&state, now);
            }
            if self.is_idle(&state) {
                // The next push wakes this thread. The work of an empty spool can wait.
                state.set_flusher_idle(true);
                state = wait_on_for(&self.queue.work, state, self.pulse.idle_round());
                state.set_flusher_idle(false);
                let now = Instant::now();
                return self.task(&state, now);
            }
            state = wait_on_for(&self.queue.work, state, due - now);
        }
    }

    /// Returns the time at which there is work.
    fn due(&self, state: &QueueState, now: Instant) -> Instant {
        if state.stage() == ShutdownStage::Stopped || state.is_spool_acknowledged() {
            return now;
        }
        // A push into an empty tail does not wake this thread, unless it is idle.
        let spill_at = self.spill_at(state, now).unwrap_or(now + self.half.max(TAIL_CHECK_MIN));
        let sync_at = self.sync.due(self.half);
        [Some(spill_at), sync_at].into_iter().flatten().fold(self.enforce_at, Instant::min)
    }

    /// Returns `true` if nothing is queued, so that no time matters.
    fn is_idle(&self, state: &QueueState) -> bool {
        state.stage() == ShutdownStage::Running
            && state.tail().is_empty()
            && state.spool_size() == 0
            && self.sync.due(self.half).is_none()
    }

    /// Returns the time at which the oldest batch of the tail moves to the spool.
    fn spill_at(&self, state: &QueueState, now: Instant) -> Option<Instant> {
        let (_, since) = state.tail().oldest()?;
        let wanted = if Self::is_hurried(state) { now } else { since + self.half };
        let is_at_once =
            state.stage() == ShutdownStage::Stopped || (self.is_holding && state.tail().is_pressing());
        let retry_at = self.retry_at.filter(|_| !is_at_once);
        Some(retry_at.map_or(wanted, |retry| wanted.max(retry)))
    }

    /// Returns `true` if batches move to the spool before their time.
    pub(super) fn is_hurried(state: &QueueState) -> bool {
        state.stage() > ShutdownStage::Running || state.tail().is_pressing()
    }

    fn task(&self, state: &QueueState, now: Instant) -> FlushTask {
        let is_due = self.spill_at(state, now).is_some_and(|at| at <= now);
        let acknowledged = state.acknowledged();
        let spill = state.tail().oldest().filter(|_| is_due).map(|(entry, _)| {
            let from = self.figures.end.unwrap_or(entry.batch.first()).max(acknowledged);
            Spill {
                entry: entry.clone(),
                gaps: state.gaps_within(from, entry.batch.first()).collect(),
                next: self.run_after(state, entry, now),
            }
        });
        FlushTask { acknowledged, stage: state.stage(), spill }
    }
}
