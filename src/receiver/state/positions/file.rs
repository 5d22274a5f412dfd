//! The position file of one stream.

use std::fs::{File, OpenOptions, rename};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nf_transport_core::sequence::{Position, RunId, StreamId};
use nf_transport_core::spool::disk::not_created;

use crate::limits::STREAM_MARKED_EVERY;
use crate::receiver::state::positions::begun::{self, BEGUN_LEN, BEGUN_OFFSET};
use crate::receiver::state::positions::slot::{Progress, SLOT_LEN, Slot};
use crate::receiver::state::positions::{PositionsError, set_aside_path};

/// Where the slots lie: on pages of their own, so that what damages the one spares the other.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// Where the slot lies that tells how far those collectors are that are not waited for.
const FURTHER_OFFSET: u64 = 8192;

/// Why a file is left alone that a newer version wrote.
const NEWER: &str = "a newer version of nf-receiver wrote it: install that version again, or remove the file to have \
                     all delivered that the sender still holds";

/// Up to where one stream has been delivered.
#[derive(Debug)]
pub(crate) struct StreamPosition {
    path: PathBuf,
    stream: StreamId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What the newest slot holds; `None` before the first store.
    delivered: Option<Progress>,
    /// Where the next store goes: never to the newest slot.
    next_offset: u64,
    /// The offset that the store after the next one goes to.
    newest_offset: u64,
    /// Up to where those collectors are that are not waited for, if that is further.
    further: Option<Progress>,
    /// Something was stored since the last sync.
    dirty: bool,
    /// The time that the file is marked with.
    seen: SystemTime,
    /// Opened when it is needed.
    file: Option<Arc<File>>,
    /// Sessions that use the stream. Without any the file is closed whenever nothing is done with it.
    users: usize,
}

/// The use of a stream by one session, until dropped.
#[derive(Debug)]
pub(crate) struct StreamInUse {
    position: Arc<StreamPosition>,
    begun: SystemTime,
}

impl StreamInUse {
    /// Uses `stream`, which began at `begun`, and whose file is opened if it is not.
    pub(super) fn of(stream: Arc<StreamPosition>, begun: SystemTime) -> Result<Self, PositionsError> {
        let mut state = stream.state();
        stream.file(&mut state)?;
        state.users += 1;
        drop(state);
        Ok(Self { position: stream, begun })
    }

    /// The stream, which may outlive its use.
    pub(crate) fn position(&self) -> &Arc<StreamPosition> {
        &self.position
    }

    /// When the stream began.
    pub(crate) fn begun(&self) -> SystemTime {
        self.begun
    }
}

impl core::ops::Deref for StreamInUse {
    type Target = StreamPosition;

    fn deref(&self) -> &StreamPosition {
        &self.position
    }
}

impl Drop for StreamInUse {
    fn drop(&mut self) {
        let mut state = self.position.state();
        state.users -= 1;
        state.close_if_unused();
    }
}

impl StreamPosition {
    /// Opens the file at `path`, or makes it, and marks it as `seen`. A damaged one is set aside. One that does not say when the
    /// stream began says `begun` from now on. Returns `true` if the directory has changed.
    pub(super) fn open(
        path: PathBuf,
        stream: StreamId,
        seen: SystemTime,
        begun: SystemTime,
    ) -> Result<(Self, bool), PositionsError> {
        let (file, is_made) = open_file(&path).map_err(PositionsError::of("open", &path))?;
        let slots = read_slots(&file, stream).map_err(PositionsError::of("read", &path))?;
        let is_known = slots.iter().any(|slot| slot.progress().is_some());
        if !is_known && slots.contains(&Slot::Newer) {
            return Err(PositionsError::of("use", &path)(io::Error::new(io::ErrorKind::Unsupported, NEWER)));
        }
        let damaged = slots.contains(&Slot::Damaged);
        let lost = damaged && !is_known;
        if damaged && !lost {
            tracing::warn!("{}: one of two slots is damaged; the other one counts", path.display());
        }
        let file = if lost { set_aside(&path)? } else { file };
        if read_begun(&file, stream).is_none() {
            file.write_all_at(&begun::encode(stream, begun), BEGUN_OFFSET)
                .map_err(PositionsError::of("write", &path))?;
        }
        file.set_modified(seen).map_err(PositionsError::of("mark as seen", &path))?;
        let further = if lost { None } else { read_slot(&file, stream, FURTHER_OFFSET).ok() };
        let further = further.and_then(Slot::progress);
        let state = Mutex::new(State { further, ..State::of(slots, seen, file) });
        Ok((Self { path, stream, state }, lost || is_made))
    }

    /// The position after the last datagram delivered; `None` if the stream is not known.
    pub(crate) fn get(&self) -> Option<Position> {
        self.state().delivered.map(|stored| stored.position)
    }

