//! Makes room in a full spool at the expense of the exporters that hold most.
//!
//! The largest holders lose. Of all exporters sorted by holding, these are the first ones that together hold
//! a quarter of the spool, and those that hold nearly as much as the last of them. Their oldest datagrams are
//! dropped, beginning with the oldest segment of which they hold at least a quarter. There is such a segment,
//! as they hold a quarter of the spool. So an exporter loses nothing while others that hold clearly more hold
//! a quarter of the spool.
//!
//! At most nine bytes are rewritten for each dropped byte, and a segment that would free less stays. Exempt
//! are the last segment and segments in flight. If nothing else is left, the spool drops its oldest segment
//! as a whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use nf_transport_core::batch::{Batch, BatchBuilder, Compression, PushError};
use nf_transport_core::datagram::{Datagram, FlowRun, Timestamp};
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::netflow::ExporterTable;
use nf_transport_core::sequence::{Gap, Position};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{Candidate, Item, SegmentReader, Sieve, Spool, Thinned};

use crate::host::boot_clock;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::queue::Queue;
use crate::sender::queue::holdings::{Holding, Holdings, Shares};

/// The largest holders together hold at least one of this many parts of the spool. The dropped part of a
/// segment is at least as large.
const PARTS: u64 = 4;

/// Makes room by the shares of exporters.
#[derive(Debug)]
pub(crate) struct FairShare {
    queue: Arc<Queue>,
    counters: Arc<IngestCounters>,
    holdings: Holdings,
    /// Segments that cannot be read, or of which too little could be dropped.
    stubborn: BTreeSet<Position>,
    /// Those of them that a newer version wrote.
    newer: BTreeSet<Position>,
    /// The flows of datagrams that stay, so that their batches compress as well as before.
    flows: ExporterTable,
}

impl FairShare {
    pub(crate) fn new(queue: Arc<Queue>, counters: Arc<IngestCounters>) -> Self {
        let (holdings, stubborn, newer, flows) = Default::default();
        Self { queue, counters, holdings, stubborn, newer, flows }
    }

    /// Counts the appended `batch`, encrypted to `length` bytes.
    pub(crate) fn note_appended(&mut self, spool: &Spool<Directory>, batch: &Batch, length: u64) {
        let Some((first, ..)) = spool.segment_at(batch.first()) else { return };
        match Shares::of(batch, length) {
            Ok(shares) if first == batch.first() => self.holdings.set(first, shares),
            Ok(shares) => self.holdings.append(first, &shares),
            Err(_) => note_internal_error("a batch of this process cannot be read"),
        }
        if let Some(oldest) = spool.first() {
            self.holdings.forget_below(oldest);
            self.stubborn = self.stubborn.split_off(&oldest);
            self.newer = self.newer.split_off(&oldest);
        }
    }

    /// Counts the losses of each exporter in the segments that the spool dropped in `gap`.
    pub(crate) fn note_dropped(&mut self, spool: &Spool<Directory>, gap: Gap) {
        for first in self.holdings.within(gap.first, gap.end) {
            if spool.segment_at(first).is_none_or(|(found, ..)| found != first) {
                let lost = self.holdings.take(first).unwrap_or_default();
                self.count_lost(&lost);
            }
        }
    }

    /// Reads one segment of an earlier run if the spool is more than half full, so that its shares are known
    /// once it is full. Called every second.
    pub(crate) fn learn_one(&mut self) {
        let unknown = {
            let spool = self.queue.spool();
            let is_wanted = spool.excess(spool.size()) > 0;
            let mut unknown = spool.candidates(Position(0)).filter(|segment| self.is_unknown(segment.first));
            unknown.next().filter(|_| is_wanted)
        };
        let Some(segment) = unknown else { return };
        let reader = self.queue.reader(segment.first, false).map(|found| found.map(|opened| opened.reader));
        self.learn(segment.first, reader);
    }

    fn is_unknown(&self, first: Position) -> bool {
        self.holdings.of_segment(first).is_none() && !self.stubborn.contains(&first)
    }

