//! State of a destination for attempts to send.

use std::io;

use tokio::time::Instant;

use crate::receiver::numbers::next_number;
use crate::receiver::output::destination::obstacle::{Obstacle, concerns_collector, is_full};
use crate::receiver::output::down_reason::DownReason;
use crate::receiver::output::outage_log::OutageLog;
use crate::receiver::output::pace::TokenBucket;
use crate::receiver::output::queue_guard::QueueGuard;
use crate::receiver::output::reachability::Reachability;
use crate::receiver::output::refusals::Refusals;
use crate::receiver::output::source_sockets::is_unreachable;

/// State that a task needs for an attempt to send.
#[derive(Debug)]
pub(super) struct SendState {
    pub(super) queue: QueueGuard,
    pub(super) reachability: Reachability,
    pub(super) refusals: Refusals,
    pub(super) limit: Option<TokenBucket>,
    pub(super) catch_up_limit: Option<TokenBucket>,
    pub(super) outage_log: OutageLog,
    /// Changes whenever the collector may have lost its templates.
    pub(super) generation: u64,
    /// Number of such events when `generation` was last drawn.
    pub(super) changes: u64,
}

impl SendState {
    /// Iterates over the rate limits that apply now.
    pub(super) fn buckets(&mut self, is_late: bool) -> impl Iterator<Item = &mut TokenBucket> {
        self.limit.iter_mut().chain(self.catch_up_limit.iter_mut().filter(move |_| is_late))
    }

    /// Returns how many of `wanted` datagrams, at least one, the rate limits allow now.
    pub(super) fn admit(&mut self, wanted: usize, is_late: bool, now: Instant) -> Result<usize, Obstacle> {
        self.buckets(is_late)
            .try_fold(wanted, |count, bucket| bucket.admit(count, now))
            .map_err(Obstacle::Paced)
    }

    /// Charges `count` sent datagrams to the rate limits.
    pub(super) fn charge(&mut self, count: usize, is_late: bool, now: Instant) {
        for bucket in self.buckets(is_late) {
            bucket.charge(count, now);
        }
    }

    /// Returns the generation. It changes if the collector's socket changed or a datagram did not arrive: the
    /// collector may have lost its templates.
    pub(super) fn generation(&mut self) -> u64 {
        let changes = self.queue.socket_changes() + self.reachability.failures();
        if changes != self.changes {
            self.changes = changes;
            self.generation = next_number();
        }
        self.generation
    }

    /// Maps a send error to an obstacle.
    pub(super) fn obstacle(&mut self, error: &io::Error) -> Obstacle {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Obstacle::Full;
        }
        if is_full(error) {
            return Obstacle::NoBuffer(error.into());
        }
        if !concerns_collector(error) {
            return Obstacle::Refused(error.into());
        }
        if !self.queue.is_watching() && is_unreachable(error) {
            self.reachability.note_failure(error.into(), Instant::now());
        }
        Obstacle::Down(DownReason::Unreachable(error.into()))
    }
}
