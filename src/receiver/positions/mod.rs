//! Up to where each stream has been delivered, kept so that a new connection resumes exactly there.
//!
//! One small file for each stream, `positions/{sender id}@{stream id in hex}` in the state directory:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | 32 | slot 0 |
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
//! A slot of version 1, `NFP1`, ends before the run. A file with newer slots only is left alone, and the stream is not
//! accepted.
//!
//! The first two slots are written in turn, so that a write cut short leaves the one before it; the highest valid slot
//! counts. A slot of zeros, or past the end of the file, was never written.
//!
//! What is stored outlives the process at once, and a loss of power once [`Positions::sync`] has run. A stream's
//! position never goes back. A damaged file never stops the service: it is set aside, and the stream starts
//! unknown.

mod file;
mod slot;

pub(crate) use file::StreamPosition;

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::limits::{STREAMS_MAX, STREAMS_PER_SENDER};
use crate::sequence::{SenderId, StreamId};
use crate::service::is_out_of_files;

/// The name of the directory in the state directory.
pub(crate) const DIRECTORY: &str = "positions";

/// What stands between the sender id and the stream id in a file's name: no sender id holds it.
const SEPARATOR: char = '@';

/// Length of a stream id in hex.
const STREAM_HEX_LEN: usize = 32;

/// What could not be done to a file of positions, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {cause}; positions of streams are kept there", path.display())]
pub(crate) struct PositionsError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

impl PositionsError {
    /// Whether there was no file left to open.
    pub(crate) fn is_out_of_files(&self) -> bool {
        is_out_of_files(&self.cause)
    }

    /// Puts words to an error: `result.map_err(PositionsError::of("open", path))`.
    fn of(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self { operation, path: path.to_owned(), cause }
    }
}

/// The positions of all streams, one file each: at most [`STREAMS_PER_SENDER`] of each sender id, and at most
/// [`STREAMS_MAX`] of all.
#[derive(Debug)]
pub(crate) struct Positions {
    directory: PathBuf,
    open: Mutex<Open>,
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

/// What is in use or not yet forced to disk.
#[derive(Debug, Default)]
struct Open {
    /// By file name.
    streams: HashMap<String, Arc<StreamPosition>>,
    /// A file was made, removed or renamed since the last sync.
    directory_changed: bool,
    last_seen: LastSeen,
}

impl Positions {
    /// The positions in `positions/` of the state directory, which is made if it is not there.
    pub(crate) fn open(state_directory: &Path) -> Result<Self, PositionsError> {
        let directory = state_directory.join(DIRECTORY);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(PositionsError::of("make the directory", &directory))?;
        let open = Mutex::new(Open { directory_changed: true, ..Open::default() });
        let positions = Self { directory, open };
        let names = positions.names().map_err(PositionsError::of("list", &positions.directory))?;
        let newest = names.iter().filter_map(|name| positions.last_seen(name)).max();
        positions.lock().last_seen = newest.map(LastSeen).unwrap_or_default();
        Ok(positions)
    }

    /// The position of one stream; every holder of the same stream shares it. A stream never seen before takes
    /// the place of the sender's stream unseen longest, if there are too many.
    pub(crate) fn stream(
        &self,
        sender: &SenderId,
        stream: StreamId,
    ) -> Result<Arc<StreamPosition>, PositionsError> {
        let name = format!("{sender}{SEPARATOR}{stream}");
        let mut open = self.lock();
        if let Some(known) = open.streams.get(&name) {
            return Ok(Arc::clone(known));
        }
        let path = self.directory.join(&name);
        if !path.exists() {
            self.make_room(sender, &open)?;
            open.directory_changed = true;
        }
        let (position, set_aside) =
            StreamPosition::open(path, stream, open.last_seen.next(SystemTime::now()))?;
        open.directory_changed |= set_aside;
        let position = Arc::new(position);
        open.streams.insert(name, Arc::clone(&position));
        Ok(position)
    }

    /// Forces to disk what was stored since the last call. Blocks: call it where that is allowed.
    pub(crate) fn sync(&self) -> Result<(), PositionsError> {
        let (streams, directory_changed, seen) = {
            let mut open = self.lock();
            let streams: Vec<_> = open.streams.values().cloned().collect();
            (streams, std::mem::take(&mut open.directory_changed), open.last_seen.next(SystemTime::now()))
        };
        let mut synced = if directory_changed { self.sync_directory() } else { Ok(()) };
        for stream in &streams {
            synced = synced.and(stream.sync(seen));
        }
        drop(streams);
        let mut open = self.lock();
        open.directory_changed |= directory_changed && synced.is_err();
        open.streams.retain(|_, stream| Arc::strong_count(stream) > 1 || stream.is_dirty());
        synced
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the stream of this file was seen last.
    fn last_seen(&self, name: &str) -> Option<SystemTime> {
        std::fs::metadata(self.directory.join(name)).and_then(|file| file.modified()).ok()
    }

    fn sync_directory(&self) -> Result<(), PositionsError> {
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(PositionsError::of("sync the directory", &self.directory))
    }

    /// Makes room for one more stream of `sender`, by forgetting those unseen longest.
    fn make_room(&self, sender: &SenderId, open: &Open) -> Result<(), PositionsError> {
        let mut names = self.names().map_err(PositionsError::of("list", &self.directory))?;
        self.forget(&mut names, STREAMS_MAX, open)?;
        names.retain(|name| is_of_sender(name, sender));
        self.forget(&mut names, STREAMS_PER_SENDER, open)
    }

    /// Removes files of `names` that are not in use, those unseen longest first, until one more keeps to `limit`.
    fn forget(&self, names: &mut Vec<String>, limit: usize, open: &Open) -> Result<(), PositionsError> {
        let excess = (names.len() + 1).saturating_sub(limit);
        if excess == 0 {
            return Ok(());
        }
        let mut unused: Vec<(SystemTime, String)> = names
            .iter()
            .filter(|name| !open.streams.contains_key(*name))
            .filter_map(|name| Some((self.last_seen(name)?, name.clone())))
            .collect();
        unused.sort_unstable();
        for (_, name) in unused.into_iter().take(excess) {
            let path = self.directory.join(&name);
            std::fs::remove_file(&path).map_err(PositionsError::of("remove", &path))?;
            names.retain(|other| *other != name);
            tracing::info!(
                limit,
                "there are more than {limit} streams: the one unseen longest is forgotten ({name})"
            );
        }
        Ok(())
    }

    /// The names of all position files.
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name.rsplit_once(SEPARATOR).is_some_and(|(_, stream)| stream.len() == STREAM_HEX_LEN)
            {
                names.push(name);
            }
        }
        Ok(names)
    }
}

fn is_of_sender(name: &str, sender: &SenderId) -> bool {
    name.rsplit_once(SEPARATOR).is_some_and(|(id, _)| id == sender.as_str())
}

/// The path to which the damaged file at `path` is set aside.
fn set_aside_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

#[cfg(test)]
mod tests;
