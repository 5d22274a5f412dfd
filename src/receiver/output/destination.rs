//! One UDP address that receives datagrams byte for byte.
//!
//! A datagram counts as delivered once the kernel accepted it. For a collector on this machine, its socket
//! must also exist and have room. For a remote collector, delivery stands unless ICMP reports that nothing
//! arrives. After any failure the datagram is retried or, if the collector is set to skip, counted and
//! skipped.

mod figures;
mod obstacle;
mod refresh;
mod run;
mod send;
mod send_state;

use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{CollectorSettings, Limit, SourceAddress, WhenDown};
use crate::host::locked;
use crate::limits::CATCH_UP_LIMIT;
use crate::receiver::numbers::next_number;
use crate::receiver::output::budget::SocketBudget;
use crate::receiver::output::destination::figures::DestinationFigures;
use crate::receiver::output::destination::obstacle::Obstacle;
use crate::receiver::output::destination::run::SentRun;
pub(super) use crate::receiver::output::destination::run::{ExporterRun, RunOutcome};
use crate::receiver::output::destination::send_state::SendState;
use crate::receiver::output::down_reason::DownReason;
use crate::receiver::output::figures::OutputCounts;
use crate::receiver::output::outage_log::OutageLog;
use crate::receiver::output::pace::TokenBucket;
use crate::receiver::output::passed_on::PassedOn;
use crate::receiver::output::queue_guard::QueueGuard;
use crate::receiver::output::reachability::Reachability;
use crate::receiver::output::refusals::{RETRY_FOR, RefusalVerdict, Refusals};
use crate::receiver::output::socket;
use crate::receiver::output::source_sockets::SourceSockets;
use crate::receiver::output::system_error::SystemError;
use crate::status::CollectorState;

/// Pause before the next attempt while the collector's queue is full.
const QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// Pause before the next attempt while the collector is down.
const DOWN_PAUSE: Duration = Duration::from_millis(100);

/// A task that waits retries within this time. If none has retried for so long, no datagram is held any more.
const HELD_EXPIRES: Duration = Duration::from_secs(1);

/// A UDP address.
#[derive(Debug)]
pub(super) struct Destination {
    address: SocketAddr,
    settings: DestinationSettings,
    sockets: Arc<Mutex<SourceSockets>>,
    /// Locked for one attempt to send a run, never while a task waits.
    sending: tokio::sync::Mutex<SendState>,
    /// Locked by the task that waits for the collector, so that only one task retries. Others queue behind
    /// it. Lock order: before `sending`.
    waiting: tokio::sync::Mutex<()>,
    figures: Mutex<DestinationFigures>,
}

/// The part of a collector's settings that is fixed for the life of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DestinationSettings {
    source: SourceAddress,
    when_down: WhenDown,
    rate_limit: Limit,
    catch_up_limit: Option<Limit>,
    repeat_templates: bool,
}

/// Result of one attempt to deliver.
#[derive(Debug)]
enum SendAttempt {
    /// Datagrams were sent, skipped or dropped.
    Done(RunOutcome),
    /// Nothing can be sent now. Other datagrams may be sent before the next attempt.
    TryAgainAt(Instant),
    /// The collector accepts nothing. Retry after this pause.
    WaitForCollector(Duration),
}

