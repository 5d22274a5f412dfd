//! The flusher: a thread that moves unacknowledged batches from the tail into the spool, syncs them to disk,
//! and removes acknowledged ones.
//!
//! A batch is written after half of `sync-after` and synced within the other half. So no datagram older than
//! `sync-after` depends on the memory of the machine. On a healthy connection no batch gets that old, and
//! nothing is written.

use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use nf_transport_core::batch::Batch;
use nf_transport_core::clock::ClockStep;
use nf_transport_core::sequence::{Gap, GapReason, Position};
use nf_transport_core::spool::{AppendError, Policy, SyncJob, Thinned, WhenFull, WrongClock, Yielding};
use tokio::sync::watch;

use crate::host::systemd::messages::sender;
use crate::host::{CountLog, LogLimit, More, Pulse, both_clocks};
use crate::limits::JOURNAL_RING;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::journal::RingEntry;
use crate::sender::queue::Queue;
use crate::sender::queue::fair_share::FairShare;
use crate::sender::queue::state::{QueueState, ShutdownStage, SpoolFigures};
use crate::status::{count_of, name_first};

/// The longest wait before the flusher enforces the limits of the spool again.
const ENFORCE_EVERY: Duration = Duration::from_secs(1);

/// The shortest interval at which the flusher checks an empty tail for new batches.
const TAIL_CHECK_MIN: Duration = Duration::from_millis(1);

/// The interval at which the flusher checks a running sync.
const SYNC_CHECK: Duration = Duration::from_millis(10);

/// The delay before a retry after the disk rejected a write.
const RETRY: Duration = Duration::from_millis(250);

/// Settings that the flusher reloads at run time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FlusherSettings {
    /// The bounds of the spool.
    pub(crate) policy: Policy,
    /// The age at which unacknowledged batches are synced to disk.
    pub(crate) sync_after: Duration,
}

/// The work of one round.
struct FlushTask {
    acknowledged: Position,
    stage: ShutdownStage,
    /// The oldest batch of the tail, if it is due, and the gaps before it.
    spill: Option<(RingEntry, Vec<Gap>)>,
}

/// The kinds of problems, each logged once per log interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Complaint {
    Rejected,
    NoSegment,
    Unsynced,
    /// By direction: a clock that is set wrong and corrected gives two lines.
    Clock {
        is_forward: bool,
    },
}

/// The state of the flusher thread.
#[derive(Debug)]
pub(crate) struct Flusher {
    queue: Arc<Queue>,
    settings: watch::Receiver<FlusherSettings>,
    pulse: Pulse,
    when_full: WhenFull,
    half: Duration,
    /// The end of the spool after the last round.
    spool_end: Option<Position>,
    /// The space of the spool after the last round.
    figures: SpoolFigures,
    unsynced_since: Option<Instant>,
    /// A running sync of earlier batches, in a thread of its own as it may take long, and the time of the
    /// next check.
    syncing: Option<(JoinHandle<io::Result<()>>, Instant)>,
    enforce_at: Instant,
    retry_at: Option<Instant>,
    /// The disk has no room, and nothing was dropped for it, as the ring has room.
    is_holding: bool,
    complaints: LogLimit<Complaint>,
    /// Makes room in a full spool.
    fair_share: FairShare,
    counters: Arc<IngestCounters>,
    /// Datagrams that were dropped by the limits of the spool.
    dropped: u64,
    dropped_log: CountLog,
}