    /// Notes the holdings in the segment that starts at `first`, read by `reader`.
    fn learn(&mut self, first: Position, reader: io::Result<Option<SegmentReader<File>>>) {
        let shares = reader.and_then(|reader| {
            reader.map_or(Ok(SegmentContent::Damage), |reader| shares_of(&self.queue, reader))
        });
        match shares {
            Ok(SegmentContent::Shares(shares)) => self.holdings.set(first, shares),
            Ok(SegmentContent::Newer) => drop(self.newer.insert(first)),
            Ok(SegmentContent::Damage) => {}
            Err(error) => {
                tracing::debug!(%error, segment = first.0, "cannot read a segment of the spool: {error}");
            }
        }
        if self.is_unknown(first) {
            self.stubborn.insert(first);
        }
    }

    /// Makes room for `length` bytes within `max-size`, as far as this is possible fairly. Returns the
    /// datagrams that were dropped one by one. The spool itself accounts for whole segments.
    pub(crate) fn make_room(
        &mut self,
        spool: &mut Spool<Directory>,
        length: u64,
        in_flight: Position,
    ) -> Vec<Thinned> {
        let mut thinned = Vec::new();
        while spool.excess(length) > 0 {
            let Some((segment, least)) = self.find(spool, in_flight) else { break };
            match self.thin_or_drop(spool, segment, least, in_flight) {
                Ok(Some(MadeRoom::Thinned(dropped))) => thinned.push(dropped),
                Ok(Some(MadeRoom::Dropped)) => {}
                Ok(None) => drop(self.stubborn.insert(segment.first)),
                // The disk may accept it later, so the segment stays a candidate.
                Err(error) => {
                    tracing::debug!(%error, segment = segment.first.0, "cannot thin a segment: {error}");
                    break;
                }
            }
        }
        thinned
    }

    /// Returns the oldest segment of which enough may be dropped, and the smallest total holding of an
    /// exporter that loses.
    fn find(&mut self, spool: &Spool<Directory>, in_flight: Position) -> Option<(Candidate, u64)> {
        let candidates: Vec<Candidate> = spool.candidates(in_flight).collect();
        // One at a time: to read a whole full spool after a start would block everything else for minutes.
        if let Some(unknown) = candidates.iter().find(|segment| self.is_unknown(segment.first)) {
            self.learn(unknown.first, spool.reader(unknown.first, false));
        }
        // The spool keeps data of newer versions apart, which makes room as well.
        if candidates.first().is_some_and(|oldest| self.newer.contains(&oldest.first)) {
            return None;
        }
        let least = self.holdings.least_of_largest(PARTS);
        let found = candidates.into_iter().find(|segment| {
            let held = self.holdings.of_segment(segment.first);
            let may_go: u64 = held.map_or(0, |held| {
                let losers = held.iter().filter(|(exporter, _)| self.loses(*exporter, least));
                losers.map(|(_, held)| held.bytes).sum()
            });
            may_go >= segment.size / PARTS && !self.stubborn.contains(&segment.first)
        });
        found.map(|segment| (segment, least))
    }

    fn loses(&self, exporter: IpAddr, least: u64) -> bool {
        self.holdings.totals().get(exporter).bytes >= least
    }