impl Destination {
    /// Opens a destination at `address`, which must not be an IPv4-mapped IPv6 address. It keeps the counts
    /// of `before`, and its sockets if they fit the settings.
    pub(super) fn open(
        address: SocketAddr,
        settings: &CollectorSettings,
        sockets: &Arc<SocketBudget>,
        before: Option<&Self>,
    ) -> Self {
        let watch = socket::watch(address).unwrap_or_else(|error| {
            tracing::warn!(
                collector = %address,
                %error,
                "cannot watch the socket of collector {address}: {error}; datagrams are lost while it is \
                 stopped or too slow; load the kernel module udp_diag, and allow AF_NETLINK to the service"
            );
            None
        });
        let is_watched = watch.is_some();
        let catch_up_default = if is_watched { None } else { NonZeroU32::new(CATCH_UP_LIMIT) };
        let bucket = |limit: Limit| limit.map(TokenBucket::new);
        let state = if is_watched { CollectorState::Down } else { CollectorState::Unknown };
        let counts = before.map_or_else(OutputCounts::default, |before| before.refreshed_figures().1);
        let before = before.filter(|before| before.address == address);
        let same = before.filter(|before| before.settings.source == settings.source);
        let sources = same.map(|before| before.sockets.clone());
        let last = same.and_then(|before| before.figures().last);
        let sending = SendState {
            queue: QueueGuard::new(watch, last.and_then(|(_, socket)| socket)),
            reachability: Reachability::default(),
            refusals: Refusals::default(),
            limit: bucket(settings.rate_limit),
            catch_up_limit: bucket(settings.catch_up_limit.unwrap_or(catch_up_default)),
            outage_log: OutageLog::new(settings.when_down),
            generation: last.map_or_else(next_number, |(generation, _)| generation),
            changes: 0,
        };
        let new_sources = || {
            let sources = SourceSockets::new(address, settings.source, !is_watched, sockets);
            Arc::new(Mutex::new(sources))
        };
        Self {
            address,
            settings: DestinationSettings::of(settings),
            sockets: sources.unwrap_or_else(new_sources),
            sending: tokio::sync::Mutex::new(sending),
            waiting: tokio::sync::Mutex::default(),
            figures: Mutex::new(DestinationFigures { state, counts, held: None, last }),
        }
    }

    /// Returns the state that the next run needs to continue without repeats.
    pub(super) fn passed_on(&self) -> PassedOn {
        let (generation, socket) = self.figures().last.unzip();
        let exporters = self.sources().seen().collect();
        PassedOn { generation: generation.unwrap_or(0), socket: socket.flatten(), exporters }
    }

    /// Continues the state of an earlier run. Call it before anything is sent.
    pub(super) fn resume_from(&mut self, passed_on: &PassedOn) {
        for (sender, exporter, seen_as) in &passed_on.exporters {
            self.sources().remember(*sender, *exporter, *seen_as);
        }
        let Some(socket) = passed_on.socket else { return };
        let sending = self.sending.get_mut();
        // The name of the collector may have moved to another machine, where no socket shows a restart.
        if !sending.queue.is_watching() {
            return;
        }
        sending.generation = passed_on.generation;
        sending.queue.resume_at(socket);
        self.figures().last = Some((passed_on.generation, Some(socket)));
    }

    /// Returns the exporters of datagrams sent there, each with the number of its sender.
    pub(super) fn served(&self) -> HashSet<(u64, IpAddr)> {
        self.sources().served().map(|(sender, exporter)| (sender, exporter.ip())).collect()
    }

