//! One UDP address that datagrams go to, byte for byte.
//!
//! A datagram counts as delivered once the kernel took it; at a collector on this machine, once it went to a socket that
//! was there and had room; at one elsewhere, unless the network has said that nothing arrives. Whatever hinders, the
//! datagram is tried again or, if that is wanted, counted and passed over.

use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nf_transport_core::datagram::Datagram;
use nf_transport_core::netflow::{Recipient, Repeats};
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{CollectorSettings, Limit, SourceAddress, WhenDown};
use crate::limits::CATCH_UP_LIMIT;
use crate::receiver::output::budget::SocketBudget;
use crate::receiver::output::gate::{Admission, Gate, RUN_MAX};
use crate::receiver::output::outage_log::Trouble;
use crate::receiver::output::pace::Bucket;
use crate::receiver::output::reachability::{Leave, Reach};
use crate::receiver::output::refusals::{RETRY_FOR, Refusals, Verdict};
use crate::receiver::output::socket::{self, Handed};
use crate::receiver::output::source_sockets::{Leaving, Sources, is_unreachable};
use crate::receiver::state::templates::{TemplateLearner, next_number};
use crate::status::CollectorState;

/// How long to wait for a full queue to be read.
const QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// How long to wait before a collector that is down is tried again.
const DOWN_PAUSE: Duration = Duration::from_millis(100);

/// Whoever waits tries again within this time; then nobody waits any more.
const WAITING: Duration = Duration::from_secs(1);

/// What a destination counts, from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Datagrams handed to the kernel for it.
    pub(crate) datagrams: u64,
    /// Bytes of their payloads.
    pub(crate) bytes: u64,
    /// Datagrams passed over.
    pub(crate) skipped: u64,
    /// Datagrams dropped because the kernel refused to send them, though it sent others.
    pub(crate) refused: u64,
    /// Datagrams with templates and options data, repeated for it.
    pub(crate) templates: u64,
    /// Datagrams that the kernel dropped at the collector's socket while they were sent.
    pub(crate) socket_drops: u64,
    /// Datagrams, at the most, that lay unread in the collector's socket when it went away.
    pub(crate) unread: u64,
}

/// What one run passes on to the next about a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PassedOn {
    /// The generation of the recipient, which repeats were counted for.
    pub(crate) generation: u64,
    /// The collector's socket on this machine, if it is here.
    pub(crate) socket: Option<[u8; 8]>,
    /// The number of a sender, one of its exporters, and what the collector sees of it.
    pub(crate) exporters: Vec<(u64, SocketAddr, SocketAddr)>,
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// So many from the front of a run are done with.
    pub(super) count: usize,
    /// Who got them; `None` if they were skipped.
    pub(super) recipient: Option<Recipient>,
}

/// Datagrams of one exporter that are to go to a destination.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// At least one.
    pub(super) datagrams: &'a [Datagram<'a>],
    /// They arrived a while ago.
    pub(super) is_late: bool,
    /// Which of the collector's addresses the destination is.
    pub(super) place: usize,
    /// What the collector has seen of their sender's exporters.
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
    terms: Terms,
    sources: Arc<Mutex<Sources>>,
    /// Held for one attempt to send a run of datagrams, never while a task waits.
    turn: tokio::sync::Mutex<Turn>,
    /// Held by the task that waits for the collector. Others that have to wait for it queue behind that task, so that only
    /// one of them tries again. Locked before `turn`.
    waiting: tokio::sync::Mutex<()>,
    figures: Mutex<Figures>,
}

/// What of a collector's settings a destination has for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    source: SourceAddress,
    when_down: WhenDown,
    rate_limit: Limit,
    catch_up_limit: Option<Limit>,
    repeat_templates: bool,
}

/// What the task needs whose turn it is.
#[derive(Debug)]
struct Turn {
    gate: Gate,
    reach: Reach,
    refusals: Refusals,
    limit: Option<Bucket>,
    catch_up_limit: Option<Bucket>,
    trouble: Trouble,
    /// Another number whenever the collector may have lost what it knew.
    generation: u64,
    /// How often it may have, when the number was drawn.
    changes: u64,
}

