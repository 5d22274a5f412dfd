//! Offsets of collectors that had more of a stream than others at an orderly stop, kept until the next start.
//!
//! The position of a stream covers the datagrams that every collector has. If one collector delayed a batch
//! when the daemon stopped, others may have more of it. Their offsets are written to the file `ahead.json` of
//! the state directory and read once by the next start, so that nothing is repeated to them. Without the
//! file, or with a damaged one, they get part of one batch twice.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nf_transport_core::sequence::{Position, RunId, SenderId, StreamId};
use serde::{Deserialize, Serialize};

use crate::host::locked;
use crate::receiver::output::OutputName;
use crate::receiver::state::json_file;

/// Offset of one collector in one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CollectorOffset {
    pub(crate) sender: String,
    pub(crate) stream: String,
    pub(crate) collector: OutputName,
    /// The kernel accepted everything below for this collector.
    pub(crate) position: u64,
    /// Run of the sender that sent the last of it, in hexadecimal; empty if it is not known.
    #[serde(default)]
    pub(crate) run: String,
}

/// Offsets of the last run that no stream has taken yet.
#[derive(Debug)]
pub(crate) struct CollectorOffsets {
    offsets: Mutex<HashMap<(String, String), Vec<CollectorOffset>>>,
}

impl CollectorOffsets {
    /// Reads and removes the offsets of the last run in the state directory.
    pub(crate) fn recover(state_directory: &Path) -> Self {
        let path = file(state_directory);
        let mut left: HashMap<_, Vec<CollectorOffset>> = HashMap::new();
        // A collector never loses its datagrams, so offsets of an old file are still correct.
        let kept = json_file::recover_kept::<Vec<CollectorOffset>>(&path).unwrap_or_default();
        let last = json_file::take::<Vec<CollectorOffset>>(&path).unwrap_or_else(|error| {
            tracing::warn!(
                %error,
                "cannot recover {}: {error}; part of a batch may be repeated to some collectors",
                path.display()
            );
            None
        });
        for progress in kept.into_iter().chain(last.unwrap_or_default()) {
            let key = (progress.sender.clone(), progress.stream.clone());
            left.entry(key).or_default().push(progress);
        }
        Self { offsets: Mutex::new(left) }
    }

    /// Takes the offsets of the collectors in this stream at the last stop, and the sender's run of the
    /// highest one. Returns them only once.
    pub(crate) fn take(
        &self,
        sender: &SenderId,
        stream: StreamId,
    ) -> (HashMap<OutputName, Position>, Option<RunId>) {
        let key = (sender.to_string(), stream.to_string());
        let taken = locked(&self.offsets).remove(&key).unwrap_or_default();
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

/// Stores, at an orderly stop, the offsets of collectors that are ahead of the positions of their streams.
pub(crate) fn store(state_directory: &Path, list: &[CollectorOffset]) -> io::Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    json_file::write(&file(state_directory), &list)
}

fn file(state_directory: &Path) -> PathBuf {
    state_directory.join("ahead.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId([7; 16]);
    const RUN: RunId = RunId([3; 16]);

    fn progress(collector: &str, position: u64) -> CollectorOffset {
        let (sender, stream) = ("brno".to_owned(), STREAM.to_string());
        CollectorOffset {
            sender,
            stream,
            collector: collector.to_owned().into(),
            position,
            run: RUN.to_string(),
        }
    }

    #[test]
    fn stored_offsets_are_recovered_once() {
        let directory = tempfile::tempdir().unwrap();
        let list = [progress("127.0.0.1:1", 5), progress("[::1]:2", 9), progress("a.example.net:1", 7)];
        store(directory.path(), &list).unwrap();
        let offsets = CollectorOffsets::recover(directory.path());
        assert!(!file(directory.path()).exists());
        let brno: SenderId = "brno".parse().unwrap();
        assert!(offsets.take(&"praha".parse().unwrap(), STREAM).0.is_empty());
        let (taken, run) = offsets.take(&brno, STREAM);
        assert_eq!(run, Some(RUN));
        assert_eq!(taken[&"[::1]:2".to_owned().into()], Position(9));
        assert_eq!(taken[&"a.example.net:1".to_owned().into()], Position(7));
        assert_eq!(taken.len(), 3);
        assert_eq!(offsets.take(&brno, STREAM), (HashMap::new(), None));
    }

    #[test]
    fn a_damaged_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(file(directory.path()), b"{nonsense").unwrap();
        assert!(
            CollectorOffsets::recover(directory.path()).take(&"brno".parse().unwrap(), STREAM).0.is_empty()
        );
        assert!(!file(directory.path()).exists());
    }

    #[test]
    fn a_newer_file_is_kept_and_recovered_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path());
        std::fs::write(&path, "{\"version\": 2, \"left\": []}").unwrap();
        let brno: SenderId = "brno".parse().unwrap();
        assert!(CollectorOffsets::recover(directory.path()).take(&brno, STREAM).0.is_empty());
        assert!(json_file::kept(&path).exists() && !path.exists());
        // The version that can read it.
        std::fs::write(json_file::kept(&path), serde_json::to_vec(&[progress("127.0.0.1:1", 9)]).unwrap())
            .unwrap();
        store(directory.path(), &[progress("127.0.0.1:1", 5)]).unwrap();
        let (taken, _) = CollectorOffsets::recover(directory.path()).take(&brno, STREAM);
        assert_eq!(taken[&"127.0.0.1:1".to_owned().into()], Position(9));
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}
