//! Encodes single metrics with their help texts and labels.

use core::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Help text of `internal_errors`.
pub(super) const INTERNAL_ERRORS: &str = "Program states that must not occur; report each as a bug";

/// Encodes metrics, each with its help text.
pub(super) struct Metrics<'e>(pub(super) DescriptorEncoder<'e>);

impl Metrics<'_> {
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstCounter::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        let metric = ConstGauge::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    /// A counter with one sample for each value of `label`.
    pub(super) fn counters<'v>(
        &mut self,
        (name, help): (&str, &str),
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let metrics = values.into_iter().map(|(value, count)| (value, ConstCounter::new(count)));
        self.family(name, help, label, metrics)
    }

    /// A gauge with one sample for each value of `label`.
    pub(super) fn gauges<'v>(
        &mut self,
        (name, help): (&str, &str),
        label: &str,
        values: impl IntoIterator<Item = (&'v str, i64)>,
    ) -> fmt::Result {
        let metrics = values.into_iter().map(|(value, level)| (value, ConstGauge::new(level)));
        self.family(name, help, label, metrics)
    }

    fn family<'v, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        metrics: impl Iterator<Item = (&'v str, M)>,
    ) -> fmt::Result {
        let mut metrics = metrics.peekable();
        let Some((_, first)) = metrics.peek() else { return Ok(()) };
        let mut family = self.0.encode_descriptor(name, help, None, first.metric_type())?;
        for (value, metric) in metrics {
            metric.encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }
}

pub(super) fn amount(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The count as a gauge; the largest gauge if it is larger.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
