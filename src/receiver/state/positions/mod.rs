//! Stored positions of all streams, at which new connections resume.
//!
//! Each stream has one small file, `positions/{sender id}@{stream id in hex}` in the state directory:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | 32 | slot 0 |
//! | 2,048 | 16 | time at which the stream began; absent in files of earlier versions |
//! | 4,096 | 32 | slot 1 |
//! | 8,192 | 32 | slot of the collectors set to skip; absent while they are not ahead |
//!
//! Each slot has these fields; all numbers are big-endian:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 4 | magic and version | `NFP2` |
//! | 4 | 4 | CRC32C of the stream id (16 bytes) and then bytes 8 to 31 | |
//! | 8 | 8 | position after the last datagram delivered | |
//! | 16 | 16 | run of the sender that sent the latest of them | |
//!
//! The record at 2,048 has `NFB1`, the CRC32C of the stream id and then bytes 8 to 15, and the microseconds
//! since 1970 in 8 bytes. Without it, or if it is damaged, the creation time of the file counts.
//!
//! A slot of version 1, `NFP1`, ends before the run. A file with newer slots only is left unchanged, and the
//! stream is not accepted.
//!
//! The first two slots are written in turn, so that an interrupted write leaves the previous one. The highest
//! valid slot counts. A slot of zeros, or past the end of the file, was never written.
//!
//! Unlike other state files they are written in place, not replaced: a position is stored for each
//! ACK, and a replacement costs a new file and two syncs. The two slots are as safe as a replacement: no
//! write touches the slot that counts, and a checksum of 32 bytes in one sector shows a write that was cut
//! short. If a sync fails, the slots are written again before the next one.
//!
//! A stored position survives the end of the process at once, and a power loss after [`Positions::sync`].
//! That writes the positions of all streams in use to one log (`log.rs`), with one sync for all of them. The
//! position of a stream never decreases. A damaged file never stops the service: it is set aside, and the
//! stream starts as unknown.

mod begun;
mod error;
mod file;
mod folder;
mod index;
mod last_seen;
mod log;
mod log_record;
mod new_streams;
mod slot;
mod slot_file;
mod stream_in_use;
mod stream_name;
mod sync;
mod sync_need;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

pub(crate) use error::PositionsError;
pub(crate) use file::StreamPosition;
use folder::Folder;
use index::StreamIndex;
use last_seen::LastSeen;
use log::PositionLog;
use new_streams::NewStreams;
pub(crate) use new_streams::StreamOwner;
use nf_transport_core::sequence::{SenderId, StreamId};
pub(crate) use stream_in_use::StreamInUse;
use stream_name::StreamName;
use sync_need::SyncNeed;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::host::locked;
use crate::limits::{STREAMS_MAX, STREAMS_PER_SENDER};

/// Name of the directory in the state directory.
pub(crate) const DIRECTORY: &str = "positions";

/// The positions of all streams, one file each: at most [`STREAMS_PER_SENDER`] of each sender id, and at most
/// [`STREAMS_MAX`] in all.
///
/// The directory is listed once, at the start. After that, a stream needs a constant number of operations
/// there.
#[derive(Debug)]
pub(crate) struct Positions {
    folder: Folder,
    state: Mutex<PositionsState>,
    /// Held during a sync. It is locked before `state`.
    log: Mutex<PositionLog>,
    need: Arc<SyncNeed>,
    /// One stream is opened at a time, so that a slow disk blocks one thread, not one for each sender.
    opening: Arc<Semaphore>,
}

/// State of the directory: streams in use, or whose file is not synced to disk yet.
#[derive(Debug, Default)]
struct PositionsState {
    /// Streams in use, or stored since the last sync of their file.
    streams: HashMap<StreamName, Arc<StreamPosition>>,
    index: StreamIndex,
    new_streams: NewStreams,
    /// True if a file was created, removed or renamed since the last sync.
    directory_changed: bool,
    last_seen: LastSeen,
}

impl PositionsState {
    /// Recovers positions from the log, if their streams still have files. The next syncs sync these.
    fn recover(&mut self, folder: &Folder, log: &PositionLog, need: &Arc<SyncNeed>) {
        for (name, record) in log.read() {
            let Some((seen, begun)) = self.index.times(&name) else { continue };
            let file = folder.file(&name);
            let opened = StreamPosition::open(file, name.clone(), Arc::clone(need), seen, begun);
            match opened.and_then(|(stream, _)| stream.recover(&record).map(|()| stream)) {
                Ok(stream) => {
                    self.index.note_file(name.clone(), seen, true);
                    self.streams.insert(name, Arc::new(stream));
                }
                Err(error) => tracing::warn!(
                    %error,
                    "cannot recover the position of {name}: {error}; after a power loss, datagrams are repeated"
                ),
            }
        }
    }

    /// Closes those of `names` that are not held.
    fn release(&mut self, names: impl Iterator<Item = StreamName>) {
        for name in names {
            if self.is_held(&name) {
                continue;
            }
            if let Some(stream) = self.streams.remove(&name) {
                self.index.note_file(name, stream.seen(), false);
            }
        }
    }

    /// Returns whether a stream is in use, or kept by an entry with newer state than its file.
    fn is_held(&self, name: &StreamName) -> bool {
        self.streams.get(name).is_some_and(|stream| Arc::strong_count(stream) > 1)
    }

