//! The position file of one stream.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use nf_transport_core::sequence::{Position, RunId, StreamId};
use nf_transport_core::spool::disk::not_created;

use crate::host::files::atomic_file;
use crate::host::locked;
use crate::limits::STREAM_MARKED_EVERY;
use crate::receiver::state::positions::begun::{self, BEGUN_LEN, BEGUN_OFFSET};
use crate::receiver::state::positions::error::PositionsError;
use crate::receiver::state::positions::slot::{SLOT_LEN, Slot, StoredProgress};

/// Offsets of the slots. They are on pages of their own, so that damage to one spares the other.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// Offset of the slot with the position of collectors set to skip.
const SKIP_POSITION_OFFSET: u64 = 8192;

/// Reason why a file of a newer version is left unchanged.
const NEWER: &str = "a newer version of nf-receiver wrote it; install that version again, or remove the \
                     file to have all datagrams delivered again that the sender still has";

/// Stored position of one stream.
#[derive(Debug)]
pub(crate) struct StreamPosition {
    path: PathBuf,
    stream: StreamId,
    state: Mutex<PositionFileState>,
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
    /// True if anything was stored since the last sync.
    dirty: bool,
    /// True if the last sync failed: the kernel may have dropped what was written before it.
    sync_failed: bool,
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
        stream: StreamId,
        seen: SystemTime,
        begun: SystemTime,
    ) -> Result<(Self, bool), PositionsError> {
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
        if read_begun(&file, stream).is_none() {
            file.write_all_at(&begun::encode(stream, begun), BEGUN_OFFSET)
                .map_err(PositionsError::context("write", &path))?;
        }
        file.set_modified(seen).map_err(PositionsError::context("mark as seen", &path))?;
        let further = if lost { None } else { read_slot(&file, stream, SKIP_POSITION_OFFSET).ok() };
        let further = further.and_then(Slot::progress);
        let state = Mutex::new(PositionFileState {
            skip_position: further,
            ..PositionFileState::new(slots, seen, file)
        });
        Ok((Self { path, stream, state }, lost || is_made))
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
            .write_all_at(&Slot::encode(self.stream, progress), offset)
            .map_err(PositionsError::context("write", &self.path))?;
        state.stored(progress);
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
            .write_all_at(&Slot::encode(self.stream, further), SKIP_POSITION_OFFSET)
            .map_err(PositionsError::context("write", &self.path))?;
        state.skip_position = Some(further);
        state.dirty = true;
        state.close_if_unused();
        Ok(())
    }

    /// Syncs the position to disk if it was stored since the last call. After a failure the next call writes
    /// it again before it retries, because the kernel may have dropped the pages and would report success.
    ///
    /// Sets the modification time to `seen`: a write itself sets it by the wall clock, which may be wrong.
    /// A stream in use without new data is marked once a day.
    pub(super) fn sync(&self, seen: SystemTime) -> Result<(), PositionsError> {
        let mut state = self.state();
        let is_idle = || seen.duration_since(state.seen).is_ok_and(|idle| idle >= STREAM_MARKED_EVERY);
        if !state.dirty && (state.users == 0 || !is_idle()) {
            return Ok(());
        }
        let file = self.file(&mut state)?;
        if state.sync_failed {
            self.write_again(&file, &state).map_err(PositionsError::context("write", &self.path))?;
        }
        state.dirty = false;
        drop(state);
        let marked = file.set_modified(seen);
        let outcome = marked.and_then(|()| file.sync_data());
        let mut state = self.state();
        state.sync_failed = outcome.is_err();
        state.dirty |= state.sync_failed;
        if outcome.is_ok() {
            state.seen = seen;
        }
        state.close_if_unused();
        outcome.map_err(PositionsError::context("sync", &self.path))
    }

    /// Writes the newest slots again. If that is cut short, the older slot still counts.
    fn write_again(&self, file: &File, state: &PositionFileState) -> io::Result<()> {
        let newest = state.delivered.map(|delivered| (delivered, state.newest_offset));
        let further = state.skip_position.map(|further| (further, SKIP_POSITION_OFFSET));
        for (progress, offset) in newest.into_iter().chain(further) {
            file.write_all_at(&Slot::encode(self.stream, progress), offset)?;
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

    /// Returns whether anything was stored since the last sync.
    pub(super) fn is_dirty(&self) -> bool {
        self.state().dirty
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
            sync_failed: false,
            seen,
            file: Some(Arc::new(file)),
            users: 0,
        }
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

/// Opens or creates the file at `path`. Returns `true` if it created it.
fn open_file(path: &std::path::Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = options.create(true).truncate(false).mode(0o600).open(path);
            let made = made.map_err(|error| not_created(error, path.parent().unwrap_or(path)));
            Ok((made?, true))
        }
        opened => Ok((opened?, false)),
    }
}

/// Returns the time at which the stream of `file` began, if the file has it.
pub(super) fn read_begun(file: &File, stream: StreamId) -> Option<SystemTime> {
    let mut record = [0; BEGUN_LEN];
    file.read_exact_at(&mut record, BEGUN_OFFSET).ok()?;
    begun::parse(stream, record)
}

fn read_slots(file: &File, stream: StreamId) -> io::Result<[Slot; 2]> {
    let [first, second] = SLOT_OFFSETS;
    Ok([read_slot(file, stream, first)?, read_slot(file, stream, second)?])
}

fn read_slot(file: &File, stream: StreamId, offset: u64) -> io::Result<Slot> {
    let mut bytes = [0; SLOT_LEN];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + u64::try_from(filled).unwrap_or(u64::MAX))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(Slot::parse(stream, bytes.get(..filled).unwrap_or_default()))
}

/// Renames the damaged file at `path`, and creates a new one in its place.
fn set_aside(path: &std::path::Path) -> Result<File, PositionsError> {
    let aside = set_aside_path(path);
    atomic_file::rename(path, &aside).map_err(PositionsError::context("rename", path))?;
    tracing::warn!(
        "the position of a stream was damaged; its file was renamed to {}, and all datagrams that its \
         sender still has are delivered again",
        aside.display()
    );
    open_file(path).map(|(file, _)| file).map_err(PositionsError::context("open", path))
}

/// Returns the path to which the damaged file at `path` is renamed.
pub(super) fn set_aside_path(path: &std::path::Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}
