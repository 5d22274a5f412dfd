//! Up to where each stream has been delivered, kept so that a new connection resumes exactly there.
//!
//! One small file for each stream, `positions/{sender id}@{stream id in hex}` in the state directory:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | 32 | slot 0 |
//! | 2,048 | 16 | when the stream began; absent in files of earlier versions |
//! | 4,096 | 32 | slot 1 |
//! | 8,192 | 32 | a slot of its own: how far collectors are that are not waited for; absent while they are not ahead |
//!
//! with, in each slot, all numbers big-endian:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic and version | `NFP2` |
//! | 4 | 4 | CRC32C of the stream id (16 bytes) and then bytes 8 to 31 | |
//! | 8 | 8 | position after the last datagram delivered | |
//! | 16 | 16 | run of the sender that sent the latest of them | |
//!
//! The record at 2,048 has `NFB1`, the CRC32C of the stream id and then bytes 8 to 15, and the microseconds since 1970 in 8 bytes. Without
//! it, or if it is damaged, the birth time of the file counts.
//!
//! A slot of version 1, `NFP1`, ends before the run. A file with newer slots only is left alone, and the stream is not
//! accepted.
//!
//! The first two slots are written in turn, so that a write cut short leaves the one before it; the highest valid slot
//! counts. A slot of zeros, or past the end of the file, was never written.
//!
//! What is stored outlives the process at once, and a loss of power once [`Positions::sync`] has run. A stream's
//! position never goes back. A damaged file never stops the service: it is set aside, and the stream starts
//! unknown.

mod begun;
mod error;
mod file;
mod folder;
mod index;
mod new_streams;
mod slot;

use core::fmt;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub(crate) use error::PositionsError;
pub(crate) use file::{StreamInUse, StreamPosition};
use folder::Folder;
use index::Index;
use new_streams::NewStreams;
pub(crate) use new_streams::Owner;
use nf_transport_core::sequence::{SenderId, StreamId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{STREAMS_MAX, STREAMS_PER_SENDER};

/// The name of the directory in the state directory.
pub(crate) const DIRECTORY: &str = "positions";

/// Stands between the sender id and the stream id in a file's name: no sender id holds it.
const SEPARATOR: char = '@';

/// A stream of one sender. As text it is the name of its file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct StreamName {
    sender: SenderId,
    stream: StreamId,
}

impl StreamName {
    /// The stream whose file has this name.
    fn parse(text: &str) -> Option<Self> {
        let (sender, stream) = text.rsplit_once(SEPARATOR)?;
        let stream = StreamId(u128::from_str_radix(stream, 16).ok()?.to_be_bytes());
        let name = Self { sender: sender.parse().ok()?, stream };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SEPARATOR}{}", self.sender, self.stream)
    }
}

/// The positions of all streams, one file each: at most [`STREAMS_PER_SENDER`] of each sender id, and at most
/// [`STREAMS_MAX`] of all.
///
/// The directory is listed once, at the start. After that a stream costs a constant number of operations there.
#[derive(Debug)]
pub(crate) struct Positions {
    folder: Folder,
    open: Mutex<Open>,
    /// One stream is opened at a time: a slow disk keeps one thread busy, not one for each sender.
    opening: Arc<Semaphore>,
}

/// The order in which streams were seen last, as times of their files. It goes on where the newest of them ended, so that a
/// wall clock that is wrong or was set does not change it.
#[derive(Debug)]
struct LastSeen(SystemTime);

impl LastSeen {
    /// The least time by which two files differ.
    const STEP: Duration = Duration::from_micros(1);

    /// The time to mark a stream with that is seen `now`.
    fn next(&mut self, now: SystemTime) -> SystemTime {
        self.0 = now.max(self.0.checked_add(Self::STEP).unwrap_or(now));
        self.0
    }
}

impl Default for LastSeen {
    fn default() -> Self {
        Self(SystemTime::UNIX_EPOCH)
    }
}

