//! The log of a daemon: the lines of its standard error.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::DaemonEvent;

/// The lines that a daemon has written to standard error.
#[derive(Default)]
pub(super) struct Log {
    pub(super) lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Log {
    /// Lines in a failure message. Some tests kill hundreds of daemons, so the log is cut.
    const SHOWN: usize = 40;

    pub(super) fn text(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines[lines.len().saturating_sub(Self::SHOWN)..].join("\n")
    }

    fn push(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        self.grown.notify_all();
    }

    pub(super) fn count(&self, words: &[&str]) -> usize {
        count(&self.lines.lock().unwrap(), words)
    }

    pub(super) fn wait_for(&self, words: &[&str], more_than: usize, patience: Duration) -> bool {
        let absent = |lines: &mut Vec<String>| count(lines, words) <= more_than;
        let lines = self.lines.lock().unwrap();
        !self.grown.wait_timeout_while(lines, patience, absent).unwrap().1.timed_out()
    }
}

/// Counts the lines that contain all of these words, ignoring case.
fn count(lines: &[String], words: &[&str]) -> usize {
    let holds = |line: &&String| words.iter().all(|word| line.to_lowercase().contains(&word.to_lowercase()));
    lines.iter().filter(holds).count()
}

pub(super) fn follow_log(stderr: impl Read + Send + 'static, log: Arc<Log>, events: Sender<DaemonEvent>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            log.push(String::from_utf8_lossy(&line).into_owned());
        }
        drop(events.send(DaemonEvent::Ended));
    });
}
