//! One log line about the same thing in a while; the rest is counted and told in the next line.

use core::fmt;
use core::hash::Hash;
use std::collections::HashMap;
use std::time::Instant;

use crate::limits::{LOG_INTERVAL, LOG_KEYS_MAX};

/// Says which log lines to write, per key such as the address of a peer.
///
/// Keeps at most `LOG_KEYS_MAX` keys. While as many were heard within `LOG_INTERVAL`, all further ones share one
/// line, so that many peers cannot flood a log either.
#[derive(Debug)]
pub struct LogLimit<K> {
    lines: HashMap<K, Line>,
    shared: Option<Line>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    written: Instant,
    held_back: u64,
}

impl Line {
    /// Counts one more, or lets it through with the count of those held back.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.written) < LOG_INTERVAL {
            self.held_back += 1;
            return None;
        }
        let held_back = self.held_back;
        *self = Self { written: now, held_back: 0 };
        Some(held_back)
    }
}

impl<K> Default for LogLimit<K> {
    fn default() -> Self {
        Self { lines: HashMap::new(), shared: None }
    }
}

impl<K: Eq + Hash> LogLimit<K> {
    /// Whether to write a line about `key` now: `None` holds it back, `Some` tells how many were held back since
    /// the last one.
    pub fn admit(&mut self, key: K, now: Instant) -> Option<u64> {
        if let Some(line) = self.lines.get_mut(&key) {
            return line.admit(now);
        }
        if self.lines.len() >= LOG_KEYS_MAX {
            self.lines.retain(|_, line| now.saturating_duration_since(line.written) < LOG_INTERVAL);
        }
        let first = Line { written: now, held_back: 0 };
        if self.lines.len() < LOG_KEYS_MAX {
            self.lines.insert(key, first);
            return Some(0);
        }
        match &mut self.shared {
            Some(line) => line.admit(now),
            shared => {
                *shared = Some(first);
                Some(0)
            }
        }
    }
}

/// The end of a log line that tells how many like it were held back since the last one; nothing if none was.
#[derive(Clone, Copy, Debug)]
pub struct More(pub u64);

impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more like this since the last one told)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    #[test]
    fn each_key_has_one_line_per_interval_and_the_next_tells_how_many_were_held_back() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(limit.admit("a", start), Some(0));
        assert_eq!(limit.admit("a", start + second), None);
        assert_eq!(limit.admit("b", start + second), Some(0));
        assert_eq!(limit.admit("a", start + second * 9), None);
        assert_eq!(limit.admit("a", start + LOG_INTERVAL), Some(2));
        assert_eq!(limit.admit("a", start + 2 * LOG_INTERVAL), Some(0));
    }

    #[test]
    fn keys_beyond_the_bound_share_one_line_until_there_is_room_again() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        for key in 0..LOG_KEYS_MAX {
            assert_eq!(limit.admit(key, start), Some(0));
        }
        assert_eq!(limit.admit(LOG_KEYS_MAX, start), Some(0));
        assert_eq!(limit.admit(LOG_KEYS_MAX + 1, start), None);
        assert_eq!(limit.lines.len(), LOG_KEYS_MAX);
        assert_eq!(limit.admit(LOG_KEYS_MAX + 2, start + LOG_INTERVAL), Some(0));
        assert_eq!(limit.lines.len(), 1);
    }
}
