//! What some collectors have of a batch that others still wait for, from an orderly stop to the next start.
//!
//! The position of a stream says what every collector has. Where one collector held a batch up when the daemon
//! stopped, others may have more of it; that is written to the file `ahead.json` of the state directory, and
//! taken up once by the next start, so that nothing is repeated to them. Without the file, or with a damaged
//! one, they get part of one batch twice.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nf_transport_core::sequence::{Position, RunId, SenderId, StreamId};
use serde::{Deserialize, Serialize};

use crate::host::files::atomic_file::{self, FileOwner};
use crate::receiver::state::newer::{self, State};

/// What one collector has of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    pub(crate) sender: String,
    pub(crate) stream: String,
    pub(crate) collector: SocketAddr,
    /// Everything below was handed to the kernel for this collector.
    pub(crate) position: u64,
    /// The run of the sender that sent the last of that, in hexadecimal; empty if it is not known.
    #[serde(default)]
    pub(crate) run: String,
}

/// What the last run left, as far as it was not taken yet.
#[derive(Debug)]
pub(crate) struct Ahead {
    left: Mutex<HashMap<(String, String), Vec<Left>>>,
}

impl Ahead {
    /// Takes up what the last run left in the state directory.
    pub(crate) fn take_up(state_directory: &Path) -> Self {
        let path = file(state_directory);
        let mut left: HashMap<_, Vec<Left>> = HashMap::new();
        // What a collector had it has for ever, so that an old file is right, too.
        let kept = newer::take_up_kept::<Vec<Left>>(&path).unwrap_or_default();
        for progress in kept.into_iter().chain(read_and_remove(&path)) {
            let key = (progress.sender.clone(), progress.stream.clone());
            left.entry(key).or_default().push(progress);
        }
        Self { left: Mutex::new(left) }
    }

    /// What collectors had of this stream when the last run stopped, and the sender's run that sent the furthest of it, if
    /// any is further. Given once.
    pub(crate) fn take(
        &self,
        sender: &SenderId,
        stream: StreamId,
    ) -> (HashMap<SocketAddr, Position>, Option<RunId>) {
        let key = (sender.to_string(), stream.to_string());
        let taken = self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(&key).unwrap_or_default();
        let furthest = taken.iter().max_by_key(|progress| progress.position);
        let run = furthest.map(|progress| progress.run.parse().unwrap_or(RunId::NONE));
        let mut positions = HashMap::new();
        for progress in taken {
            let position = positions.entry(progress.collector).or_insert(Position(0));
            *position = (*position).max(Position(progress.position));
        }
        (positions, run)
    }
}

/// Writes down, at an orderly stop, what collectors have beyond the positions of their streams.
pub(crate) fn leave(state_directory: &Path, list: &[Left]) -> io::Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_vec(list)?;
    atomic_file::write(&file(state_directory), &text, 0o600, FileOwner::writer())
        .map(drop)
        .map_err(io::Error::other)
}

fn file(state_directory: &Path) -> PathBuf {
    state_directory.join("ahead.json")
}

/// The file is removed before it is believed: a run that is killed later must not find it again.
fn read_and_remove(path: &Path) -> Vec<Left> {
    let read = State::read(path);
    if let State::Newer(error) = &read {
        newer::keep(path, error);
        return Vec::new();
    }
    if matches!(read, State::Absent) {
        return Vec::new();
    }
    let removed = std::fs::remove_file(path);
    match (read, removed) {
        (State::Read(list), Ok(())) => list,
        (State::Unreadable(error), _) | (_, Err(error)) => {
            tracing::warn!(
                %error,
                "{}: cannot be taken up, so that part of a batch may be repeated to some collectors: {error}",
                path.display()
            );
            Vec::new()
        }
        (State::Absent | State::Newer(_), Ok(())) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId([7; 16]);
    const RUN: RunId = RunId([3; 16]);

    fn progress(collector: &str, position: u64) -> Left {
        let (sender, stream) = ("brno".to_owned(), STREAM.to_string());
        Left { sender, stream, collector: collector.parse().unwrap(), position, run: RUN.to_string() }
    }

    #[test]
    fn what_is_left_is_taken_up_once() {
        let directory = tempfile::tempdir().unwrap();
        let list = [progress("127.0.0.1:1", 5), progress("[::1]:2", 9)];
        leave(directory.path(), &list).unwrap();
        let ahead = Ahead::take_up(directory.path());
        assert!(!file(directory.path()).exists());
        let brno: SenderId = "brno".parse().unwrap();
        assert!(ahead.take(&"praha".parse().unwrap(), STREAM).0.is_empty());
        let (taken, run) = ahead.take(&brno, STREAM);
        assert_eq!(run, Some(RUN));
        assert_eq!(taken[&"[::1]:2".parse().unwrap()], Position(9));
        assert_eq!(taken.len(), 2);
        assert_eq!(ahead.take(&brno, STREAM), (HashMap::new(), None));
    }

    #[test]
    fn the_old_file_stays_whole_until_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (path, linked) = (file(directory.path()), directory.path().join("linked"));
        leave(directory.path(), &[progress("127.0.0.1:1", 5)]).unwrap();
        let before = std::fs::read(&path).unwrap();
        std::fs::hard_link(&path, &linked).unwrap();
        leave(directory.path(), &[progress("127.0.0.1:1", 9)]).unwrap();
        assert_eq!(std::fs::read(&linked).unwrap(), before, "it was written over");
        assert_ne!(std::fs::read(&path).unwrap(), before);
        assert_eq!(directory.path().read_dir().unwrap().count(), 2, "only these two files");
    }

    #[test]
    fn a_damaged_file_is_done_without() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(file(directory.path()), b"{nonsense").unwrap();
        assert!(Ahead::take_up(directory.path()).take(&"brno".parse().unwrap(), STREAM).0.is_empty());
        assert!(!file(directory.path()).exists());
    }

    #[test]
    fn a_newer_file_is_kept_and_taken_up_by_a_version_that_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path());
        std::fs::write(&path, "{\"version\": 2, \"left\": []}").unwrap();
        let brno: SenderId = "brno".parse().unwrap();
        assert!(Ahead::take_up(directory.path()).take(&brno, STREAM).0.is_empty());
        assert!(newer::kept(&path).exists() && !path.exists());
        // The version that it needs.
        std::fs::write(newer::kept(&path), serde_json::to_vec(&[progress("127.0.0.1:1", 9)]).unwrap())
            .unwrap();
        leave(directory.path(), &[progress("127.0.0.1:1", 5)]).unwrap();
        let (taken, _) = Ahead::take_up(directory.path()).take(&brno, STREAM);
        assert_eq!(taken[&"127.0.0.1:1".parse().unwrap()], Position(9));
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}
