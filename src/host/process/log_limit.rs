//! Limits repeated log lines about the same subject. The next line states the number of suppressed ones.
//!
//! Increases of a counter are no such lines: none of them may be suppressed. They are added up by
//! [`LoggedCount`](crate::host::LoggedCount).

use core::fmt;
use core::hash::Hash;
use std::collections::HashMap;
use std::time::Instant;

use crate::host::process::log_interval::LogInterval;
use crate::limits::LOG_KEYS_MAX;

/// Decides which log lines to write, per key such as the address of a peer.
///
/// Keeps at most `LOG_KEYS_MAX` keys. While all of them are younger than `LOG_INTERVAL`, further keys share
/// one line, so that many peers cannot flood the log either.
#[derive(Debug)]
pub struct LogLimit<K> {
    lines: HashMap<K, Suppression>,
    shared: Suppression,
}

#[derive(Clone, Copy, Debug, Default)]
struct Suppression {
    interval: LogInterval,
    /// Suppressed lines in the interval.
    suppressed: u64,
}

impl Suppression {
    /// Admits a line, with the number of suppressed ones before it, or suppresses it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if !self.interval.is_over(now) {
            self.suppressed += 1;
            return None;
        }
        self.interval.begin(now);
        Some(core::mem::take(&mut self.suppressed))
    }
}

impl<K> Default for LogLimit<K> {
    fn default() -> Self {
        Self { lines: HashMap::new(), shared: Suppression::default() }
    }
}

impl<K: Eq + Hash> LogLimit<K> {
    /// Returns `None` to suppress a line about `key`, or `Some` with the number of lines suppressed since the
    /// last one.
    pub fn admit(&mut self, key: K, now: Instant) -> Option<u64> {
        if let Some(line) = self.lines.get_mut(&key) {
            return line.admit(now);
        }
        if self.lines.len() >= LOG_KEYS_MAX {
            self.lines.retain(|_, line| !line.interval.is_over(now));
        }
        let line = if self.lines.len() < LOG_KEYS_MAX {
            self.lines.entry(key).or_default()
        } else {
            &mut self.shared
        };
        line.admit(now)
    }
}

/// The end of a log line with the number of similar suppressed lines; empty if there are none.
#[derive(Clone, Copy, Debug)]
pub struct Suppressed(pub u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" (1 similar message suppressed)"),
            count => write!(f, " ({count} similar messages suppressed)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::limits::LOG_INTERVAL;

    #[test]
    fn each_key_has_one_line_per_interval() {
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
    fn keys_beyond_the_bound_share_one_line() {
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

    #[test]
    fn suppressed_messages_are_counted_in_the_line() {
        let lines = [0, 1, 39].map(|count| format!("lost{}", Suppressed(count)));
        let expected =
            ["lost", "lost (1 similar message suppressed)", "lost (39 similar messages suppressed)"];
        assert_eq!(lines, expected);
    }
}
