//! Figures that both services report, and the words around them.

use core::fmt::Display;

use serde::{Deserialize, Serialize};

/// Datagrams and the bytes of their payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Number of datagrams.
    pub datagrams: u64,
    /// Bytes of all payloads together.
    pub bytes: u64,
}

/// A count with its noun, as in "1 sender" and "2 senders".
pub fn count_of(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Number of keys that a line of text names.
const NAMED: usize = 5;

/// The first of `entries` with their remarks, as in `192.0.2.1 (30), 192.0.2.2 (5) and 2 more`.
pub fn name_first<K: Display, R: Display>(entries: impl IntoIterator<Item = (K, R)>) -> String {
    let mut entries = entries.into_iter();
    let named: Vec<String> =
        entries.by_ref().take(NAMED).map(|(key, remark)| format!("{key} ({remark})")).collect();
    match entries.count() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Exporters of dropped datagrams as [`name_first`] names them, and the count of those of unknown exporters.
pub fn name_dropped<K: Display>(entries: impl IntoIterator<Item = (K, u64)>, unknown: u64) -> String {
    let named = name_first(entries);
    match (named.is_empty(), unknown) {
        (_, 0) => named,
        (true, _) => format!("unknown ({unknown})"),
        (false, _) => format!("{named}, unknown ({unknown})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_first_few() {
        assert_eq!(name_first([("a", 3), ("b", 1)]), "a (3), b (1)");
        assert_eq!(name_dropped([("a", 3)], 5), "a (3), unknown (5)");
        assert_eq!(name_dropped(Vec::<(&str, u64)>::new(), 5), "unknown (5)");
        assert_eq!(name_dropped([("a", 3)], 0), "a (3)");
        assert_eq!(name_first((0..7).map(|key| (key, 1))), "0 (1), 1 (1), 2 (1), 3 (1), 4 (1) and 2 more");
    }
}
