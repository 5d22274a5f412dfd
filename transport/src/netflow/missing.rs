//! Counts the losses of an exporter by its sequence numbers.
//!
//! Follows the numbers by all ways of counting that the format allows ([`way`]), and believes the way that
//! fits most numbers. The way of the standard wins a tie. Two ways share one [`counter`] until a datagram
//! differs between them.

mod copies;
mod counter;
mod group;
mod holes;
mod judged;
mod track;
mod unusable;
mod way;

use core::cmp::Reverse;

pub(super) use copies::Copies;
pub(super) use group::Ways;
pub(super) use track::Seen;
pub use unusable::Unusable;

use crate::limits::SEQUENCE_HOLES;
use crate::netflow::contents::Contents;
use crate::netflow::export::ExportFormat;
use crate::netflow::missing::counter::{Fit, SequenceCounter};
use crate::netflow::missing::group::Group;
use crate::netflow::missing::judged::{Judged, SequenceVerdict};
use crate::netflow::missing::way::Way;

/// Numbers by which another way must fit better than that of the standard. One number is not enough: a loss
/// can look alike.
const LEAD: i64 = 2;

/// A way that fits this many numbers fewer than the best one is ruled out.
const LAG_MAX: i64 = 8;

/// Follows the sequence numbers of one exporter.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    format: ExportFormat,
    groups: Vec<Group>,
    /// Missing before the numbers became erratic.
    settled: u64,
    /// Missing when most numbers last fitted.
    sound: u64,
    judged: Judged,
    is_erratic: bool,
    /// The contents of the last datagram. The ways of a group agree on these contents for every number.
    last: Option<Contents>,
    /// The last number, and true if it was higher than the one before.
    number: (u32, bool),
}

impl Missing {
    pub(super) fn new(format: ExportFormat) -> Self {
        let (settled, sound) = (0, 0);
        let groups = Group::all(format).into_iter().collect();
        let (judged, last, number) = (Judged::default(), None, (0, false));
        Self { format, groups, settled, sound, judged, is_erratic: false, last, number }
    }

    /// Starts without numbers, with `missing` units that are known to be missing.
    pub(super) fn starting_at(format: ExportFormat, missing: u64) -> Self {
        Self { settled: missing, sound: missing, ..Self::new(format) }
    }

    /// Starts again after the last number with all ways of counting, and with `missing` units that are known
    /// to be missing.
    pub(super) fn restarted(&self, missing: u64, seen: Seen) -> Self {
        let mut restarted = Self::starting_at(self.format, missing);
        let (number, is_higher) = self.number;
        // After a late datagram, the numbers before the next one would seem to be missing.
        if let Some(contents) = self.last.filter(|_| is_higher) {
            restarted.follow(number, &contents, seen);
        }
        restarted
    }

    /// Follows a datagram with `number`. Returns the ways by which that number was expected.
    pub(super) fn follow(&mut self, number: u32, contents: &Contents, seen: Seen) -> Ways {
        let ways = Way::all(self.format);
        self.number = (number, number.wrapping_sub(self.number.0) <= u32::MAX / 2);
        if self.last != Some(*contents) {
            self.split(ways, number, contents);
            self.last = Some(*contents);
        }
        let most = SEQUENCE_HOLES / self.groups.len().max(2);
        let believed = self.believed_index();
        let is_known = |way: &Way| way.place(number, contents).is_known();
        // Otherwise ways that need no templates would take the lead.
        let is_scored = ways.first().is_some_and(is_known);
        let mut fitting = Ways::default();
        let mut seen_of_believed = (Fit::Unknown, 0);
        for (index, group) in self.groups.iter_mut().enumerate() {
            let Some(way) = group.ways.first().and_then(|place| ways.get(place)) else { continue };
            let place = way.place(number, contents);
            let fit = group.counter.follow(place, seen, most);
            let fits = fit == Fit::Yes || fit == Fit::Unknown && is_known(way);
            group.fits += i64::from(is_scored && fits) - i64::from(fit == Fit::Stray);
            if fit == Fit::Yes {
                fitting.add(group.ways);
            }
            if Some(index) == believed {
                seen_of_believed = (fit, place.len());
            }
        }
        self.judge(seen_of_believed.0, seen_of_believed.1);
        self.rule_out();
        fitting
    }

    /// Missing units, or the reason why they are unknown.
    pub(super) fn count(&self) -> Result<u64, Unusable> {
        match self.believed() {
            None => Err(Unusable::NoNumbers(self.format)),
            Some((_, way)) if way.counts_nothing() => Err(Unusable::Constant),
            Some(_) if self.is_erratic => Err(Unusable::Erratic),
            Some(_) if self.judged.is_blind() => Err(Unusable::NoTemplates),
            Some((group, _)) => Ok(self.settled.saturating_add(group.counter.missing())),
        }
    }

