//! Makes room in a full spool at the cost of the exporters that hold most.
//!
//! The rule: the exporters that hold most are cut down to one common level and lose their oldest datagrams first; an exporter that
//! holds no more than that level loses nothing. The level is three quarters of the highest one with which an eighth of some file may
//! be dropped. There is such a file at the level with which an eighth of all may be. So for each byte that is dropped few are written
//! again: of a file of which less than a sixteenth would go, nothing does. Exporters that hold about the same lose whole files, of
//! which nothing is written again.
//!
//! A file is read and written again by a thread of its own, from the time on when the spool is nearly full, and takes the place of
//! the old one when the room is needed. If the intake's ring fills meanwhile, the datagrams of the largest holders are dropped from
//! the batches that are about to be spooled. A 32nd of `max-size` stays free for the rest of these batches. When that is used up, the
//! next batch waits for the thinning. Exempt are the last segment and segments that are on their way to a receiver. If nothing can
//! be thinned, the spool drops its oldest segment as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nf_transport_core::batch::{Batch, BatchBuilder, Compression, PushError};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::flow_layout::FlowRun;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::netflow::ExporterTable;
use nf_transport_core::sequence::{Gap, Position};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{
    Candidate, Item, SegmentReader, Sieve, Spool, Thinned, ThinnedSegment, ThinningJob,
};

use crate::host::{boot_clock, locked};
use crate::sender::queue::Queue;
use crate::sender::queue::holdings::{Holding, Holdings, Shares, level};

/// A segment is thinned if one part of so many of it may go. There is such a segment at the lowest level, where such a part of all
/// may go.
const PARTS: u64 = 8;

/// Levels that are tried from the highest to the lowest one.
const LEVELS: u64 = 32;

/// Exporters are cut down to one part of so many below the level.
const ALIKE_PARTS: u64 = 4;

/// One part of so many of `max-size` stays free for batches of which the largest holders' datagrams were dropped.
const RESERVE_PARTS: u64 = 32;

/// A thinning is prepared while less than one part of so many of `max-size` is free.
const PREPARE_PARTS: u64 = 10;

/// While the spool is more than half full, and not nearly full, one segment of an earlier run is read in this time.
const LEARN_EVERY: Duration = Duration::from_secs(1);

/// A segment that could not be read or written again is left alone for this long.
const STUBBORN_FOR: Duration = Duration::from_secs(60);

/// Makes room by the shares of exporters.
#[derive(Debug)]
pub(crate) struct FairShare {
    queue: Arc<Queue>,
    holdings: Holdings,
    /// Segments that are left alone, and when they are tried again: not readable, or too little could be dropped. Damaged ones are
    /// not tried again.
    stubborn: BTreeMap<Position, Option<Instant>>,
    /// Those of them that a newer version wrote.
    newer: BTreeSet<Position>,
    /// The segment that was partly acknowledged when the turn began, up to its end.
    partly: Option<(Position, Position)>,
    /// What segments held that were dropped in this turn.
    gone: BTreeMap<Position, Shares>,
    work: Option<Work>,
    prepared: Option<Prepared>,
    /// The spool when there was nothing to prepare.
    idle_at: Option<Shape>,
    /// The segment that was read last was only learned.
    has_learned: bool,
    /// When the next one may be, while the spool is not nearly full.
    learn_at: Instant,
    /// The time of the present turn.
    now: Instant,
    /// Bytes that the spool may hold for now: more than `max-size` if a reload made that smaller.
    ceiling: u64,
    /// Where flows of datagrams that stay are, so that their batches are compressed as well as before: for segments and batches.
    flows: Arc<Mutex<ExporterTable>>,
    batch_flows: ExporterTable,
    /// While a test holds it, nothing is read.
    #[cfg(test)]
    gate: Arc<Mutex<()>>,
}

/// What decides whether something can be thinned: if it is the same, looking again is in vain.
type Shape = (Option<Position>, usize, u64, Position);

