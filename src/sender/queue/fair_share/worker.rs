//! The thread that reads or rewrites one segment.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nf_transport_core::netflow::ExporterTable;
use nf_transport_core::spool::{Candidate, Item, SegmentReader, ThinnedSegment, ThinningJob};

use super::sieve::{Budgets, ByExporter, check_abandoned};
use crate::host::locked;
use crate::sender::queue::Queue;
use crate::sender::queue::holdings::Shares;

/// A running or finished thread.
#[derive(Debug)]
pub(super) struct SegmentWork {
    pub(super) segment: Candidate,
    pub(super) is_thinning: bool,
    thread: JoinHandle<WorkOutcome>,
    is_abandoned: Arc<AtomicBool>,
}

/// The outcome of a thread.
#[derive(Debug)]
pub(super) enum WorkOutcome {
    Learned(io::Result<SegmentContent>),
    /// The thinned segment and the loss; `None` if the segment stays unchanged.
    Thinned(io::Result<Option<(ThinnedSegment, Shares)>>),
}

/// The content of a segment.
#[derive(Debug)]
pub(super) enum SegmentContent {
    /// The holdings of each exporter.
    Shares(Shares),
    /// Batches that a newer version wrote.
    Newer,
    /// Damage.
    Damage,
}

impl SegmentWork {
    /// Starts a thread that does `act`.
    pub(super) fn start(
        segment: Candidate,
        is_thinning: bool,
        act: impl FnOnce(&AtomicBool) -> WorkOutcome + Send + 'static,
    ) -> io::Result<Self> {
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let flag = is_abandoned.clone();
        let thread = thread::Builder::new().name("thin".to_owned()).spawn(move || act(&flag))?;
        Ok(Self { segment, is_thinning, thread, is_abandoned })
    }

    /// Makes the thread end early.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of the thread. Fails if it panicked.
    pub(super) fn join(self) -> thread::Result<WorkOutcome> {
        self.thread.join()
    }
}

/// Computes the holdings of each exporter in the segment of `reader`.
pub(super) fn read_shares(
    queue: &Queue,
    mut reader: SegmentReader<File>,
    is_abandoned: &AtomicBool,
) -> io::Result<SegmentContent> {
    let mut shares = Shares::default();
    while let Some(item) = reader.next_item()? {
        check_abandoned(is_abandoned)?;
        let batch = match item {
            Item::Batch(batch) => batch,
            Item::Newer(_) => return Ok(SegmentContent::Newer),
            // Positions without bytes: nothing of the segment is damaged.
            Item::Damage(damage) if damage.length == 0 => continue,
            Item::Damage(_) => return Ok(SegmentContent::Damage),
        };
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        let opened = queue.open(&batch).map_err(io::Error::other)?;
        shares.add_all(&Shares::of(&opened, length).map_err(io::Error::other)?);
    }
    Ok(SegmentContent::Shares(shares))
}

/// Rewrites `segment` without the datagrams that `budgets` drop.
pub(super) fn thin(
    queue: &Queue,
    flows: &Mutex<ExporterTable>,
    job: ThinningJob<File>,
    segment: Candidate,
    budgets: Budgets,
    is_abandoned: &AtomicBool,
) -> io::Result<Option<(ThinnedSegment, Shares)>> {
    let mut table = locked(flows);
    let mut sieve = ByExporter::new(queue, budgets, &mut table, segment.first, is_abandoned);
    let written = job.run(&mut sieve)?;
    Ok(written.map(|written| (written, sieve.into_lost())))
}