/// What is known of the directory, in use, or not yet forced to disk.
#[derive(Debug, Default)]
struct Open {
    /// In use, or stored since the last sync.
    streams: HashMap<StreamName, Arc<StreamPosition>>,
    index: Index,
    new_streams: NewStreams,
    /// A file was made, removed or renamed since the last sync.
    directory_changed: bool,
    last_seen: LastSeen,
}

impl Open {
    /// Closes those of `names` that nobody holds.
    fn release(&mut self, names: impl Iterator<Item = StreamName>) {
        for name in names {
            if self.is_held(&name) {
                continue;
            }
            if let Some(stream) = self.streams.remove(&name) {
                self.index.note(name, stream.seen(), false);
            }
        }
    }

    /// Whether somebody uses a stream, or knows more of it than its file says.
    fn is_held(&self, name: &StreamName) -> bool {
        self.streams.get(name).is_some_and(|stream| Arc::strong_count(stream) > 1)
    }

    /// The stream of `sender` that makes room for another.
    fn spare_of(&self, sender: &SenderId) -> Option<StreamName> {
        self.index.spare_of(sender, self.last_seen.0, |name| !self.is_held(name))
    }
}

impl Positions {
    /// The positions in `positions/` of the state directory, which is made if it is not there. Blocks for as long as a listing of
    /// the directory takes.
    pub(crate) fn open(state_directory: &Path) -> Result<Self, PositionsError> {
        let folder = Folder::open(state_directory.join(DIRECTORY))?;
        let mut open = Open { directory_changed: true, ..Open::default() };
        for (name, seen, begun) in folder.list()? {
            open.index.note_begun(name, seen, begun.unwrap_or(seen), false);
        }
        open.last_seen = open.index.newest().map(LastSeen).unwrap_or_default();
        let positions = Self { folder, open: Mutex::new(open), opening: Arc::new(Semaphore::new(1)) };
        if let Err(error) = positions.keep_to_limits() {
            tracing::warn!(%error, "more streams are remembered than the limits allow: {error}");
        }
        Ok(positions)
    }

