//! Ways of counting that share one counter.

use crate::netflow::export::ExportFormat;
use crate::netflow::missing::counter::SequenceCounter;
use crate::netflow::missing::way::{DatagramRange, Way};

/// Extra numbers that a way of counting must fit for each run that continued after another one.
const RETURN_COST: i64 = 4;

/// Maximum number of ways of counting of one format.
const WAYS_MAX: usize = 16;

/// A set of ways of counting: one bit for each place in the format's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::netflow) struct Ways(u16);

impl Ways {
    /// The way of the standard.
    pub(super) const STANDARD: Self = Self(1);

    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        (0..WAYS_MAX).filter(move |place| self.0 & (1 << place) != 0)
    }

    /// The place of the first way.
    pub(super) fn first(self) -> Option<usize> {
        self.iter().next()
    }

    /// Adds the ways of `other`.
    pub(super) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// True if both have a way in common.
    pub(in crate::netflow) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Ways of counting that agree on all datagrams so far, except for a constant. The counter follows the first
/// of them.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Bits of places in the list of ways.
    pub(super) ways: Ways,
    /// Lead of each way over the first one, known after the first datagram.
    offsets: Option<[u32; WAYS_MAX]>,
    pub(super) counter: SequenceCounter,
    /// Numbers that fitted, minus those that followed no run.
    pub(super) fits: i64,
}

impl Group {
    /// All ways of counting of `format`, which agree before the first datagram. `None` if the format has no
    /// numbers.
    pub(super) fn all(format: ExportFormat) -> Option<Self> {
        let bits = Way::all(format).iter().fold(0_u16, |bits, _| bits << 1 | 1);
        (bits != 0).then_some(Self {
            ways: Ways(bits),
            offsets: None,
            counter: SequenceCounter::default(),
            fits: 0,
        })
    }

    /// Lead of the way at `place` over the one that is followed.
    pub(super) fn offset(&self, place: usize) -> u32 {
        self.offsets.and_then(|offsets| offsets.get(place).copied()).unwrap_or_default()
    }

    /// Removes the ways that contradict their offset, and returns them as a new group.
    pub(super) fn split_off(&mut self, place: impl Fn(usize) -> Option<DatagramRange>) -> Option<Self> {
        let mut members = self.ways.iter();
        let first = members.next().and_then(&place);
        let offset = |member: usize| place(member)?.offset_from(first?);
        let learn = || core::array::from_fn(|member| offset(member).unwrap_or_default());
        let offsets = *self.offsets.get_or_insert_with(learn);
        let agrees =
            |member: &usize| offset(*member).is_some_and(|offset| offsets.get(*member) == Some(&offset));
        let other = members.find(|member| !agrees(member))?;
        let others = members.filter(|member| !agrees(member));
        let others = Ways(others.fold(1 << other, |bits, member| bits | 1 << member));
        self.ways.0 &= !others.0;
        Some(self.apart(others, offsets.get(other).copied().unwrap_or_default()))
    }

    /// A new group of some of the ways, the first of which is ahead by `offset`.
    fn apart(&self, ways: Ways, offset: u32) -> Self {
        let mut apart = Self { ways, ..self.clone() };
        apart.counter.shift(offset);
        let is_new = apart.counter.is_empty();
        apart.offsets =
            apart.offsets.filter(|_| !is_new).map(|all| all.map(|other| other.wrapping_sub(offset)));
        apart
    }

    /// Measure of how well the ways explain the numbers.
    pub(super) fn score(&self) -> i64 {
        self.fits - RETURN_COST * i64::from(self.counter.returns())
    }
}
