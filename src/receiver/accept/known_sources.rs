//! Addresses from which senders have authenticated, kept over restarts. During a flood of unauthenticated
//! connections, those from these addresses keep their places.
//!
//! They are stored in `known-sources.json` in the state directory, the one that authenticated longest ago
//! first. Without the file, or with a damaged one, each sender is known again after its next connection.

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use nf_transport_core::sequence::SenderId;
use serde::{Deserialize, Serialize};

use crate::host::{locked, source_of};
use crate::limits::{KNOWN_SOURCES, KNOWN_SOURCES_PER_SENDER};
use crate::receiver::state::json_file::{self, StateFile};

/// Shortest interval between two writes of the file; an orderly stop does not wait for it.
const KEPT_EVERY: Duration = Duration::from_secs(10);

/// Source of a connection: an IPv4 address, or the first 64 bits of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct PeerSource(IpAddr);

impl PeerSource {
    pub(in crate::receiver) fn of(peer: IpAddr) -> Self {
        Self(source_of(peer))
    }
}

impl fmt::Display for PeerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// The known sources: at most [`KNOWN_SOURCES_PER_SENDER`] of each sender and [`KNOWN_SOURCES`] in all. The
/// one that authenticated longest ago makes room.
#[derive(Debug, Default)]
pub(crate) struct KnownSources {
    inner: Mutex<KnownSourcesState>,
}

#[derive(Debug, Default)]
struct KnownSourcesState {
    sources: HashMap<PeerSource, KnownSource>,
    /// Number of authentications.
    count: u64,
    /// True if the file lacks a known source.
    is_dirty: bool,
    /// Time of the last attempt to write the file.
    kept: Option<Instant>,
}

#[derive(Debug)]
struct KnownSource {
    /// The first sender that authenticated from there.
    sender: String,
    /// Value of `count` at the last authentication from there.
    last: u64,
}

/// An entry of the file.
#[derive(Debug, Serialize, Deserialize)]
struct StoredSource {
    source: PeerSource,
    sender: String,
}

impl KnownSources {
    /// Recovers the known sources of the last run from the state directory.
    pub(crate) fn recover(state_directory: &Path) -> Self {
        let path = file(state_directory);
        let current = match StateFile::read(&path) {
            StateFile::Read(stored) => stored,
            StateFile::Absent => Vec::new(),
            StateFile::Newer(error) => {
                json_file::keep(&path, &error);
                Vec::new()
            }
            StateFile::Unreadable(error) => {
                tracing::warn!(
                    %error,
                    "cannot read {}: {error}; in a flood of connections, senders keep their places only \
                     after they authenticated again",
                    path.display()
                );
                Vec::new()
            }
        };
        let known = Self::default();
        // Entries of a file that was kept aside are older than those that this version has seen since.
        let kept: Vec<StoredSource> = json_file::recover_kept(&path).unwrap_or_default();
        known.inner().is_dirty = !kept.is_empty();
        for StoredSource { source, sender } in kept.into_iter().chain(current) {
            known.inner().insert(source, &sender);
        }
        known
    }

    fn inner(&self) -> MutexGuard<'_, KnownSourcesState> {
        locked(&self.inner)
    }

    /// Notes that `sender` has authenticated from `peer`.
    pub(in crate::receiver) fn note_authenticated(&self, peer: IpAddr, sender: &SenderId) {
        let mut inner = self.inner();
        let is_new = inner.insert(PeerSource::of(peer), sender.as_str());
        inner.is_dirty |= is_new;
    }

    /// Returns whether a sender has authenticated from there.
    pub(in crate::receiver) fn has(&self, source: PeerSource) -> bool {
        self.inner().sources.contains_key(&source)
    }

    /// Returns whether [`Self::keep_at_times`] has anything to write.
    pub(crate) fn is_due(&self) -> bool {
        self.inner().is_due(Instant::now())
    }

    /// See [`Self::keep`]; skips the write if the last one was less than [`KEPT_EVERY`] ago.
    pub(crate) fn keep_at_times(&self, state_directory: &Path) -> io::Result<()> {
        let now = Instant::now();
        {
            let mut inner = self.inner();
            if !inner.is_due(now) {
                return Ok(());
            }
            inner.kept = Some(now);
        }
        self.keep(state_directory)
    }

    /// Writes the file if it lacks a source.
    pub(crate) fn keep(&self, state_directory: &Path) -> io::Result<()> {
        let stored = {
            let mut inner = self.inner();
            if !core::mem::replace(&mut inner.is_dirty, false) {
                return Ok(());
            }
            inner.stored()
        };
        let written = json_file::write(&file(state_directory), &stored);
        if written.is_err() {
            self.inner().is_dirty = true;
        }
        written
    }
}

