//! Positions, gaps and ids: the identifiers that sender and receiver share.

use core::fmt;
use core::str::FromStr;

/// Number of a datagram in its stream. The first datagram of a stream has position 0.
///
/// A position that expresses progress ("acknowledged up to") is exclusive: it covers all positions below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Position `count` datagrams later, at most `u64::MAX`.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// Number of positions from `earlier` up to this one; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a stream: all datagrams that one spool ever numbers.
///
/// A wiped spool starts a new stream, and so does a spool that was rolled back or cloned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub [u8; 16]);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Identifies one run of nf-sender on one spool.
///
/// It is random and new at every start, so that no two runs share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub [u8; 16]);

impl RunId {
    /// No run: the value of a position that was stored without one.
    pub const NONE: Self = Self([0; 16]);
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is not a run id.
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

/// Name of a sender at its receiver: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
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

/// The text is not a sender id.
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

/// Reason why a range of positions will never be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapReason {
    /// Dropped because the spool had no room left.
    SpoolFull,
    /// Dropped because it was older than `max-age`.
    TooOld,
    /// The spool's bytes were damaged or missing.
    Corrupt,
    /// Never used: numbers skipped after the sender's host lost power.
    Unused,
}

impl GapReason {
    /// All reasons, each with its number on the wire and its word in file names and logs.
    const ALL: [(Self, u8, &'static str); 4] = [
        (Self::SpoolFull, 1, "spool-full"),
        (Self::TooOld, 2, "too-old"),
        (Self::Corrupt, 3, "corrupt"),
        (Self::Unused, 4, "unused"),
    ];

    /// Number of this reason on the wire.
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|row| row.0 == self).map_or(0, |row| row.1)
    }

    /// Returns the reason with this number on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    /// Word for this reason in the names of gap files and in logs.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.2)
    }

    /// Returns the reason with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|row| row.2 == word).map(|row| row.0)
    }
}

/// Positions that will never be delivered, `first <= position < end`, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First missing position.
    pub first: Position,
    /// Position after the last missing one.
    pub end: Position,
    /// Reason of the loss.
    pub reason: GapReason,
}

impl Gap {
    /// Number of lost datagrams: one for each position, or 0 if the positions were never used.
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
    fn run_ids_round_trip_through_text() {
        let run = RunId([0x0a; 16]);
        assert_eq!(run.to_string().parse(), Ok(run));
        for bad in ["", "0a", &"x".repeat(32), &"0".repeat(33)] {
            assert_eq!(bad.parse::<RunId>(), Err(RunIdError), "{bad:?}");
        }
    }

    #[test]
    fn gap_reasons_round_trip_through_code_and_word() {
        for (reason, code, word) in GapReason::ALL {
            assert_eq!(GapReason::from_code(reason.code()), Some(reason));
            assert_eq!(GapReason::from_word(reason.word()), Some(reason));
            assert_eq!((reason.code(), reason.word()), (code, word));
        }
        assert_eq!(GapReason::from_code(0), None);
        assert_eq!(GapReason::from_word(""), None);
    }

    #[test]
    fn unused_positions_are_not_lost_datagrams() {
        let gap = |reason| Gap { first: Position(10), end: Position(15), reason };
        assert_eq!(gap(GapReason::Corrupt).datagrams(), 5);
        assert_eq!(gap(GapReason::Unused).datagrams(), 0);
    }
}
