//! All figures of a run of the benchmark: each turn's figure by topic, subject and parameter.

use std::collections::BTreeMap;

use crate::numbers::median;

/// Key of a figure: topic, subject (a relay or a process), and parameter (a rate or a number of exporters; 0
/// if there is none).
pub(crate) type FigureKey = (&'static str, &'static str, u64);

/// Figures by key.
#[derive(Debug, Default)]
pub(crate) struct Results(BTreeMap<FigureKey, Vec<f64>>);

impl Results {
    /// Adds the figure of a turn.
    pub(crate) fn add(&mut self, topic: &'static str, who: &'static str, under: u64, figure: f64) {
        self.0.entry((topic, who, under)).or_default().push(figure);
    }

    /// Returns the median of all turns.
    pub(crate) fn median(&self, topic: &'static str, who: &'static str, under: u64) -> Option<f64> {
        self.0.get(&(topic, who, under)).and_then(|figures| median(figures))
    }

    /// Returns the median of the ratios of each turn. If a turn lacks a figure, it is the ratio of medians.
    pub(crate) fn ratio(&self, of: FigureKey, to: FigureKey) -> Option<f64> {
        let (figures, others) = (self.0.get(&of)?, self.0.get(&to)?);
        if figures.len() != others.len() {
            return Some(median(figures)? / median(others)?);
        }
        let ratios: Vec<_> = figures.iter().zip(others).map(|(figure, other)| figure / other).collect();
        median(&ratios)
    }

    /// Returns the highest figure of all turns.
    pub(crate) fn most(&self, topic: &'static str, who: &'static str, under: u64) -> Option<f64> {
        self.0.get(&(topic, who, under))?.iter().copied().reduce(f64::max)
    }

    /// Returns the number of figures.
    pub(crate) fn count(&self, topic: &'static str, who: &'static str, under: u64) -> usize {
        self.0.get(&(topic, who, under)).map_or(0, Vec::len)
    }

    /// Returns the figure of the last turn.
    pub(crate) fn latest(&self, topic: &'static str, who: &'static str, under: u64) -> Option<f64> {
        self.0.get(&(topic, who, under))?.last().copied()
    }

    /// Returns the medians of a subject by parameter.
    pub(crate) fn series(&self, topic: &'static str, who: &'static str) -> Vec<(u64, f64)> {
        let of = self.0.iter().filter(|((is_topic, is_who, _), _)| (*is_topic, *is_who) == (topic, who));
        of.filter_map(|((_, _, under), figures)| Some((*under, median(figures)?))).collect()
    }

    /// Returns whether there is any figure for this topic.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.0.keys().any(|(is, _, _)| *is == topic)
    }
}