/// What the thread does, or did.
#[derive(Debug)]
struct Work {
    segment: Candidate,
    thread: JoinHandle<Outcome>,
    is_abandoned: Arc<AtomicBool>,
    is_thinning: bool,
}

/// What came of it.
#[derive(Debug)]
enum Outcome {
    Learned(io::Result<Found>),
    Thinned(io::Result<Option<(ThinnedSegment<File>, Shares)>>),
}

/// A thinned segment that can take its place, and what it lost.
#[derive(Debug)]
struct Prepared {
    segment: Candidate,
    written: ThinnedSegment<File>,
    lost: Shares,
}

/// Datagrams that were dropped one by one, and whose they were.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) thinned: Thinned,
    pub(crate) shares: Shares,
}

/// A segment that makes room, and how.
#[derive(Debug)]
struct Choice {
    segment: Candidate,
    /// What each exporter may lose, if not all of the segment goes.
    budgets: Option<Budgets>,
}

/// Bytes that each exporter may lose.
type Budgets = HashMap<IpAddr, u64>;

impl FairShare {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            holdings: Holdings::default(),
            stubborn: BTreeMap::new(),
            newer: BTreeSet::new(),
            partly: None,
            gone: BTreeMap::new(),
            work: None,
            prepared: None,
            idle_at: None,
            has_learned: false,
            learn_at: Instant::now(),
            now: Instant::now(),
            ceiling: 0,
            flows: Arc::default(),
            batch_flows: ExporterTable::default(),
            #[cfg(test)]
            gate: Arc::default(),
        }
    }

    /// What a test holds so that no segment is read.
    #[cfg(test)]
    pub(crate) fn gate(&self) -> Arc<Mutex<()>> {
        self.gate.clone()
    }

    /// Whether it is known what the segment that starts at `first` holds.
    #[cfg(test)]
    pub(crate) fn knows(&self, first: Position) -> bool {
        self.holdings.of_segment(first).is_some()
    }

    /// Begins a turn of the flusher: what is acknowledged has left the spool, and nothing was dropped yet.
    pub(crate) fn begin_turn(&mut self, spool: &Spool<Directory>) {
        self.partly = None;
        self.gone.clear();
        let segment = spool.max_size() / PARTS;
        if spool.excess(0) == 0 {
            self.ceiling = 0;
        } else if self.ceiling == 0 {
            self.ceiling = spool.size().saturating_add(segment);
        }
        let Some(oldest) = spool.first() else { return };
        self.holdings.forget_below(oldest);
        self.stubborn = self.stubborn.split_off(&oldest);
        self.newer = self.newer.split_off(&oldest);
        self.partly = spool.segment_at(oldest).map(|(first, end, _)| (first, end));
    }

    /// Counts `batch`, which was appended, sealed to `length` bytes.
    pub(crate) fn note_appended(&mut self, spool: &Spool<Directory>, batch: &Batch, length: u64) {
        let Some((first, ..)) = spool.segment_at(batch.first()) else { return };
        match Shares::of(batch, length) {
            Ok(shares) if first == batch.first() => self.holdings.set(first, shares),
            Ok(shares) => self.holdings.append(first, &shares),
            Err(_) => note_internal_error("a batch of this process cannot be read"),
        }
    }

    /// Returns what the segments held that the spool dropped in `gap`. Of a segment that was partly acknowledged, this is more than
    /// was lost.
    pub(crate) fn take_dropped(&mut self, spool: &Spool<Directory>, gap: Gap) -> Shares {
        let partly = self.partly.filter(|(first, end)| *first < gap.first && gap.first < *end);
        let from = partly.map_or(gap.first, |(first, _)| first);
        let mut shares = Shares::default();
        for first in self.holdings.within(from, gap.end) {
            if spool.segment_at(first).is_none_or(|(found, ..)| found != first) {
                shares.add_all(&self.holdings.take(first).unwrap_or_default());
            }
        }
        self.gone.range(from..gap.end).for_each(|(_, held)| shares.add_all(held));
        shares
    }

    /// Bytes that are free, with `length` more of a batch, when the spool has room.
    pub(crate) fn wanted(spool: &Spool<Directory>, length: u64) -> u64 {
        length.saturating_add(spool.max_size() / RESERVE_PARTS)
    }

    /// Bytes that the spool may hold while it is cut down to a smaller `max-size`.
    pub(crate) fn ceiling(&self) -> u64 {
        self.ceiling
    }

    /// Whether room is being made.
    pub(crate) fn is_busy(&self) -> bool {
        self.work.is_some() || self.prepared.is_some()
    }

    /// Makes room for `wanted` bytes within `max-size`, as far as that can be done fairly and at once. Returns the datagrams that
    /// were dropped one by one; of whole segments the spool itself keeps account.
    pub(crate) fn make_room(
        &mut self,
        spool: &mut Spool<Directory>,
        wanted: u64,
        in_flight: Position,
    ) -> Vec<Lost> {
        let mut lost = Vec::new();
        while spool.excess(wanted) > 0 {
            self.end_work(spool, in_flight);
            if let Some(prepared) = self.prepared.take() {
                lost.extend(self.put(spool, prepared, in_flight));
                continue;
            }
            let is_new = self.work.is_none() && self.idle_at != Some(shape(spool, in_flight));
            let Some(choice) = self.find(spool, in_flight).filter(|_| is_new) else { break };
            if choice.budgets.is_some() || spool.drop_candidate(choice.segment).is_err() {
                break;
            }
            let held = self.holdings.take(choice.segment.first).unwrap_or_default();
            self.gone.insert(choice.segment.first, held);
        }
        lost
    }

    /// Prepares the next thinning, or reads a segment of an earlier run so that its shares are known, if the spool is so full that
    /// this may be needed.
    pub(crate) fn prepare(
        &mut self,
        spool: &mut Spool<Directory>,
        in_flight: Position,
        now: Instant,
        may_thin: bool,
    ) {
        self.now = now;
        self.end_work(spool, in_flight);
        let is_nearly_full = spool.excess(spool.max_size() / PREPARE_PARTS) > 0;
        if let Some(Prepared { segment, .. }) = &self.prepared
            && !(may_thin && is_nearly_full && spool.is_candidate(*segment, in_flight))
        {
            self.prepared = None;
            spool.abandon_thinning();
        }
        let may_learn = is_nearly_full || (spool.excess(spool.size()) > 0 && now >= self.learn_at);
        if self.is_busy() || !may_learn {
            return;
        }
        self.stubborn.retain(|_, until| until.is_none_or(|until| until > now));
        // After a start with a full spool, thinnings do not wait until all of it was read.
        let may_thin = may_thin && is_nearly_full;
        let is_started = may_thin && self.has_learned && self.start_thinning(spool, in_flight);
        if !is_started && !self.start_learning(spool, in_flight) && may_thin {
            self.start_thinning(spool, in_flight);
        }
    }

    fn start_learning(&mut self, spool: &Spool<Directory>, in_flight: Position) -> bool {
        let unknown = spool.candidates(in_flight).find(|segment| self.is_unknown(segment.first));
        self.has_learned = unknown.is_some();
        self.learn_at = self.now + LEARN_EVERY;
        let Some(segment) = unknown else { return false };
        let reader = match spool.reader(segment.first, false) {
            Ok(Some(reader)) => reader,
            Ok(None) => return false,
            Err(error) => {
                self.leave_alone(segment, &error);
                return false;
            }
        };
        let queue = self.queue.clone();
        self.start(segment, false, move |is_abandoned| {
            Outcome::Learned(shares_of(&queue, reader, is_abandoned))
        })
    }

    fn start_thinning(&mut self, spool: &mut Spool<Directory>, in_flight: Position) -> bool {
        let shape = shape(spool, in_flight);
        if self.idle_at == Some(shape) {
            return false;
        }
        let choice = self.find(spool, in_flight);
        let Some(Choice { segment, budgets: Some(budgets) }) = choice else {
            // All of a segment can be dropped when the room is needed.
            self.idle_at = choice.is_none().then_some(shape);
            return false;
        };
        if !spool.may_take(segment.size) {
            self.idle_at = Some(shape);
            return false;
        }
        match spool.start_thinning(segment, in_flight) {
            Ok(Some(job)) => {
                let (queue, flows) = (self.queue.clone(), self.flows.clone());
                self.start(segment, true, move |is_abandoned| {
                    Outcome::Thinned(thin(&queue, &flows, job, segment, budgets, is_abandoned))
                })
            }
            Ok(None) => false,
            Err(error) => {
                spool.abandon_thinning();
                self.leave_alone(segment, &error);
                false
            }
        }
    }

    fn start(
        &mut self,
        segment: Candidate,
        is_thinning: bool,
        act: impl FnOnce(&AtomicBool) -> Outcome + Send + 'static,
    ) -> bool {
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let flag = is_abandoned.clone();
        #[cfg(test)]
        let gate = self.gate.clone();
        let thread = thread::Builder::new().name("thin".to_owned()).spawn(move || {
            #[cfg(test)]
            drop(gate.lock());
            act(&flag)
        });
        match thread {
            Ok(thread) => self.work = Some(Work { segment, thread, is_abandoned, is_thinning }),
            Err(error) => self.leave_alone(segment, &error),
        }
        self.work.is_some()
    }

    /// Takes over what the thread has done, once it has ended. One whose segment was acknowledged meanwhile ends early.
    fn end_work(&mut self, spool: &mut Spool<Directory>, in_flight: Position) {
        let Some(work) = &self.work else { return };
        if !spool.is_candidate(work.segment, in_flight) {
            work.is_abandoned.store(true, Ordering::Relaxed);
        }
        if !work.thread.is_finished() {
            return;
        }
        let Some(Work { segment, thread, is_thinning, .. }) = self.work.take() else { return };
        let is_there = spool.is_candidate(segment, in_flight);
        let outcome = thread.join();
        if let Ok(Outcome::Thinned(Ok(Some((written, lost))))) = outcome {
            self.prepared = Some(Prepared { segment, written, lost });
            return;
        }
        if is_thinning {
            spool.abandon_thinning();
        }
        match outcome {
            _ if !is_there => {}
            Ok(Outcome::Learned(Ok(Found::Shares(shares)))) => {
                self.holdings.set(segment.first, shares);
                self.idle_at = None;
                if self.is_unknown(segment.first) {
                    // There are too many rows.
                    self.stubborn.insert(segment.first, Some(self.now + STUBBORN_FOR));
                }
            }
            Ok(Outcome::Learned(Ok(Found::Newer))) => {
                self.newer.insert(segment.first);
            }
            Ok(Outcome::Learned(Ok(Found::Damage)) | Outcome::Thinned(Ok(_))) => {
                self.stubborn.insert(segment.first, None);
            }
            Ok(Outcome::Learned(Err(error)) | Outcome::Thinned(Err(error))) => {
                self.leave_alone(segment, &error);
            }
            Err(_) => self.leave_alone(segment, &io::Error::other("the thread that does it has failed")),
        }
    }

    /// Leaves `segment` alone for a while.
    fn leave_alone(&mut self, segment: Candidate, error: &io::Error) {
        tracing::debug!(
            %error,
            segment = segment.first.0,
            "cannot read or rewrite a segment of the spool: {error}; trying again"
        );
        self.stubborn.insert(segment.first, Some(self.now + STUBBORN_FOR));
    }

    fn is_unknown(&self, first: Position) -> bool {
        self.holdings.of_segment(first).is_none()
            && !self.stubborn.contains_key(&first)
            && !self.newer.contains(&first)
    }

    /// The oldest segment that makes room at the highest level that any segment does.
    fn find(&self, spool: &Spool<Directory>, in_flight: Position) -> Option<Choice> {
        let candidates: Vec<Candidate> = spool.candidates(in_flight).collect();
        // The spool keeps apart what a newer version wrote, which makes room as well.
        if candidates.first().is_some_and(|oldest| self.newer.contains(&oldest.first)) {
            return None;
        }
        let of_candidates: u64 = candidates.iter().map(|segment| segment.size).sum();
        let held = self.holdings.largest_first();
        if held.iter().sum::<u64>() < of_candidates / 2 {
            // After a start the largest holders are not known before half of the spool is.
            return None;
        }
        let step = lowest(&held).div_ceil(LEVELS);
        let find_at = |number: u64| {
            let level = level(&held, step.saturating_mul(number));
            candidates.iter().find_map(|segment| self.choose(*segment, level))
        };
        let (mut low, mut high) = (0, LEVELS);
        let mut found = find_at(high);
        while found.is_some() && high - low > 1 {
            let middle = u64::midpoint(low, high);
            match find_at(middle) {
                None => low = middle,
                closer => (found, high) = (closer, middle),
            }
        }
        found
    }

    /// How `segment` makes room if an eighth of it may go at `level`.
    fn choose(&self, segment: Candidate, level: u64) -> Option<Choice> {
        let shares = self.holdings.of_segment(segment.first)?;
        let may_go: u64 =
            shares.iter().map(|(exporter, held)| self.budget(exporter, level).min(held.bytes)).sum();
        if self.stubborn.contains_key(&segment.first) || may_go < segment.size / PARTS {
            return None;
        }
        // Those that hold nearly as much lose alike, or many would be cut down a little again and again.
        let level = level - level / ALIKE_PARTS;
        let all_go = shares.iter().all(|(exporter, held)| held.bytes <= self.budget(exporter, level));
        let budgets =
            || shares.iter().map(|(exporter, _)| (exporter, self.budget(exporter, level))).collect();
        Some(Choice { segment, budgets: (!all_go).then(budgets) })
    }

    /// Bytes that `exporter` may lose at `level`.
    fn budget(&self, exporter: IpAddr, level: u64) -> u64 {
        self.holdings.totals().get(exporter).bytes.saturating_sub(level)
    }

    /// Puts a thinned segment in its place, if it still is fair and nothing happened to the segment.
    fn put(&mut self, spool: &mut Spool<Directory>, prepared: Prepared, in_flight: Position) -> Option<Lost> {
        let Prepared { segment, written, lost } = prepared;
        let held = self.holdings.largest_first();
        let level = level(&held, lowest(&held));
        // Larger holders may have come since, or the losers may have been acknowledged.
        if lost.iter().any(|(exporter, _)| self.budget(exporter, level) == 0) {
            spool.abandon_thinning();
            return None;
        }
        match spool.finish_thinning(written, segment.size / (2 * PARTS), in_flight) {
            Ok(Some(thinned)) => {
                self.note_thinned(spool, segment, &lost);
                Some(Lost { thinned, shares: lost })
            }
            Ok(None) => {
                if spool.is_candidate(segment, in_flight) {
                    self.stubborn.insert(segment.first, Some(self.now + STUBBORN_FOR));
                }
                None
            }
            Err(error) => {
                self.leave_alone(segment, &error);
                None
            }
        }
    }

    /// Takes over that `segment` lost `lost`, and may have become one with the segment before it.
    fn note_thinned(&mut self, spool: &Spool<Directory>, segment: Candidate, lost: &Shares) {
        let mut left = self.holdings.take(segment.first).unwrap_or_default();
        left.remove_all(lost);
        let begin = spool.segment_at(segment.first).map_or(segment.first, |(begin, ..)| begin);
        if begin == segment.first {
            self.holdings.set(begin, left);
        } else {
            self.holdings.append(begin, &left);
            self.stubborn.remove(&begin);
        }
    }

    /// `batch`, which is about to be spooled, without the datagrams of the largest holders, and what these lost; `None` if they have
    /// none in it.
    pub(crate) fn sift_batch(&mut self, spool: &Spool<Directory>, batch: &Batch) -> Option<(Batch, Lost)> {
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        let shares = Shares::of(batch, length).ok()?;
        let held = self.holdings.largest_first();
        let most = lowest(&held);
        // The highest level at which half of the batch goes. The lowest one when half of the reserve is used up.
        let is_short = spool.excess(length.saturating_add(spool.max_size() / (2 * RESERVE_PARTS))) > 0;
        let mut wanted = if is_short { most } else { length };
        let level = loop {
            let level = level(&held, wanted.min(most));
            let may_go: u64 =
                shares.iter().map(|(exporter, held)| self.budget(exporter, level).min(held.bytes)).sum();
            if may_go >= length / 2 || wanted >= most {
                break level;
            }
            wanted = wanted.saturating_mul(2);
        };
        let budgets = shares.iter().map(|(exporter, _)| (exporter, self.budget(exporter, level))).collect();
        let mut sieve = ByExporter {
            queue: &self.queue,
            budgets,
            builder: BatchBuilder::new(self.queue.stream(), Compression::None),
            table: &mut self.batch_flows,
            flows: Vec::new(),
            next: batch.first(),
            lost: Shares::default(),
            is_abandoned: &AtomicBool::new(false),
        };
        // A batch of which less is left does not become two.
        let full = sieve.sift_opened(batch, length).ok()?;
        let sifted = sieve.builder.finish(batch.first()).filter(|_| full.is_empty())?;
        let lost = sieve.lost;
        let datagrams = lost.iter().map(|(_, held)| held.datagrams).sum();
        if datagrams == 0 || sifted.end() != batch.end() {
            return None;
        }
        let thinned = Thinned { first: batch.first(), end: batch.end(), datagrams };
        Some((sifted, Lost { thinned, shares: lost }))
    }

    /// Ends the thread, and removes what it wrote.
    pub(crate) fn stop(&mut self) {
        let is_thinning = self.prepared.is_some() || self.work.as_ref().is_some_and(|work| work.is_thinning);
        if let Some(work) = self.work.take() {
            work.is_abandoned.store(true, Ordering::Relaxed);
            drop(work.thread.join());
        }
        self.prepared = None;
        if is_thinning {
            self.queue.spool().abandon_thinning();
        }
    }
}

