//! One UDP address that datagrams go to, byte for byte.
//!
//! A datagram counts as delivered once the kernel took it; at a collector on this machine, once it went to a socket that
//! was there and had room; at one elsewhere, unless the network has said that nothing arrives. Whatever hinders, the
//! datagram is tried again or, if that is wanted, counted and passed over.

use core::net::SocketAddr;
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{CollectorSettings, Limit, Source, WhenDown};
use crate::datagram::Datagram;
use crate::limits::{CATCH_UP_LIMIT, PRIMED_MAX};
use crate::netflow::{ExporterKey, Header, changes_templates};
use crate::receiver::output::gate::{Admission, Gate, RUN_MAX};
use crate::receiver::output::pace::Bucket;
use crate::receiver::output::primed::Primed;
use crate::receiver::output::reach::{Leave, Reach};
use crate::receiver::output::socket;
use crate::receiver::output::sources::{Sources, is_unreachable};
use crate::receiver::output::trouble::Trouble;
use crate::receiver::templates::Templates;
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
    /// Datagrams with templates, repeated for it.
    pub(crate) templates: u64,
    /// Datagrams that the kernel dropped at the collector's socket while they were sent.
    pub(crate) socket_drops: u64,
    /// Datagrams, at the most, that lay unread in the collector's socket when it went away.
    pub(crate) unread: u64,
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// So many from the front of a run are done with.
    pub(super) count: usize,
    /// Whether they were handed over, not passed over.
    pub(super) is_sent: bool,
}

/// A UDP address.
#[derive(Debug)]
pub(super) struct Destination {
    address: SocketAddr,
    terms: Terms,
    templates: Option<Arc<Templates>>,
    sources: Mutex<Sources>,
    /// Held for one run of datagrams: tasks take turns.
    turn: tokio::sync::Mutex<Turn>,
    figures: Mutex<Figures>,
}

/// What of a collector's settings a destination has for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    source: Source,
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
    limit: Option<Bucket>,
    catch_up_limit: Option<Bucket>,
    trouble: Trouble,
    /// Those whose templates the collector has, as it is now.
    primed: Primed,
}

#[derive(Debug)]
struct Figures {
    state: CollectorState,
    counts: Counts,
    /// Since when nothing could be sent to the collector, whichever tasks tried, and when one tried last; `None` while
    /// nobody waits.
    held: Option<(Instant, Instant)>,
    /// Those that changed their templates in datagrams that the collector did not get.
    missed: HashSet<ExporterKey>,
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
}

impl Destination {
    /// A destination at `address`, which is no IPv4 address in the form of an IPv6 one, with the counts of one before it.
    pub(super) fn open(
        address: SocketAddr,
        settings: &CollectorSettings,
        sockets: NonZeroUsize,
        templates: Option<Arc<Templates>>,
        counts: Counts,
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
        let turn = Turn {
            gate: Gate::new(watch),
            reach: Reach::default(),
            limit: bucket(settings.rate_limit),
            catch_up_limit: bucket(settings.catch_up_limit.unwrap_or(catch_up_default)),
            trouble: Trouble::new(settings.when_down),
            primed: Primed::default(),
        };
        let state = if is_watched { CollectorState::Down } else { CollectorState::Unknown };
        Self {
            address,
            terms: Terms::of(settings),
            templates,
            sources: Mutex::new(Sources::new(address, settings.source, !is_watched, sockets)),
            turn: tokio::sync::Mutex::new(turn),
            figures: Mutex::new(Figures { state, counts, held: None, missed: HashSet::new() }),
        }
    }

