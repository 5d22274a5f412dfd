//! All figures of a run of the benchmark: each turn's figure by topic, subject and parameter.

use std::collections::BTreeMap;

use crate::numbers::median;

/// Key of a figure: topic, subject (a relay or a process), and parameter (a rate or a number of exporters; 0
/// if there is none).
pub(crate) type FigureKey = (&'static str, &'static str, u64);

/// Figures by key and turn.
#[derive(Debug, Default)]
pub(crate) struct Results {
    turn: usize,
    figures: BTreeMap<FigureKey, Vec<(usize, f64)>>,
}

impl Results {
    /// Assigns the figures from now on to this turn.
    pub(crate) fn begin_turn(&mut self, number: usize) {
        self.turn = number;
    }

    /// Adds the figure of a turn.
    pub(crate) fn add(&mut self, topic: &'static str, who: &'static str, under: u64, figure: f64) {
        self.figures.entry((topic, who, under)).or_default().push((self.turn, figure));
    }

    /// Returns the median of all turns.
    pub(crate) fn median(&self, topic: &'static str, who: &'static str, under: u64) -> Option<f64> {
        median(&self.all(&(topic, who, under)))
    }

    /// Returns the median of the ratios of two figures that were measured in the same turn. Other work of the
    /// machine changes from turn to turn, so this varies less than the ratio of the medians.
    pub(crate) fn ratio(&self, of: FigureKey, to: FigureKey) -> Option<f64> {
        let (of, to) = (self.figures.get(&of)?, self.figures.get(&to)?);
        let in_turn = |number: usize| to.iter().find(|(turn, _)| *turn == number).map(|(_, figure)| *figure);
        let ratios: Vec<_> = of.iter().filter_map(|(turn, figure)| Some(figure / in_turn(*turn)?)).collect();
        median(&ratios)
    }

    /// Returns the highest figure of all turns.
    pub(crate) fn most(&self, topic: &'static str, who: &'static str, under: u64) -> Option<f64> {
        self.all(&(topic, who, under)).into_iter().reduce(f64::max)
    }

    /// Returns the number of figures.
    pub(crate) fn count(&self, topic: &'static str, who: &'static str, under: u64) -> usize {
        self.all(&(topic, who, under)).len()
    }

    /// Returns the figure of the last turn.
    pub(crate) fn latest(&self, topic: &'static str, who: &'static str, under: u64) -> Option<f64> {
        self.all(&(topic, who, under)).last().copied()
    }

    /// Returns the medians of a subject by parameter.
    pub(crate) fn series(&self, topic: &'static str, who: &'static str) -> Vec<(u64, f64)> {
        let of = self.figures.keys().filter(|(is_topic, is_who, _)| (*is_topic, *is_who) == (topic, who));
        of.filter_map(|key| Some((key.2, median(&self.all(key))?))).collect()
    }

    /// Returns whether there is any figure for this topic.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.figures.keys().any(|(is, _, _)| *is == topic)
    }

    /// Returns the figures of all turns.
    fn all(&self, key: &FigureKey) -> Vec<f64> {
        self.figures.get(key).into_iter().flatten().map(|(_, figure)| *figure).collect()
    }
}
