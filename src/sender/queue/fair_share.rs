//! Makes room in a full spool at the expense of the exporters that hold most.
//!
//! The rule:
//! - The exporters that hold most are cut down to one common level. They lose their oldest datagrams first.
//! - An exporter that holds no more than that level loses nothing.
//! - The level is three quarters of the highest level at which an eighth of some segment may be dropped. Such
//!   a segment exists at the level at which an eighth of all may be dropped.
//!
//! So few bytes are rewritten for each dropped byte. A segment of which less than a sixteenth would go stays
//! unchanged. Exporters that hold about the same lose whole segments, of which nothing is rewritten.
//!
//! A thread of its own reads and rewrites a segment once the spool is nearly full. The result replaces the
//! old segment when the room is needed. If the ring of the receive journal fills meanwhile, the datagrams of
//! the largest holders are dropped from the batches that are about to be spooled. A 32nd of `max-size` stays
//! free for the rest of these batches. When that is used up, the next batch waits for the thinning. Exempt
//! are the last segment and segments in flight. If nothing can be thinned, the spool drops its oldest segment
//! as a whole.

mod choice;
mod sieve;
mod thinner;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nf_transport_core::batch::Batch;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::netflow::ExporterTable;
use nf_transport_core::sequence::{Gap, Position};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{Candidate, Spool, ThinnedSegment};

use self::choice::{ExemptSegments, PARTS, SegmentChoice, choose, lowest, lowest_level};
use self::sieve::ByExporter;
pub(crate) use self::sieve::ThinnedLoss;
use self::worker::SegmentWork;
use crate::sender::queue::Queue;
use crate::sender::queue::holdings::{Holdings, Shares, level};

/// A 32nd of `max-size` stays free for batches of which the datagrams of the largest holders were dropped.
const RESERVE_PARTS: u64 = 32;

/// A thinning is prepared while less than a tenth of `max-size` is free.
const PREPARE_PARTS: u64 = 10;

/// The interval at which segments of an earlier run are read while the spool is more than half full, but not
/// nearly full.
const LEARN_EVERY: Duration = Duration::from_secs(1);

/// Makes room by the shares of exporters.
#[derive(Debug)]
pub(crate) struct FairShare {
    queue: Arc<Queue>,
    holdings: Holdings,
    exempt: ExemptSegments,
    /// The range of the segment that was partly acknowledged when the turn began.
    partly: Option<(Position, Position)>,
    /// The holdings of segments that were dropped in this turn.
    gone: BTreeMap<Position, Shares>,
    work: Option<SegmentWork>,
    prepared: Option<Prepared>,
    /// The shape of the spool when there was nothing to prepare.
    idle_at: Option<(Shape, Instant)>,
    /// The last thread only read its segment.
    has_learned: bool,
    /// The time of the next read while the spool is not nearly full.
    learn_at: Instant,
    /// The time of the present turn.
    now: Instant,
    /// The bytes that the spool may hold for now: more than `max-size` if a reload made that smaller.
    ceiling: u64,
    /// The flows of datagrams that stay in segments, so that their batches compress as well as before.
    flows: Arc<Mutex<ExporterTable>>,
    /// The same for batches that are about to be spooled.
    batch_flows: ExporterTable,
    /// While a test holds it, no segment is read.
    #[cfg(test)]
    gate: Arc<Mutex<()>>,
}

/// The facts that decide if a segment can be thinned. While they are the same, another search is in vain.
type Shape = (Option<Position>, usize, u64, Position);

/// A thinned segment that can replace the old one, and the loss.
#[derive(Debug)]
struct Prepared {
    segment: Candidate,
    written: ThinnedSegment,
    lost: Shares,
}

impl FairShare {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            holdings: Holdings::default(),
            exempt: ExemptSegments::default(),
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

    /// Returns a lock. While a test holds it, no segment is read.
    #[cfg(test)]
    pub(crate) fn gate(&self) -> Arc<Mutex<()>> {
        self.gate.clone()
    }

    /// Returns `true` if the holdings of the segment that starts at `first` are known.
    #[cfg(test)]
    pub(crate) fn knows(&self, first: Position) -> bool {
        self.holdings.of_segment(first).is_some()
    }

