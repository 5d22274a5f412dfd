//! The position file of one stream.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use nf_transport_core::sequence::{Position, RunId};

use crate::host::locked;
use crate::limits::STREAM_MARKED_EVERY;
use crate::receiver::state::positions::begun::{self, BEGUN_OFFSET};
use crate::receiver::state::positions::error::PositionsError;
use crate::receiver::state::positions::log_record::LogRecord;
use crate::receiver::state::positions::slot::{Slot, StoredProgress};
use crate::receiver::state::positions::slot_file::{
    SKIP_POSITION_OFFSET, SLOT_OFFSETS, open_file, read_begun, read_slot, read_slots, set_aside,
};
use crate::receiver::state::positions::stream_name::StreamName;
use crate::receiver::state::positions::sync_need::SyncNeed;

/// Reason why a file of a newer version is left unchanged.
const NEWER: &str = "a newer version of nf-receiver wrote it; install that version again, or remove the \
                     file to have all datagrams delivered again that the sender still has";

/// Stored position of one stream.
#[derive(Debug)]
pub(crate) struct StreamPosition {
    path: PathBuf,
    name: StreamName,
    state: Mutex<PositionFileState>,
    need: Arc<SyncNeed>,
}

/// The sync that a position needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyncDue {
    Nothing,
    /// A record in the log.
    Record,
    /// A sync of its own file.
    File,
}

/// Outcome of the last sync of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastSync {
    /// The file was created, or got the time at which the stream began, and was not synced yet.
    Outstanding,
    Done,
    /// The kernel may have dropped what was written before it.
    Failed,
}

#[derive(Debug)]
struct PositionFileState {
    /// Content of the newest slot; `None` before the first store.
    delivered: Option<StoredProgress>,
    /// Offset of the next store: never that of the newest slot.
    next_offset: u64,
    /// Offset of the newest slot, and of the store after the next one.
    newest_offset: u64,
    /// Position of collectors set to skip, if it is higher.
    skip_position: Option<StoredProgress>,
    /// True if anything was stored since the last sync or record.
    dirty: bool,
    /// True if the position is in the log and its file is not synced.
    is_logged: bool,
    last_sync: LastSync,
    /// Modification time of the file.
    seen: SystemTime,
    /// Opened on demand.
    file: Option<Arc<File>>,
    /// Number of sessions that use the stream. Without any, the file is open only during an operation.
    users: usize,
}

impl StreamPosition {
    /// Opens or creates the file at `path`, and sets its modification time to `seen`. A damaged one is set
    /// aside. A file without the time at which the stream began gets `begun`. Returns `true` if the directory
    /// has changed.
    pub(super) fn open(
        path: PathBuf,
        name: StreamName,
        need: Arc<SyncNeed>,
        seen: SystemTime,
        begun: SystemTime,
    ) -> Result<(Self, bool), PositionsError> {
        let stream = name.stream;
        let (file, is_made) = open_file(&path).map_err(PositionsError::context("open", &path))?;
        let slots = read_slots(&file, stream).map_err(PositionsError::context("read", &path))?;
        let is_known = slots.iter().any(|slot| slot.progress().is_some());
        if !is_known && slots.contains(&Slot::Newer) {
            return Err(PositionsError::context("use", &path)(io::Error::new(
                io::ErrorKind::Unsupported,
                NEWER,
            )));
        }
        let damaged = slots.contains(&Slot::Damaged);
        let lost = damaged && !is_known;
        if damaged && !lost {
            tracing::warn!("one of two slots of {} is damaged; using the other one", path.display());
        }
        let file = if lost { set_aside(&path)? } else { file };
        let is_new = read_begun(&file, stream).is_none();
        if is_new {
            file.write_all_at(&begun::encode(stream, begun), BEGUN_OFFSET)
                .map_err(PositionsError::context("write", &path))?;
        }
        file.set_modified(seen).map_err(PositionsError::context("mark as seen", &path))?;
        let further = if lost { None } else { read_slot(&file, stream, SKIP_POSITION_OFFSET).ok() };
        let further = further.and_then(Slot::progress);
        let state = Mutex::new(PositionFileState {
            skip_position: further,
            last_sync: if is_new { LastSync::Outstanding } else { LastSync::Done },
            ..PositionFileState::new(slots, seen, file)
        });
        Ok((Self { path, name, state, need }, lost || is_made))
    }