    /// Returns the stream of `sender` that makes room for another.
    fn spare_of(&self, sender: &SenderId) -> Option<StreamName> {
        self.index.spare_of(sender, self.last_seen.0, |name| !self.is_held(name))
    }
}

impl Positions {
    /// Opens the positions in `positions/` of the state directory, which is created if needed. Those that a
    /// power loss left behind the log are recovered from it. Blocks while it lists the directory.
    pub(crate) fn open(state_directory: &Path) -> Result<Self, PositionsError> {
        let folder = Folder::open(state_directory.join(DIRECTORY))?;
        let mut open = PositionsState { directory_changed: true, ..PositionsState::default() };
        for (name, seen, begun) in folder.list()? {
            open.index.note_begun(name, seen, begun.unwrap_or(seen), false);
        }
        open.last_seen = open.index.newest().map(LastSeen).unwrap_or_default();
        let need = Arc::<SyncNeed>::default();
        let log = PositionLog::new(state_directory, Arc::clone(&need));
        open.recover(&folder, &log, &need);
        let positions = Self {
            folder,
            state: Mutex::new(open),
            log: Mutex::new(log),
            need,
            opening: Arc::new(Semaphore::new(1)),
        };
        if let Err(error) = positions.enforce_limits() {
            tracing::warn!(%error, "cannot remove positions of streams beyond the limits: {error}");
        }
        Ok(positions)
    }

    /// Waits for the permit to open a stream.
    pub(crate) async fn opening_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.opening.clone().acquire_owned().await.ok()
    }

    /// Returns the error of a stream that could not be opened because of `cause`.
    pub(crate) fn not_opened(&self, cause: io::Error) -> PositionsError {
        PositionsError::context("open a file in", self.folder.path())(cause)
    }

    /// Returns the time at which a stream began; `None` if it is not known. Changes nothing. Blocks.
    pub(crate) fn begun(&self, sender: &SenderId, stream: StreamId) -> Option<SystemTime> {
        self.lock().index.begun(&StreamName { sender: sender.clone(), stream })
    }

    /// Opens the position of one stream for one more session; all that use the same stream share it. If there
    /// are too many, a new stream replaces an unused one of the owner's sender id. Blocks.
    pub(crate) fn stream(
        &self,
        owner: &StreamOwner,
        stream: StreamId,
        now: Instant,
    ) -> Result<StreamInUse, PositionsError> {
        let name = StreamName { sender: owner.sender.clone(), stream };
        let mut open = self.lock();
        let begun = open.index.begun(&name);
        if let (Some(known), Some(begun)) = (open.streams.get(&name), begun) {
            return StreamInUse::begin(Arc::clone(known), begun);
        }
        let is_new = begun.is_none();
        if is_new {
            open.new_streams.check(owner, now)?;
            self.make_room(&mut open, &owner.sender)?;
        }
        let seen = open.last_seen.next(SystemTime::now());
        let path = self.folder.file(&name);
        let need = Arc::clone(&self.need);
        let (position, directory_changed) =
            StreamPosition::open(path, name.clone(), need, seen, begun.unwrap_or(seen))?;
        open.directory_changed |= directory_changed;
        if directory_changed {
            self.need.set();
        }
        if is_new {
            open.new_streams.note_begun(owner, now);
        }
        let position = Arc::new(position);
        open.index.note_file(name.clone(), seen, true);
        open.streams.insert(name, Arc::clone(&position));
        StreamInUse::begin(position, begun.unwrap_or(seen))
    }

    fn lock(&self) -> MutexGuard<'_, PositionsState> {
        locked(&self.state)
    }

    /// Forgets streams beyond the limits, left by a version with larger ones or copied there.
    fn enforce_limits(&self) -> Result<(), PositionsError> {
        let mut open = self.lock();
        let senders: Vec<SenderId> = open.index.senders().cloned().collect();
        for sender in senders {
            self.forget_of(&mut open, &sender, STREAMS_PER_SENDER)?;
        }
        self.forget(&mut open, STREAMS_MAX)
    }

    /// Makes room for one more stream of `sender`.
    fn make_room(&self, open: &mut PositionsState, sender: &SenderId) -> Result<(), PositionsError> {
        self.forget_of(open, sender, STREAMS_PER_SENDER - 1)?;
        self.forget(open, STREAMS_MAX - 1)
    }

    /// Forgets unused streams of `sender` until there are `limit`.
    fn forget_of(
        &self,
        open: &mut PositionsState,
        sender: &SenderId,
        limit: usize,
    ) -> Result<(), PositionsError> {
        while open.index.streams_of(sender).len() > limit
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
    fn forget(&self, open: &mut PositionsState, limit: usize) -> Result<(), PositionsError> {
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

    fn remove(&self, open: &mut PositionsState, name: &StreamName) -> Result<(), PositionsError> {
        self.folder.remove(name)?;
        open.streams.remove(name);
        open.index.remove(name);
        open.directory_changed = true;
        self.need.set();
        Ok(())
    }

    /// Blocks the opening of streams until dropped.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Drop {
        self.lock()
    }

    /// Returns the number of files in the directory that this process has open.
    #[cfg(test)]
    pub(crate) fn open_files(&self) -> usize {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let paths = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        paths.filter(|path| path.starts_with(self.folder.path())).count()
    }

    /// Returns whether a stream is being opened.
    #[cfg(test)]
    pub(crate) fn is_opening(&self) -> bool {
        self.opening.available_permits() == 0
    }
}

#[cfg(test)]
mod tests;
