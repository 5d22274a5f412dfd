//! The sync of all positions.

use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};

use crate::host::locked;
use crate::limits::POSITION_FILES_PER_SYNC;
use crate::receiver::state::positions::Positions;
use crate::receiver::state::positions::error::PositionsError;
use crate::receiver::state::positions::file::{StreamPosition, SyncDue};
use crate::receiver::state::positions::log_record::LogRecord;
use crate::receiver::state::positions::stream_name::StreamName;

impl Positions {
    /// Returns whether a sync has anything to do. Does not block.
    pub(crate) fn is_sync_due(&self, now: Instant) -> bool {
        self.need.is_due(now)
    }

    /// Syncs all positions stored since the last call to disk: those of streams in use in the log, with one
    /// sync for all of them, and the files of new streams and of those that no session uses any more. Blocks.
    pub(crate) fn sync(&self) -> Result<(), PositionsError> {
        self.sync_files(POSITION_FILES_PER_SYNC)
    }

    /// Syncs the files of all positions, and removes the log. Blocks.
    pub(crate) fn finish(&self) -> Result<(), PositionsError> {
        self.sync_files(usize::MAX)?;
        let mut log = locked(&self.log);
        let is_dirty = self.lock().streams.values().any(|stream| stream.is_dirty());
        if is_dirty { Ok(()) } else { log.remove() }
    }

    /// See [`Self::sync`]; syncs at most `limit` files, and the next call the others.
    fn sync_files(&self, limit: usize) -> Result<(), PositionsError> {
        let mut log = locked(&self.log);
        self.need.begin(Instant::now());
        let (streams, directory_changed, seen) = {
            let mut open = self.lock();
            let streams: Vec<_> = open.streams.values().map(Arc::downgrade).collect();
            (streams, std::mem::take(&mut open.directory_changed), open.last_seen.next(SystemTime::now()))
        };
        let mut synced = if directory_changed { self.folder.sync() } else { Ok(()) };
        let (records, mut files) = self.collect(&streams, seen, limit);
        if !records.is_empty() && log.write(&records, || self.logged()).is_err() {
            files = streams;
        }
        for stream in files {
            synced = synced.and(self.held(&stream).map_or(Ok(()), |stream| stream.sync(seen)));
        }
        let mut open = self.lock();
        open.directory_changed |= directory_changed && synced.is_err();
        let clean = open.streams.iter().filter(|(_, stream)| !stream.is_dirty());
        let clean: Vec<StreamName> = clean.map(|(name, _)| name.clone()).collect();
        open.release(clean.into_iter());
        if synced.is_err() {
            self.need.set();
        }
        synced
    }

    /// Returns the records for the log, and at most `limit` streams whose files need a sync. Further ones are
    /// in the log until the next call.
    fn collect(
        &self,
        streams: &[Weak<StreamPosition>],
        seen: SystemTime,
        limit: usize,
    ) -> (Vec<LogRecord>, Vec<Weak<StreamPosition>>) {
        let (mut records, mut files) = (Vec::new(), Vec::new());
        for stream in streams {
            let Some(held) = self.held(stream) else { continue };
            let due = held.due(seen);
            if due == SyncDue::Nothing {
                continue;
            }
            if due == SyncDue::File && files.len() < limit {
                files.push(stream.clone());
                continue;
            }
            if due == SyncDue::File {
                self.need.set();
            }
            match held.record_if_dirty(seen) {
                Ok(record) => records.extend(record),
                Err(_) => files.push(stream.clone()),
            }
        }
        (records, files)
    }

    /// Returns the positions whose files are not synced.
    fn logged(&self) -> Vec<LogRecord> {
        self.lock().streams.values().filter_map(|stream| stream.logged()).collect()
    }

    /// Returns the stream, unless it made room and is gone, with its file. Only one is held at a time, so
    /// that others can make room meanwhile.
    fn held(&self, stream: &Weak<StreamPosition>) -> Option<Arc<StreamPosition>> {
        let _open = self.lock();
        stream.upgrade()
    }
}
