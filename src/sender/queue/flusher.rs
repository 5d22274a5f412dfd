//! The flusher: a thread that moves unacknowledged batches from the tail into the spool, syncs them to disk,
//! and removes acknowledged ones.
//!
//! A batch is written after half of `sync-after` and synced within the other half. So no datagram older than
//! `sync-after` depends on the memory of the machine. On a healthy connection no batch gets that old, and
//! nothing is written.

mod drops;
mod log;
mod run;
mod sync;
mod task;
mod timing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nf_transport_core::batch::Batch;
use nf_transport_core::sequence::{Gap, Position};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{AppendError, Policy, Spool, WhenFull, Yielding};
use tokio::sync::watch;

use self::drops::DropAccounts;
use self::log::FlusherLog;
use self::sync::SpoolSync;
use self::task::{FlushTask, Spill};
use crate::host::{LoggedCount, Pulse, both_clocks};
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::journal::RingEntry;
use crate::sender::queue::Queue;
use crate::sender::queue::fair_share::{FairShare, ThinnedLoss};
use crate::sender::queue::figures::SpoolFigures;
use crate::sender::queue::holdings::Shares;
use crate::sender::queue::state::{QueueState, ShutdownStage};

/// The longest wait before the flusher enforces the limits of the spool again.
const ENFORCE_EVERY: Duration = Duration::from_secs(1);

/// The interval at which the flusher checks whether room was made in a full spool.
const ROOM_CHECK: Duration = Duration::from_millis(10);

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

/// The result of an attempt to make room for a batch.
#[derive(Debug, Default)]
struct MadeRoom {
    /// Datagrams that were dropped one by one.
    lost: Vec<ThinnedLoss>,
    /// The batch waits in the ring, as room is being made.
    is_awaited: bool,
    /// The ring has no room to wait: the datagrams of the largest holders in the batch are dropped.
    is_sifting: bool,
}