    /// Begins a turn of the flusher, after `spool` removed acknowledged segments and before it drops any.
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
        self.exempt.forget_below(oldest);
        self.partly = spool.segment_at(oldest).map(|(first, end, _)| (first, end));
    }

    /// Counts the appended `batch`, encrypted to `length` bytes.
    pub(crate) fn note_appended(&mut self, spool: &Spool<Directory>, batch: &Batch, length: u64) {
        let Some((first, ..)) = spool.segment_at(batch.first()) else { return };
        match Shares::of(batch, length) {
            Ok(shares) if first == batch.first() => self.holdings.set(first, shares),
            Ok(shares) => self.holdings.append(first, &shares),
            Err(_) => note_internal_error("a batch of this process cannot be read"),
        }
    }

    /// Returns the holdings of the segments that the spool dropped in `gap`. For a partly acknowledged
    /// segment these are more than the loss.
    pub(crate) fn take_dropped(&mut self, spool: &Spool<Directory>, gap: Gap) -> Shares {
        let partly = self.partly.filter(|(first, end)| *first < gap.first && gap.first < *end);
        let from = partly.map_or(gap.first, |(first, _)| first);
        let mut shares = Shares::default();
        for first in self.holdings.within(from, gap.end) {
            if spool.segment_at(first).is_none_or(|(found, ..)| found != first) {
                shares.add_all(&self.holdings.remove(first).unwrap_or_default());
            }
        }
        self.gone.range(from..gap.end).for_each(|(_, held)| shares.add_all(held));
        shares
    }

    /// Returns the bytes that must be free before a batch of `length` bytes is appended, with the reserve.
    pub(crate) fn wanted(spool: &Spool<Directory>, length: u64) -> u64 {
        length.saturating_add(spool.max_size() / RESERVE_PARTS)
    }

    /// Returns `true` if so little is free after `length` more bytes that a thinning is prepared.
    pub(crate) fn is_nearly_full(spool: &Spool<Directory>, length: u64) -> bool {
        spool.excess(length.saturating_add(spool.max_size() / PREPARE_PARTS)) > 0
    }

    /// Returns the bytes that the spool may hold while it is cut down to a smaller `max-size`; otherwise 0.
    pub(crate) fn ceiling(&self) -> u64 {
        self.ceiling
    }

    /// Returns `true` while room is being made.
    pub(crate) fn is_busy(&self) -> bool {
        self.work.is_some() || self.prepared.is_some()
    }

    /// Makes room for `wanted` bytes within `max-size`, as far as this is possible fairly and at once.
    /// Returns the datagrams that were dropped one by one. The spool itself accounts for whole segments.
    pub(crate) fn make_room(
        &mut self,
        spool: &mut Spool<Directory>,
        wanted: u64,
        in_flight: Position,
    ) -> Vec<ThinnedLoss> {
        let mut lost = Vec::new();
        while spool.excess(wanted) > 0 {
            self.end_work(spool, in_flight);
            if let Some(prepared) = self.prepared.take() {
                lost.extend(self.replace(spool, prepared, in_flight));
                continue;
            }
            if self.work.is_some() || self.is_idle(shape(spool, in_flight)) {
                break;
            }
            let Some(choice) = self.choose(spool, in_flight) else { break };
            if choice.budgets.is_some() || spool.drop_candidate(choice.segment).is_err() {
                break;
            }
            let held = self.holdings.remove(choice.segment.first).unwrap_or_default();
            self.gone.insert(choice.segment.first, held);
        }
        lost
    }

    /// Prepares the next thinning, or reads a segment of an earlier run to learn its shares. Does so only if
    /// the spool is so full that this may be needed.
    pub(crate) fn prepare(
        &mut self,
        spool: &mut Spool<Directory>,
        in_flight: Position,
        now: Instant,
        may_thin: bool,
    ) {
        self.now = now;
        self.end_work(spool, in_flight);
        let is_nearly_full = Self::is_nearly_full(spool, 0);
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
        self.exempt.expire(now);
        // Learning and thinning alternate: after a start with a full spool, thinnings do not wait until all
        // of it was read.
        let may_thin = may_thin && is_nearly_full;
        let is_started = may_thin && self.has_learned && self.start_thinning(spool, in_flight);
        if !is_started && !self.start_learning(spool, in_flight) && may_thin {
            self.start_thinning(spool, in_flight);
        }
    }

    /// Exempts `segment` for a while after `error`.
    fn retry_later(&mut self, segment: Candidate, error: &io::Error) {
        tracing::debug!(
            %error,
            segment = segment.first.0,
            "cannot read or rewrite a segment of the spool: {error}; retrying later"
        );
        self.exempt.add(segment.first, self.now);
    }

    /// Returns `true` if nothing could be prepared within the last second for a spool of this shape.
    fn is_idle(&self, shape: Shape) -> bool {
        self.idle_at.is_some_and(|(idle, until)| idle == shape && self.now < until)
    }

    fn is_unknown(&self, first: Position) -> bool {
        self.holdings.of_segment(first).is_none() && !self.exempt.contains(first)
    }

    fn choose(&self, spool: &Spool<Directory>, in_flight: Position) -> Option<SegmentChoice> {
        let candidates: Vec<Candidate> = spool.candidates(in_flight).collect();
        choose(&self.holdings, &self.exempt, &candidates)
    }

    /// Replaces a segment by its thinned version, if that still is fair and the segment has not changed.
    fn replace(
        &mut self,
        spool: &mut Spool<Directory>,
        prepared: Prepared,
        in_flight: Position,
    ) -> Option<ThinnedLoss> {
        let Prepared { segment, written, lost } = prepared;
        let level = lowest_level(&self.holdings.largest_first());
        // Other exporters may hold more by now, or the data of the losers may have been acknowledged.
        if lost.iter().any(|(exporter, _)| self.holdings.budget(exporter, level) == 0) {
            spool.abandon_thinning();
            return None;
        }
        match spool.finish_thinning(written, segment.size / (2 * PARTS), in_flight) {
            Ok(Some(thinned)) => {
                self.note_thinned(spool, segment, &lost);
                Some(ThinnedLoss { thinned, shares: lost })
            }
            Ok(None) => {
                if spool.is_candidate(segment, in_flight) {
                    self.exempt.add(segment.first, self.now);
                }
                None
            }
            Err(error) => {
                self.retry_later(segment, &error);
                None
            }
        }
    }

    /// Updates the holdings after `segment` lost `lost` and was possibly merged with the previous segment.
    fn note_thinned(&mut self, spool: &Spool<Directory>, segment: Candidate, lost: &Shares) {
        let mut left = self.holdings.remove(segment.first).unwrap_or_default();
        left.remove_all(lost);
        let begin = spool.segment_at(segment.first).map_or(segment.first, |(begin, ..)| begin);
        if begin == segment.first {
            self.holdings.set(begin, left);
        } else {
            self.holdings.append(begin, &left);
            self.exempt.remove(begin);
        }
    }

    /// Returns `batch`, which is about to be spooled, without the datagrams of the largest holders, and the
    /// loss. Returns `None` if the batch has none of them.
    pub(crate) fn sift_batch(
        &mut self,
        spool: &Spool<Directory>,
        batch: &Batch,
    ) -> Option<(Batch, ThinnedLoss)> {
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        let shares = Shares::of(batch, length).ok()?;
        let held = self.holdings.largest_first();
        let most = lowest(&held);
        // The highest level at which half of the batch goes. The lowest level once half of the reserve is
        // used.
        let is_short = spool.excess(length.saturating_add(spool.max_size() / (2 * RESERVE_PARTS))) > 0;
        let mut wanted = if is_short { most } else { length };
        let level = loop {
            let level = level(&held, wanted.min(most));
            if self.holdings.droppable(&shares, level) >= length / 2 || wanted >= most {
                break level;
            }
            wanted = wanted.saturating_mul(2);
        };
        let budgets =
            shares.iter().map(|(exporter, _)| (exporter, self.holdings.budget(exporter, level))).collect();
        let is_abandoned = AtomicBool::new(false);
        let table = &mut self.batch_flows;
        ByExporter::new(&self.queue, budgets, table, batch.first(), &is_abandoned).sift_one(batch, length)
    }

    /// Ends the thread, and removes its unfinished files.
    pub(crate) fn stop(&mut self) {
        let is_thinning = self.prepared.is_some() || self.work.as_ref().is_some_and(|work| work.is_thinning);
        if let Some(work) = self.work.take() {
            work.abandon();
            drop(work.join());
        }
        self.prepared = None;
        if is_thinning {
            self.queue.spool().abandon_thinning();
        }
    }
}

fn shape(spool: &Spool<Directory>, in_flight: Position) -> Shape {
    (spool.first(), spool.segments(), spool.thinnings(), in_flight)
}