    /// Writes the positions of `record` to the file, where they are higher. The file is synced later.
    pub(super) fn recover(&self, record: &LogRecord) -> Result<(), PositionsError> {
        if let Some(delivered) = record.delivered {
            self.store(delivered.position, delivered.run)?;
        }
        if let Some(further) = record.further {
            self.store_skip_position(further.position, further.run)?;
        }
        let mut state = self.state();
        (state.dirty, state.is_logged) = (false, true);
        self.need.set();
        let marked = self.file(&mut state)?.set_modified(state.seen);
        state.close_if_unused();
        marked.map_err(PositionsError::context("mark as seen", &self.path))
    }

    /// Keeps the file open for one more session.
    pub(super) fn begin_use(&self) -> Result<(), PositionsError> {
        let mut state = self.state();
        self.file(&mut state)?;
        state.users += 1;
        Ok(())
    }

    /// Ends the use by one session. After the last one the file is closed.
    pub(super) fn end_use(&self) {
        let mut state = self.state();
        state.users -= 1;
        if state.users == 0 && state.is_logged {
            self.need.set();
        }
        state.close_if_unused();
    }

    /// Returns the position after the last datagram delivered; `None` if the stream is not known.
    pub(crate) fn get(&self) -> Option<Position> {
        self.state().delivered.map(|stored| stored.position)
    }

    /// Returns the run that sent the latest of the stored datagrams; [`RunId::NONE`] if it is not known.
    pub(crate) fn run(&self) -> RunId {
        let state = self.state();
        let latest =
            state.delivered.into_iter().chain(state.skip_position).max_by_key(|stored| stored.position);
        latest.map_or(RunId::NONE, |stored| stored.run)
    }

    /// Stores `position`, sent by `run`, unless it is not higher than the stored one. After a failure the
    /// previous position stays.
    pub(crate) fn store(&self, position: Position, run: RunId) -> Result<(), PositionsError> {
        let mut state = self.state();
        if state.delivered.is_some_and(|stored| stored.position >= position) {
            return Ok(());
        }
        let progress = StoredProgress { position, run };
        let offset = state.next_offset;
        self.file(&mut state)?
            .write_all_at(&Slot::encode(self.name.stream, progress), offset)
            .map_err(PositionsError::context("write", &self.path))?;
        state.stored(progress);
        self.need.set();
        state.close_if_unused();
        Ok(())
    }

    /// Returns the position of collectors set to skip, if it was stored. It has one slot only: without it
    /// they get some datagrams twice.
    pub(crate) fn skip_position(&self) -> Option<Position> {
        self.state().skip_position.map(|stored| stored.position)
    }

    /// Stores the position of collectors set to skip, sent by `run`, unless it is not higher than the stored
    /// one.
    pub(crate) fn store_skip_position(&self, further: Position, run: RunId) -> Result<(), PositionsError> {
        let mut state = self.state();
        if state.skip_position.is_some_and(|stored| stored.position >= further) {
            return Ok(());
        }
        let further = StoredProgress { position: further, run };
        self.file(&mut state)?
            .write_all_at(&Slot::encode(self.name.stream, further), SKIP_POSITION_OFFSET)
            .map_err(PositionsError::context("write", &self.path))?;
        state.skip_position = Some(further);
        state.dirty = true;
        self.need.set();
        state.close_if_unused();
        Ok(())
    }

    /// Returns the sync that the position needs at the time `seen`. While a session uses the stream, the log
    /// has its position. After that, the file is synced.
    pub(super) fn due(&self, seen: SystemTime) -> SyncDue {
        let state = self.state();
        let needs_file = state.users == 0 || state.last_sync != LastSync::Done || state.is_idle(seen);
        match (state.is_due(seen), needs_file, state.dirty) {
            (true, true, _) => SyncDue::File,
            (true, false, true) => SyncDue::Record,
            _ => SyncDue::Nothing,
        }
    }

    /// Returns a record for the log if the log lacks the position, and marks the stream as seen.
    pub(super) fn record_if_dirty(&self, seen: SystemTime) -> Result<Option<LogRecord>, PositionsError> {
        let mut state = self.state();
        if !state.dirty {
            return Ok(None);
        }
        let marked = self.file(&mut state)?.set_modified(seen);
        marked.map_err(PositionsError::context("mark as seen", &self.path))?;
        (state.dirty, state.is_logged, state.seen) = (false, true, seen);
        state.close_if_unused();
        Ok(Some(self.record(&state)))
    }

    /// Returns a record for a new log, if the file is not synced.
    pub(super) fn logged(&self) -> Option<LogRecord> {
        let state = self.state();
        state.is_logged.then(|| self.record(&state))
    }

