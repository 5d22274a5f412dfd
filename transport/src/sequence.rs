//! The numbers and names by which both sides speak of the same datagrams.

use core::fmt;
use core::str::FromStr;

/// The number of a datagram in its stream. The first datagram of a stream has position 0.
///
/// A position that stands for progress ("acknowledged up to") is exclusive: everything below it is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position `count` datagrams later; stays at the last possible one.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many positions lie from `earlier` up to here; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All that one spool ever numbers. A wiped spool is a new stream, and so is one that was rolled back or cloned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub [u8; 16]);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One run of nf-sender over one spool: drawn at random at every start, so that no two lives of a spool share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub [u8; 16]);

impl RunId {
    /// Stands for no run: a position that was stored without one.
    pub const NONE: Self = Self([0; 16]);
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no run id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a run id is 32 hexadecimal digits")]
pub struct RunIdError;

impl FromStr for RunId {
    type Err = RunIdError;

    fn from_str(text: &str) -> Result<Self, RunIdError> {
        let id = u128::from_str_radix(text, 16).map_err(|_| RunIdError)?;
        if text.len() == 32 { Ok(Self(id.to_be_bytes())) } else { Err(RunIdError) }
    }
}

/// The name by which a receiver knows a sender: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderId(String);

impl SenderId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a text that should be a sender id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sender id is 1 to 64 of the characters A-Z a-z 0-9 . _ - and does not start with a dot")]
pub struct SenderIdError;

impl FromStr for SenderId {
    type Err = SenderIdError;

    fn from_str(text: &str) -> Result<Self, SenderIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let well_formed =
            (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed);
        if well_formed { Ok(Self(text.to_owned())) } else { Err(SenderIdError) }
    }
}

/// Why a range of positions will never be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapReason {
    /// Dropped because the spool had no room left.
    SpoolFull,
    /// Dropped because it was older than `max-age`.
    TooOld,
    /// The spool's bytes were damaged or missing.
    Corrupt,
    /// Never held a datagram: numbers passed over after the sender's host lost power.
    Unused,
}

impl GapReason {
    /// Every reason with its number on the wire and its word in file names and logs.
    const ALL: [(Self, u8, &'static str); 4] = [
        (Self::SpoolFull, 1, "spool-full"),
        (Self::TooOld, 2, "too-old"),
        (Self::Corrupt, 3, "corrupt"),
        (Self::Unused, 4, "unused"),
    ];

    /// The number that stands for this reason on the wire.
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|row| row.0 == self).map_or(0, |row| row.1)
    }

    /// The reason with this number on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    /// The reason's word, as in the names of gap files.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.2)
    }

    /// The reason with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|row| row.2 == word).map(|row| row.0)
    }
}

/// Positions that will never be delivered: `first <= position < end`, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first position that is missing.
    pub first: Position,
    /// The position after the last one that is missing.
    pub end: Position,
    /// Why they are missing.
    pub reason: GapReason,
}

impl Gap {
    /// How many datagrams were lost here: every position stood for one, unless it was never used.
    pub fn datagrams(&self) -> u64 {
        if self.reason == GapReason::Unused { 0 } else { self.end.since(self.first) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_id_is_a_safe_file_name() {
        for good in ["brno-edge", "r1.example.net", "A_b", "x"] {
            assert_eq!(good.parse::<SenderId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ü", &"x".repeat(65)] {
            assert_eq!(bad.parse::<SenderId>(), Err(SenderIdError), "{bad:?}");
        }
    }

    #[test]
    fn a_run_id_survives_the_way_to_text_and_back() {
        let run = RunId([0x0a; 16]);
        assert_eq!(run.to_string().parse(), Ok(run));
        for bad in ["", "0a", &"x".repeat(32), &"0".repeat(33)] {
            assert_eq!(bad.parse::<RunId>(), Err(RunIdError), "{bad:?}");
        }
    }

    #[test]
    fn gap_reasons_survive_the_way_to_number_or_word_and_back() {
        for (reason, code, word) in GapReason::ALL {
            assert_eq!(GapReason::from_code(reason.code()), Some(reason));
            assert_eq!(GapReason::from_word(reason.word()), Some(reason));
            assert_eq!((reason.code(), reason.word()), (code, word));
        }
        assert_eq!(GapReason::from_code(0), None);
        assert_eq!(GapReason::from_word(""), None);
    }

    #[test]
    fn unused_positions_count_as_no_lost_datagram() {
        let gap = |reason| Gap { first: Position(10), end: Position(15), reason };
        assert_eq!(gap(GapReason::Corrupt).datagrams(), 5);
        assert_eq!(gap(GapReason::Unused).datagrams(), 0);
    }
}