    /// Drops the datagrams of `segment` whose exporters hold at least `least` in total. Returns `None` if the
    /// segment stays unchanged.
    fn thin_or_drop(
        &mut self,
        spool: &mut Spool<Directory>,
        segment: Candidate,
        least: u64,
        in_flight: Position,
    ) -> io::Result<Option<MadeRoom>> {
        let Some(held) = self.holdings.of_segment(segment.first) else { return Ok(None) };
        if held.iter().all(|(exporter, _)| self.loses(exporter, least)) {
            spool.drop_candidate(segment)?;
            let lost = self.holdings.take(segment.first).unwrap_or_default();
            self.count_lost(&lost);
            return Ok(Some(MadeRoom::Dropped));
        }
        if !spool.may_take(segment.size) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let totals = self.holdings.totals();
        let mut sieve = ByExporter {
            queue: &self.queue,
            loses: |exporter| totals.get(exporter).bytes >= least,
            builder: BatchBuilder::new(self.queue.stream(), Compression::None),
            table: &mut self.flows,
            flows: Vec::new(),
            next: segment.first,
            lost: Shares::default(),
        };
        let thinned = spool.thin(segment, segment.size / (2 * PARTS), in_flight, &mut sieve)?;
        let Some(thinned) = thinned else { return Ok(None) };
        let lost = sieve.lost;
        self.count_lost(&lost);
        self.note_thinned(spool, segment, &lost);
        Ok(Some(MadeRoom::Thinned(thinned)))
    }

    /// Updates the holdings after `segment` lost `lost` and was possibly merged with the previous segment.
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

    fn count_lost(&self, lost: &Shares) {
        self.counters
            .note_dropped(lost.iter().map(|(exporter, held)| (exporter, held.datagrams)), boot_clock());
    }
}

/// The way in which a segment made room.
enum MadeRoom {
    /// Some of its datagrams were dropped.
    Thinned(Thinned),
    /// All of it was dropped.
    Dropped,
}

/// The content of a segment.
enum SegmentContent {
    /// The holdings of each exporter.
    Shares(Shares),
    /// Batches that a newer version wrote.
    Newer,
    /// Damage.
    Damage,
}

/// Computes the holdings of each exporter in the segment of `reader`.
fn shares_of(queue: &Queue, mut reader: SegmentReader<File>) -> io::Result<SegmentContent> {
    let mut shares = Shares::default();
    while let Some(item) = reader.next_item()? {
        let batch = match item {
            Item::Batch(batch) => batch,
            Item::Newer(_) => return Ok(SegmentContent::Newer),
            Item::Damage(_) => return Ok(SegmentContent::Damage),
        };
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        let opened = queue.open(&batch).map_err(io::Error::other)?;
        shares.add_all(&Shares::of(&opened, length).map_err(io::Error::other)?);
    }
    Ok(SegmentContent::Shares(shares))
}

/// Drops the datagrams of some exporters.
struct ByExporter<'a, F> {
    queue: &'a Queue,
    loses: F,
    /// Kept datagrams and positions of dropped ones that are not in a batch yet.
    builder: BatchBuilder,
    table: &'a mut ExporterTable,
    /// The flows of the current datagram.
    flows: Vec<FlowRun>,
    /// The position of the first of them.
    next: Position,
    lost: Shares,
}

impl<F: Fn(IpAddr) -> bool> ByExporter<'_, F> {
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
}

impl<F: Fn(IpAddr) -> bool> Sieve for ByExporter<'_, F> {
    fn sift(&mut self, batch: &Batch) -> io::Result<Vec<Batch>> {
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        let opened = self.queue.open(batch).map_err(io::Error::other)?;
        let records = opened.records().map_err(io::Error::other)?;
        if opened.header().compression != Compression::None {
            self.builder.set_compression(Compression::Zstd);
        }
        let mut full = Vec::new();
        for datagram in records.by_position() {
            self.find_flows(datagram.as_ref());
            let arrival = datagram.map_or(batch.earliest(), |datagram| datagram.arrival);
            let kept = datagram.filter(|datagram| !(self.loses)(datagram.exporter.ip()));
            if let (Some(dropped), None) = (&datagram, &kept) {
                self.lost.add(dropped.exporter.ip(), Holding::of(dropped, &opened, length));
            }
            if self.push(kept.as_ref(), arrival) == Err(PushError::Full) {
                full.extend(self.finish_batch()?);
                self.push(kept.as_ref(), arrival).map_err(io::Error::other)?;
            }
        }
        Ok(full)
    }

    fn finish(&mut self) -> io::Result<Option<Batch>> {
        self.finish_batch()
    }
}
