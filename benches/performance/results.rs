//! All figures of a run of the program: what each turn gave, by topic, relay and parameter.

use std::collections::BTreeMap;

use crate::numbers::median;

/// What a figure is of: a topic, who was measured, and under what (a rate, a number of exporters; 0 if nothing varies).
type Key = (&'static str, &'static str, u64);

/// Figures by key.
#[derive(Debug, Default)]
pub(crate) struct Results(BTreeMap<Key, Vec<f64>>);

impl Results {
    /// Notes what a turn gave.
    pub(crate) fn add(&mut self, topic: &'static str, who: &'static str, under: u64, figure: f64) {
        self.0.entry((topic, who, under)).or_default().push(figure);
    }

    /// The median of all turns.
    pub(crate) fn median(&self, topic: &'static str, who: &'static str, under: u64) -> Option<f64> {
        self.0.get(&(topic, who, under)).and_then(|figures| median(figures))
    }

    /// The most of all turns.
    pub(crate) fn most(&self, topic: &'static str, who: &'static str, under: u64) -> Option<f64> {
        self.0.get(&(topic, who, under))?.iter().copied().reduce(f64::max)
    }

    /// How many turns gave it.
    pub(crate) fn count(&self, topic: &'static str, who: &'static str, under: u64) -> usize {
        self.0.get(&(topic, who, under)).map_or(0, Vec::len)
    }

    /// What the last turn gave.
    pub(crate) fn latest(&self, topic: &'static str, who: &'static str, under: u64) -> Option<f64> {
        self.0.get(&(topic, who, under))?.last().copied()
    }

    /// The median of the turns' figures that somebody has under something.
    pub(crate) fn series(&self, topic: &'static str, who: &'static str) -> Vec<(u64, f64)> {
        let of = self.0.iter().filter(|((is_topic, is_who, _), _)| (*is_topic, *is_who) == (topic, who));
        of.filter_map(|((_, _, under), figures)| Some((*under, median(figures)?))).collect()
    }

    /// Whether there is any figure of this topic.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.0.keys().any(|(is, _, _)| *is == topic)
    }
}