/// Bytes that may go at the lowest level, by what each exporter holds.
fn lowest(held: &[u64]) -> u64 {
    held.iter().sum::<u64>() / PARTS
}

fn shape(spool: &Spool<Directory>, in_flight: Position) -> Shape {
    (spool.first(), spool.segments(), spool.thinnings(), in_flight)
}

/// What a segment holds.
#[derive(Debug)]
enum Found {
    /// So much of each exporter.
    Shares(Shares),
    /// Batches that a newer version wrote.
    Newer,
    /// Damage.
    Damage,
}

/// Finds what each exporter holds in the segment that `reader` reads.
fn shares_of(queue: &Queue, mut reader: SegmentReader<File>, is_abandoned: &AtomicBool) -> io::Result<Found> {
    let mut shares = Shares::default();
    while let Some(item) = reader.next_item()? {
        go_on(is_abandoned)?;
        let batch = match item {
            Item::Batch(batch) => batch,
            Item::Newer(_) => return Ok(Found::Newer),
            Item::Damage(_) => return Ok(Found::Damage),
        };
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        let opened = queue.open(&batch).map_err(io::Error::other)?;
        shares.add_all(&Shares::of(&opened, length).map_err(io::Error::other)?);
    }
    Ok(Found::Shares(shares))
}

