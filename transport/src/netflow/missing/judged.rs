//! Decides whether sequence numbers make sense.

use crate::netflow::missing::counter::Fit;

/// Numbers that are judged at once.
const JUDGED_AT_ONCE: u32 = 32;

/// Numbers that are enough to judge.
const JUDGED_AFTER: u32 = 16;

/// Numbers make sense if at least one of this many fits. With nine of ten datagrams lost, one of ten fits.
const FITS_OF: u32 = 16;

/// Numbers also make sense if the missing units are at most this many times the received ones. With every
/// second datagram lost, none fits.
const MISSING_OF_SEEN: u64 = 8;

/// Numbers since the last judgement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judged {
    numbers: u32,
    fits: u32,
    /// Numbers that followed no run.
    strays: u32,
    /// Units seen.
    seen: u64,
    /// Units that were missing before.
    missing_before: u64,
    /// Numbers in a row that could not be judged.
    unknown: u32,
}

/// The judgement about numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SequenceVerdict {
    /// They make sense.
    Sound,
    /// They make sense, but less than half of them fit.
    Doubtful,
    /// They make no sense.
    Erratic,
}

impl Judged {
    /// Starts a judgement while `missing` units are missing.
    pub(super) fn starting_at(missing: u64) -> Self {
        Self { missing_before: missing, ..Self::default() }
    }

    /// Adds the fit of a datagram of `units` units. True if there are enough numbers to judge.
    pub(super) fn add(&mut self, fit: Fit, units: u32) -> bool {
        if fit == Fit::Unknown {
            self.unknown = self.unknown.saturating_add(1);
            return false;
        }
        self.unknown = 0;
        self.seen += u64::from(units);
        if fit == Fit::Reordered {
            return false;
        }
        self.numbers += 1;
        self.fits += u32::from(fit == Fit::Yes);
        self.strays += u32::from(fit == Fit::Stray);
        self.numbers >= JUDGED_AFTER
    }

    /// True if the next number begins the next judgement.
    pub(super) fn is_done(&self) -> bool {
        self.numbers >= JUDGED_AT_ONCE
    }

    /// True if too many numbers in a row could not be judged.
    pub(super) fn is_blind(&self) -> bool {
        self.unknown >= JUDGED_AT_ONCE
    }

    /// Judges the numbers while `missing` units are missing.
    pub(super) fn verdict(&self, missing: u64) -> SequenceVerdict {
        match (self.make_sense(missing), self.fits * 2 >= self.numbers) {
            (false, _) => SequenceVerdict::Erratic,
            (true, false) => SequenceVerdict::Doubtful,
            (true, true) => SequenceVerdict::Sound,
        }
    }

    fn make_sense(&self, missing: u64) -> bool {
        let more_missing = missing.saturating_sub(self.missing_before);
        let is_plausible = more_missing <= MISSING_OF_SEEN * self.seen && self.strays * 2 <= self.numbers;
        self.fits * FITS_OF >= self.numbers || is_plausible
    }
}
