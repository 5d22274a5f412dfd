//! One count for all source ids of an exporter.
//!
//! In RFC 3954 each source id has its own count. Older documents have one count for the whole device, and
//! some exporters still do. As soon as a second source id is seen, the numbers of all ids are also followed
//! together.
//!
//! The ids either share a count or have their own counts. The assumption that fits better is believed. While
//! neither is believed, the lower figure is shown, which both assumptions allow. Earlier losses of each id
//! stay with it. Losses of a believed count stay counted after the other assumption is believed.

use crate::netflow::export::ExportFormat;
use crate::netflow::missing::{Missing, Unusable};
use crate::netflow::table::exporter::{Counted, Exporter};

/// Numbers by which a shared count must fit better to be believed. Some fit by chance: each of two ids may
/// lose the numbers that the other one sends. This is also the upper bound of the lead, so old numbers do not
/// outweigh new ones.
const LEAD_MAX: i32 = 6;

/// Separate counts are believed once this many more numbers fit them. A run of numbers that continues after
/// another one weighs as much.
const LAG_MAX: i32 = 4;

/// The count that the source ids of one host and format may share.
#[derive(Debug)]
pub(super) struct SharedCount {
    pub(super) format: ExportFormat,
    /// `None` once the source ids have proven to have separate counts.
    missing: Option<Missing>,
    lead: i32,
    /// True once the lead reached its bound.
    was_believed: bool,
    /// Losses of the shared count when it began, or when it was last doubted.
    mark: u64,
    returns: u32,
}

/// A change of belief.
#[derive(Clone, Copy, Debug)]
pub(super) enum BeliefChange {
    /// The shared count is in doubt. Before that, its losses grew by this amount.
    Doubted(u64),
    /// The source ids that seemed to share a count have separate counts.
    Parted(Split),
}

/// The distribution of losses over source ids that may share a count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    /// The shared count and its unit.
    shared: (Result<u64, Unusable>, Option<&'static str>),
    /// Losses of the shared count since its mark that no exporter shows yet.
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
            (true, Ok(_), _) => (Ok(self.next_share(exporter)), unit),
            // Neither assumption is proven: the lower figure is never too high.
            (false, Ok(_), Ok(own)) => (Ok(own.min(self.next_share(exporter))), exporter.missing.unit()),
            (false, _, own) => (own, exporter.missing.unit()),
        }
    }

    /// Losses of the next exporter, even if numbers are unusable.
    pub(super) fn next_share(&mut self, exporter: &Exporter) -> u64 {
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

impl SharedCount {
    /// A count that the source of `first`, so far the only one, may share with another one.
    pub(super) fn new(first: &Exporter) -> Self {
        let missing = first.missing.clone();
        let (mark, returns) = (missing.known(), missing.returns());
        let format = first.source.format;
        Self { format, missing: Some(missing), lead: 0, was_believed: false, mark, returns }
    }

    /// Follows a datagram that its exporter has counted.
    pub(super) fn follow(&mut self, counted: &Counted, is_first: bool) -> Option<BeliefChange> {
        let was_sure = self.is_believed();
        let missing = self.missing.as_mut()?;
        let before = if was_sure { missing.known() } else { 0 };
        let fitting = missing.follow(counted.number, &counted.contents, counted.seen);
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
            return split.map(BeliefChange::Parted);
        }
        self.was_believed |= self.is_believed();
        if !was_sure || self.is_believed() {
            return None;
        }
        let more = before.saturating_sub(self.mark);
        self.mark = before.max(self.mark);
        Some(BeliefChange::Doubted(more))
    }

    fn is_believed(&self) -> bool {
        self.lead >= LEAD_MAX
    }

    /// The distribution of losses; `None` if the source ids have separate counts.
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