    /// Waits until this task is the one that may open a stream.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.opening.clone().acquire_owned().await.ok()
    }

    /// The error of a stream that could not be opened because of `cause`.
    pub(crate) fn not_opened(&self, cause: io::Error) -> PositionsError {
        PositionsError::of("open a file in", self.folder.path())(cause)
    }

    /// When a stream began; `None` if it is not known. Changes nothing. Blocks: call it where that is allowed.
    pub(crate) fn begun(&self, sender: &SenderId, stream: StreamId) -> Option<SystemTime> {
        self.lock().index.begun(&StreamName { sender: sender.clone(), stream })
    }

    /// The position of one stream, in use by one more session; all that use the same stream share it. If there are too many, a
    /// stream never seen before takes the place of one that the owner's sender id does not use. Blocks: call it where that is
    /// allowed.
    pub(crate) fn stream(
        &self,
        owner: &Owner,
        stream: StreamId,
        now: Instant,
    ) -> Result<StreamInUse, PositionsError> {
        let name = StreamName { sender: owner.sender.clone(), stream };
        let mut open = self.lock();
        let begun = open.index.begun(&name);
        if let (Some(known), Some(begun)) = (open.streams.get(&name), begun) {
            return StreamInUse::of(Arc::clone(known), begun);
        }
        let is_new = begun.is_none();
        if is_new {
            open.new_streams.check(owner, now)?;
            self.make_room(&mut open, &owner.sender)?;
        }
        let seen = open.last_seen.next(SystemTime::now());
        let path = self.folder.file(&name);
        let (position, directory_changed) = StreamPosition::open(path, stream, seen, begun.unwrap_or(seen))?;
        open.directory_changed |= directory_changed;
        if is_new {
            open.new_streams.note(owner, now);
        }
        let position = Arc::new(position);
        open.index.note(name.clone(), seen, true);
        open.streams.insert(name, Arc::clone(&position));
        StreamInUse::of(position, begun.unwrap_or(seen))
    }

    /// Forces to disk what was stored since the last call. Blocks: call it where that is allowed.
    pub(crate) fn sync(&self) -> Result<(), PositionsError> {
        let (streams, directory_changed, seen) = {
            let mut open = self.lock();
            let streams: Vec<_> = open.streams.values().map(Arc::downgrade).collect();
            (streams, std::mem::take(&mut open.directory_changed), open.last_seen.next(SystemTime::now()))
        };
        let mut synced = if directory_changed { self.folder.sync() } else { Ok(()) };
        for stream in streams {
            // Only the one that is synced just now is held. One that made room meanwhile is gone, with its file.
            let held = {
                let _open = self.lock();
                stream.upgrade()
            };
            synced = synced.and(held.map_or(Ok(()), |stream| stream.sync(seen)));
        }
        let mut open = self.lock();
        open.directory_changed |= directory_changed && synced.is_err();
        let clean = open.streams.iter().filter(|(_, stream)| !stream.is_dirty());
        let clean: Vec<StreamName> = clean.map(|(name, _)| name.clone()).collect();
        open.release(clean.into_iter());
        synced
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets streams beyond the limits, which a version with larger ones left, or somebody copied there.
    fn keep_to_limits(&self) -> Result<(), PositionsError> {
        let mut open = self.lock();
        let senders: Vec<SenderId> = open.index.senders().cloned().collect();
        for sender in senders {
            self.forget_of(&mut open, &sender, STREAMS_PER_SENDER)?;
        }
        self.forget(&mut open, STREAMS_MAX)
    }

    /// Makes room for one more stream of `sender`.
    fn make_room(&self, open: &mut Open, sender: &SenderId) -> Result<(), PositionsError> {
        self.forget_of(open, sender, STREAMS_PER_SENDER - 1)?;
        self.forget(open, STREAMS_MAX - 1)
    }

    /// Forgets streams of `sender` that nobody uses until there are `limit`.
    fn forget_of(&self, open: &mut Open, sender: &SenderId, limit: usize) -> Result<(), PositionsError> {
        while open.index.of(sender).len() > limit
            && let Some(spare) = open.spare_of(sender)
        {
            self.remove(open, &spare)?;
            tracing::info!(
                %sender,
                stream = %spare.stream,
                "sender {sender} had more than {STREAMS_PER_SENDER} streams: forgot the position of {}",
                spare.stream
            );
        }
        Ok(())
    }

    /// Forgets unused streams of all senders until there are `limit`.
    fn forget(&self, open: &mut Open, limit: usize) -> Result<(), PositionsError> {
        while open.index.len() > limit
            && let Some(oldest) = open.index.oldest(open.last_seen.0)
        {
            self.remove(open, &oldest)?;
            tracing::info!(
                sender = %oldest.sender,
                stream = %oldest.stream,
                "there were more than {STREAMS_MAX} streams: forgot the position of {oldest}"
            );
        }
        Ok(())
    }

    fn remove(&self, open: &mut Open, name: &StreamName) -> Result<(), PositionsError> {
        self.folder.remove(name)?;
        open.streams.remove(name);
        open.index.remove(name);
        open.directory_changed = true;
        Ok(())
    }

    /// Keeps streams from being opened until dropped.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Drop {
        self.lock()
    }

    /// How many files of the directory this process has open.
    #[cfg(test)]
    pub(crate) fn open_files(&self) -> usize {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let paths = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        paths.filter(|path| path.starts_with(self.folder.path())).count()
    }

    /// Whether a stream is being opened.
    #[cfg(test)]
    pub(crate) fn is_opening(&self) -> bool {
        self.opening.available_permits() == 0
    }
}

/// The path to which the damaged file at `path` is set aside.
fn set_aside_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

#[cfg(test)]
mod tests;