    /// The run that sent the latest of what is stored; [`RunId::NONE`] if it is not known.
    pub(crate) fn run(&self) -> RunId {
        let state = self.state();
        let latest = state.delivered.into_iter().chain(state.further).max_by_key(|stored| stored.position);
        latest.map_or(RunId::NONE, |stored| stored.run)
    }

    /// Stores `position`, sent by `run`, unless one as high is stored already. If it fails, the one before it stays.
    pub(crate) fn store(&self, position: Position, run: RunId) -> Result<(), PositionsError> {
        let mut state = self.state();
        if state.delivered.is_some_and(|stored| stored.position >= position) {
            return Ok(());
        }
        let progress = Progress { position, run };
        let offset = state.next_offset;
        self.file(&mut state)?
            .write_all_at(&Slot::encode(self.stream, progress), offset)
            .map_err(PositionsError::of("write", &self.path))?;
        state.stored(progress);
        state.close_if_unused();
        Ok(())
    }

    /// Up to where those collectors have the stream that are not waited for, if that was further than the position. One slot
    /// only: without it they get something twice.
    pub(crate) fn further(&self) -> Option<Position> {
        self.state().further.map(|stored| stored.position)
    }

    /// Stores how far those collectors are that are not waited for, sent by `run`, unless as much is stored already.
    pub(crate) fn store_further(&self, further: Position, run: RunId) -> Result<(), PositionsError> {
        let mut state = self.state();
        if state.further.is_some_and(|stored| stored.position >= further) {
            return Ok(());
        }
        let further = Progress { position: further, run };
        self.file(&mut state)?
            .write_all_at(&Slot::encode(self.stream, further), FURTHER_OFFSET)
            .map_err(PositionsError::of("write", &self.path))?;
        state.further = Some(further);
        state.dirty = true;
        state.close_if_unused();
        Ok(())
    }

    /// Forces to disk what was stored since the last call. If that fails, the next call tries again; by then
    /// newer stores have written the same pages anew, as a failed sync may have dropped them.
    /// What was written is `seen`: a write itself leaves the time of the wall clock, which may be wrong. So is, once a day, a stream
    /// whose session has nothing to store.
    pub(super) fn sync(&self, seen: SystemTime) -> Result<(), PositionsError> {
        let mut state = self.state();
        let is_idle = || seen.duration_since(state.seen).is_ok_and(|idle| idle >= STREAM_MARKED_EVERY);
        if !state.dirty && (state.users == 0 || !is_idle()) {
            return Ok(());
        }
        let file = self.file(&mut state)?;
        state.dirty = false;
        drop(state);
        let marked = file.set_modified(seen);
        let outcome = marked.and_then(|()| file.sync_data());
        let mut state = self.state();
        match outcome {
            Ok(()) => state.seen = seen,
            Err(_) => state.dirty = true,
        }
        state.close_if_unused();
        outcome.map_err(PositionsError::of("sync", &self.path))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, opened if it is not.
    fn file(&self, state: &mut State) -> Result<Arc<File>, PositionsError> {
        if let Some(file) = &state.file {
            return Ok(file.clone());
        }
        let (file, _) = open_file(&self.path).map_err(PositionsError::of("open", &self.path))?;
        Ok(state.file.insert(Arc::new(file)).clone())
    }

    /// When the stream was seen last.
    pub(super) fn seen(&self) -> SystemTime {
        self.state().seen
    }

    /// Whether something was stored since the last sync.
    pub(super) fn is_dirty(&self) -> bool {
        self.state().dirty
    }
}

impl State {
    fn of([first, second]: [Slot; 2], seen: SystemTime, file: File) -> Self {
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
            further: None,
            dirty: false,
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

    fn stored(&mut self, progress: Progress) {
        self.delivered = Some(progress);
        std::mem::swap(&mut self.next_offset, &mut self.newest_offset);
        self.dirty = true;
    }
}

fn position_of(progress: Option<Progress>) -> Option<Position> {
    progress.map(|progress| progress.position)
}

/// Opens the file at `path`, or makes it. Returns `true` if it made it.
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

/// When the stream of `file` began, if the file says that.
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
        match file.read_at(rest, offset + u64::try_from(filled).unwrap_or_default())? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(Slot::parse(stream, bytes.get(..filled).unwrap_or_default()))
}

/// Renames the damaged file at `path`, and starts a new one in its place.
fn set_aside(path: &std::path::Path) -> Result<File, PositionsError> {
    let aside = set_aside_path(path);
    rename(path, &aside).map_err(PositionsError::of("rename", path))?;
    tracing::warn!(
        "{}: the position of a stream was damaged and is set aside here; what its sender still holds \
         is delivered again",
        aside.display()
    );
    open_file(path).map(|(file, _)| file).map_err(PositionsError::of("open", path))
}