/// Writes `segment` again without what its exporters may lose.
fn thin(
    queue: &Queue,
    flows: &Mutex<ExporterTable>,
    job: ThinningJob<File>,
    segment: Candidate,
    budgets: Budgets,
    is_abandoned: &AtomicBool,
) -> io::Result<Option<(ThinnedSegment<File>, Shares)>> {
    let mut table = locked(flows);
    let mut sieve = ByExporter {
        queue,
        budgets,
        builder: BatchBuilder::new(queue.stream(), Compression::None),
        table: &mut table,
        flows: Vec::new(),
        next: segment.first,
        lost: Shares::default(),
        is_abandoned,
    };
    let written = job.run(&mut sieve)?;
    Ok(written.map(|written| (written, sieve.lost)))
}

fn go_on(is_abandoned: &AtomicBool) -> io::Result<()> {
    let is_wanted = !is_abandoned.load(Ordering::Relaxed);
    if is_wanted { Ok(()) } else { Err(io::Error::other("it is not needed any more")) }
}

/// Drops the oldest datagrams of some exporters.
struct ByExporter<'a> {
    queue: &'a Queue,
    /// What each exporter may still lose.
    budgets: Budgets,
    /// Datagrams that stay, and the positions of dropped ones, which are in no batch yet.
    builder: BatchBuilder,
    table: &'a mut ExporterTable,
    /// The flows of the present datagram.
    flows: Vec<FlowRun>,
    /// The position of the first of them.
    next: Position,
    lost: Shares,
    is_abandoned: &'a AtomicBool,
}