    /// Whether it is what `settings` ask for at `address`.
    pub(super) fn is(&self, address: SocketAddr, settings: &CollectorSettings) -> bool {
        self.address == address && self.terms == Terms::of(settings)
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Delivers datagrams of one exporter from the front of `run`, which is not empty, or passes them over. Says how many:
    /// at least one. Waits for that as long as it takes; may be dropped and called again.
    pub(super) async fn take(&self, run: &[Datagram<'_>], is_late: bool) -> Taken {
        let mut turn = self.turn.lock().await;
        let began = Instant::now();
        loop {
            let obstacle = match self.try_run(&mut turn, run, is_late) {
                Ok(count) => return Taken { count, is_sent: true },
                Err(obstacle) => obstacle,
            };
            self.note_obstacle(&mut turn, &obstacle, began);
            match obstacle {
                Obstacle::Full => sleep(QUEUE_PAUSE).await,
                Obstacle::Paced(due) => {
                    // What is late waits for longer than what is not.
                    drop(turn);
                    sleep_until(due).await;
                    turn = self.turn.lock().await;
                }
                Obstacle::Down(_) if self.terms.when_down == WhenDown::Skip => {
                    self.pass_over(run);
                    return Taken { count: run.len(), is_sent: false };
                }
                Obstacle::Down(_) => sleep(DOWN_PAUSE).await,
            }
        }
    }

    /// Counts datagrams that it will not get.
    pub(super) fn pass_over(&self, datagrams: &[Datagram<'_>]) {
        for datagram in datagrams {
            self.misses(datagram);
        }
        self.count_skipped(u64::try_from(datagrams.len()).unwrap_or(u64::MAX));
    }

    /// Counts datagrams that it will not get, whatever they were.
    pub(super) fn count_skipped(&self, count: u64) {
        self.figures().counts.skipped += count;
    }

    /// Notes that the collector will not get `datagram`: what that defines is to be told to it before it has to decode more.
    pub(super) fn misses(&self, datagram: &Datagram<'_>) {
        if self.templates.is_none() || !changes_templates(datagram.payload) {
            return;
        }
        let mut figures = self.figures();
        if figures.missed.len() < PRIMED_MAX {
            figures.missed.extend(templates_key(datagram));
        }
    }

    /// Sends as many of the run as may go at once, and says how many: at least one. Nothing is awaited here.
    fn try_run(&self, turn: &mut Turn, run: &[Datagram<'_>], is_late: bool) -> Result<usize, Obstacle> {
        let now = Instant::now();
        let Some(first) = run.first() else { return Ok(0) };
        let mut count = turn.admit(run.len().min(RUN_MAX), is_late, now)?;
        if let Some(error) = self.sources().take_error(now) {
            turn.reach.failed(error.to_string(), now);
        }
        let leave = turn.reach.ask(first, now);
        match &leave {
            Leave::None(reason) => return Err(Obstacle::Down(reason.clone())),
            Leave::Arrived => {
                self.note_sent(turn, &[first.payload], is_late, now);
                return Ok(1);
            }
            Leave::Probe => count = 1,
            Leave::Free => {}
        }
        if !turn.gate.is_present().map_err(|error| Obstacle::Down(error.to_string()))? {
            return Err(Obstacle::absent());
        }
        count = self.prime(turn, run.get(..count).unwrap_or_default(), is_late)?;
        // What was told may have taken up what the limits let through.
        count = turn.admit(count, is_late, now)?;
        let payloads: Vec<&[u8]> = run.iter().take(count).map(|datagram| datagram.payload).collect();
        let sent = self.send(turn, first.exporter, &payloads)?;
        if leave == Leave::Probe {
            // One that is passed over counts as that, even if it arrives.
            let waits = self.terms.when_down == WhenDown::Hold;
            return Err(Obstacle::Down(turn.reach.probed(first, waits, now)));
        }
        self.note_sent(turn, payloads.get(..sent).unwrap_or_default(), is_late, now);
        Ok(sent)
    }

    /// Sends the templates that the collector needs for the first datagram of `run`, if it does not have them, and says how
    /// many of the run it can decode then: at least one.
    fn prime(&self, turn: &mut Turn, run: &[Datagram<'_>], is_late: bool) -> Result<usize, Obstacle> {
        let Some(templates) = self.templates.as_ref() else { return Ok(run.len()) };
        let missed = core::mem::take(&mut self.figures().missed);
        turn.primed.keep_up(turn.changes(), &missed);
        for (place, datagram) in run.iter().enumerate() {
            let Some(key) = templates_key(datagram) else { continue };
            let is_known = self.sources().is_seen_as_before(datagram.exporter);
            if turn.primed.has(&key) && is_known {
                continue;
            }
            if place > 0 {
                return Ok(place);
            }
            if !is_known {
                turn.primed.forget(&key);
            }
            self.tell(
                turn,
                datagram.exporter,
                key,
                &templates.before(datagram, self.terms.when_down),
                is_late,
            )?;
        }
        Ok(run.len())
    }

    /// Sends those of the `repeats` of an exporter's templates that the collector was not told already.
    fn tell(
        &self,
        turn: &mut Turn,
        exporter: SocketAddr,
        key: ExporterKey,
        repeats: &[Vec<u8>],
        is_late: bool,
    ) -> Result<(), Obstacle> {
        let told = turn.primed.count(&key, repeats);
        for (count, payload) in (1..).zip(repeats).skip(told) {
            let now = Instant::now();
            turn.admit(1, is_late, now)?;
            self.send(turn, exporter, &[payload])?;
            turn.charge(1, is_late, now);
            self.figures().counts.templates += 1;
            // The look before the first one may have been the one that found the collector's socket.
            turn.primed.note_some(key, count, payload, turn.changes());
        }
        turn.primed.note_all(key, turn.changes());
        Ok(())
    }

    /// Sends as many of the payloads as may go at once, from the socket of `exporter`, and says how many: at least one.
    fn send(&self, turn: &mut Turn, exporter: SocketAddr, payloads: &[&[u8]]) -> Result<usize, Obstacle> {
        let failing = |error: io::Error| Obstacle::Down(error.to_string());
        let count = match turn.gate.admit(payloads).map_err(failing)? {
            Admission::Go(count) => count,
            Admission::Full => return Err(Obstacle::Full),
            Admission::Absent => return Err(Obstacle::absent()),
        };
        let payloads = payloads.get(..count).unwrap_or_default();
        let mut sources = self.sources();
        let socket = &sources.socket(exporter).map_err(failing)?.socket;
        turn.gate.sending();
        let attempt = || socket::send(socket, payloads);
        let is_watching = turn.gate.is_watching();
        let outcome = attempt()
            .or_else(|error| if may_be_left_behind(&error, is_watching) { attempt() } else { Err(error) });
        let taken = match outcome {
            Ok(taken) => taken,
            Err(error) => return Err(obstacle(turn, &error)),
        };
        let sent = if turn.gate.is_watching() {
            taken.saturating_sub(self.refused(&mut turn.gate, socket, taken, count))
        } else {
            // Something stopped the run, and if ICMP did, nothing else tells.
            let details = if taken < count { socket::take_details(socket) } else { Vec::new() };
            if let Some(error) = details.iter().rfind(|error| is_unreachable(error)) {
                turn.reach.failed(error.to_string(), Instant::now());
            }
            taken
        };
        if sent == 0 {
            return Err(Obstacle::absent());
        }
        turn.gate.sent(payloads.get(..sent).unwrap_or_default());
        Ok(sent)
    }

    /// How many of the datagrams that the kernel took found no socket, as a watched collector's has gone since the last
    /// look.
    ///
    /// On the machine itself a refusal comes back to the own address within the call that sends. It stops a run behind the
    /// datagram that was refused; behind the last one of a run it is left on the own socket. To the address of an exporter
    /// no refusal comes back: there the collector's socket is looked at again, and if it has gone, the whole run counts as
    /// refused.
    fn refused(&self, gate: &mut Gate, socket: &socket2::Socket, taken: usize, count: usize) -> usize {
        // What cannot be told counts as delivered: sending it again might repeat it.
        let has_gone = |gate: &mut Gate| gate.is_same_socket().is_ok_and(|same| !same);
        let refused = if self.terms.source == Source::Exporter {
            if has_gone(gate) { taken } else { 0 }
        } else if taken < count {
            usize::from(has_gone(gate))
        } else {
            usize::from(socket.take_error().is_ok_and(|error| error.is_some()))
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
            Obstacle::Full => figures.waits(began),
            Obstacle::Paced(_) => {}
            Obstacle::Down(reason) => {
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

    /// How often the collector was found anew, or something did not arrive there: it may have lost what it knew.
    fn changes(&self) -> u64 {
        self.gate.found_anew() + self.reach.failures()
    }
}

impl Obstacle {
    fn absent() -> Self {
        Self::Down("nothing listens there".to_owned())
    }
}

/// What tells the templates of a datagram's exporter from others; `None` if it needs none.
fn templates_key(datagram: &Datagram<'_>) -> Option<ExporterKey> {
    let header = Header::parse(datagram.payload).filter(|header| header.version > 5)?;
    Some(ExporterKey::new(datagram.exporter, &header))
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
    if is_full(error) {
        return Obstacle::Full;
    }
    if !turn.gate.is_watching() && is_unreachable(error) {
        turn.reach.failed(error.to_string(), Instant::now());
    }
    Obstacle::Down(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::Timestamp;
    use crate::receiver::templates::netflow_9;

    fn datagrams<'a>(payloads: &[&'a [u8]]) -> Vec<Datagram<'a>> {
        let address = "192.0.2.1:2055".parse().unwrap();
        let datagram =
            |payload| Datagram { exporter: address, local: address, arrival: Timestamp(0), payload };
        payloads.iter().copied().map(datagram).collect()
    }

    fn destination(address: SocketAddr, settings: &CollectorSettings) -> Destination {
        let sockets = NonZeroUsize::new(8).unwrap();
        Destination::open(address, settings, sockets, None, Counts::default())
    }

    /// How far from its schedule what a limit paces may be.
    const BUCKET_TOLERANCE: Duration = Duration::from_millis(50);

    /// A destination with room for two exporters' sockets that knows what `datagram` defines.
    fn told_templates(address: SocketAddr, datagram: &Datagram<'_>) -> Destination {
        let (settings, sockets) = (CollectorSettings::at(&address), NonZeroUsize::new(2).unwrap());
        let templates = Some(Arc::new(Templates::of(datagram)));
        Destination::open(address, &settings, sockets, templates, Counts::default())
    }

    fn holding(address: SocketAddr) -> Destination {
        destination(address, &CollectorSettings::at(&address))
    }

    /// Delivers the datagrams from number `done` on, which counts up with each one that is delivered.
    async fn deliver(destination: &Destination, datagrams: &[Datagram<'_>], done: &mut usize) {
        while let Some(waiting) = datagrams.get(*done..).filter(|waiting| !waiting.is_empty()) {
            *done += destination.take(waiting, false).await.count;
        }
    }

    fn state(destination: &Destination) -> CollectorState {
        destination.figures_now().0
    }

    fn received(listener: &std::net::UdpSocket) -> Vec<Vec<u8>> {
        listener.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 65_536];
        std::iter::from_fn(|| listener.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
            .collect()
    }

    /// Time stands still, so that the last look at the collector's socket counts although the socket has gone.
    #[tokio::test(start_paused = true)]
    async fn datagrams_that_find_the_collectors_socket_just_gone_are_held() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            for waiting in 1..4 {
                let listener = std::net::UdpSocket::bind(listen).unwrap();
                let address = listener.local_addr().unwrap();
                let output = holding(address);
                assert_eq!(state(&output), CollectorState::Up);
                drop(listener);

                let payloads = [b"one".as_slice(), b"", b"three"];
                let datagrams = datagrams(&payloads[..waiting]);
                let mut done = 0;
                let held =
                    tokio::time::timeout(Duration::from_secs(5), deliver(&output, &datagrams, &mut done));
                held.await.unwrap_err();
                assert_eq!(done, 0);
                assert_eq!(state(&output), CollectorState::Down);

                let listener = std::net::UdpSocket::bind(address).unwrap();
                deliver(&output, &datagrams, &mut done).await;
                assert_eq!(received(&listener), payloads[..waiting]);
                let (state, counts, _) = output.figures_now();
                assert_eq!((state, counts.unread), (CollectorState::Up, 0));
                assert_eq!(counts.datagrams, u64::try_from(waiting).unwrap());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn datagrams_are_held_for_as_long_as_nothing_listens() {
        let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let output = holding(address);
        let datagrams = datagrams(&[b"x"]);
        let mut done = 0;
        {
            let mut delivery = Box::pin(deliver(&output, &datagrams, &mut done));
            tokio::time::timeout(Duration::from_secs(60), &mut delivery).await.unwrap_err();
            let (state, _, held_s) = output.figures_now();
            assert_eq!((state, held_s), (CollectorState::Down, 60));
        }
        tokio::time::advance(WAITING).await;
        let (state, _, held_s) = output.figures_now();
        assert_eq!((state, held_s), (CollectorState::Down, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_left_and_taken_up_again_does_not_begin_the_time_of_holding_anew() {
        let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let output = holding(address);
        let datagrams = datagrams(&[b"x"]);
        let mut done = 0;
        for round in 1..12 {
            let delivery = deliver(&output, &datagrams, &mut done);
            tokio::time::timeout(Duration::from_secs(5), delivery).await.unwrap_err();
            assert_eq!(output.figures_now().2, 5 * round, "asked while nobody tries");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_of_a_collector_that_does_not_read_stays_half_empty() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let output = holding(listener.local_addr().unwrap());
        let payloads = [[7; 1464].as_slice(); 1000];
        let datagrams = datagrams(&payloads);
        let mut done = 0;
        let held = tokio::time::timeout(Duration::from_secs(60), deliver(&output, &datagrams, &mut done));
        held.await.unwrap_err();
        let queue = output.turn.lock().await.gate.look().unwrap().unwrap();
        assert!(queue.queued < queue.limit / 2, "{queue:?}");
        assert!(queue.queued > queue.limit / 3, "{queue:?}");
        assert_eq!((queue.drops, state(&output)), (0, CollectorState::Up));
        assert_eq!(received(&listener), payloads[..done]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_cannot_be_reached_is_down_and_the_datagram_is_held() {
        // The address of all is refused by the kernel (EACCES) whatever the routes are.
        let output = holding("255.255.255.255:9".parse().unwrap());
        assert_eq!(state(&output), CollectorState::Unknown);
        let mut done = 0;
        let held = tokio::time::timeout(Duration::from_secs(5), async {
            deliver(&output, &datagrams(&[b"x"]), &mut done).await;
        });
        held.await.unwrap_err();
        assert_eq!((done, state(&output)), (0, CollectorState::Down));
    }

    #[test]
    fn errors_that_say_nothing_of_the_collector_are_those_of_earlier_datagrams() {
        for (errno, expected) in [
            (libc::EMSGSIZE, [true, true]),
            (libc::ECONNREFUSED, [true, false]),
            (libc::EHOSTUNREACH, [true, false]),
            (libc::EAGAIN, [false, false]),
            (libc::ENOBUFS, [false, false]),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let found = [true, false].map(|is_watching| may_be_left_behind(&error, is_watching));
            assert_eq!(found, expected, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn datagrams_for_a_collector_that_is_set_to_skip_are_passed_over_while_nothing_listens() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let settings = CollectorSettings { when_down: WhenDown::Skip, ..CollectorSettings::at(&address) };
        let output = destination(address, &settings);
        let datagrams = datagrams(&[b"one", b"two", b"three"]);
        let began = Instant::now();
        let mut done = 0;
        deliver(&output, &datagrams, &mut done).await;
        let (state, counts, held_s) = output.figures_now();
        assert_eq!((state, counts.skipped, counts.datagrams, held_s), (CollectorState::Down, 3, 0, 0));
        let listener = std::net::UdpSocket::bind(address).unwrap();
        deliver(&output, &datagrams, &mut 1).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(received(&listener), [b"two".as_slice(), b"three"]);
        assert_eq!(output.figures_now().1.skipped, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_collector_had_not_read_when_it_went_is_counted_and_what_it_had_read_is_not() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let output = holding(listener.local_addr().unwrap());
        let payloads = [[7; 1464].as_slice(); 30];
        deliver(&output, &datagrams(&payloads[..20]), &mut 0).await;
        assert_eq!(received(&listener).len(), 20);
        assert_eq!(state(&output), CollectorState::Up);
        deliver(&output, &datagrams(&payloads[..10]), &mut 0).await;
        drop(listener);
        let (state, counts, _) = output.figures_now();
        assert_eq!((state, counts.unread), (CollectorState::Down, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn templates_are_told_first_and_again_after_a_datagram_with_some_was_missed() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (defining, data) = (netflow_9(true), netflow_9(false));
        let defines = &datagrams(&[&defining])[0];
        let output = told_templates(listener.local_addr().unwrap(), defines);
        let told =
            output.templates.as_ref().unwrap().before(&datagrams(&[&data])[0], WhenDown::Hold).remove(0);
        for (missed, expected) in [
            (None, vec![&told, &data]),
            (None, vec![&data]),
            (Some(&data), vec![&data]),
            (Some(&defining), vec![&told, &data]),
        ] {
            let missing: Vec<_> = missed.iter().map(|payload| payload.as_slice()).collect();
            output.pass_over(&datagrams(&missing));
            deliver(&output, &datagrams(&[&data]), &mut 0).await;
            assert_eq!(received(&listener).iter().collect::<Vec<_>>(), expected, "{missed:?}");
        }
        let (_, counts, _) = output.figures_now();
        assert_eq!((counts.templates, counts.skipped), (2, 2));
    }

    /// A NetFlow v9 datagram, of the same source as `netflow_9`, with templates that it takes ten datagrams to repeat.
    fn many_templates() -> Vec<u8> {
        let mut payload = netflow_9(true)[..20].to_vec();
        payload.extend([0, 0]);
        payload.extend((4 + 10 * 1204u16).to_be_bytes());
        for id in 256..266u16 {
            payload.extend(id.to_be_bytes());
            payload.extend(300u16.to_be_bytes());
            payload.extend([0, 1, 0, 4].repeat(300));
        }
        payload
    }

    /// Goes on with a delivery for a while, and leaves it then if it is not over.
    async fn deliver_for(time: Duration, destination: &Destination, datagrams: &[Datagram<'_>]) {
        drop(tokio::time::timeout(time, deliver(destination, datagrams, &mut 0)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn telling_templates_goes_on_where_a_full_queue_stopped_it() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&listener).set_recv_buffer_size(1).unwrap();
        let data = netflow_9(false);
        let data = &datagrams(&[&data])[0];
        let output = told_templates(listener.local_addr().unwrap(), &datagrams(&[&many_templates()])[0]);
        let mut expected = output.templates.as_ref().unwrap().before(data, WhenDown::Hold);
        expected.push(data.payload.to_vec());
        assert_eq!(expected.len(), 11);
        for payload in &expected {
            deliver_for(QUEUE_PAUSE * 3, &output, &[*data]).await;
            assert_eq!(received(&listener), [payload.as_slice()]);
        }
        assert_eq!(output.figures_now().1.templates, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn templates_that_are_told_count_for_the_limits() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let settings =
            CollectorSettings { rate_limit: NonZeroU32::new(10), ..CollectorSettings::at(&address) };
        let templates = Some(Arc::new(Templates::of(&datagrams(&[&many_templates()])[0])));
        let sockets = NonZeroUsize::new(2).unwrap();
        let output = Destination::open(address, &settings, sockets, templates, Counts::default());
        let (began, data) = (Instant::now(), netflow_9(false));
        deliver(&output, &datagrams(&[&data]), &mut 0).await;
        assert_eq!(received(&listener).len(), 11);
        assert!(began.elapsed().abs_diff(Duration::from_secs(1)) < BUCKET_TOLERANCE, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn each_probe_comes_behind_its_templates_and_what_follows_the_return_does_not() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (defining, data) = (netflow_9(true), netflow_9(false));
        let output = told_templates(listener.local_addr().unwrap(), &datagrams(&[&defining])[0]);
        let waiting = datagrams(&[&data]);
        let told = output.templates.as_ref().unwrap().before(&waiting[0], WhenDown::Hold).remove(0);
        let both = [told, data.clone()];
        deliver(&output, &waiting, &mut 0).await;
        assert_eq!(received(&listener), both);
        for _ in 0..3 {
            output.turn.lock().await.reach.failed("refused".to_owned(), Instant::now());
            deliver_for(Duration::from_secs(2), &output, &waiting).await;
            assert_eq!(received(&listener), both, "the probe");
        }
        deliver(&output, &waiting, &mut 0).await;
        assert!(received(&listener).is_empty(), "the probe has arrived");
        deliver(&output, &waiting, &mut 0).await;
        assert_eq!(received(&listener), [data.as_slice()]);
    }

    #[tokio::test(start_paused = true)]
    async fn templates_are_told_again_from_another_port() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (defining, data) = (netflow_9(true), netflow_9(false));
        let output = told_templates(listener.local_addr().unwrap(), &datagrams(&[&defining])[0]);
        let payloads = [data.as_slice()];
        for (others, expected) in [(0, 2), (1, 1), (2, 2)] {
            for other in 0..others {
                let exporter = format!("192.0.2.7:{}", 1 + other).parse().unwrap();
                deliver(&output, &[Datagram { exporter, ..datagrams(&[b"x"])[0] }], &mut 0).await;
            }
            received(&listener);
            deliver(&output, &datagrams(&payloads), &mut 0).await;
            assert_eq!(received(&listener).len(), expected, "after {others} other exporters");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_limit_paces_and_one_for_catching_up_holds_for_late_datagrams_only() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let limit = NonZeroU32::new;
        let settings = CollectorSettings {
            rate_limit: limit(1000),
            catch_up_limit: Some(limit(100)),
            ..CollectorSettings::at(&address)
        };
        let payloads = [b"x".as_slice(); 100];
        for (is_late, expected) in [(false, 100), (true, 1000)] {
            let output = destination(address, &settings);
            let began = Instant::now();
            let (datagrams, mut done) = (datagrams(&payloads), 0);
            while done < datagrams.len() {
                done += output.take(&datagrams[done..], is_late).await.count;
            }
            let expected = Duration::from_millis(expected);
            assert!(began.elapsed().abs_diff(expected) <= expected / 8, "{:?}", began.elapsed());
            assert_eq!(received(&listener).len(), 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn late_datagrams_that_wait_for_their_limit_do_not_hold_up_others() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let settings =
            CollectorSettings { catch_up_limit: Some(NonZeroU32::new(1)), ..CollectorSettings::at(&address) };
        let output = destination(address, &settings);
        let (late, live) = (datagrams(&[b"late"]), datagrams(&[b"live"]));
        output.take(&late, true).await;
        let began = Instant::now();
        let live = async {
            tokio::task::yield_now().await;
            output.take(&live, false).await;
            began.elapsed()
        };
        let (_, waited) = tokio::join!(output.take(&late, true), live);
        assert_eq!(waited, Duration::ZERO);
        assert_eq!(received(&listener), [b"late", b"live", b"late"]);
    }
}