impl KnownSourcesState {
    fn is_due(&self, now: Instant) -> bool {
        self.is_dirty && self.kept.is_none_or(|kept| now.duration_since(kept) >= KEPT_EVERY)
    }

    /// Notes that `sender` has authenticated from `source`. Returns whether the source is new.
    fn insert(&mut self, source: PeerSource, sender: &str) -> bool {
        self.count += 1;
        let last = self.count;
        if let Some(known) = self.sources.get_mut(&source) {
            known.last = last;
            return false;
        }
        self.sources.insert(source, KnownSource { sender: sender.to_owned(), last });
        self.bound(KNOWN_SOURCES_PER_SENDER, |known| known.sender == sender);
        self.bound(KNOWN_SOURCES, |_| true);
        true
    }

    /// Forgets the oldest of the sources that are `wanted`, if there are more than `most` of them.
    fn bound(&mut self, most: usize, wanted: impl Fn(&KnownSource) -> bool) {
        let found = || self.sources.iter().filter(|(_, known)| wanted(known));
        if found().count() > most
            && let Some(oldest) = found().min_by_key(|(_, known)| known.last).map(|(source, _)| *source)
        {
            self.sources.remove(&oldest);
        }
    }

    fn stored(&self) -> Vec<StoredSource> {
        let mut all: Vec<(&PeerSource, &KnownSource)> = self.sources.iter().collect();
        all.sort_by_key(|(_, known)| known.last);
        let stored = |(source, known): (&PeerSource, &KnownSource)| StoredSource {
            source: *source,
            sender: known.sender.clone(),
        };
        all.into_iter().map(stored).collect()
    }
}

fn file(state_directory: &Path) -> PathBuf {
    state_directory.join("known-sources.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    fn sender(number: u32) -> SenderId {
        format!("sender-{number}").parse().unwrap()
    }

    #[test]
    fn sources_are_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownSources::recover(directory.path());
        known.note_authenticated(peer(1), &sender(1));
        known.note_authenticated("2001:db8::1".parse().unwrap(), &sender(2));
        known.keep(directory.path()).unwrap();
        let known = KnownSources::recover(directory.path());
        assert!(known.has(PeerSource::of(peer(1))) && !known.has(PeerSource::of(peer(2))));
        assert!(known.has(PeerSource::of("2001:db8::ffff".parse().unwrap())));
    }

    #[test]
    fn the_file_is_written_for_new_sources_only() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownSources::recover(directory.path());
        known.keep(directory.path()).unwrap();
        assert!(!file(directory.path()).exists());
        known.note_authenticated(peer(1), &sender(1));
        known.keep(directory.path()).unwrap();
        std::fs::remove_file(file(directory.path())).unwrap();
        known.note_authenticated(peer(1), &sender(1));
        known.keep(directory.path()).unwrap();
        assert!(!file(directory.path()).exists());
    }

    #[test]
    fn a_failed_write_is_retried() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownSources::default();
        known.note_authenticated(peer(1), &sender(1));
        known.keep(&directory.path().join("absent")).unwrap_err();
        known.keep(directory.path()).unwrap();
        assert!(file(directory.path()).exists());
    }

    #[test]
    fn damaged_and_newer_files_are_ignored() {
        for text in ["[{\"source\": \"192.0", "{\"version\": 2}"] {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(file(directory.path()), text).unwrap();
            let known = KnownSources::recover(directory.path());
            known.note_authenticated(peer(1), &sender(1));
            known.keep(directory.path()).unwrap();
            assert!(KnownSources::recover(directory.path()).has(PeerSource::of(peer(1))));
        }
    }

    #[test]
    fn the_oldest_source_makes_room() {
        let known = KnownSources::default();
        let most = u32::try_from(KNOWN_SOURCES).unwrap();
        for number in 0..most + 10 {
            known.note_authenticated(peer(number), &sender(number));
        }
        assert_eq!(known.inner().sources.len(), KNOWN_SOURCES);
        assert!(!known.has(PeerSource::of(peer(9))) && known.has(PeerSource::of(peer(10))));
    }

    #[test]
    fn one_sender_displaces_no_other() {
        let known = KnownSources::default();
        known.note_authenticated(peer(0), &sender(0));
        for number in 1..=u32::try_from(KNOWN_SOURCES).unwrap() {
            known.note_authenticated(peer(number), &sender(1));
        }
        assert!(known.has(PeerSource::of(peer(0))));
        assert_eq!(known.inner().sources.len(), 1 + KNOWN_SOURCES_PER_SENDER);
    }
}