    fn record(&self, state: &PositionFileState) -> LogRecord {
        LogRecord { name: self.name.clone(), delivered: state.delivered, further: state.skip_position }
    }

    /// Syncs the file to disk if the position was stored since the last call. After a failure the next call
    /// writes it again before it retries, because the kernel may have dropped the pages and would report
    /// success.
    ///
    /// Sets the modification time to `seen`: a write itself sets it by the wall clock, which may be wrong.
    /// A stream in use without new data is marked once a day.
    pub(super) fn sync(&self, seen: SystemTime) -> Result<(), PositionsError> {
        let mut state = self.state();
        if !state.is_due(seen) {
            return Ok(());
        }
        let seen = if state.dirty || state.users > 0 { seen } else { state.seen };
        let file = self.file(&mut state)?;
        if state.last_sync == LastSync::Failed {
            self.write_again(&file, &state).map_err(PositionsError::context("write", &self.path))?;
        }
        state.dirty = false;
        drop(state);
        let marked = file.set_modified(seen);
        let outcome = marked.and_then(|()| self.need.sync_data(&file));
        let mut state = self.state();
        if outcome.is_ok() {
            (state.seen, state.is_logged, state.last_sync) = (seen, false, LastSync::Done);
        } else {
            (state.dirty, state.last_sync) = (true, LastSync::Failed);
        }
        state.close_if_unused();
        outcome.map_err(PositionsError::context("sync", &self.path))
    }

    /// Writes the newest slots again. If that is cut short, the older slot still counts.
    fn write_again(&self, file: &File, state: &PositionFileState) -> io::Result<()> {
        let newest = state.delivered.map(|delivered| (delivered, state.newest_offset));
        let further = state.skip_position.map(|further| (further, SKIP_POSITION_OFFSET));
        for (progress, offset) in newest.into_iter().chain(further) {
            file.write_all_at(&Slot::encode(self.name.stream, progress), offset)?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, PositionFileState> {
        locked(&self.state)
    }

    /// Returns the file, opened if needed.
    fn file(&self, state: &mut PositionFileState) -> Result<Arc<File>, PositionsError> {
        if let Some(file) = &state.file {
            return Ok(file.clone());
        }
        let (file, _) = open_file(&self.path).map_err(PositionsError::context("open", &self.path))?;
        Ok(state.file.insert(Arc::new(file)).clone())
    }

    /// Returns the time at which the stream was last seen.
    pub(super) fn seen(&self) -> SystemTime {
        self.state().seen
    }

    /// Runs `act`, which fails to sync the file: `/proc` keeps no times.
    #[cfg(test)]
    pub(super) fn while_sync_fails(&self, act: impl FnOnce()) {
        let file = self.state().file.replace(Arc::new(File::open("/proc/self/stat").expect("a file")));
        act();
        self.state().file = file;
    }

    /// Returns whether anything was stored since the last sync of the file.
    pub(super) fn is_dirty(&self) -> bool {
        let state = self.state();
        state.dirty || state.is_logged
    }
}

impl PositionFileState {
    fn new([first, second]: [Slot; 2], seen: SystemTime, file: File) -> Self {
        let [first_offset, second_offset] = SLOT_OFFSETS;
        let (first, second) = (first.progress(), second.progress());
        let first_is_newest = position_of(first) > position_of(second);
        let (newest_offset, next_offset) =
            if first_is_newest { (first_offset, second_offset) } else { (second_offset, first_offset) };
        let delivered = if first_is_newest { first } else { second };
        Self {
            delivered,
            next_offset,
            newest_offset,
            skip_position: None,
            dirty: false,
            is_logged: false,
            last_sync: LastSync::Done,
            seen,
            file: Some(Arc::new(file)),
            users: 0,
        }
    }

    /// Returns whether the file needs a sync, or the log a record, at the time `seen`.
    fn is_due(&self, seen: SystemTime) -> bool {
        self.dirty || self.is_logged || (self.users > 0 && self.is_idle(seen))
    }

    fn is_idle(&self, seen: SystemTime) -> bool {
        seen.duration_since(self.seen).is_ok_and(|idle| idle >= STREAM_MARKED_EVERY)
    }

    fn close_if_unused(&mut self) {
        if self.users == 0 {
            self.file = None;
        }
    }

    fn stored(&mut self, progress: StoredProgress) {
        self.delivered = Some(progress);
        std::mem::swap(&mut self.next_offset, &mut self.newest_offset);
        self.dirty = true;
    }
}

fn position_of(progress: Option<StoredProgress>) -> Option<Position> {
    progress.map(|progress| progress.position)
}