#[derive(Debug)]
struct Figures {
    state: CollectorState,
    counts: Counts,
    /// Since when nothing could be sent to the collector, whichever tasks tried, and when one tried last; `None` while
    /// nobody waits.
    held: Option<(Instant, Instant)>,
    /// The generation in which something was sent last, and the collector's socket then.
    last: Option<(u64, Option<[u8; 8]>)>,
}

/// What came of one attempt to deliver.
#[derive(Debug)]
enum Attempt {
    /// Datagrams were sent, skipped or dropped.
    Done(Taken),
    /// Nothing can be sent now. Other datagrams may be sent before the next attempt.
    TryAgainAt(Instant),
    /// The collector takes nothing. After this pause it may.
    WaitForCollector(Duration),
}

/// Why nothing could be sent.
#[derive(Debug)]
enum Obstacle {
    /// The collector's queue is near full, or the kernel lacks memory for a moment.
    Full,
    /// A limit lets nothing through before this time.
    Paced(Instant),
    /// The collector takes nothing, for this reason.
    Down(String),
    /// The first exporter's datagrams cannot be sent now, for this reason. Those of others may be.
    Held(String),
    /// The kernel refused to send the first datagram, for this reason.
    Refused(String),
    /// The kernel has no buffer for the first datagram, or a filter below IP drops it.
    NoBuffer(String),
    /// The collector, or what it sees of the exporter, is another one than a moment ago: repeats may be due.
    Changed,
}

