//! One count for all source ids of an exporter.
//!
//! RFC 3954 has a count for each source id; the documents of its time had one for the whole device, and some exporters still have. As
//! soon as a second source id is heard, the numbers of all are followed together, too. The ids either share a count, or have counts of
//! their own: the assumption that fits better is believed. While neither is, the lower figure is shown, which both assumptions allow.
//! Losses of each id from before stay its own, and losses of a count that was believed stay counted when another one is.

use crate::netflow::export::ExportFormat;
use crate::netflow::missing::{Missing, Unusable};
use crate::netflow::table::exporter::{Counted, Exporter};

/// Numbers by which a shared count must fit better to be believed: some fit by chance, if each of two ids loses
/// the numbers that the other one sends. Also the bound of the lead, so that old numbers do not outweigh new ones.
const LEAD_MAX: i32 = 6;

/// If this many more numbers fit counts of their own, these are believed. Two runs of numbers at a time weigh as much.
const LAG_MAX: i32 = 4;

/// The count that the source ids of one host and format may share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) format: ExportFormat,
    /// `None` once the source ids have proven to have counts of their own.
    missing: Option<Missing>,
    lead: i32,
    /// True once the lead reached its bound.
    was_believed: bool,
    /// The shared count when it was heard first, or doubted last.
    mark: u64,
    returns: u32,
}

/// A change of belief.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// The shared count is in doubt. Until then it has grown by this much.
    Doubted(u64),
    /// The source ids that seemed to share a count have counts of their own.
    Parted(Split),
}

/// How losses are shown of source ids that may share a count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    /// The shared count and its unit.
    shared: (Result<u64, Unusable>, Option<&'static str>),
    /// Losses of the shared count since its mark, as far as no exporter has them.
    left: u64,
    is_believed: bool,
    was_believed: bool,
}

impl Split {
    /// Losses of the next exporter, and their unit.
    pub(super) fn next(&mut self, exporter: &Exporter) -> (Result<u64, Unusable>, Option<&'static str>) {
        let (shared, unit) = self.shared;
        let own = exporter.missing.count();
        match (self.was_believed, shared, own) {
            (true, Err(_), _) => (shared, unit),
            (true, Ok(_), _) => (Ok(self.take(exporter)), unit),
            // Neither is known to be right: the lower one is not too high.
            (false, Ok(_), Ok(own)) => (Ok(own.min(self.take(exporter))), exporter.missing.unit()),
            (false, _, own) => (own, exporter.missing.unit()),
        }
    }

    /// The same, in spite of unusable numbers.
    pub(super) fn take(&mut self, exporter: &Exporter) -> u64 {
        let most = match (self.is_believed, exporter.standing.bears_shared) {
            (true, true) => u64::MAX,
            (true, false) => 0,
            (false, _) => exporter.own_since_mark(),
        };
        let taken = most.min(self.left);
        self.left -= taken;
        exporter.standing.settled.saturating_add(taken)
    }
}

impl Shared {
    /// A count that may be shared by the source of `first`, which was alone so far, and another one.
    pub(super) fn new(first: &Exporter) -> Self {
        let missing = first.missing.clone();
        let (mark, returns) = (missing.known(), missing.returns());
        let format = first.source.format;
        Self { format, missing: Some(missing), lead: 0, was_believed: false, mark, returns }
    }

    /// Follows a datagram that its exporter has counted.
    pub(super) fn note(&mut self, counted: &Counted, is_first: bool) -> Option<Change> {
        let was_sure = self.is_believed();
        let missing = self.missing.as_mut()?;
        let before = if was_sure { missing.known() } else { 0 };
        let fitting = missing.note(counted.number, &counted.contents, counted.heard);
        let believed = missing.believed_ways();
        let returns = missing.returns();
        if !is_first {
            self.lead += i32::from(fitting.meets(believed)) - i32::from(counted.fitting.meets(believed));
        }
        if returns > self.returns {
            self.lead -= LAG_MAX;
        }
        self.returns = returns;
        self.lead = self.lead.min(LEAD_MAX);
        if self.lead <= -LAG_MAX {
            let split = self.split().filter(|split| split.was_believed);
            self.missing = None;
            return split.map(Change::Parted);
        }
        self.was_believed |= self.is_believed();
        if !was_sure || self.is_believed() {
            return None;
        }
        let more = before.saturating_sub(self.mark);
        self.mark = before.max(self.mark);
        Some(Change::Doubted(more))
    }

    fn is_believed(&self) -> bool {
        self.lead >= LEAD_MAX
    }

    /// Returns how losses are shown; `None` if the source ids have counts of their own.
    pub(super) fn split(&self) -> Option<Split> {
        let missing = self.missing.as_ref()?;
        Some(Split {
            shared: (missing.count(), missing.unit()),
            left: missing.known().saturating_sub(self.mark),
            is_believed: self.is_believed(),
            was_believed: self.was_believed,
        })
    }

    /// Bytes that [`Self::forget_numbers`] frees.
    pub(super) fn sequence_bytes(&self) -> usize {
        self.missing.as_ref().map_or(0, Missing::bytes)
    }

    /// Forgets recent numbers.
    pub(super) fn forget_numbers(&mut self) {
        if let Some(missing) = &mut self.missing {
            missing.shrink();
        }
    }
}
