//! The queue of log lines between the threads that log and the thread that writes.
//!
//! [`LogQueue::push`] never waits: if the queue is full, the line is dropped and counted.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::host::process::logging::event::StoredEvent;
use crate::host::{locked, wait_on};
use crate::limits::LOG_QUEUE_MAX;

/// One entry of the log.
#[derive(Debug)]
pub(super) enum LogEntry {
    /// An event with its fields.
    Event(StoredEvent),
    /// Text for stderr.
    Text(String),
}

/// Bounded queue of log entries, oldest first.
#[derive(Debug, Default)]
pub(super) struct LogQueue {
    state: Mutex<LogQueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogQueueState {
    entries: VecDeque<LogEntry>,
    /// Entries dropped since the last report.
    dropped: u64,
    /// The writer has taken an entry and not returned for the next one.
    is_writing: bool,
}

impl LogQueue {
    /// Appends `entry`, or drops and counts it if the queue is full.
    pub(super) fn push(&self, entry: LogEntry) {
        let mut state = self.state();
        if state.entries.len() < LOG_QUEUE_MAX {
            state.entries.push_back(entry);
            self.changed.notify_all();
        } else {
            state.dropped += 1;
        }
    }

    /// Appends the report of dropped entries. Only the writer calls this, at most once per entry, so the
    /// queue exceeds its bound by at most one entry.
    pub(super) fn push_report(&self, entry: LogEntry) {
        self.state().entries.push_back(entry);
    }

    /// Takes the oldest entry, and blocks until there is one. The entry taken before then counts as written.
    pub(super) fn next(&self) -> LogEntry {
        let mut state = self.state();
        state.is_writing = false;
        self.changed.notify_all();
        loop {
            if let Some(entry) = state.entries.pop_front() {
                state.is_writing = true;
                return entry;
            }
            state = wait_on(&self.changed, state);
        }
    }

    /// Returns the number of dropped entries since the last report once half of the queue is free. Earlier, a
    /// report would only displace another entry.
    pub(super) fn take_dropped(&self) -> Option<u64> {
        let mut state = self.state();
        let is_due = state.dropped > 0 && state.entries.len() <= LOG_QUEUE_MAX / 2;
        is_due.then(|| core::mem::take(&mut state.dropped))
    }

    /// Waits until all entries are written, at most for `patience`.
    pub(super) fn drain(&self, patience: Duration) {
        let is_busy = |state: &mut LogQueueState| state.is_writing || !state.entries.is_empty();
        drop(self.changed.wait_timeout_while(self.state(), patience, is_busy));
    }

    fn state(&self) -> MutexGuard<'_, LogQueueState> {
        locked(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    fn text(queue: &LogQueue) -> String {
        match queue.next() {
            LogEntry::Text(text) => text,
            LogEntry::Event(event) => panic!("{event:?}"),
        }
    }

    fn filled() -> LogQueue {
        let queue = LogQueue::default();
        for number in 0..LOG_QUEUE_MAX + 3 {
            queue.push(LogEntry::Text(number.to_string()));
        }
        queue
    }

    #[test]
    fn a_full_queue_drops_and_counts_new_lines() {
        let queue = filled();
        assert_eq!(queue.take_dropped(), None, "no room for the report yet");
        for number in 0..LOG_QUEUE_MAX {
            assert_eq!(text(&queue), number.to_string());
        }
        assert_eq!(queue.take_dropped(), Some(3));
        assert_eq!(queue.take_dropped(), None);
        queue.push(LogEntry::Text("next".to_owned()));
        assert_eq!(text(&queue), "next");
    }

    #[test]
    fn draining_a_stuck_queue_ends_after_its_bound() {
        let queue = filled();
        let begun = Instant::now();
        queue.drain(Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn draining_waits_for_the_entry_being_written() {
        let queue = Arc::new(LogQueue::default());
        queue.push(LogEntry::Text("last".to_owned()));
        assert_eq!(text(&queue), "last");
        let draining = {
            let queue = queue.clone();
            std::thread::spawn(move || queue.drain(Duration::from_secs(60)))
        };
        assert!(!draining.is_finished());
        // The writer comes back for more: the last entry is out.
        let writer = {
            let queue = queue.clone();
            std::thread::spawn(move || text(&queue))
        };
        draining.join().unwrap();
        queue.push(LogEntry::Text("end".to_owned()));
        assert_eq!(writer.join().unwrap(), "end");
    }
}