impl Destination {
    /// A destination at `address`, which is no IPv4 address in the form of an IPv6 one. It goes on with the counts of the one
    /// `before` it there, and with its sockets if they are as they are wanted.
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
                "the socket of the collector {address} cannot be watched, so that what comes while it \
                 is stopped, or is more than it can read, is lost: {error}"
            );
            None
        });
        let is_watched = watch.is_some();
        let catch_up_default = if is_watched { None } else { NonZeroU32::new(CATCH_UP_LIMIT) };
        let bucket = |limit: Limit| limit.map(Bucket::new);
        let state = if is_watched { CollectorState::Down } else { CollectorState::Unknown };
        let counts = before.map_or_else(Counts::default, |before| before.figures_now().1);
        let before = before.filter(|before| before.address == address);
        let same = before.filter(|before| before.terms.source == settings.source);
        let sources = same.map(|before| before.sources.clone());
        let last = same.and_then(|before| before.figures().last);
        let turn = Turn {
            gate: Gate::new(watch, last.and_then(|(_, socket)| socket)),
            reach: Reach::default(),
            refusals: Refusals::default(),
            limit: bucket(settings.rate_limit),
            catch_up_limit: bucket(settings.catch_up_limit.unwrap_or(catch_up_default)),
            trouble: Trouble::new(settings.when_down),
            generation: last.map_or_else(next_number, |(generation, _)| generation),
            changes: 0,
        };
        let new_sources = || {
            let sources = Sources::new(address, settings.source, !is_watched, sockets);
            Arc::new(Mutex::new(sources))
        };
        Self {
            address,
            terms: Terms::of(settings),
            sources: sources.unwrap_or_else(new_sources),
            turn: tokio::sync::Mutex::new(turn),
            waiting: tokio::sync::Mutex::default(),
            figures: Mutex::new(Figures { state, counts, held: None, last }),
        }
    }

    /// What a later run has to know to go on as this one.
    pub(super) fn passed_on(&self) -> PassedOn {
        let (generation, socket) = self.figures().last.unzip();
        let exporters = self.sources().seen().collect();
        PassedOn { generation: generation.unwrap_or(0), socket: socket.flatten(), exporters }
    }

    /// Goes on as an earlier run that passed this on. To be called before anything is sent.
    pub(super) fn go_on(&mut self, passed_on: &PassedOn) {
        for (sender, exporter, seen_as) in &passed_on.exporters {
            self.sources().remember(*sender, *exporter, *seen_as);
        }
        let Some(socket) = passed_on.socket else { return };
        let turn = self.turn.get_mut();
        turn.generation = passed_on.generation;
        turn.gate.expect(socket);
        self.figures().last = Some((passed_on.generation, Some(socket)));
    }

    /// The exporters whose datagrams went there, each with the number of its sender.
    pub(super) fn had(&self) -> HashSet<(u64, IpAddr)> {
        self.sources().had().map(|(sender, exporter)| (sender, exporter.ip())).collect()
    }

    /// Whether it is what `settings` ask for at `address`.
    pub(super) fn is(&self, address: SocketAddr, settings: &CollectorSettings) -> bool {
        self.address == address && self.terms == Terms::of(settings)
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Delivers datagrams from the front of `run`, or skips them. Says how many: at least one. Waits for that as long as it
    /// takes; may be dropped and called again.
    pub(super) async fn take(&self, run: &Run<'_>) -> Taken {
        let began = Instant::now();
        let mut waiting = None;
        loop {
            match self.attempt(run, began).await {
                Attempt::Done(taken) => return taken,
                Attempt::TryAgainAt(due) => {
                    // The collector may take other datagrams meanwhile.
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

    /// Tries once to deliver from the front of `run`, for a task that has tried since `began`.
    async fn attempt(&self, run: &Run<'_>, began: Instant) -> Attempt {
        let mut turn = self.turn.lock().await;
        let obstacle = match self.try_run(&mut turn, run) {
            Ok((count, recipient)) => return Attempt::Done(Taken { count, recipient: Some(recipient) }),
            Err(obstacle) => obstacle,
        };
        let obstacle = match self.judge(&mut turn, run, obstacle) {
            Ok(attempt) => return attempt,
            Err(obstacle) => obstacle,
        };
        self.note_obstacle(&mut turn, &obstacle, began);
        match obstacle {
            Obstacle::Full | Obstacle::NoBuffer(_) => Attempt::WaitForCollector(QUEUE_PAUSE),
            Obstacle::Paced(due) => Attempt::TryAgainAt(due),
            Obstacle::Changed => Attempt::TryAgainAt(Instant::now()),
            _ if self.terms.when_down == WhenDown::Skip => {
                let count = run.datagrams.len();
                self.count_skipped(u64::try_from(count).unwrap_or(u64::MAX));
                Attempt::Done(Taken { count, recipient: None })
            }
            Obstacle::Down(_) => Attempt::WaitForCollector(DOWN_PAUSE),
            Obstacle::Held(_) | Obstacle::Refused(_) => Attempt::TryAgainAt(Instant::now() + DOWN_PAUSE),
        }
    }

    /// Decides about a datagram, the first of `run`, that the kernel may never send. Returns an obstacle that persists.
    fn judge(&self, turn: &mut Turn, run: &Run<'_>, obstacle: Obstacle) -> Result<Attempt, Obstacle> {
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
                // Repeats may have been refused as well.
                run.learner.forget_progress(first, run.place);
                self.figures().counts.refused += 1;
                turn.trouble.refused(self.address, exporter, &reason);
                Ok(Attempt::Done(Taken { count: 1, recipient: None }))
            }
        }
    }

    /// Counts datagrams that it will not get.
    pub(super) fn count_skipped(&self, count: u64) {
        let counts = &mut self.figures().counts;
        // A sender chooses how many positions it skips.
        counts.skipped = counts.skipped.saturating_add(count);
    }

    /// Sends as many of the run as may go at once, and says how many, at least one, and to whom. Nothing is awaited here.
    fn try_run(&self, turn: &mut Turn, run: &Run<'_>) -> Result<(usize, Recipient), Obstacle> {
        let now = Instant::now();
        let Some(first) = run.datagrams.first() else { return Err(Obstacle::Changed) };
        let mut count = turn.admit(run.datagrams.len().min(RUN_MAX), run.is_late, now)?;
        if let Some(error) = self.sources().take_error(now) {
            turn.reach.failed(error.to_string(), now);
        }
        let leave = turn.reach.ask(first, now);
        match &leave {
            Leave::None(reason) => return Err(Obstacle::Down(reason.clone())),
            Leave::Arrived => {
                let recipient = self.recipient(turn, run)?;
                self.note_sent(turn, &[first.payload], run.is_late, now);
                return Ok((1, recipient));
            }
            Leave::Probe => count = 1,
            Leave::Free => {}
        }
        if !turn.gate.is_present().map_err(|error| Obstacle::Down(error.to_string()))? {
            return Err(Obstacle::absent());
        }
        let recipient = self.recipient(turn, run)?;
        let run_of = |count| Run { datagrams: run.datagrams.get(..count).unwrap_or_default(), ..*run };
        count = self.repeat(turn, &run_of(count), &recipient)?;
        // Repeats may have taken up what the limits let through.
        count = turn.admit(count, run.is_late, now)?;
        let payloads: Vec<&[u8]> =
            run.datagrams.iter().take(count).map(|datagram| datagram.payload).collect();
        let sent = self.send(turn, run, &recipient, &payloads)?;
        if leave == Leave::Probe {
            // One that is skipped counts as that, even if it arrives.
            let waits = self.terms.when_down == WhenDown::Hold;
            return Err(Obstacle::Down(turn.reach.probed(first, waits, now)));
        }
        self.note_sent(turn, payloads.get(..sent).unwrap_or_default(), run.is_late, now);
        Ok((sent, recipient))
    }

    /// Who would get the datagrams of `run` now.
    fn recipient(&self, turn: &mut Turn, run: &Run<'_>) -> Result<Recipient, Obstacle> {
        let exporter = run.exporter().ok_or(Obstacle::Changed)?;
        let mut sources = self.sources();
        let leaving = sources.socket(run.learner.number(), exporter).map_err(|error| unopened(&error))?;
        let (socket, has_moved) = (leaving.seen.number, leaving.has_moved);
        Ok(Recipient { place: run.place, generation: turn.generation(), socket, has_moved })
    }

    /// Sends what the recipient needs to decode the first datagram of `run`, if it does not have it, and says how many of the
    /// run it can decode then: at least one.
    fn repeat(&self, turn: &mut Turn, run: &Run<'_>, recipient: &Recipient) -> Result<usize, Obstacle> {
        if !self.terms.repeat_templates {
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

    /// Sends those of the `repeats` that the recipient does not have.
    fn send_repeats(
        &self,
        turn: &mut Turn,
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
                // The datagram itself shows whether that concerns all of the exporter's.
                Err(Obstacle::Refused(_)) => {}
                Err(obstacle) => return Err(obstacle),
            }
            run.learner.note_repeated(repeats, count, recipient, now.into_std());
        }
        let all = repeats.payloads.len();
        run.learner.note_repeated(repeats, all, recipient, Instant::now().into_std());
        Ok(())
    }

    /// Sends as many of the payloads as may go at once, from the socket of the run's exporter, and says how many: at least
    /// one. Sends nothing if somebody else than `recipient` would get them.
    fn send(
        &self,
        turn: &mut Turn,
        run: &Run<'_>,
        recipient: &Recipient,
        payloads: &[&[u8]],
    ) -> Result<usize, Obstacle> {
        let failing = |error: io::Error| Obstacle::Down(error.to_string());
        let exporter = run.exporter().ok_or(Obstacle::Changed)?;
        let count = match turn.gate.admit(payloads).map_err(failing)? {
            Admission::Go(count) => count,
            Admission::Full => return Err(Obstacle::Full),
            Admission::Absent => return Err(Obstacle::absent()),
        };
        let payloads = payloads.get(..count).unwrap_or_default();
        let mut sources = self.sources();
        let Leaving { socket, segments, seen, .. } =
            sources.socket(run.learner.number(), exporter).map_err(|error| unopened(&error))?;
        if turn.generation() != recipient.generation || seen.number != recipient.socket {
            return Err(Obstacle::Changed);
        }
        turn.gate.sending();
        let mut attempt = || socket::send(socket, payloads, segments);
        let is_watching = turn.gate.is_watching();
        let outcome = attempt()
            .or_else(|error| if may_be_left_behind(&error, is_watching) { attempt() } else { Err(error) });
        let handed = match outcome {
            Ok(handed) => handed,
            Err(error) => return Err(obstacle(turn, &error)),
        };
        let Handed { asked, taken, .. } = handed;
        let sent = if is_watching {
            taken.saturating_sub(self.refused(&mut turn.gate, socket, handed))
        } else {
            // Something stopped the run, and if ICMP did, nothing else tells.
            let details = if taken < asked { socket::take_details(socket) } else { Vec::new() };
            if let Some(error) = details.iter().rfind(|error| is_unreachable(error)) {
                turn.reach.failed(error.to_string(), Instant::now());
            }
            taken
        };
        if sent == 0 {
            return Err(Obstacle::absent());
        }
        turn.gate.sent(payloads.get(..sent).unwrap_or_default());
        turn.refusals.note_sent(exporter.ip(), Instant::now());
        Ok(sent)
    }

    /// How many of the datagrams that the kernel took found no socket, as a watched collector's has gone since the last
    /// look.
    ///
    /// On the machine itself a refusal comes back to the own address within the call that sends. It stops a run behind the
    /// datagram that was refused; behind the last one of a run, or behind those that went as one, it is left on the own socket.
    /// To the address of an exporter no refusal comes back: there the collector's socket is looked at again, and if it has gone,
    /// the whole run counts as refused.
    fn refused(&self, gate: &mut Gate, socket: &socket2::Socket, handed: Handed) -> usize {
        let Handed { asked, taken, as_one } = handed;
        // What cannot be told counts as delivered: sending it again might repeat it.
        let has_gone = |gate: &mut Gate| gate.is_same_socket().is_ok_and(|same| !same);
        let refused = if self.terms.source == SourceAddress::Exporter {
            if has_gone(gate) { taken } else { 0 }
        } else if taken < asked {
            usize::from(has_gone(gate))
        } else if socket.take_error().is_ok_and(|error| error.is_some()) {
            if as_one { taken } else { 1 }
        } else {
            0
        };
        if refused > 0 {
            gate.forget();
        }
        refused
    }

    fn note_sent(&self, turn: &mut Turn, sent: &[&[u8]], is_late: bool, now: Instant) {
        turn.charge(sent.len(), is_late, now);
        let is_down = turn.reach.is_down();
        if !is_down {
            turn.trouble.over(self.address);
        }
        let bytes: usize = sent.iter().map(|payload| payload.len()).sum();
        let mut figures = self.figures();
        figures.held = None;
        figures.last = Some((turn.generation(), turn.gate.known()));
        self.take_losses(turn, &mut figures);
        figures.state = if turn.gate.is_watching() {
            CollectorState::Up
        } else if is_down {
            CollectorState::Down
        } else {
            CollectorState::Unknown
        };
        figures.counts.datagrams += u64::try_from(sent.len()).unwrap_or_default();
        figures.counts.bytes += u64::try_from(bytes).unwrap_or_default();
    }

    fn note_obstacle(&self, turn: &mut Turn, obstacle: &Obstacle, began: Instant) {
        let mut figures = self.figures();
        self.take_losses(turn, &mut figures);
        match obstacle {
            Obstacle::Full | Obstacle::NoBuffer(_) => figures.waits(began),
            Obstacle::Paced(_) | Obstacle::Changed => {}
            Obstacle::Down(reason) | Obstacle::Held(reason) | Obstacle::Refused(reason) => {
                if self.terms.when_down == WhenDown::Hold {
                    figures.waits(began);
                }
                figures.state = CollectorState::Down;
                turn.trouble.persists(self.address, reason);
            }
        }
    }

    /// What is known of it, its counts, and for how many whole seconds datagrams have been waiting for it. Where no task is
    /// delivering, the collector is looked at anew.
    pub(super) fn figures_now(&self) -> (CollectorState, Counts, u64) {
        if let Ok(mut turn) = self.turn.try_lock() {
            self.look_while_idle(&mut turn);
        }
        let figures = self.figures();
        (figures.state, figures.counts, figures.held.map_or(0, |(since, _)| since.elapsed().as_secs()))
    }

    /// Closes some of its idle sockets, and says how many are left.
    pub(super) fn give_up_sockets(&self) -> usize {
        self.sources().give_up_some()
    }

    /// Exporters that the collector sees under another address, and which.
    pub(super) fn seen_as(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.sources().seen_as()
    }

    fn look_while_idle(&self, turn: &mut Turn) {
        let now = Instant::now();
        let seen = turn.gate.is_watching().then(|| turn.gate.look());
        if let Some(error) = self.sources().take_error(now) {
            turn.reach.failed(error.to_string(), now);
        }
        let mut figures = self.figures();
        figures.held = figures.held.filter(|(_, tried)| now.duration_since(*tried) < WAITING);
        self.take_losses(turn, &mut figures);
        figures.state = match seen {
            _ if turn.refusals.is_holding() => CollectorState::Down,
            Some(Ok(Some(_))) => CollectorState::Up,
            Some(_) => CollectorState::Down,
            None if turn.reach.is_down() => CollectorState::Down,
            None => figures.state,
        };
    }

    /// Counts, and tells, what was lost in the collector's own socket.
    fn take_losses(&self, turn: &mut Turn, figures: &mut Figures) {
        let (dropped, unread) = (turn.gate.take_drops(), turn.gate.take_lost());
        figures.counts.socket_drops += dropped;
        figures.counts.unread += unread;
        turn.trouble.lost(self.address, dropped, unread);
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Terms {
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
    /// Somebody who has waited since `began` still does.
    fn waits(&mut self, began: Instant) {
        self.held = Some((self.held.map_or(began, |(since, _)| since), Instant::now()));
    }
}

impl Turn {
    /// The limits that hold now.
    fn buckets(&mut self, is_late: bool) -> impl Iterator<Item = &mut Bucket> {
        self.limit.iter_mut().chain(self.catch_up_limit.iter_mut().filter(move |_| is_late))
    }

    /// How many of `wanted` datagrams, at least one, the limits let through now.
    fn admit(&mut self, wanted: usize, is_late: bool, now: Instant) -> Result<usize, Obstacle> {
        self.buckets(is_late)
            .try_fold(wanted, |count, bucket| bucket.admit(count, now))
            .map_err(Obstacle::Paced)
    }

    /// Notes for the limits that `count` datagrams went.
    fn charge(&mut self, count: usize, is_late: bool, now: Instant) {
        for bucket in self.buckets(is_late) {
            bucket.take(count, now);
        }
    }

    /// Another number than before if the collector was found again, or something did not arrive there: it may have lost what
    /// it knew.
    fn generation(&mut self) -> u64 {
        let changes = self.gate.found_again() + self.reach.failures();
        if changes != self.changes {
            self.changes = changes;
            self.generation = next_number();
        }
        self.generation
    }
}

impl Obstacle {
    fn absent() -> Self {
        Self::Down("nothing listens there".to_owned())
    }
}

/// Whether the error tells that there is no room for a moment.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

/// Whether an earlier datagram may have left the error behind: it is told by the next call, which sends nothing, and is over
/// then. Where nothing but ICMP tells whether the collector is there, what says that it is not stands.
fn may_be_left_behind(error: &io::Error, is_watching: bool) -> bool {
    !is_full(error) && (is_watching || !is_unreachable(error))
}

/// Why a datagram could not be sent, of the error that tells it.
fn obstacle(turn: &mut Turn, error: &io::Error) -> Obstacle {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Obstacle::Full;
    }
    if is_full(error) {
        return Obstacle::NoBuffer(error.to_string());
    }
    if !concerns_collector(error) {
        return Obstacle::Refused(error.to_string());
    }
    if !turn.gate.is_watching() && is_unreachable(error) {
        turn.reach.failed(error.to_string(), Instant::now());
    }
    Obstacle::Down(error.to_string())
}

/// Why there is no socket for an exporter.
fn unopened(error: &io::Error) -> Obstacle {
    if concerns_collector(error) {
        Obstacle::Down(error.to_string())
    } else {
        Obstacle::Held(error.to_string())
    }
}

/// Whether the error means that no exporter's datagrams reach the collector.
fn concerns_collector(error: &io::Error) -> bool {
    is_unreachable(error) || error.raw_os_error() == Some(libc::ENETDOWN)
}

#[cfg(test)]
mod tests;
