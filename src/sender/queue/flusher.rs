//! The flusher: a thread that moves what stays unacknowledged from the tail into the spool, forces it to disk,
//! and removes what is acknowledged.
//!
//! Half of `sync-after` goes by before a batch is written, and at most the other half before it is forced, so
//! that nothing older than `sync-after` depends on the machine's memory. On a healthy link nothing gets that old
//! and nothing is written at all.

use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nf_transport_core::batch::Batch;
use nf_transport_core::clock::ClockStep;
use nf_transport_core::sequence::{Gap, GapReason, Position};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{AppendError, Policy, Spool, SyncJob, WhenFull, WrongClock, Yielding};
use tokio::sync::watch;

use crate::host::systemd::messages::sender;
use crate::host::{CountLog, LogLimit, Pulse, Suppressed, both_clocks};
use crate::limits::JOURNAL_RING;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::journal::RingEntry;
use crate::sender::queue::Queue;
use crate::sender::queue::fair_share::{FairShare, Lost};
use crate::sender::queue::holdings::Shares;
use crate::sender::queue::state::{QueueState, ShutdownStage, SpoolFigures};
use crate::status::{count_of, name_dropped};

/// How long the flusher waits at the most before it looks at the spool again.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// The shortest time after which the flusher looks whether something has come into an empty tail.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long the flusher waits before it looks again whether what was written is on disk.
const LOOK_AT_SYNC: Duration = Duration::from_millis(10);

/// How long the flusher waits before it looks again whether room was made in a full spool.
const LOOK_AT_ROOM: Duration = Duration::from_millis(10);

/// How long the flusher waits before it tries again a disk that refused.
const RETRY: Duration = Duration::from_millis(250);

/// What of the settings the flusher follows. A reload may change all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FlusherSettings {
    /// The bounds of the spool.
    pub(crate) policy: Policy,
    /// What stays unacknowledged longer is forced to disk.
    pub(crate) sync_after: Duration,
}

/// What the flusher is to do now.
struct Task {
    acknowledged: Position,
    stage: ShutdownStage,
    /// The oldest batch of the tail, if it is time for it, and the gaps in front of it.
    spill: Option<(RingEntry, Vec<Gap>)>,
}

/// What came of making room for a batch.
#[derive(Debug, Default)]
struct Room {
    /// Datagrams that were dropped one by one.
    lost: Vec<Lost>,
    /// The batch waits in the ring, as room is being made.
    is_awaited: bool,
    /// The ring has no room for that: the datagrams of the largest holders in the batch are dropped.
    is_sifting: bool,
}

/// What the flusher complains of, each once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Complaint {
    Refused,
    Stuck,
    Unsynced,
    /// By direction: a clock that was set and is right again is two lines.
    Clock {
        is_forward: bool,
    },
}

/// The flusher's own view of time and trouble.
#[derive(Debug)]
pub(crate) struct Flusher {
    queue: Arc<Queue>,
    settings: watch::Receiver<FlusherSettings>,
    pulse: Pulse,
    when_full: WhenFull,
    half: Duration,
    /// The end of the spool as this thread left it.
    spool_end: Option<Position>,
    /// What the spool occupied then.
    figures: SpoolFigures,
    unsynced_since: Option<Instant>,
    /// What was written before is being forced to disk, in a thread of its own, as that may take long; and when to look again
    /// whether it is.
    syncing: Option<(JoinHandle<io::Result<()>>, Instant)>,
    tend_at: Instant,
    retry_at: Option<Instant>,
    /// The disk has no room, and nothing was dropped for it as the ring has some.
    is_holding: bool,
    complaints: LogLimit<Complaint>,
    /// Makes room in a full spool.
    fair_share: FairShare,
    counters: Arc<IngestCounters>,
    /// Datagrams that the spool's limits dropped.
    dropped: u64,
    dropped_log: CountLog,
}