impl ByExporter<'_> {
    fn push(&mut self, datagram: Option<&Datagram<'_>>, arrival: Timestamp) -> Result<(), PushError> {
        match datagram {
            Some(datagram) => self.builder.push_flows(datagram, &self.flows),
            None => self.builder.push_dropped(arrival),
        }
    }

    fn find_flows(&mut self, datagram: Option<&Datagram<'_>>) {
        self.flows.clear();
        if let Some(datagram) = datagram.filter(|_| self.builder.compresses()) {
            self.table.note_flows(datagram, boot_clock(), &mut self.flows);
        }
    }

    fn finish_batch(&mut self) -> io::Result<Option<Batch>> {
        let Some(batch) = self.builder.finish(self.next) else { return Ok(None) };
        self.next = batch.end();
        self.queue.seal(&batch).map(Some)
    }

    /// Whether `datagram`, which takes `holding`, is dropped.
    fn drops(&mut self, datagram: &Datagram<'_>, holding: Holding) -> bool {
        let exporter = datagram.exporter.ip();
        let Some(budget) = self.budgets.get_mut(&exporter).filter(|budget| **budget > 0) else {
            return false;
        };
        *budget = budget.saturating_sub(holding.bytes);
        self.lost.add(exporter, holding);
        true
    }

    /// Takes in a batch that takes `length` bytes on disk, and is opened.
    fn sift_opened(&mut self, batch: &Batch, length: u64) -> io::Result<Vec<Batch>> {
        let records = batch.records().map_err(io::Error::other)?;
        if batch.header().compression != Compression::None {
            self.builder.set_compression(Compression::Zstd);
        }
        let mut full = Vec::new();
        for datagram in records.by_position() {
            self.find_flows(datagram.as_ref());
            let arrival = datagram.map_or(batch.earliest(), |datagram| datagram.arrival);
            let kept =
                datagram.filter(|datagram| !self.drops(datagram, Holding::of(datagram, batch, length)));
            if self.push(kept.as_ref(), arrival) == Err(PushError::Full) {
                full.extend(self.finish_batch()?);
                self.push(kept.as_ref(), arrival).map_err(io::Error::other)?;
            }
        }
        Ok(full)
    }
}

impl Sieve for ByExporter<'_> {
    fn sift(&mut self, batch: &Batch) -> io::Result<Vec<Batch>> {
        go_on(self.is_abandoned)?;
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        let opened = self.queue.open(batch).map_err(io::Error::other)?;
        self.sift_opened(&opened, length)
    }

    fn finish(&mut self) -> io::Result<Option<Batch>> {
        self.finish_batch()
    }
}
