//! One UDP address that receives datagrams byte for byte.
//!
//! A datagram counts as delivered once the kernel accepted it. For a collector on this machine, its socket
//! must also exist and have room. For a remote collector, delivery stands unless ICMP reports that nothing
//! arrives. After any failure the datagram is retried or, if the collector is set to skip, counted and
//! skipped.

use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nf_transport_core::datagram::Datagram;
use nf_transport_core::netflow::{Recipient, Repeats};
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{CollectorSettings, Limit, Source, WhenDown};
use crate::limits::CATCH_UP_LIMIT;
use crate::receiver::output::budget::SocketBudget;
use crate::receiver::output::outage_log::OutageLog;
use crate::receiver::output::pace::TokenBucket;
use crate::receiver::output::queue_guard::{Budget, QueueGuard, RUN_MAX};
use crate::receiver::output::reachability::{Reachability, SendPermit};
use crate::receiver::output::refusals::{RETRY_FOR, Refusals, Verdict};
use crate::receiver::output::socket::{self, SendOutcome};
use crate::receiver::output::source_sockets::{SourceSocket, SourceSockets, is_unreachable};
use crate::receiver::state::templates::{TemplateLearner, next_number};
use crate::status::CollectorState;

/// Pause before the next attempt while the collector's queue is full.
const QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// Pause before the next attempt while the collector is down.
const DOWN_PAUSE: Duration = Duration::from_millis(100);

/// A task that waits retries within this time. If none has retried for so long, no datagram is held any more.
const HELD_EXPIRES: Duration = Duration::from_secs(1);

/// Counters of a destination, from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Datagrams that the kernel accepted for it.
    pub(crate) datagrams: u64,
    /// Bytes of their payloads.
    pub(crate) bytes: u64,
    /// Datagrams skipped.
    pub(crate) skipped: u64,
    /// Datagrams dropped because the kernel refused to send them, though it sent others.
    pub(crate) refused: u64,
    /// Datagrams with templates and options data that nf-receiver repeated for it.
    pub(crate) templates: u64,
    /// Datagrams that the kernel dropped at the collector's socket while nf-receiver was sending.
    pub(crate) socket_drops: u64,
    /// Upper bound of the datagrams that were unread in the collector's socket when it closed.
    pub(crate) unread: u64,
}

/// State of a destination that one run hands over to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PassedOn {
    /// Generation of the recipient for which repeats were counted.
    pub(crate) generation: u64,
    /// Cookie of the collector's socket; `None` for a remote collector.
    pub(crate) socket: Option<[u8; 8]>,
    /// Triples of a sender's number, one of its exporters, and the address under which the collector sees it.
    pub(crate) exporters: Vec<(u64, SocketAddr, SocketAddr)>,
}

/// Result of delivering the front of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunOutcome {
    /// Datagrams completed from the front of the run.
    pub(super) count: usize,
    /// Recipient of these datagrams; `None` if they were skipped.
    pub(super) recipient: Option<Recipient>,
}

/// Datagrams of one exporter for one destination.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// Never empty.
    pub(super) datagrams: &'a [Datagram<'a>],
    /// Whether they arrived at the sender at least `LATE` ago.
    pub(super) is_late: bool,
    /// Index of the destination among the collector's addresses.
    pub(super) place: usize,
    /// Templates that the collector has seen of their sender's exporters.
    pub(super) learner: &'a TemplateLearner,
}

impl Run<'_> {
    fn exporter(&self) -> Option<SocketAddr> {
        self.datagrams.first().map(|first| first.exporter)
    }
}

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
    figures: Mutex<Figures>,
}

/// The part of a collector's settings that is fixed for the life of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DestinationSettings {
    source: Source,
    when_down: WhenDown,
    rate_limit: Limit,
    catch_up_limit: Option<Limit>,
    repeat_templates: bool,
}

