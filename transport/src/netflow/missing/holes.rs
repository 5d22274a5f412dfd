//! Ranges of numbers that are missing and may still arrive.
//!
//! As in an anti-replay window (RFC 4303, 3.4.3; RFC 6479), numbers may arrive in any order within a window.
//! The window is measured in received datagrams, because numbers may count records. A hole closes after
//! [`SEQUENCE_WINDOW`] further datagrams. A fill restarts its window.

use crate::limits::SEQUENCE_WINDOW;

/// The numbers from `start` up to `end`, modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NumberRange {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl NumberRange {
    pub(super) fn len(self) -> u32 {
        self.end.wrapping_sub(self.start)
    }

    /// This range, moved by `offset`.
    pub(super) fn shifted(self, offset: u32) -> Self {
        Self { start: self.start.wrapping_add(offset), end: self.end.wrapping_add(offset) }
    }

    /// True if all of `other` is in this range.
    fn contains(self, other: Self) -> bool {
        let (start, end) = (other.start.wrapping_sub(self.start), other.end.wrapping_sub(self.start));
        start <= end && end <= self.len()
    }
}

#[derive(Clone, Copy, Debug)]
struct Hole {
    range: NumberRange,
    /// The count of datagrams when it was last opened or filled.
    touched: usize,
}

/// The open holes, from the one untouched longest to the one touched last.
#[derive(Clone, Debug, Default)]
pub(super) struct Holes(Vec<Hole>);

impl Holes {
    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Hole>()
    }

    /// Opens a hole after `datagrams` datagrams. With more than `most` holes, the one untouched longest
    /// closes.
    pub(super) fn open(&mut self, range: NumberRange, datagrams: usize, most: usize) {
        if range.len() > 0 {
            let surplus = (self.0.len() + 1).saturating_sub(most);
            self.0.drain(..surplus.min(self.0.len()));
            self.0.push(Hole { range, touched: datagrams });
        }
    }

    /// Closes the holes that are too old.
    pub(super) fn close_old(&mut self, datagrams: usize) {
        let is_old = |hole: &Hole| datagrams.wrapping_sub(hole.touched) > SEQUENCE_WINDOW;
        if self.0.first().is_some_and(is_old) {
            let old = self.0.partition_point(is_old);
            self.0.drain(..old);
        }
    }

    /// True if all of `range` is in a hole.
    pub(super) fn contains(&self, range: NumberRange) -> bool {
        self.0.iter().any(|hole| hole.range.contains(range))
    }

    /// Fills `range` after `datagrams` datagrams. Returns the number of ends of its hole that it reaches, 0
    /// to 2; `None` if it is in no hole.
    pub(super) fn fill(&mut self, range: NumberRange, datagrams: usize, most: usize) -> Option<u32> {
        let place = self.0.iter().position(|hole| hole.range.contains(range))?;
        let hole = self.0.remove(place).range;
        let rest = [
            NumberRange { start: hole.start, end: range.start },
            NumberRange { start: range.end, end: hole.end },
        ];
        for rest in rest {
            self.open(rest, datagrams, most);
        }
        Some(rest.iter().map(|rest| u32::from(rest.len() == 0)).sum())
    }

    /// Adds the holes of another run after `datagrams` datagrams.
    pub(super) fn adopt(&mut self, other: &Self, datagrams: usize, most: usize) {
        for hole in &other.0 {
            self.open(hole.range, datagrams, most);
        }
    }

    /// Adds `offset` to all numbers.
    pub(super) fn shift(&mut self, offset: u32) {
        for hole in &mut self.0 {
            hole.range = hole.range.shifted(offset);
        }
    }

    /// Closes all holes.
    pub(super) fn close(&mut self) {
        self.0 = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u32, end: u32) -> NumberRange {
        NumberRange { start, end }
    }

    #[test]
    fn a_fill_leaves_the_rest_of_the_hole() {
        let mut holes = Holes::default();
        holes.open(range(10, 20), 0, 8);
        assert_eq!(holes.fill(range(12, 14), 1, 8), Some(0));
        assert!(!holes.contains(range(11, 13)) && !holes.contains(range(12, 13)));
        assert_eq!(holes.fill(range(10, 12), 2, 8), Some(2));
        assert_eq!(holes.fill(range(14, 15), 3, 8), Some(1));
        assert_eq!(holes.fill(range(14, 15), 4, 8), None);
        assert!(holes.contains(range(15, 20)) && !holes.contains(range(15, 21)));
    }

    #[test]
    fn holes_span_the_wrap() {
        let mut holes = Holes::default();
        holes.open(range(u32::MAX - 1, 3), 0, 8);
        assert_eq!(holes.fill(range(u32::MAX, 1), 1, 8), Some(0));
        assert_eq!(holes.fill(range(u32::MAX - 1, u32::MAX), 1, 8), Some(2));
        assert_eq!(holes.fill(range(1, 3), 1, 8), Some(2));
    }

    #[test]
    fn untouched_holes_close_after_the_window() {
        let mut holes = Holes::default();
        holes.open(range(0, 10), 0, 8);
        holes.open(range(20, 30), 0, 8);
        holes.fill(range(20, 21), SEQUENCE_WINDOW, 8);
        holes.close_old(SEQUENCE_WINDOW);
        assert!(holes.contains(range(0, 10)));
        holes.close_old(SEQUENCE_WINDOW + 1);
        assert!(!holes.contains(range(0, 10)) && holes.contains(range(21, 30)));
    }

    #[test]
    fn the_oldest_hole_makes_room() {
        let mut holes = Holes::default();
        for start in [0, 10, 20] {
            holes.open(range(start, start + 5), 0, 2);
        }
        assert!(!holes.contains(range(0, 5)) && holes.contains(range(10, 15)));
        assert!(holes.contains(range(20, 25)));
    }
}
