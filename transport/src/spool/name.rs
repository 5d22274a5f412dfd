//! The names of files in a spool directory. They sort by position.

use crate::sequence::{Gap, GapReason, Position, StreamId};

/// Subdirectory for copies of damaged pieces.
pub(super) const DAMAGED: &str = "damaged";

/// Subdirectory for files of a newer version.
pub(super) const NEWER: &str = "newer";

/// The subdirectories of the spool directory.
pub const SUBDIRECTORIES: [&str; 2] = [DAMAGED, NEWER];

/// An empty file that becomes a segment when no other can be created.
pub(super) const SPARE: &str = "spare";

/// The next spare file, until it has that name.
pub(super) const NEW_SPARE: &str = "spare.new";

/// A thinned segment until it is whole.
pub(super) const UNFINISHED_THINNED: &str = "thinned.new";

/// A parsed file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileName {
    /// `<first position, 20 digits>.segment`: batches.
    Segment(Position),
    /// `<first, 20 digits>-<end, 20 digits>-<reason>.gap`: an empty file for positions that were dropped.
    Gap(Gap),
}

impl FileName {
    /// Parses a name; `None` for a foreign file.
    pub(super) fn parse(name: &str) -> Option<Self> {
        if let Some(first) = name.strip_suffix(".segment") {
            return Some(Self::Segment(parse_position(first)?));
        }
        let mut parts = name.strip_suffix(".gap")?.splitn(3, '-');
        let first = parse_position(parts.next()?)?;
        let end = parse_position(parts.next()?)?;
        let reason = GapReason::from_word(parts.next()?)?;
        (first < end).then_some(Self::Gap(Gap { first, end, reason }))
    }
}

/// True if a file of this name in a spool directory is a segment.
pub fn is_segment(name: &str) -> bool {
    matches!(FileName::parse(name), Some(FileName::Segment(_)))
}

fn parse_position(digits: &str) -> Option<Position> {
    let well_formed = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if well_formed { digits.parse().ok().map(Position) } else { None }
}

/// The name of the segment that starts at `first`.
pub(super) fn segment(first: Position) -> String {
    format!("{:020}.segment", first.0)
}

/// The name of the file that stands for `gap`.
pub(super) fn gap(gap: &Gap) -> String {
    format!("{:020}-{:020}-{}.gap", gap.first.0, gap.end.0, gap.reason.word())
}

/// The name of the marker of a thinned segment that starts at `first`.
pub(super) fn thinned(first: Position) -> String {
    format!("{:020}.thinned", first.0)
}

/// Parses the name of such a file.
pub(super) fn parse_thinned(name: &str) -> Option<Position> {
    parse_position(name.strip_suffix(".thinned")?)
}

/// The name of the copy of a damaged piece: `length` bytes at `offset` of the segment `name`, which may be
/// one in `newer/`.
pub(super) fn damaged(name: &str, offset: u64, length: u64) -> String {
    let (_, file) = name.rsplit_once('/').unwrap_or(("", name));
    format!("{DAMAGED}/{file}-{offset}-{length}")
}

/// The name of a preserved segment of a newer version. Its data from `from` on was not delivered.
pub(super) fn newer(from: Position, stream: StreamId) -> String {
    format!("{NEWER}/{:020}-{stream}.segment", from.0)
}

/// Parses the name of such a file.
pub(super) fn parse_newer(name: &str) -> Option<(Position, StreamId)> {
    let (from, stream) =
        name.strip_prefix(NEWER)?.strip_prefix('/')?.strip_suffix(".segment")?.split_once('-')?;
    let is_hex = stream.len() == 32 && stream.bytes().all(|digit| digit.is_ascii_hexdigit());
    let id = u128::from_str_radix(stream, 16).ok().filter(|_| is_hex)?;
    Some((parse_position(from)?, StreamId(id.to_be_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let first = Position(42);
        assert_eq!(FileName::parse(&segment(first)), Some(FileName::Segment(first)));
        let dropped = Gap { first, end: Position(u64::MAX), reason: GapReason::SpoolFull };
        assert_eq!(FileName::parse(&gap(&dropped)), Some(FileName::Gap(dropped)));
        assert_eq!(segment(first), "00000000000000000042.segment");
        assert_eq!(parse_thinned(&thinned(first)), Some(first));
        let stream = StreamId([0xA5; 16]);
        assert_eq!(parse_newer(&newer(first, stream)), Some((first, stream)));
        assert_eq!(parse_newer("newer/00000000000000000042-a5.segment"), None);
    }

    #[test]
    fn foreign_names_are_not_parsed() {
        for name in [
            "",
            "stream",
            "lock",
            "intake",
            SPARE,
            "42.segment",
            "0000000000000000004x.segment",
            "99999999999999999999.segment",
            "00000000000000000042.segment.old",
            "00000000000000000042-00000000000000000042-spool-full.gap",
            "00000000000000000042-00000000000000000043-bored.gap",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