/// State that a task needs for an attempt to send.
#[derive(Debug)]
struct SendState {
    queue: QueueGuard,
    reachability: Reachability,
    refusals: Refusals,
    limit: Option<TokenBucket>,
    catch_up_limit: Option<TokenBucket>,
    outage_log: OutageLog,
    /// Changes whenever the collector may have lost its templates.
    generation: u64,
    /// Number of such events when `generation` was last drawn.
    changes: u64,
}

#[derive(Debug)]
struct Figures {
    state: CollectorState,
    counts: Counts,
    /// Start of the current hold and time of the last attempt by any task; `None` while nothing is held.
    held: Option<(Instant, Instant)>,
    /// Generation and collector socket of the last datagram that was sent.
    last: Option<(u64, Option<[u8; 8]>)>,
}

/// Result of one attempt to deliver.
#[derive(Debug)]
enum Attempt {
    /// Datagrams were sent, skipped or dropped.
    Done(RunOutcome),
    /// Nothing can be sent now. Other datagrams may be sent before the next attempt.
    TryAgainAt(Instant),
    /// The collector accepts nothing. Retry after this pause.
    WaitForCollector(Duration),
}

/// Reason why nothing could be sent.
#[derive(Debug)]
enum Obstacle {
    /// The collector's queue is almost full, or the kernel is short of memory.
    Full,
    /// A rate limit allows nothing before this time.
    Paced(Instant),
    /// The collector accepts nothing, for this reason.
    Down(String),
    /// Datagrams of the run's exporter cannot be sent now, for this reason. Those of other exporters may be.
    Held(String),
    /// The kernel refused to send the first datagram, for this reason.
    Refused(String),
    /// The kernel has no buffer for the first datagram, or a filter below IP drops it.
    NoBuffer(String),
    /// The collector, or the exporter's socket, was replaced a moment ago: repeats may be due.
    Changed,
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
        let counts = before.map_or_else(Counts::default, |before| before.refreshed_figures().1);
        let before = before.filter(|before| before.address == address);
        let same = before.filter(|before| before.settings.source == settings.source);
        let sources = same.map(|before| before.sockets.clone());
        let last = same.and_then(|before| before.figures().last);
        let turn = SendState {
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
            sending: tokio::sync::Mutex::new(turn),
            waiting: tokio::sync::Mutex::default(),
            figures: Mutex::new(Figures { state, counts, held: None, last }),
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
        let turn = self.sending.get_mut();
        turn.generation = passed_on.generation;
        turn.queue.resume_at(socket);
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
    pub(super) async fn deliver(&self, run: &Run<'_>) -> RunOutcome {
        let began = Instant::now();
        let mut waiting = None;
        loop {
            match self.attempt(run, began).await {
                Attempt::Done(taken) => return taken,
                Attempt::TryAgainAt(due) => {
                    // The collector may accept other datagrams in the meantime.
                    waiting = None;
                    sleep_until(due).await;
                }
                Attempt::WaitForCollector(_) if waiting.is_none() => {
                    waiting = Some(self.waiting.lock().await);
                }
                Attempt::WaitForCollector(pause) => sleep(pause).await,
            }
        }
    }

    /// Tries once to deliver from the front of `run`, for a task that has been trying since `began`.
    async fn attempt(&self, run: &Run<'_>, began: Instant) -> Attempt {
        let mut turn = self.sending.lock().await;
        let obstacle = match self.try_run(&mut turn, run) {
            Ok((count, recipient)) => return Attempt::Done(RunOutcome { count, recipient: Some(recipient) }),
            Err(obstacle) => obstacle,
        };
        let obstacle = match self.judge_refusal(&mut turn, run, obstacle) {
            Ok(attempt) => return attempt,
            Err(obstacle) => obstacle,
        };
        self.note_obstacle(&mut turn, &obstacle, began);
        match obstacle {
            Obstacle::Full | Obstacle::NoBuffer(_) => Attempt::WaitForCollector(QUEUE_PAUSE),
            Obstacle::Paced(due) => Attempt::TryAgainAt(due),
            Obstacle::Changed => Attempt::TryAgainAt(Instant::now()),
            _ if self.settings.when_down == WhenDown::Skip => {
                let count = run.datagrams.len();
                self.count_skipped(u64::try_from(count).unwrap_or(u64::MAX));
                Attempt::Done(RunOutcome { count, recipient: None })
            }
            Obstacle::Down(_) => Attempt::WaitForCollector(DOWN_PAUSE),
            Obstacle::Held(_) | Obstacle::Refused(_) => Attempt::TryAgainAt(Instant::now() + DOWN_PAUSE),
        }
    }

    /// Decides about the first datagram of `run`, which the kernel may never send. Returns an obstacle that
    /// remains as `Err`.
    fn judge_refusal(
        &self,
        turn: &mut SendState,
        run: &Run<'_>,
        obstacle: Obstacle,
    ) -> Result<Attempt, Obstacle> {
        let (Some(first), now) = (run.datagrams.first(), Instant::now()) else { return Err(obstacle) };
        let exporter = first.exporter.ip();
        let (verdict, reason) = match obstacle {
            Obstacle::Refused(reason) => (turn.refusals.judge(exporter, now), reason),
            Obstacle::NoBuffer(reason) if turn.refusals.is_starved(exporter, now) => {
                (turn.refusals.judge(exporter, now), reason)
            }
            other => return Err(other),
        };
        match verdict {
            Verdict::Retry => Ok(Attempt::TryAgainAt(now + RETRY_FOR)),
            Verdict::Hold => Err(Obstacle::Held(reason)),
            Verdict::Drop => {
                // The kernel may have refused repeats as well.
                run.learner.forget_progress(first, run.place);
                self.figures().counts.refused += 1;
                turn.outage_log.note_refused(self.address, exporter, &reason);
                Ok(Attempt::Done(RunOutcome { count: 1, recipient: None }))
            }
        }
    }

    /// Adds to the count of skipped datagrams.
    pub(super) fn count_skipped(&self, count: u64) {
        let counts = &mut self.figures().counts;
        // A sender chooses how many positions it skips, so the sum may overflow.
        counts.skipped = counts.skipped.saturating_add(count);
    }

    /// Sends as many datagrams of the run as possible in one call. Returns their number, at least one, and
    /// the recipient. Never waits.
    fn try_run(&self, turn: &mut SendState, run: &Run<'_>) -> Result<(usize, Recipient), Obstacle> {
        let now = Instant::now();
        let Some(first) = run.datagrams.first() else { return Err(Obstacle::Changed) };
        let mut count = turn.admit(run.datagrams.len().min(RUN_MAX), run.is_late, now)?;
        if let Some(error) = self.sources().take_error(now) {
            turn.reachability.note_failure(error.to_string(), now);
        }
        let leave = turn.reachability.permit(first, now);
        match &leave {
            SendPermit::Blocked(reason) => return Err(Obstacle::Down(reason.clone())),
            SendPermit::ProbeArrived => {
                let recipient = self.recipient(turn, run)?;
                self.note_sent(turn, &[first.payload], run.is_late, now);
                return Ok((1, recipient));
            }
            SendPermit::OneProbe => count = 1,
            SendPermit::All => {}
        }
        if !turn.queue.is_present().map_err(|error| Obstacle::Down(error.to_string()))? {
            return Err(Obstacle::absent());
        }
        let recipient = self.recipient(turn, run)?;
        let run_of = |count| Run { datagrams: run.datagrams.get(..count).unwrap_or_default(), ..*run };
        count = self.repeat(turn, &run_of(count), &recipient)?;
        // Repeats may have used up the rate limit.
        count = turn.admit(count, run.is_late, now)?;
        let payloads: Vec<&[u8]> =
            run.datagrams.iter().take(count).map(|datagram| datagram.payload).collect();
        let sent = self.send(turn, run, &recipient, &payloads)?;
        if leave == SendPermit::OneProbe {
            // A probe that is skipped counts as skipped, even if it arrives.
            let waits = self.settings.when_down == WhenDown::Hold;
            return Err(Obstacle::Down(turn.reachability.note_probe(first, waits, now)));
        }
        self.note_sent(turn, payloads.get(..sent).unwrap_or_default(), run.is_late, now);
        Ok((sent, recipient))
    }

    /// Returns the recipient that datagrams of `run` would reach now.
    fn recipient(&self, turn: &mut SendState, run: &Run<'_>) -> Result<Recipient, Obstacle> {
        let exporter = run.exporter().ok_or(Obstacle::Changed)?;
        let mut sources = self.sources();
        let leaving = sources.socket(run.learner.number(), exporter).map_err(|error| unopened(&error))?;
        let (socket, has_moved) = (leaving.seen.number, leaving.has_moved);
        Ok(Recipient { place: run.place, generation: turn.generation(), socket, has_moved })
    }

    /// Sends the templates that the recipient lacks to decode the first datagram of `run`. Returns the number
    /// of datagrams, at least one, that it can then decode.
    fn repeat(&self, turn: &mut SendState, run: &Run<'_>, recipient: &Recipient) -> Result<usize, Obstacle> {
        if !self.settings.repeat_templates {
            return Ok(run.datagrams.len());
        }
        loop {
            match run.learner.before(run.datagrams, recipient, Instant::now().into_std()) {
                None => return Ok(run.datagrams.len()),
                Some((0, repeats)) => self.send_repeats(turn, run, recipient, &repeats)?,
                Some((place, _)) => return Ok(place),
            }
        }
    }

    /// Sends those of `repeats` that the recipient does not have yet.
    fn send_repeats(
        &self,
        turn: &mut SendState,
        run: &Run<'_>,
        recipient: &Recipient,
        repeats: &Repeats,
    ) -> Result<(), Obstacle> {
        for (count, payload) in (1..).zip(&repeats.payloads).skip(repeats.sent) {
            let now = Instant::now();
            turn.admit(1, run.is_late, now)?;
            match self.send(turn, run, recipient, &[payload]) {
                Ok(_) => {
                    turn.charge(1, run.is_late, now);
                    self.figures().counts.templates += 1;
                }
                // The datagram that follows shows whether the refusal concerns all datagrams of the exporter.
                Err(Obstacle::Refused(_)) => {}
                Err(obstacle) => return Err(obstacle),
            }
            run.learner.note_repeated(repeats, count, recipient, now.into_std());
        }
        let all = repeats.payloads.len();
        run.learner.note_repeated(repeats, all, recipient, Instant::now().into_std());
        Ok(())
    }

    /// Sends as many of the payloads as possible in one call, from the socket of the run's exporter. Returns
    /// their number, at least one. Sends nothing if they would reach another recipient than `recipient`.
    fn send(
        &self,
        turn: &mut SendState,
        run: &Run<'_>,
        recipient: &Recipient,
        payloads: &[&[u8]],
    ) -> Result<usize, Obstacle> {
        let failing = |error: io::Error| Obstacle::Down(error.to_string());
        let exporter = run.exporter().ok_or(Obstacle::Changed)?;
        let count = match turn.queue.admit(payloads).map_err(failing)? {
            Budget::Send(count) => count,
            Budget::Full => return Err(Obstacle::Full),
            Budget::Absent => return Err(Obstacle::absent()),
        };
        let payloads = payloads.get(..count).unwrap_or_default();
        let mut sources = self.sources();
        let SourceSocket { socket, segments, seen, .. } =
            sources.socket(run.learner.number(), exporter).map_err(|error| unopened(&error))?;
        if turn.generation() != recipient.generation || seen.number != recipient.socket {
            return Err(Obstacle::Changed);
        }
        turn.queue.note_sending();
        let mut attempt = || socket::send(socket, payloads, segments);
        let is_watching = turn.queue.is_watching();
        let outcome = attempt()
            .or_else(|error| if may_be_left_behind(&error, is_watching) { attempt() } else { Err(error) });
        let handed = match outcome {
            Ok(handed) => handed,
            Err(error) => return Err(obstacle(turn, &error)),
        };
        let SendOutcome { offered: asked, accepted: taken, .. } = handed;
        let sent = if is_watching {
            taken.saturating_sub(self.count_without_socket(&mut turn.queue, socket, handed))
        } else {
            // Something stopped the run. If ICMP did, only the error queue shows it.
            let details = if taken < asked { socket::take_details(socket) } else { Vec::new() };
            if let Some(error) = details.iter().rfind(|error| is_unreachable(error)) {
                turn.reachability.note_failure(error.to_string(), Instant::now());
            }
            taken
        };
        if sent == 0 {
            return Err(Obstacle::absent());
        }
        turn.queue.note_sent(payloads.get(..sent).unwrap_or_default());
        turn.refusals.note_sent(exporter.ip(), Instant::now());
        Ok(sent)
    }

    /// Returns how many datagrams that the kernel accepted found no socket, because a watched collector's
    /// socket closed after the last look.
    ///
    /// On the same machine a refusal returns to the source address within the sending call. It stops a run
    /// after the refused datagram. After the last datagram of a run, or after a segmented send, it stays on
    /// the sending socket. No refusal reaches a socket that has an exporter's address. For those the
    /// collector's socket is looked up again, and if it is gone, the whole run counts as refused.
    fn count_without_socket(
        &self,
        gate: &mut QueueGuard,
        socket: &socket2::Socket,
        handed: SendOutcome,
    ) -> usize {
        let SendOutcome { offered: asked, accepted: taken, as_one } = handed;
        // An unknown result counts as delivered: sending again might repeat datagrams.
        let has_gone = |gate: &mut QueueGuard| gate.is_same_socket().is_ok_and(|same| !same);
        let refused = if self.settings.source == Source::Exporter {
            if has_gone(gate) { taken } else { 0 }
        } else if taken < asked {
            usize::from(has_gone(gate))
        } else if socket.take_error().is_ok_and(|error| error.is_some()) {
            if as_one { taken } else { 1 }
        } else {
            0
        };
        if refused > 0 {
            gate.invalidate();
        }
        refused
    }

    fn note_sent(&self, turn: &mut SendState, sent: &[&[u8]], is_late: bool, now: Instant) {
        turn.charge(sent.len(), is_late, now);
        let is_down = turn.reachability.is_down();
        if !is_down {
            turn.outage_log.note_up(self.address);
        }
        let bytes: usize = sent.iter().map(|payload| payload.len()).sum();
        let mut figures = self.figures();
        figures.held = None;
        figures.last = Some((turn.generation(), turn.queue.last_socket()));
        self.note_losses(turn, &mut figures);
        figures.state = if turn.queue.is_watching() {
            CollectorState::Up
        } else if is_down {
            CollectorState::Down
        } else {
            CollectorState::Unknown
        };
        figures.counts.datagrams += u64::try_from(sent.len()).unwrap_or_default();
        figures.counts.bytes += u64::try_from(bytes).unwrap_or_default();
    }

    fn note_obstacle(&self, turn: &mut SendState, obstacle: &Obstacle, began: Instant) {
        let mut figures = self.figures();
        self.note_losses(turn, &mut figures);
        match obstacle {
            Obstacle::Full | Obstacle::NoBuffer(_) => figures.waits(began),
            Obstacle::Paced(_) | Obstacle::Changed => {}
            Obstacle::Down(reason) | Obstacle::Held(reason) | Obstacle::Refused(reason) => {
                if self.settings.when_down == WhenDown::Hold {
                    figures.waits(began);
                }
                figures.state = CollectorState::Down;
                turn.outage_log.note_down(self.address, reason);
            }
        }
    }

    /// Returns the state, the counts, and the whole seconds for which datagrams have been held. Looks at the
    /// collector again if no task is sending.
    pub(super) fn refreshed_figures(&self) -> (CollectorState, Counts, u64) {
        if let Ok(mut turn) = self.sending.try_lock() {
            self.refresh_while_idle(&mut turn);
        }
        let figures = self.figures();
        (figures.state, figures.counts, figures.held.map_or(0, |(since, _)| since.elapsed().as_secs()))
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

    fn refresh_while_idle(&self, turn: &mut SendState) {
        let now = Instant::now();
        let seen = turn.queue.is_watching().then(|| turn.queue.look());
        if let Some(error) = self.sources().take_error(now) {
            turn.reachability.note_failure(error.to_string(), now);
        }
        let mut figures = self.figures();
        figures.held = figures.held.filter(|(_, tried)| now.duration_since(*tried) < HELD_EXPIRES);
        self.note_losses(turn, &mut figures);
        figures.state = match seen {
            _ if turn.refusals.is_holding() => CollectorState::Down,
            Some(Ok(Some(_))) => CollectorState::Up,
            Some(_) => CollectorState::Down,
            None if turn.reachability.is_down() => CollectorState::Down,
            None => figures.state,
        };
    }

    /// Counts and logs datagrams that were lost in the collector's own socket.
    fn note_losses(&self, turn: &mut SendState, figures: &mut Figures) {
        let (dropped, unread) = (turn.queue.take_drops(), turn.queue.take_unread());
        figures.counts.socket_drops += dropped;
        figures.counts.unread += unread;
        turn.outage_log.note_lost(self.address, dropped, unread);
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, SourceSockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Figures {
    /// Notes that a task which has been waiting since `began` still waits.
    fn waits(&mut self, began: Instant) {
        self.held = Some((self.held.map_or(began, |(since, _)| since), Instant::now()));
    }
}

impl SendState {
    /// Iterates over the rate limits that apply now.
    fn buckets(&mut self, is_late: bool) -> impl Iterator<Item = &mut TokenBucket> {
        self.limit.iter_mut().chain(self.catch_up_limit.iter_mut().filter(move |_| is_late))
    }

    /// Returns how many of `wanted` datagrams, at least one, the rate limits allow now.
    fn admit(&mut self, wanted: usize, is_late: bool, now: Instant) -> Result<usize, Obstacle> {
        self.buckets(is_late)
            .try_fold(wanted, |count, bucket| bucket.admit(count, now))
            .map_err(Obstacle::Paced)
    }

    /// Charges `count` sent datagrams to the rate limits.
    fn charge(&mut self, count: usize, is_late: bool, now: Instant) {
        for bucket in self.buckets(is_late) {
            bucket.take(count, now);
        }
    }

    /// Returns the generation. It changes if the collector's socket changed or a datagram did not arrive: the
    /// collector may have lost its templates.
    fn generation(&mut self) -> u64 {
        let changes = self.queue.socket_changes() + self.reachability.failures();
        if changes != self.changes {
            self.changes = changes;
            self.generation = next_number();
        }
        self.generation
    }
}

impl Obstacle {
    fn absent() -> Self {
        Self::Down("no socket listening".to_owned())
    }
}

/// Returns whether the error means a temporary lack of room.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

/// Returns whether the error may belong to an earlier datagram: the next call reports it, sends nothing, and
/// clears it. For a remote collector, only ICMP shows whether it is up, so an unreachable error is always
/// taken at its word.
fn may_be_left_behind(error: &io::Error, is_watching: bool) -> bool {
    !is_full(error) && (is_watching || !is_unreachable(error))
}

/// Maps a send error to an obstacle.
fn obstacle(turn: &mut SendState, error: &io::Error) -> Obstacle {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Obstacle::Full;
    }
    if is_full(error) {
        return Obstacle::NoBuffer(error.to_string());
    }
    if !concerns_collector(error) {
        return Obstacle::Refused(error.to_string());
    }
    if !turn.queue.is_watching() && is_unreachable(error) {
        turn.reachability.note_failure(error.to_string(), Instant::now());
    }
    Obstacle::Down(error.to_string())
}

/// Maps a failure to open an exporter's socket to an obstacle.
fn unopened(error: &io::Error) -> Obstacle {
    if concerns_collector(error) {
        Obstacle::Down(error.to_string())
    } else {
        Obstacle::Held(error.to_string())
    }
}

/// Returns whether the error means that no exporter's datagrams reach the collector.
fn concerns_collector(error: &io::Error) -> bool {
    is_unreachable(error) || error.raw_os_error() == Some(libc::ENETDOWN)
}

#[cfg(test)]
mod tests;
