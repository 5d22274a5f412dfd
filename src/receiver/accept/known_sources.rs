//! Addresses from which senders have authenticated, over restarts too: while unauthenticated connections flood the receiver, connections from
//! these addresses keep their places.
//!
//! `known-sources.json` in the state directory has them, the one that authenticated longest ago first. Without the file, or
//! with a damaged one, each sender is known again from its next connection on.

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nf_transport_core::sequence::SenderId;
use serde::{Deserialize, Serialize};

use crate::host::files::atomic_file::{self, FileOwner};
use crate::host::source_of;
use crate::limits::{KNOWN_SOURCES, KNOWN_SOURCES_PER_SENDER};
use crate::receiver::state::newer::{self, State};

/// Shortest time between two writes of the file; an orderly stop does not wait for it.
const KEPT_EVERY: Duration = Duration::from_secs(10);

/// Where a connection comes from: an IPv4 address, or the first 64 bits of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Source(IpAddr);

impl Source {
    pub(in crate::receiver) fn of(peer: IpAddr) -> Self {
        Self(source_of(peer))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// The known sources. At most [`KNOWN_SOURCES_PER_SENDER`] of each sender and [`KNOWN_SOURCES`] in all; the one that
/// authenticated longest ago makes room.
#[derive(Debug, Default)]
pub(crate) struct KnownSources {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sources: HashMap<Source, Known>,
    /// How often a sender has authenticated.
    count: u64,
    /// Whether the file lacks a source that is known.
    is_news: bool,
    /// When the file was written last, or should have been.
    kept: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    /// The first sender that did.
    sender: String,
    /// The count when a sender last authenticated from there.
    last: u64,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    source: Source,
    sender: String,
}

impl KnownSources {
    /// What the last run knew, from the file in the state directory.
    pub(crate) fn take_up(state_directory: &Path) -> Self {
        let path = file(state_directory);
        let current = match State::read(&path) {
            State::Read(stored) => stored,
            State::Absent => Vec::new(),
            State::Newer(error) => {
                newer::keep(&path, &error);
                Vec::new()
            }
            State::Unreadable(error) => {
                tracing::warn!(
                    %error,
                    "{}: cannot be read, so that known senders have to authenticate again before a flood of connections \
                     spares them: {error}",
                    path.display()
                );
                Vec::new()
            }
        };
        let known = Self::default();
        // What was kept is older than what this version has seen since.
        let kept: Vec<Stored> = newer::take_up_kept(&path).unwrap_or_default();
        known.inner().is_news = !kept.is_empty();
        for Stored { source, sender } in kept.into_iter().chain(current) {
            known.inner().note(source, &sender);
        }
        known
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `sender` has authenticated from `peer`.
    pub(in crate::receiver) fn note(&self, peer: IpAddr, sender: &SenderId) {
        let mut inner = self.inner();
        let is_new = inner.note(Source::of(peer), sender.as_str());
        inner.is_news |= is_new;
    }

    /// Whether a sender has authenticated from there.
    pub(in crate::receiver) fn has(&self, source: Source) -> bool {
        self.inner().sources.contains_key(&source)
    }

    /// As [`Self::keep`], but not more often than [`KEPT_EVERY`].
    pub(crate) fn keep_at_times(&self, state_directory: &Path) -> io::Result<()> {
        let now = Instant::now();
        {
            let mut inner = self.inner();
            if !inner.is_news || inner.kept.is_some_and(|kept| now.duration_since(kept) < KEPT_EVERY) {
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
            if !core::mem::replace(&mut inner.is_news, false) {
                return Ok(());
            }
            inner.stored()
        };
        let text = serde_json::to_vec(&stored)?;
        let written = atomic_file::write(&file(state_directory), &text, 0o600, FileOwner::writer());
        if let Err(error) = written {
            self.inner().is_news = true;
            return Err(io::Error::other(error));
        }
        Ok(())
    }
}

impl Inner {
    /// Notes that `sender` has authenticated from `source`. Returns whether that was not known.
    fn note(&mut self, source: Source, sender: &str) -> bool {
        self.count += 1;
        let last = self.count;
        if let Some(known) = self.sources.get_mut(&source) {
            known.last = last;
            return false;
        }
        self.sources.insert(source, Known { sender: sender.to_owned(), last });
        self.bound(KNOWN_SOURCES_PER_SENDER, |known| known.sender == sender);
        self.bound(KNOWN_SOURCES, |_| true);
        true
    }

    /// Forgets the oldest of those that are `wanted`, if there are more than `most` of them.
    fn bound(&mut self, most: usize, wanted: impl Fn(&Known) -> bool) {
        let found = || self.sources.iter().filter(|(_, known)| wanted(known));
        if found().count() > most
            && let Some(oldest) = found().min_by_key(|(_, known)| known.last).map(|(source, _)| *source)
        {
            self.sources.remove(&oldest);
        }
    }

    fn stored(&self) -> Vec<Stored> {
        let mut all: Vec<(&Source, &Known)> = self.sources.iter().collect();
        all.sort_by_key(|(_, known)| known.last);
        let stored =
            |(source, known): (&Source, &Known)| Stored { source: *source, sender: known.sender.clone() };
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
        let known = KnownSources::take_up(directory.path());
        known.note(peer(1), &sender(1));
        known.note("2001:db8::1".parse().unwrap(), &sender(2));
        known.keep(directory.path()).unwrap();
        let known = KnownSources::take_up(directory.path());
        assert!(known.has(Source::of(peer(1))) && !known.has(Source::of(peer(2))));
        assert!(known.has(Source::of("2001:db8::ffff".parse().unwrap())));
    }

    #[test]
    fn the_file_is_written_for_new_sources_only() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownSources::take_up(directory.path());
        known.keep(directory.path()).unwrap();
        assert!(!file(directory.path()).exists());
        known.note(peer(1), &sender(1));
        known.keep(directory.path()).unwrap();
        std::fs::remove_file(file(directory.path())).unwrap();
        known.note(peer(1), &sender(1));
        known.keep(directory.path()).unwrap();
        assert!(!file(directory.path()).exists());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownSources::default();
        known.note(peer(1), &sender(1));
        known.keep(&directory.path().join("absent")).unwrap_err();
        known.keep(directory.path()).unwrap();
        assert!(file(directory.path()).exists());
    }

    #[test]
    fn damaged_and_newer_files_are_done_without() {
        for text in ["[{\"source\": \"192.0", "{\"version\": 2}"] {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(file(directory.path()), text).unwrap();
            let known = KnownSources::take_up(directory.path());
            known.note(peer(1), &sender(1));
            known.keep(directory.path()).unwrap();
            assert!(KnownSources::take_up(directory.path()).has(Source::of(peer(1))));
        }
    }

    #[test]
    fn the_oldest_source_makes_room() {
        let known = KnownSources::default();
        let most = u32::try_from(KNOWN_SOURCES).unwrap();
        for number in 0..most + 10 {
            known.note(peer(number), &sender(number));
        }
        assert_eq!(known.inner().sources.len(), KNOWN_SOURCES);
        assert!(!known.has(Source::of(peer(9))) && known.has(Source::of(peer(10))));
    }

    #[test]
    fn one_sender_makes_no_other_forgotten() {
        let known = KnownSources::default();
        known.note(peer(0), &sender(0));
        for number in 1..=u32::try_from(KNOWN_SOURCES).unwrap() {
            known.note(peer(number), &sender(1));
        }
        assert!(known.has(Source::of(peer(0))));
        assert_eq!(known.inner().sources.len(), 1 + KNOWN_SOURCES_PER_SENDER);
    }
}
