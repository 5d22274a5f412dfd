//! Counts of the datagrams that arrived, per exporter and in total.

use std::collections::BTreeMap;
use std::fmt;

/// Counts for the datagrams of one exporter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExporterTally {
    /// Number of the next datagram in order.
    next: u32,
    /// Ranges of numbers that were skipped: first number to end (exclusive).
    missing: BTreeMap<u32, u32>,
    /// Distinct datagrams that arrived.
    pub arrived: u64,
    /// Datagrams that had already arrived.
    pub repeated: u64,
    /// Datagrams that arrived for the first time, but after a later one.
    pub out_of_order: u64,
    /// Datagrams whose bytes differ from those sent.
    pub corrupted: u64,
}

impl ExporterTally {
    /// Counts datagram `number` as arrived. Returns whether it arrived for the first time.
    pub fn count(&mut self, number: u32) -> bool {
        let new = if number >= self.next {
            if number > self.next {
                self.missing.insert(self.next, number);
            }
            self.next = number + 1;
            true
        } else {
            let late = self.remove_from_missing(number);
            self.out_of_order += u64::from(late);
            self.repeated += u64::from(!late);
            late
        };
        self.arrived += u64::from(new);
        new
    }

    /// Returns the ranges of numbers below `sent` that did not arrive.
    pub fn missing(&self, sent: u32) -> Vec<(u32, u32)> {
        let tail = (self.next < sent).then_some((self.next, sent));
        self.missing.iter().map(|(first, end)| (*first, *end)).chain(tail).collect()
    }

    fn remove_from_missing(&mut self, number: u32) -> bool {
        let Some((&first, &end)) = self.missing.range(..=number).next_back() else { return false };
        if number >= end {
            return false;
        }
        self.missing.remove(&first);
        if first < number {
            self.missing.insert(first, number);
        }
        if number + 1 < end {
            self.missing.insert(number + 1, end);
        }
        true
    }
}

/// Counts for one collector.
#[derive(Clone, Debug, Default)]
pub struct CollectorReport {
    /// Counts by exporter number.
    pub exporters: Vec<ExporterTally>,
    /// Datagrams that belong to none of the exporters.
    pub foreign: u64,
    /// Datagrams that contain only templates.
    pub templates: u64,
    /// Datagrams that the kernel dropped at the collector's own socket. The daemons are not at fault for
    /// these.
    pub kernel_drops: u64,
}

impl CollectorReport {
    /// Distinct datagrams that arrived.
    pub fn arrived(&self) -> u64 {
        self.exporters.iter().map(|tally| tally.arrived).sum()
    }

    pub fn repeated(&self) -> u64 {
        self.exporters.iter().map(|tally| tally.repeated).sum()
    }

    /// Counts the datagrams that were sent and did not arrive.
    pub fn missing(&self, sent: &[u32]) -> u64 {
        let ranges = self.exporters.iter().zip(sent).flat_map(|(tally, sent)| tally.missing(*sent));
        ranges.map(|(first, end)| u64::from(end - first)).sum()
    }

    /// Panics with all counts unless every datagram arrived in order and unchanged. Repeated datagrams are
    /// allowed.
    pub fn assert_complete_and_in_order(&self, sent: &[u32]) {
        let faulty = |tally: &ExporterTally| tally.out_of_order + tally.corrupted > 0;
        let fault = self.missing(sent) + self.foreign > 0 || self.exporters.iter().any(faulty);
        assert!(!fault, "not every datagram arrived in order and unchanged\n{}", self.picture(sent));
    }

    /// Does the same and panics also if a datagram arrived twice.
    pub fn assert_exact(&self, sent: &[u32]) {
        self.assert_complete_and_in_order(sent);
        assert_eq!(self.repeated(), 0, "datagrams arrived twice\n{}", self.picture(sent));
    }

    /// Formats one line for each exporter.
    pub fn picture(&self, sent: &[u32]) -> String {
        let lines = self.exporters.iter().zip(sent).enumerate().map(|(exporter, (tally, sent))| {
            format!("exporter {exporter}: sent {sent}, {tally}, missing {}\n", Ranges(&tally.missing(*sent)))
        });
        let rest =
            format!("foreign {}, dropped by the kernel at the collector {}", self.foreign, self.kernel_drops);
        lines.chain([rest]).collect()
    }
}

impl fmt::Display for ExporterTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arrived, repeated, out_of_order, corrupted, .. } = self;
        write!(
            f,
            "arrived {arrived}, repeated {repeated}, out of order {out_of_order}, corrupted {corrupted}"
        )
    }
}

/// Formats the first ranges and the number of further ones.
struct Ranges<'a>(&'a [(u32, u32)]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        let total: u32 = self.0.iter().map(|(first, end)| end - first).sum();
        write!(f, "{total}")?;
        for (first, end) in self.0.iter().take(SHOWN) {
            write!(f, " [{first}..{end})")?;
        }
        if self.0.len() > SHOWN { write!(f, " and {} more ranges", self.0.len() - SHOWN) } else { Ok(()) }
    }
}
