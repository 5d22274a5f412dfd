//! One count for all source ids of an exporter.
//!
//! RFC 3954 has a count for each source id; the documents of its time had one for the whole device, and some exporters still have. As
//! soon as a second source id is heard, the numbers of all are followed together, too. The ids either share a count, or have counts of
//! their own: the assumption that fits better is believed.

use crate::netflow::export::ExportFormat;
use crate::netflow::missing::{Missing, Unusable};
use crate::netflow::table::exporter::{Counted, Exporter};

/// Numbers by which a shared count must fit better to be believed.
const LEAD: i32 = 3;

/// Bound of the lead, so that old numbers do not outweigh new ones.
const LEAD_MAX: i32 = 4;

/// If this many more numbers fit counts of their own, these are believed. Two runs of numbers at a time weigh as much.
const LAG_MAX: i32 = 4;

/// The count that the source ids of one host and format may share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) format: ExportFormat,
    /// `None` once the source ids have proven to have counts of their own.
    missing: Option<Missing>,
    lead: i32,
    is_believed: bool,
    returns: u32,
}

impl Shared {
    /// A count that may be shared by the source of `first`, which was alone so far, and another one.
    pub(super) fn new(first: &Exporter) -> Self {
        let missing = first.missing.clone();
        let returns = missing.returns();
        Self { format: first.source.format, missing: Some(missing), lead: 0, is_believed: false, returns }
    }

    /// Follows a datagram that its exporter has counted. Returns the amount missing in the shared count once that is no longer believed.
    pub(super) fn note(&mut self, counted: &Counted, is_first: bool) -> Option<u64> {
        let missing = self.missing.as_mut()?;
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
        self.is_believed |= self.lead >= LEAD;
        if self.lead > -LAG_MAX {
            return None;
        }
        let before = missing.count();
        self.missing = None;
        core::mem::take(&mut self.is_believed).then(|| before.unwrap_or_default())
    }

    /// Amount missing in the shared count, and its unit; `None` if the source ids have counts of their own, as far as is known.
    pub(super) fn count(&self) -> Option<(Result<u64, Unusable>, Option<&'static str>)> {
        let missing = self.missing.as_ref().filter(|_| self.is_believed)?;
        Some((missing.count(), missing.unit()))
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