impl Flusher {
    /// Creates the flusher of `queue`, whose spool already has the bounds of `settings`.
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
            fair_share: FairShare::new(queue.clone(), counters.clone()),
            queue,
            settings,
            pulse,
            when_full: policy.when_full,
            half: sync_after / 2,
            spool_end,
            figures,
            unsynced_since: None,
            syncing: None,
            enforce_at: Instant::now(),
            retry_at: None,
            is_holding: false,
            complaints: LogLimit::default(),
            counters,
            dropped: 0,
            dropped_log: CountLog::default(),
        }
    }

    /// Runs until the queue is stopped. Then everything that the disk accepts is on disk.
    pub(crate) fn run(mut self) {
        loop {
            self.pulse.beat();
            self.apply_settings();
            let task = self.wait();
            let is_refused = !self.work(&task);
            if task.stage == ShutdownStage::Stopped && (task.spill.is_none() || is_refused) {
                break;
            }
        }
        self.finish();
    }

    /// Applies reloaded settings, within a second.
    fn apply_settings(&mut self) {
        if self.settings.has_changed().unwrap_or(false) {
            let FlusherSettings { policy, sync_after } = *self.settings.borrow_and_update();
            (self.when_full, self.half) = (policy.when_full, sync_after / 2);
            let disk = self.pulse.away();
            self.queue.spool().set_policy(policy);
            drop(disk);
            self.enforce_at = Instant::now();
            self.retry_at = None;
        }
    }

    fn wait(&self) -> FlushTask {
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

    /// Returns the time at which there is work.
    fn due(&self, state: &QueueState, now: Instant) -> Instant {
        let spool_has_acknowledged = state.spool.size > 0 && self.is_spool_acknowledged(state);
        if state.stage == ShutdownStage::Stopped || spool_has_acknowledged {
            return now;
        }
        // A push into an empty tail does not wake this thread.
        let spill_at = self.spill_at(state, now).unwrap_or(now + self.half.max(TAIL_CHECK_MIN));
        let sync_at = match &self.syncing {
            Some((_, check_at)) => Some(*check_at),
            None => self.unsynced_since.map(|since| since + self.half),
        };
        [Some(spill_at), sync_at].into_iter().flatten().fold(self.enforce_at, Instant::min)
    }

    /// Returns `true` if everything in the spool is acknowledged, so that its files can be removed at once.
    fn is_spool_acknowledged(&self, state: &QueueState) -> bool {
        self.spool_end.is_some_and(|end| end <= state.ledger.acknowledged())
    }

    /// Returns the time at which the oldest batch of the tail moves to the spool.
    fn spill_at(&self, state: &QueueState, now: Instant) -> Option<Instant> {
        let (_, since) = state.tail.front()?;
        let hurry = state.stage > ShutdownStage::Running || state.is_pressing();
        let wanted = if hurry { now } else { *since + self.half };
        let is_at_once = state.stage == ShutdownStage::Stopped || (self.is_holding && state.is_pressing());
        let retry_at = self.retry_at.filter(|_| !is_at_once);
        Some(retry_at.map_or(wanted, |retry| wanted.max(retry)))
    }

    fn task(&self, state: &QueueState, now: Instant) -> FlushTask {
        let is_due = self.spill_at(state, now).is_some_and(|at| at <= now);
        let acknowledged = state.ledger.acknowledged();
        let spill = state.tail.front().filter(|_| is_due).map(|(entry, _)| {
            let from = self.spool_end.unwrap_or(entry.batch.first()).max(acknowledged);
            (entry.clone(), state.ledger.gaps_within(from, entry.batch.first()).collect())
        });
        FlushTask { acknowledged, stage: state.stage, spill }
    }

    /// Does `task`. Returns `true` if the spool accepted the batch.
    fn work(&mut self, task: &FlushTask) -> bool {
        let now = Instant::now();
        let queue = self.queue.clone();
        let sealed = task.spill.as_ref().map(|(entry, _)| queue.seal(&entry.batch));
        if now >= self.enforce_at {
            let _disk = self.pulse.away();
            self.fair_share.learn_one();
        }
        // Other threads hold the spool while they wait for the disk, too.
        let disk = self.pulse.away();
        let mut spool = queue.spool();
        // Lock order: spool, then state. A read by the uplink from now on waits for the spool, and finds
        // dropped batches gone.
        let (in_flight, is_pressing) = {
            let state = queue.state();
            (state.in_flight, state.is_pressing())
        };
        spool.acknowledge(task.acknowledged);
        if task.stage == ShutdownStage::Stopped {
            // The ring may not outlive the service, and it is bounded.
            spool.lift_max_size();
        }
        if now >= self.enforce_at {
            spool.tend(both_clocks(), in_flight);
            self.enforce_at = now + ENFORCE_EVERY;
        }
        let yielding = self.yielding(is_pressing);
        let thinned = match &sealed {
            Some(Ok(batch)) if yielding != Yielding::Nothing && self.when_full == WhenFull::DropOldest => {
                self.fair_share.make_room(&mut spool, length(batch), in_flight)
            }
            _ => Vec::new(),
        };
        let outcome = task.spill.as_ref().zip(sealed).map(|((_, gaps), sealed)| {
            if spool.end().is_some() {
                for gap in gaps {
                    spool.record_gap(*gap);
                }
            }
            spool.append_yielding(&sealed?, both_clocks(), in_flight, yielding)
        });
        if yielding == Yielding::Nothing && needs_room(outcome.as_ref(), is_pressing) {
            drop(disk);
            drop(spool);
            self.end_sync();
            return self.work(task);
        }
        let is_taken = !matches!(outcome, Some(Err(_)));
        if let Some(outcome) = &outcome {
            self.is_holding = !is_pressing && matches!(outcome, Err(AppendError::NoRoom(_)));
        }
        let segment_error = spool.stuck().map(str::to_owned);
        let dropped = spool.take_dropped();
        let kept_apart = spool.take_kept_apart();
        for gap in &dropped {
            self.fair_share.note_dropped(&spool, *gap);
        }
        if let (Some(Ok(())), Some((entry, _))) = (&outcome, &task.spill) {
            self.fair_share.note_appended(&spool, &entry.batch, length(&entry.batch));
        }
        let wrong_clock = spool.take_wrong_clock();
        self.spool_end = spool.end();
        self.figures.update(&spool);
        drop(disk);
        drop(spool);
        queue.note_kept_apart(kept_apart);
        self.account(task, outcome, &dropped, &thinned);
        self.note_segment_error(segment_error, task.spill.is_some());
        self.log_wrong_clock(wrong_clock);
        self.sync_if_due();
        is_taken
    }

    /// Returns the extent to which the next append may drop data. Data dropped during a sync makes no room.
    /// For a full disk, which may recover within seconds, nothing is dropped while the ring has room.
    fn yielding(&self, is_pressing: bool) -> Yielding {
        match (self.syncing.is_some(), is_pressing) {
            (true, _) => Yielding::Nothing,
            (false, false) => Yielding::ToMaxSize,
            (false, true) => Yielding::ToDisk,
        }
    }

    /// Updates the state of the queue after a round.
    fn account(
        &mut self,
        task: &FlushTask,
        outcome: Option<Result<(), AppendError>>,
        dropped: &[Gap],
        thinned: &[Thinned],
    ) {
        let queue = self.queue.clone();
        let mut state = queue.state();
        // A segment may be thinned first and then dropped as a whole.
        let mut lost: u64 = thinned.iter().map(|thinned| state.ledger.lose_thinned(*thinned)).sum();
        lost += dropped.iter().map(|gap| state.ledger.lose(*gap)).sum::<u64>();
        state.spool = self.figures;
        self.dropped += lost;
        match (outcome, &task.spill) {
            (Some(Ok(())), Some((entry, _))) => {
                self.retry_at = None;
                state.is_full = false;
                state.write_error = None;
                queue.pop_tail(&mut state, entry.batch.end());
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
            (Some(Err(error)), _) => {
                self.retry_at = Some(Instant::now() + RETRY);
                state.write_error = Some(error.to_string());
                state.is_full = self.drops_new_batches(&error, &mut state);
                queue.room_changed();
                self.report_append_error(&error);
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

    /// Handles that the spool rejects batches. Returns `true` if batches that do not fit into the ring are
    /// dropped.
    fn drops_new_batches(&mut self, error: &AppendError, state: &mut QueueState) -> bool {
        match error {
            // Dropping queued datagrams makes no room on a disk that others fill. If the ring is full, too,
            // new datagrams are dropped.
            AppendError::NoRoom(_) => !self.is_holding,
            AppendError::Full | AppendError::Disk(_) => {
                self.dropped += self.drop_from_ring(state);
                self.when_full == WhenFull::DropNewest || Self::is_crowded(state)
            }
        }
    }

    /// Drops the oldest batches of a nearly full ring, as the spool rejects them. Returns the number of
    /// datagrams.
    fn drop_from_ring(&self, state: &mut QueueState) -> u64 {
        let mut lost = 0;
        if self.when_full == WhenFull::DropOldest && Self::is_crowded(state) {
            while state.is_pressing()
                && let Some((entry, _)) = state.tail.front()
                && state.in_flight <= entry.batch.first()
            {
                let (first, end) = (entry.batch.first(), entry.batch.end());
                self.counters.note_dropped_batch(&entry.batch);
                lost += state.ledger.lose(Gap { first, end, reason: GapReason::SpoolFull });
                self.queue.pop_tail(state, end);
            }
        }
        lost
    }

    /// Returns `true` if the ring is nearly full.
    fn is_crowded(state: &QueueState) -> bool {
        state.tail_bytes() > JOURNAL_RING / 4 * 3
    }

    /// Names the bound that is reached.
    fn max_size_reached(&self) -> String {
        match self.figures.room {
            Some(room) => format!("it holds {} of max-size {}", ByteSize(room.held), ByteSize(room.max_size)),
            None => "max-size is reached".to_owned(),
        }
    }

    fn report_append_error(&mut self, error: &AppendError) {
        let Some(held_back) = self.complaints.admit(Complaint::Rejected, Instant::now()) else { return };
        match error {
            AppendError::Full => tracing::warn!(
                message_id = sender::SPOOL_FULL,
                held_back,
                "spool full: {}. Datagrams stay in memory while there is room, then the {} are dropped. \
                 Raise spool.max-size{}",
                self.max_size_reached(),
                if self.when_full == WhenFull::DropOldest { "oldest" } else { "newest" },
                More(held_back)
            ),
            AppendError::NoRoom(error) => tracing::warn!(
                message_id = sender::SPOOL_FULL,
                %error,
                held_back,
                "spool full: no room on its disk: {error}. Datagrams stay in memory while there is room, \
                 then the newest are dropped. Free space on the disk or lower spool.min-free{}",
                More(held_back)
            ),
            AppendError::Disk(error) => {
                tracing::error!(
                    message_id = sender::SPOOL_FAILS,
                    %error,
                    held_back,
                    "cannot write to the spool: {error}; datagrams stay in memory while there is room; \
                     trying again. Check the disk{}",
                    More(held_back)
                );
            }
        }
    }

    /// Reports that no new segment can be created. If a batch was `spilled` now, it was appended to the
    /// previous segment.
    fn note_segment_error(&mut self, segment_error: Option<String>, spilled: bool) {
        self.queue.state().segment_error.clone_from(&segment_error);
        let Some(reason) = segment_error.filter(|_| spilled) else { return };
        if let Some(held_back) = self.complaints.admit(Complaint::NoSegment, Instant::now()) {
            tracing::error!(
                message_id = sender::SPOOL_FAILS,
                error = reason,
                held_back,
                "cannot create a segment of the spool: {reason}; nothing is lost: the previous segment \
                 grows beyond rotate-size and rotate-every{}",
                More(held_back)
            );
        }
    }

    /// Logs the number of datagrams dropped by the limits of the spool, by exporter.
    fn log_dropped(&mut self, due: fn(&mut CountLog, u64, Instant) -> Option<u64>) {
        let Some(count) = due(&mut self.dropped_log, self.dropped, Instant::now()) else { return };
        let exporters = name_first(self.counters.dropped_exporters().take_unlogged(|_| true));
        let of = if exporters.is_empty() { String::new() } else { format!(", of {exporters}") };
        tracing::warn!(
            message_id = sender::DATAGRAMS_DROPPED,
            datagrams = count,
            exporters,
            "dropped {} by the spool's limits{of}; see 'dropped' in the status",
            count_of(count, "datagram")
        );
    }

    /// Logs that the wall clock is or was wrong. Ages do not follow it, but arrival times do.
    fn log_wrong_clock(&mut self, wrong: Option<WrongClock>) {
        let Some(wrong) = wrong else { return };
        let (change, milliseconds) = match wrong {
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
            "the system clock {change}: no datagrams are dropped, as max-age does not follow it; datagrams \
             carry the arrival times that the clock showed{}",
            More(held_back)
        );
    }

    /// Starts a sync of the spool once it is due. The spool can be used meanwhile.
    fn sync_if_due(&mut self) {
        match &mut self.syncing {
            Some((syncing, check_at)) if !syncing.is_finished() => *check_at = Instant::now() + SYNC_CHECK,
            _ => {
                self.end_sync();
                if self.unsynced_since.is_some_and(|since| since.elapsed() >= self.half) {
                    let outcome = self.start_sync();
                    self.note_sync(outcome);
                }
            }
        }
    }

    fn start_sync(&mut self) -> io::Result<()> {
        let Some(job) = self.sync_job()? else { return Ok(()) };
        let syncing = thread::Builder::new().name("sync".to_owned()).spawn(move || job.run())?;
        self.syncing = Some((syncing, Instant::now() + SYNC_CHECK));
        Ok(())
    }

    /// Syncs the spool now.
    fn sync(&mut self) {
        self.end_sync();
        let job = self.sync_job();
        let disk = self.pulse.away();
        let outcome = job.and_then(|job| job.map_or(Ok(()), |job| job.run()));
        drop(disk);
        self.note_sync(outcome);
    }

    /// Waits for the end of the running sync.
    fn end_sync(&mut self) {
        if let Some((syncing, _)) = self.syncing.take() {
            let disk = self.pulse.away();
            let outcome = sync_outcome(syncing);
            drop(disk);
            self.note_sync(outcome);
        }
    }

    /// Returns the sync that is due, and counts everything as synced.
    fn sync_job(&mut self) -> io::Result<Option<SyncJob<File>>> {
        self.unsynced_since = None;
        let _disk = self.pulse.away();
        self.queue.spool().sync_job()
    }

    /// Handles the outcome of a sync.
    fn note_sync(&mut self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.queue.spool().sync_failed();
            self.unsynced_since = Some(Instant::now());
            if let Some(held_back) = self.complaints.admit(Complaint::Unsynced, Instant::now()) {
                tracing::error!(
                    message_id = sender::SPOOL_FAILS,
                    %error,
                    held_back,
                    "cannot sync the spool to disk: {error}; a power loss now would lose datagrams; check \
                     the disk{}",
                    More(held_back)
                );
            }
        }
    }

    fn finish(&mut self) {
        self.log_dropped(CountLog::rest);
        let (acknowledged, next, dropped_last) = {
            let state = self.queue.state();
            let (acknowledged, next) = (state.ledger.acknowledged(), state.ledger.next());
            let from = self.spool_end.unwrap_or_default().max(acknowledged);
            // After a tail that the disk rejected, a gap record would have nothing before it.
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

fn length(batch: &Batch) -> u64 {
    u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX)
}

/// Returns `true` if an append that dropped nothing failed for lack of room that can be made.
fn needs_room(outcome: Option<&Result<(), AppendError>>, is_pressing: bool) -> bool {
    match outcome {
        Some(Err(AppendError::Full)) => true,
        Some(Err(AppendError::NoRoom(_))) => is_pressing,
        _ => false,
    }
}

/// Returns the outcome of a sync thread.
fn sync_outcome(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the sync thread has failed")))
}