    /// Units known to be missing, even if later numbers are unusable.
    pub(super) fn known(&self) -> u64 {
        match self.count() {
            Ok(missing) => missing,
            Err(Unusable::NoTemplates) => self
                .believed()
                .map_or(self.settled, |(group, _)| self.settled.saturating_add(group.counter.missing())),
            Err(_) => self.sound,
        }
    }

    /// The units that the exporter counts, in words.
    pub(super) fn unit(&self) -> Option<&'static str> {
        self.believed().map(|(_, way)| way.unit())
    }

    /// The ways that are believed.
    pub(super) fn believed_ways(&self) -> Ways {
        self.believed().map(|(group, _)| group.ways).unwrap_or_default()
    }

    /// True if `number` continues the last datagram by the believed way.
    pub(super) fn is_next(&self, number: u32) -> bool {
        self.believed().is_some_and(|(group, way)| !way.includes_own() && group.counter.is_next(number))
    }

    /// True if `number` continues a run by any way.
    pub(super) fn expects(&self, number: u32) -> bool {
        self.any_run(|way, offset, counter| {
            !way.includes_own() && counter.expects(number.wrapping_sub(offset))
        })
    }

    /// True if `number` is close to those that were seen.
    pub(super) fn is_near(&self, number: u32, seen: Seen) -> bool {
        self.any_run(|_, offset, counter| counter.is_near(number.wrapping_sub(offset), seen))
    }

    /// Number of times that a run continued after another one had been seen, by the believed way.
    pub(super) fn returns(&self) -> u32 {
        self.believed().map_or(0, |(group, _)| group.counter.returns())
    }

    /// Bytes that [`Self::shrink`] frees.
    pub(super) fn bytes(&self) -> usize {
        let holes = self.groups.iter().map(|group| group.counter.hole_bytes()).sum::<usize>();
        let further = self.groups.iter().skip(1).map(|group| size_of::<Group>() + group.counter.bytes());
        holes + further.sum::<usize>()
    }

    /// Forgets all holes and all ways except the believed one. Late datagrams then stay missing.
    pub(super) fn shrink(&mut self) {
        let believed = self.believed_ways();
        self.groups.retain(|group| group.ways == believed);
        self.groups.shrink_to_fit();
        self.groups.iter_mut().for_each(|group| group.counter.close_holes());
    }

    /// True if `holds` is true for any way, its offset and its counter.
    fn any_run(&self, holds: impl Fn(Way, u32, &SequenceCounter) -> bool) -> bool {
        let ways = Way::all(self.format);
        self.groups.iter().any(|group| {
            group.ways.iter().any(|place| {
                let way = ways.get(place).filter(|way| !way.counts_nothing());
                way.is_some_and(|way| holds(*way, group.offset(place), &group.counter))
            })
        })
    }

    /// Gives ways that place a datagram differently their own counters.
    fn split(&mut self, ways: &[Way], number: u32, contents: &Contents) {
        let place = |index: usize| ways.get(index).map(|way| way.place(number, contents));
        let mut index = 0;
        while let Some(group) = self.groups.get_mut(index) {
            let apart = group.split_off(place);
            self.groups.extend(apart);
            index += 1;
        }
    }

    fn believed(&self) -> Option<(&Group, Way)> {
        let group = self.groups.get(self.believed_index()?)?;
        let way = group.ways.first().and_then(|place| Way::all(self.format).get(place))?;
        Some((group, *way))
    }

    fn believed_index(&self) -> Option<usize> {
        if self.groups.len() == 1 {
            return Some(0);
        }
        let order = |(index, group): (usize, &Group)| {
            let is_standard = group.ways.meets(Ways::STANDARD);
            let score = group.score() + if is_standard { LEAD - 1 } else { 0 };
            (score, is_standard, Reverse(group.ways.first()), Reverse(index))
        };
        self.groups.iter().enumerate().max_by_key(|group| order(*group)).map(|(index, _)| index)
    }

    /// Judges the numbers once there are enough. Erratic numbers restart the count with all ways of counting.
    fn judge(&mut self, fit: Fit, units: u32) {
        if !self.judged.add(fit, units) {
            return;
        }
        let missing = self.believed().map_or(0, |(group, _)| group.counter.missing());
        let verdict = self.judged.verdict(missing);
        self.is_erratic = verdict == SequenceVerdict::Erratic;
        if !self.judged.is_done() {
            return;
        }
        self.judged = Judged::starting_at(missing);
        match verdict {
            SequenceVerdict::Sound => self.sound = self.settled.saturating_add(missing),
            SequenceVerdict::Doubtful => {}
            SequenceVerdict::Erratic => {
                *self = Self { is_erratic: true, ..Self::starting_at(self.format, self.sound) }
            }
        }
    }

    fn rule_out(&mut self) {
        if self.groups.len() > 1 {
            let best = self.groups.iter().map(Group::score).max().unwrap_or_default();
            self.groups.retain(|group| group.score() + LAG_MAX > best);
        }
    }
}

#[cfg(test)]
mod tests;