    /// Returns whether it fits `settings` at `address`.
    pub(super) fn matches(&self, address: SocketAddr, settings: &CollectorSettings) -> bool {
        self.address == address && self.settings == DestinationSettings::of(settings)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Delivers or skips datagrams from the front of `run`, at least one. Waits as long as that takes. Cancel
    /// safe.
    pub(super) async fn deliver(&self, run: &ExporterRun<'_>) -> RunOutcome {
        let began = Instant::now();
        let mut waiting = None;
        loop {
            match self.attempt(run, began).await {
                SendAttempt::Done(taken) => return taken,
                SendAttempt::TryAgainAt(due) => {
                    // The collector may accept other datagrams in the meantime.
                    waiting = None;
                    sleep_until(due).await;
                }
                SendAttempt::WaitForCollector(_) if waiting.is_none() => {
                    waiting = Some(self.waiting.lock().await);
                }
                SendAttempt::WaitForCollector(pause) => sleep(pause).await,
            }
        }
    }

    /// Tries once to deliver from the front of `run`, for a task that has been trying since `began`.
    async fn attempt(&self, run: &ExporterRun<'_>, began: Instant) -> SendAttempt {
        let (mut sending, exporter) = (self.sending.lock().await, run.first.exporter.ip());
        let sending = &mut *sending;
        match self.try_run(sending, run) {
            Ok(SentRun::Accepted(count, recipient)) => {
                SendAttempt::Done(RunOutcome { count, recipient: Some(recipient) })
            }
            Ok(SentRun::AsProbe(outage)) => {
                self.note_down(sending, &DownReason::Unreachable(outage), began);
                self.skip_or(SendAttempt::WaitForCollector(DOWN_PAUSE), run)
            }
            Err(Obstacle::Refused(reason)) => self.follow_verdict(sending, run, reason, began),
            Err(Obstacle::NoBuffer(reason)) if sending.refusals.note_starved(exporter, Instant::now()) => {
                self.follow_verdict(sending, run, reason, began)
            }
            Err(Obstacle::Full | Obstacle::NoBuffer(_)) => {
                self.note_full(sending, began);
                SendAttempt::WaitForCollector(QUEUE_PAUSE)
            }
            Err(Obstacle::Paced(due)) => {
                self.note_losses(sending, &mut self.figures());
                SendAttempt::TryAgainAt(due)
            }
            Err(Obstacle::Changed) => {
                self.note_losses(sending, &mut self.figures());
                SendAttempt::TryAgainAt(Instant::now())
            }
            Err(Obstacle::Down(reason)) => {
                self.note_down(sending, &reason, began);
                self.skip_or(SendAttempt::WaitForCollector(DOWN_PAUSE), run)
            }
            Err(Obstacle::Held(reason)) => self.hold_exporter(sending, run, reason, began),
        }
    }

    /// Treats the first datagram of `run`, which the kernel may never send, as its refusals suggest.
    fn follow_verdict(
        &self,
        sending: &mut SendState,
        run: &ExporterRun<'_>,
        reason: SystemError,
        began: Instant,
    ) -> SendAttempt {
        let (exporter, now) = (run.first.exporter.ip(), Instant::now());
        match sending.refusals.judge(exporter, now) {
            RefusalVerdict::Retry => SendAttempt::TryAgainAt(now + RETRY_FOR),
            RefusalVerdict::Hold => self.hold_exporter(sending, run, reason, began),
            RefusalVerdict::Drop => {
                // The kernel may have refused repeats as well.
                run.learner.forget_progress(run.first, run.place);
                self.figures().counts.refused += 1;
                sending.outage_log.note_refused(self.address, exporter, reason);
                SendAttempt::Done(RunOutcome { count: 1, recipient: None })
            }
        }
    }

    /// Holds or skips the datagrams of `run`. Those of other exporters may be sent in the meantime.
    fn hold_exporter(
        &self,
        sending: &mut SendState,
        run: &ExporterRun<'_>,
        reason: SystemError,
        began: Instant,
    ) -> SendAttempt {
        self.note_down(sending, &DownReason::NotSent(reason), began);
        self.skip_or(SendAttempt::TryAgainAt(Instant::now() + DOWN_PAUSE), run)
    }

    /// Skips the datagrams of `run` if the settings say so; else returns `waiting`.
    fn skip_or(&self, waiting: SendAttempt, run: &ExporterRun<'_>) -> SendAttempt {
        match self.settings.when_down {
            WhenDown::Hold => waiting,
            WhenDown::Skip => {
                let count = run.datagrams.len();
                self.count_skipped(u64::try_from(count).unwrap_or(u64::MAX));
                SendAttempt::Done(RunOutcome { count, recipient: None })
            }
        }
    }

    /// Adds to the count of skipped datagrams.
    pub(super) fn count_skipped(&self, count: u64) {
        let counts = &mut self.figures().counts;
        // A sender chooses how many positions it skips, so the sum may overflow.
        counts.skipped = counts.skipped.saturating_add(count);
    }

    /// Closes some of its idle sockets. Returns the number that is left.
    pub(super) fn close_idle_sockets(&self) -> usize {
        self.sources().close_some()
    }

    /// Returns pairs of an exporter's address and the address under which the collector sees it, where they
    /// differ.
    pub(super) fn seen_as(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.sources().seen_as()
    }

    fn figures(&self) -> MutexGuard<'_, DestinationFigures> {
        locked(&self.figures)
    }

    fn sources(&self) -> MutexGuard<'_, SourceSockets> {
        locked(&self.sockets)
    }
}

impl DestinationSettings {
    fn of(settings: &CollectorSettings) -> Self {
        Self {
            source: settings.source,
            when_down: settings.when_down,
            rate_limit: settings.rate_limit,
            catch_up_limit: settings.catch_up_limit,
            repeat_templates: settings.repeat_templates,
        }
    }
}

#[cfg(test)]
mod tests;