/// The state of the flusher thread.
#[derive(Debug)]
pub(crate) struct Flusher {
    queue: Arc<Queue>,
    settings: watch::Receiver<FlusherSettings>,
    pulse: Pulse,
    when_full: WhenFull,
    /// Half of `sync-after`.
    half: Duration,
    /// The space and the end of the spool after the last round.
    figures: SpoolFigures,
    sync: SpoolSync,
    enforce_at: Instant,
    retry_at: Option<Instant>,
    /// The disk has no room, and nothing was dropped for it, as the ring has room.
    is_holding: bool,
    log: FlusherLog,
    /// Makes room in a full spool.
    fair_share: FairShare,
    drops: DropAccounts,
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
        let figures = SpoolFigures::of(&queue.spool());
        Self {
            fair_share: FairShare::new(queue.clone()),
            drops: DropAccounts::new(queue.clone(), counters),
            sync: SpoolSync::new(queue.clone(), pulse.clone()),
            queue,
            settings,
            pulse,
            when_full: policy.when_full,
            half: sync_after / 2,
            figures,
            enforce_at: Instant::now(),
            retry_at: None,
            is_holding: false,
            log: FlusherLog::default(),
        }
    }

    /// Returns a lock. While a test holds it, no segment is read to make room.
    #[cfg(test)]
    pub(crate) fn gate(&self) -> Arc<std::sync::Mutex<()>> {
        self.fair_share.gate()
    }

    /// Runs until the queue is stopped. Then everything that the disk accepts is on disk.
    pub(crate) fn run(mut self) {
        loop {
            self.pulse.beat();
            self.apply_settings();
            let task = self.wait();
            let is_rejected = !self.work(&task);
            if task.stage == ShutdownStage::Stopped && (task.spill.is_none() || is_rejected) {
                break;
            }
        }
        self.finish();
    }

    /// Applies reloaded settings: within a second or, while nothing is queued, with the next batch.
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

    /// Does `task`. Returns `false` if the spool rejected its first batch.
    fn work(&mut self, task: &FlushTask) -> bool {
        let now = Instant::now();
        let queue = self.queue.clone();
        let mut sealed = task.spill.as_ref().map(|spill| queue.seal(&spill.entry.batch));
        // Other threads hold the spool while they wait for the disk, too.
        let pulse = self.pulse.clone();
        let disk = pulse.away();
        let removed = queue.spool().acknowledge(task.acknowledged);
        // The uplink reads the next segments meanwhile. The room is needed below.
        drop(removed);
        let mut spool = queue.spool();
        // Lock order: spool, then state. A read by the uplink from now on waits for the spool, and finds
        // dropped batches gone.
        let (in_flight, is_pressing, is_crowded) = {
            let state = queue.state();
            (state.in_flight(), state.tail().is_pressing(), state.tail().is_nearly_full())
        };
        self.fair_share.begin_turn(&spool);
        if task.stage == ShutdownStage::Stopped {
            // The ring may not outlive the service, and it is bounded.
            spool.lift_max_size();
        }
        if now >= self.enforce_at {
            spool.enforce_limits(both_clocks(), in_flight);
            self.enforce_at = now + ENFORCE_EVERY;
        }
        let yielding = self.yielding(is_pressing);
        let length = sealed.as_ref().and_then(|sealed| sealed.as_ref().ok()).map(batch_len);
        let MadeRoom { mut lost, mut is_awaited, is_sifting } =
            self.make_room(&mut spool, length, in_flight, is_crowded, now);
        let ceiling = if is_sifting { self.fair_share.ceiling() } else { 0 };
        let mut sifted = None;
        if let Some(Spill { entry, .. }) = task.spill.as_ref().filter(|_| is_sifting) {
            if let Some((batch, loss)) = self.sift(&spool, &entry.batch) {
                sealed = Some(queue.seal(&batch));
                sifted = Some(batch);
                lost.push(loss);
            }
            // The batch waits for the running thinning, which drops data of the largest holders only.
            // Dropping the oldest segment instead would drop data of all its exporters.
            let length = sealed.as_ref().and_then(|sealed| sealed.as_ref().ok()).map_or(0, batch_len);
            is_awaited = spool.size().saturating_add(length) > spool.max_size().max(ceiling);
        }
        if is_awaited {
            sealed = None;
        }
        let outcome = task.spill.as_ref().zip(sealed).map(|(Spill { gaps, .. }, sealed)| {
            if spool.end().is_some() {
                for gap in gaps {
                    spool.record_gap(*gap);
                }
            }
            spool.append_yielding(&sealed?, both_clocks(), in_flight, yielding, ceiling)
        });
        let gaps = spool.take_dropped().into_iter();
        let dropped: Vec<(Gap, Shares)> =
            gaps.map(|gap| (gap, self.fair_share.take_dropped(&spool, gap))).collect();
        if yielding == Yielding::Nothing && needs_room(outcome.as_ref(), is_pressing) {
            drop(disk);
            drop(spool);
            self.drops.account(&lost, &dropped);
            self.sync.wait();
            return self.work(&task.with_batch(sifted));
        }
        let is_accepted = !matches!(outcome, Some(Err(_)));
        if let Some(outcome) = &outcome {
            self.is_holding = !is_pressing && matches!(outcome, Err(AppendError::NoRoom(_)));
        }
        let segment_error = spool.stuck().map(str::to_owned);
        let kept_apart = spool.take_preserved();
        let mut written = None;
        if let (Some(Ok(())), Some(Spill { entry, next, .. })) = (&outcome, &task.spill) {
            let batch = sifted.as_ref().unwrap_or(&entry.batch);
            self.fair_share.note_appended(&spool, batch, batch_len(batch));
            written = self.append_next(&mut spool, next).or(Some(entry));
        }
        if task.spill.is_none() {
            self.prepare(&mut spool, in_flight, now);
        }
        let wrong_clock = spool.take_wrong_clock();
        self.figures.update(&spool);
        drop(disk);
        drop(spool);
        queue.note_kept_apart(kept_apart);
        self.drops.account(&lost, &dropped);
        self.note_append(written, outcome);
        if is_awaited {
            // Nothing was refused, so the next attempt waits for `retry_at` as well.
            self.is_holding = false;
            self.retry_at = Some(now + ROOM_CHECK);
        }
        self.note_segment_error(segment_error, task.spill.is_some());
        if let Some(wrong_clock) = wrong_clock {
            self.log.wrong_clock(wrong_clock);
        }
        self.sync.start_if_due(self.half);
        is_accepted
    }

    /// Makes room for `length` bytes, if a batch of that length is due, and prepares the next thinning.
    fn make_room(
        &mut self,
        spool: &mut Spool<Directory>,
        length: Option<u64>,
        in_flight: Position,
        is_crowded: bool,
        now: Instant,
    ) -> MadeRoom {
        let mut room = MadeRoom::default();
        let Some(length) = length else { return room };
        let may_drop = self.when_full == WhenFull::DropOldest;
        let wanted = FairShare::wanted(spool, length);
        if may_drop && (!self.sync.is_running() || is_crowded) {
            room.lost = self.fair_share.make_room(spool, wanted, in_flight);
        }
        self.prepare(spool, in_flight, now);
        let is_busy = self.fair_share.is_busy();
        if may_drop && spool.excess(wanted) > 0 {
            room.is_awaited = !is_crowded && (is_busy || self.sync.is_running());
            room.is_sifting = is_crowded && is_busy;
        }
        room
    }

    fn prepare(&mut self, spool: &mut Spool<Directory>, in_flight: Position, now: Instant) {
        let may_thin = self.when_full == WhenFull::DropOldest;
        self.fair_share.prepare(spool, in_flight, now, may_thin);
    }

    /// Drops the datagrams of the largest holders from `batch`, the oldest of the tail. Returns the rest of
    /// the batch and the loss. Returns `None` if the batch stays unchanged, as when it is in flight.
    fn sift(&mut self, spool: &Spool<Directory>, batch: &Batch) -> Option<(Batch, ThinnedLoss)> {
        let (sifted, loss) = self.fair_share.sift_batch(spool, batch)?;
        let is_sifted = self.queue.state().sift_oldest(batch, &sifted);
        is_sifted.then_some((sifted, loss))
    }

    /// Returns the extent to which the next append may drop data. Data dropped during a sync makes no room.
    /// For a full disk, which may recover within seconds, nothing is dropped while the ring has room.
    fn yielding(&self, is_pressing: bool) -> Yielding {
        match (self.sync.is_running(), is_pressing) {
            (true, _) => Yielding::Nothing,
            (false, false) => Yielding::ToMaxSize,
            (false, true) => Yielding::ToDisk,
        }
    }

    /// Updates the state of the queue after a round, whose append had `outcome`. The last appended batch is
    /// `written`.
    fn note_append(&mut self, written: Option<&RingEntry>, outcome: Option<Result<(), AppendError>>) {
        let queue = self.queue.clone();
        let mut state = queue.state();
        state.set_spool(self.figures);
        match (outcome, written) {
            (Some(Ok(())), Some(entry)) => {
                self.retry_at = None;
                state.note_writable();
                queue.pop_tail(&mut state, entry.batch.end());
                self.sync.note_appended();
            }
            (Some(Err(error)), _) => {
                self.retry_at = Some(Instant::now() + RETRY);
                let is_full = self.drops_new_batches(&error, &mut state);
                state.note_rejected(error.to_string(), is_full);
                queue.room.notify_one();
                self.log.append_error(&error, self.when_full, &self.figures);
            }
            _ if state.tail().is_empty() => {
                state.note_writable();
            }
            _ => {}
        }
        if state.spool_size() == 0 {
            self.sync.note_empty();
        }
        drop(state);
        self.drops.log(LoggedCount::due);
    }

    /// Handles that the spool rejects batches. Returns `true` if batches that do not fit into the ring are
    /// dropped.
    fn drops_new_batches(&mut self, error: &AppendError, state: &mut QueueState) -> bool {
        match error {
            // Dropping queued datagrams makes no room on a disk that others fill. If the ring is full, too,
            // new datagrams are dropped.
            AppendError::NoRoom(_) => !self.is_holding,
            AppendError::Full | AppendError::Disk(_) => {
                if self.when_full == WhenFull::DropOldest {
                    self.drops.drop_from_ring(state);
                }
                self.when_full == WhenFull::DropNewest || state.tail().is_nearly_full()
            }
        }
    }

    /// Publishes the reason why no new segment can be created, or that there is none. Logs it if a batch was
    /// `spilled` now, which was appended to the previous segment.
    fn note_segment_error(&mut self, segment_error: Option<String>, spilled: bool) {
        self.queue.state().set_segment_error(segment_error.clone());
        if let Some(reason) = segment_error.filter(|_| spilled) {
            self.log.segment_error(&reason);
        }
    }

    fn finish(&mut self) {
        let disk = self.pulse.away();
        self.fair_share.stop();
        drop(disk);
        self.drops.log(LoggedCount::rest);
        let (acknowledged, next, dropped_last) = {
            let state = self.queue.state();
            let (acknowledged, next) = (state.acknowledged(), state.next_position());
            let from = self.figures.end.unwrap_or_default().max(acknowledged);
            // After a tail that the disk rejected, a gap record would have nothing before it.
            let dropped_last: Vec<Gap> =
                if state.tail().is_empty() { state.gaps_within(from, next).collect() } else { Vec::new() };
            (acknowledged, next, dropped_last)
        };
        for gap in dropped_last {
            self.queue.spool().record_gap(gap);
        }
        self.sync.run();
        let recorded = self.queue.spool().end_run(acknowledged, next);
        if let Err(error) = recorded {
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

/// Returns `true` if an append that dropped nothing failed for lack of room that can be made.
fn needs_room(outcome: Option<&Result<(), AppendError>>, is_pressing: bool) -> bool {
    match outcome {
        Some(Err(AppendError::Full)) => true,
        Some(Err(AppendError::NoRoom(_))) => is_pressing,
        _ => false,
    }
}