impl Flusher {
    /// A flusher of `queue`, whose spool has the bounds of `settings` already.
    pub(crate) fn new(
        queue: Arc<Queue>,
        mut settings: watch::Receiver<FlusherSettings>,
        counters: Arc<IngestCounters>,
        pulse: Pulse,
    ) -> Self {
        let FlusherSettings { policy, sync_after } = *settings.borrow_and_update();
        let (spool_end, figures) = {
            let spool = queue.spool();
            (spool.end(), SpoolFigures::of(&spool))
        };
        Self {
            fair_share: FairShare::new(queue.clone()),
            queue,
            settings,
            pulse,
            when_full: policy.when_full,
            half: sync_after / 2,
            spool_end,
            figures,
            unsynced_since: None,
            syncing: None,
            tend_at: Instant::now(),
            retry_at: None,
            is_holding: false,
            complaints: LogLimit::default(),
            counters,
            dropped: 0,
            dropped_log: CountLog::default(),
        }
    }

    /// What a test holds so that no segment is read to make room.
    #[cfg(test)]
    pub(crate) fn gate(&self) -> Arc<std::sync::Mutex<()>> {
        self.fair_share.gate()
    }

    /// Runs until the queue is stopped; then everything is on disk, but for what the disk does not take.
    pub(crate) fn run(mut self) {
        loop {
            self.pulse.beat();
            self.take_up_settings();
            let task = self.wait();
            let is_refused = !self.work(&task);
            if task.stage == ShutdownStage::Stopped && (task.spill.is_none() || is_refused) {
                break;
            }
        }
        self.finish();
    }

    /// What a reload changed counts from now on. Within a second it is seen.
    fn take_up_settings(&mut self) {
        if self.settings.has_changed().unwrap_or(false) {
            let FlusherSettings { policy, sync_after } = *self.settings.borrow_and_update();
            (self.when_full, self.half) = (policy.when_full, sync_after / 2);
            let disk = self.pulse.away();
            self.queue.spool().set_policy(policy);
            drop(disk);
            self.tend_at = Instant::now();
            self.retry_at = None;
        }
    }

    fn wait(&self) -> Task {
        let mut state = self.queue.state();
        loop {
            let now = Instant::now();
            let due = self.due(&state, now);
            if due <= now {
                return self.task(&state, now);
            }
            let (woken, _) =
                self.queue.work.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner);
            state = woken;
        }
    }

    /// When there is something to do.
    fn due(&self, state: &QueueState, now: Instant) -> Instant {
        let spool_has_acknowledged = state.spool.size > 0 && self.is_spool_acknowledged(state);
        if state.stage == ShutdownStage::Stopped || spool_has_acknowledged {
            return now;
        }
        // What comes into an empty tail from now on is not told.
        let spill_at = self.spill_at(state, now).unwrap_or(now + self.half.max(LOOK_EVERY));
        let sync_at = match &self.syncing {
            Some((_, look_at)) => Some(*look_at),
            None => self.unsynced_since.map(|since| since + self.half),
        };
        [Some(spill_at), sync_at].into_iter().flatten().fold(self.tend_at, Instant::min)
    }

    /// Whether all that the spool holds is acknowledged, so that its files can go at once.
    fn is_spool_acknowledged(&self, state: &QueueState) -> bool {
        self.spool_end.is_some_and(|end| end <= state.ledger.acknowledged())
    }

    /// When the oldest batch of the tail goes to the spool.
    fn spill_at(&self, state: &QueueState, now: Instant) -> Option<Instant> {
        let (_, since) = state.tail.front()?;
        let hurry = state.stage > ShutdownStage::Running || state.is_pressing();
        let wanted = if hurry { now } else { *since + self.half };
        let is_at_once = state.stage == ShutdownStage::Stopped || (self.is_holding && state.is_pressing());
        let retry_at = self.retry_at.filter(|_| !is_at_once);
        Some(retry_at.map_or(wanted, |retry| wanted.max(retry)))
    }

    fn task(&self, state: &QueueState, now: Instant) -> Task {
        let is_due = self.spill_at(state, now).is_some_and(|at| at <= now);
        let acknowledged = state.ledger.acknowledged();
        let spill = state.tail.front().filter(|_| is_due).map(|(held, _)| {
            let from = self.spool_end.unwrap_or(held.batch.first()).max(acknowledged);
            (held.clone(), state.ledger.gaps_within(from, held.batch.first()).collect())
        });
        Task { acknowledged, stage: state.stage, spill }
    }

    /// Does `task`. Says whether the spool took what was to go there.
    fn work(&mut self, task: &Task) -> bool {
        let now = Instant::now();
        let queue = self.queue.clone();
        let mut sealed = task.spill.as_ref().map(|(held, _)| queue.seal(&held.batch));
        // Others hold the spool while they wait for the disk, too.
        let pulse = self.pulse.clone();
        let disk = pulse.away();
        let mut spool = queue.spool();
        // What the link reads from now on waits for the spool, and finds what is dropped gone.
        let (in_flight, is_pressing, is_crowded) = {
            let state = queue.state();
            (state.in_flight, state.is_pressing(), Self::is_crowded(&state))
        };
        spool.acknowledge(task.acknowledged);
        self.fair_share.begin_turn(&spool);
        if task.stage == ShutdownStage::Stopped {
            // The ring may not outlive the service, and what it holds is bounded.
            spool.lift_max_size();
        }
        if now >= self.tend_at {
            spool.enforce_limits(both_clocks(), in_flight);
            self.tend_at = now + TEND_EVERY;
        }
        let yielding = self.yielding(is_pressing);
        let length = sealed.as_ref().and_then(|sealed| sealed.as_ref().ok()).map(batch_len);
        let Room { mut lost, mut is_awaited, is_sifting } =
            self.make_room(&mut spool, length, in_flight, is_crowded, now);
        let max_size = if is_sifting { self.fair_share.ceiling() } else { 0 };
        let mut sifted = None;
        if let Some((held, _)) = task.spill.as_ref().filter(|_| is_sifting) {
            if let Some((batch, of)) = self.sift(&spool, &held.batch) {
                sealed = Some(queue.seal(&batch));
                sifted = Some(batch);
                lost.push(of);
            }
            // A thinning is under way, which costs the largest holders. The oldest segment would cost all of its exporters.
            let length = sealed.as_ref().and_then(|sealed| sealed.as_ref().ok()).map_or(0, batch_len);
            is_awaited = spool.size().saturating_add(length) > spool.max_size().max(max_size);
        }
        if is_awaited {
            sealed = None;
        }
        let outcome = task.spill.as_ref().zip(sealed).map(|((_, gaps), sealed)| {
            if spool.end().is_some() {
                for gap in gaps {
                    spool.record_gap(*gap);
                }
            }
            spool.append_sifted(&sealed?, both_clocks(), in_flight, yielding, max_size)
        });
        let gaps = spool.take_dropped().into_iter();
        let dropped: Vec<(Gap, Shares)> =
            gaps.map(|gap| (gap, self.fair_share.take_dropped(&spool, gap))).collect();
        if yielding == Yielding::Nothing && may_drop(outcome.as_ref(), is_pressing) {
            drop(disk);
            drop(spool);
            self.account_lost(&lost, &dropped);
            self.end_sync();
            let task = Task { spill: task.spill.clone().map(|spill| with_batch(spill, sifted)), ..*task };
            return self.work(&task);
        }
        let is_taken = !matches!(outcome, Some(Err(_)));
        if let Some(outcome) = &outcome {
            self.is_holding = !is_pressing && matches!(outcome, Err(AppendError::NoRoom(_)));
        }
        let stuck = spool.stuck().map(str::to_owned);
        let kept_apart = spool.take_preserved();
        if let (Some(Ok(())), Some((held, _))) = (&outcome, &task.spill) {
            let batch = sifted.as_ref().unwrap_or(&held.batch);
            self.fair_share.note_appended(&spool, batch, batch_len(batch));
        }
        if task.spill.is_none() {
            self.prepare(&mut spool, in_flight, now);
        }
        let wrong_clock = spool.take_wrong_clock();
        self.spool_end = spool.end();
        self.figures.update(&spool);
        drop(disk);
        drop(spool);
        queue.note_kept_apart(kept_apart);
        self.account_lost(&lost, &dropped);
        self.account(task, outcome);
        if is_awaited {
            self.retry_at = Some(now + LOOK_AT_ROOM);
        }
        self.note_stuck(stuck, task.spill.is_some());
        self.log_wrong_clock(wrong_clock);
        self.sync_if_due();
        is_taken
    }

    /// Makes room for `length` bytes, if a batch of that length is to be appended, and prepares the next thinning.
    fn make_room(
        &mut self,
        spool: &mut Spool<Directory>,
        length: Option<u64>,
        in_flight: Position,
        is_crowded: bool,
        now: Instant,
    ) -> Room {
        let mut room = Room::default();
        let Some(length) = length else { return room };
        let may_drop = self.when_full == WhenFull::DropOldest;
        let wanted = FairShare::wanted(spool, length);
        if may_drop && (self.syncing.is_none() || is_crowded) {
            room.lost = self.fair_share.make_room(spool, wanted, in_flight);
        }
        self.prepare(spool, in_flight, now);
        let is_busy = self.fair_share.is_busy();
        if may_drop && spool.excess(wanted) > 0 {
            room.is_awaited = !is_crowded && (is_busy || self.syncing.is_some());
            room.is_sifting = is_crowded && is_busy;
        }
        room
    }

    fn prepare(&mut self, spool: &mut Spool<Directory>, in_flight: Position, now: Instant) {
        let may_thin = self.when_full == WhenFull::DropOldest;
        self.fair_share.prepare(spool, in_flight, now, may_thin);
    }

    /// Drops the datagrams of the largest holders from `batch`, the oldest of the tail, if it is not on its way. Returns what is left
    /// of it, and what was dropped.
    fn sift(&mut self, spool: &Spool<Directory>, batch: &Batch) -> Option<(Batch, Lost)> {
        let (sifted, lost) = self.fair_share.sift_batch(spool, batch)?;
        let mut state = self.queue.state();
        let is_in_flight = state.in_flight > batch.first();
        let (held, _) = state.tail.front_mut()?;
        if is_in_flight || held.batch.first() != batch.first() {
            return None;
        }
        held.batch = sifted.clone();
        Some((sifted, lost))
    }

    /// Takes over into the queue's state which datagrams were dropped, one by one or with their segments.
    fn account_lost(&mut self, lost: &[Lost], dropped: &[(Gap, Shares)]) {
        let mut state = self.queue.state();
        for Lost { thinned, shares } in lost {
            let count = state.ledger.lose_thinned(*thinned);
            self.counters.note_dropped_shares(count, shares);
            self.dropped += count;
        }
        // A segment may be thinned first, and dropped as a whole then.
        for (gap, shares) in dropped {
            let count = state.ledger.lose(*gap);
            self.counters.note_dropped_shares(count, shares);
            self.dropped += count;
        }
    }

    /// What the next append may drop. What is dropped while it is forced to disk makes no room. For a full disk, which may be
    /// a matter of seconds, nothing is dropped while the ring has room.
    fn yielding(&self, is_pressing: bool) -> Yielding {
        match (self.syncing.is_some(), is_pressing) {
            (true, _) => Yielding::Nothing,
            (false, false) => Yielding::ToMaxSize,
            (false, true) => Yielding::ToDisk,
        }
    }

    /// Takes over into the queue's state what happened to the spool.
    fn account(&mut self, task: &Task, outcome: Option<Result<(), AppendError>>) {
        let queue = self.queue.clone();
        let mut state = queue.state();
        state.spool = self.figures;
        match (outcome, &task.spill) {
            (Some(Ok(())), Some((held, _))) => {
                self.retry_at = None;
                state.is_full = false;
                state.write_error = None;
                queue.pop_tail(&mut state, held.batch.end());
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
            (Some(Err(error)), _) => {
                self.retry_at = Some(Instant::now() + RETRY);
                state.write_error = Some(error.to_string());
                state.is_full = self.is_given_up(&error, &mut state);
                queue.room_changed();
                self.complain(&error);
            }
            _ if state.tail.is_empty() => {
                state.is_full = false;
                state.write_error = None;
            }
            _ => {}
        }
        if state.spool.size == 0 {
            self.unsynced_since = None;
        }
        drop(state);
        self.log_dropped(CountLog::due);
    }

    /// The spool takes nothing, as `error` says: whether what does not fit into the ring is to be dropped.
    fn is_given_up(&mut self, error: &AppendError, state: &mut QueueState) -> bool {
        match error {
            // Nothing that is queued makes room on a disk that others fill: when the ring is full, too, new datagrams
            // are refused.
            AppendError::NoRoom(_) => !self.is_holding,
            AppendError::Full | AppendError::Disk(_) => {
                self.dropped += self.relieve(state);
                self.when_full == WhenFull::DropNewest || Self::is_crowded(state)
            }
        }
    }

    /// The spool takes nothing: if the ring is nearly full too, its oldest batches make room for newer ones.
    fn relieve(&self, state: &mut QueueState) -> u64 {
        let mut lost = 0;
        if self.when_full == WhenFull::DropOldest && Self::is_crowded(state) {
            while state.is_pressing()
                && let Some((held, _)) = state.tail.front()
                && state.in_flight <= held.batch.first()
            {
                let (first, end) = (held.batch.first(), held.batch.end());
                self.counters.note_dropped_batch(&held.batch);
                lost += state.ledger.lose(Gap { first, end, reason: GapReason::SpoolFull });
                self.queue.pop_tail(state, end);
            }
        }
        lost
    }

    /// Whether the ring is nearly full.
    fn is_crowded(state: &QueueState) -> bool {
        state.tail_bytes() > JOURNAL_RING / 4 * 3
    }

    fn complain(&mut self, error: &AppendError) {
        let Some(held_back) = self.complaints.admit(Complaint::Refused, Instant::now()) else { return };
        match error {
            AppendError::Full => tracing::warn!(
                message_id = sender::SPOOL_FULL,
                held_back,
                "the spool is full (max-size is reached): incoming datagrams stay in memory while there is room{}",
                Suppressed(held_back)
            ),
            AppendError::NoRoom(error) => tracing::warn!(
                message_id = sender::SPOOL_FULL,
                %error,
                held_back,
                "the disk of the spool has no room: {error}; incoming datagrams stay in memory while there is room{}",
                Suppressed(held_back)
            ),
            AppendError::Disk(error) => {
                tracing::error!(
                    message_id = sender::SPOOL_FAILS,
                    %error,
                    held_back,
                    "cannot write to the spool: {error}; what arrives stays in memory while there is \
                     room; trying again{}",
                    Suppressed(held_back)
                );
            }
        }
    }

    /// Whether new segments can be created, and why not. What was `spilled` just now went into the segment before.
    fn note_stuck(&mut self, stuck: Option<String>, spilled: bool) {
        self.queue.state().segment_error.clone_from(&stuck);
        let Some(reason) = stuck.filter(|_| spilled) else { return };
        if let Some(held_back) = self.complaints.admit(Complaint::Stuck, Instant::now()) {
            tracing::error!(
                message_id = sender::SPOOL_FAILS,
                error = reason,
                held_back,
                "cannot create a segment of the spool: {reason}; nothing is lost, the segment before it takes more \
                 than rotate-size and rotate-every say{}",
                Suppressed(held_back)
            );
        }
    }

    /// Logs how many datagrams the spool's limits dropped, and of which exporters.
    fn log_dropped(&mut self, due: fn(&mut CountLog, u64, Instant) -> Option<u64>) {
        let Some(count) = due(&mut self.dropped_log, self.dropped, Instant::now()) else { return };
        let exporters = name_dropped(
            self.counters.dropped_exporters().take_unlogged(|_| true),
            self.counters.take_unlogged_unknown(),
        );
        let of = if exporters.is_empty() { String::new() } else { format!(", of {exporters}") };
        tracing::warn!(
            message_id = sender::DATAGRAMS_DROPPED,
            datagrams = count,
            exporters,
            "dropped {} by the spool's limits{of}; see 'dropped' in the status",
            count_of(count, "datagram")
        );
    }

    /// Logs that the wall clock is or was wrong: ages do not follow it, but times of arrival do.
    fn log_wrong_clock(&mut self, wrong: Option<WrongClock>) {
        let Some(wrong) = wrong else { return };
        let (what, milliseconds) = match wrong {
            WrongClock::Set(step) => (format!("was set {step}"), step.milliseconds()),
            WrongClock::SetBefore(step) => {
                (format!("was set {step} before nf-sender started"), step.milliseconds())
            }
            WrongClock::Behind(size) => {
                let step = ClockStep { is_forward: false, size };
                let size = humantime::format_duration(Duration::from_secs(size.as_secs()));
                (format!("is {size} behind the newest segment of the spool"), step.milliseconds())
            }
        };
        let complaint = Complaint::Clock { is_forward: milliseconds > 0 };
        let Some(held_back) = self.complaints.admit(complaint, Instant::now()) else { return };
        tracing::warn!(
            message_id = sender::CLOCK_SET,
            milliseconds,
            held_back,
            "the system clock {what}: nothing is dropped for it, as max-age does not follow; datagrams bear the times \
             of arrival that the clock showed{}",
            Suppressed(held_back)
        );
    }

    /// Forces to disk what the spool holds once that is due. It can be used meanwhile.
    fn sync_if_due(&mut self) {
        match &mut self.syncing {
            Some((syncing, look_at)) if !syncing.is_finished() => *look_at = Instant::now() + LOOK_AT_SYNC,
            _ => {
                self.end_sync();
                if self.unsynced_since.is_some_and(|since| since.elapsed() >= self.half) {
                    let outcome = self.start_sync();
                    self.is_synced(outcome);
                }
            }
        }
    }

    fn start_sync(&mut self) -> io::Result<()> {
        let Some(job) = self.sync_job()? else { return Ok(()) };
        let syncing = thread::Builder::new().name("sync".to_owned()).spawn(move || job.run())?;
        self.syncing = Some((syncing, Instant::now() + LOOK_AT_SYNC));
        Ok(())
    }

    /// Forces to disk what the spool holds, at once.
    fn sync(&mut self) {
        self.end_sync();
        let job = self.sync_job();
        let disk = self.pulse.away();
        let outcome = job.and_then(|job| job.map_or(Ok(()), |job| job.run()));
        drop(disk);
        self.is_synced(outcome);
    }

    /// Waits until what is being forced to disk is there.
    fn end_sync(&mut self) {
        if let Some((syncing, _)) = self.syncing.take() {
            let disk = self.pulse.away();
            let outcome = ended(syncing);
            drop(disk);
            self.is_synced(outcome);
        }
    }

    /// What is to be forced to disk now, and counts as if it were.
    fn sync_job(&mut self) -> io::Result<Option<SyncJob<File>>> {
        self.unsynced_since = None;
        let _disk = self.pulse.away();
        self.queue.spool().sync_job()
    }

    /// Notes how forcing to disk ended.
    fn is_synced(&mut self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.queue.spool().sync_failed();
            self.unsynced_since = Some(Instant::now());
            if let Some(held_back) = self.complaints.admit(Complaint::Unsynced, Instant::now()) {
                tracing::error!(
                    message_id = sender::SPOOL_FAILS,
                    %error,
                    held_back,
                    "cannot force the spool to disk: {error}; a power loss now would lose datagrams{}",
                    Suppressed(held_back)
                );
            }
        }
    }

    fn finish(&mut self) {
        let disk = self.pulse.away();
        self.fair_share.stop();
        drop(disk);
        self.log_dropped(CountLog::rest);
        let (acknowledged, next, dropped_last) = {
            let state = self.queue.state();
            let (acknowledged, next) = (state.ledger.acknowledged(), state.ledger.next());
            let from = self.spool_end.unwrap_or_default().max(acknowledged);
            // Behind a tail that the disk did not take, a record would have to stand alone.
            let dropped_last: Vec<Gap> = if state.tail.is_empty() {
                state.ledger.gaps_within(from, next).collect()
            } else {
                Vec::new()
            };
            (acknowledged, next, dropped_last)
        };
        for gap in dropped_last {
            self.queue.spool().record_gap(gap);
        }
        self.sync();
        if let Err(error) = self.queue.spool().end_run(acknowledged, next) {
            tracing::warn!(
                %error,
                "cannot record the end of this run in the spool: {error}"
            );
        }
    }
}

fn batch_len(batch: &Batch) -> u64 {
    u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX)
}

/// `spill` with the batch that took the place of its own, if there is one.
fn with_batch(spill: (RingEntry, Vec<Gap>), batch: Option<Batch>) -> (RingEntry, Vec<Gap>) {
    let (held, gaps) = spill;
    (RingEntry { batch: batch.unwrap_or(held.batch), ..held }, gaps)
}

/// Whether an append that dropped nothing ended for want of room that may be made.
fn may_drop(outcome: Option<&Result<(), AppendError>>, is_pressing: bool) -> bool {
    match outcome {
        Some(Err(AppendError::Full)) => true,
        Some(Err(AppendError::NoRoom(_))) => is_pressing,
        _ => false,
    }
}

/// What came of a thread.
fn ended(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that does it has failed")))
}
