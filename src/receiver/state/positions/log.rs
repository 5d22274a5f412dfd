//! The log of positions: `positions.log` in the state directory.
//!
//! Each sync appends a record ([`LogRecord`]) for each stream in use that has a new position, and syncs them
//! all at once. A log that has become too large is replaced by a new one with the positions of all streams
//! whose files are not synced. Records are at multiples of their length, so that a damaged one costs only
//! itself. Zeros after the last record are reserved space: overwriting them does not change the size of the
//! file, which would have to be synced, too.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::host::files::atomic_file::{self, FileOwner};
use crate::limits::{POSITIONS_LOG_MAX, POSITIONS_LOG_RESERVED};
use crate::receiver::state::positions::error::PositionsError;
use crate::receiver::state::positions::log_record::{LogRecord, RECORD_LEN};
use crate::receiver::state::positions::stream_name::StreamName;
use crate::receiver::state::positions::sync_need::SyncNeed;

/// Name of the file in the state directory.
const FILE: &str = "positions.log";

/// The log.
#[derive(Debug)]
pub(super) struct PositionLog {
    path: PathBuf,
    /// The file; `None` before the first record and after a failure.
    open: Option<OpenLog>,
    /// True if the last write failed.
    is_failing: bool,
    need: Arc<SyncNeed>,
}

#[derive(Debug)]
struct OpenLog {
    file: File,
    /// Offset of the next record.
    end: usize,
    /// Length of the file.
    reserved: usize,
    /// Length from which it is replaced.
    limit: usize,
}

impl PositionLog {
    /// The log in this state directory. Changes nothing.
    pub(super) fn new(state_directory: &Path, need: Arc<SyncNeed>) -> Self {
        Self { path: state_directory.join(FILE), open: None, is_failing: false, need }
    }

    /// Reads the highest positions of each stream. Skips damaged records and those of other versions.
    pub(super) fn read(&self) -> HashMap<StreamName, LogRecord> {
        let mut highest = HashMap::new();
        match self.read_into(&mut highest) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(
                %error,
                "cannot read {}: {error}; after a power loss, datagrams are repeated",
                self.path.display()
            ),
            _ => {}
        }
        highest
    }

    fn read_into(&self, highest: &mut HashMap<StreamName, LogRecord>) -> io::Result<()> {
        let mut file = BufReader::new(File::open(&self.path)?);
        let mut bytes = [0; RECORD_LEN];
        loop {
            match file.read_exact(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            if let Some(record) = LogRecord::parse(&bytes) {
                highest.entry(record.name.clone()).or_insert_with(|| record.clone()).raise(&record);
            }
        }
    }

    /// Writes `records`, and syncs them. A new log gets the records of `all` instead. After a failure the
    /// file is not used any more, and the next call begins a new one.
    pub(super) fn write(
        &mut self,
        records: &[LogRecord],
        all: impl FnOnce() -> Vec<LogRecord>,
    ) -> Result<(), PositionsError> {
        let outcome = match self.open.take() {
            Some(log) if log.has_room(records.len()) => log.append(records, &self.need),
            _ => self.begin(&all()),
        };
        let outcome = outcome.map(|log| self.open = Some(log));
        let outcome = outcome.map_err(PositionsError::context("write", &self.path));
        if let Err(error) = &outcome
            && !self.is_failing
        {
            tracing::warn!(%error, "{error}; syncing each position file instead");
        }
        self.is_failing = outcome.is_err();
        outcome
    }

    /// Replaces the file by one with these records.
    fn begin(&self, records: &[LogRecord]) -> io::Result<OpenLog> {
        let bytes = encode(records, 0, 0);
        #[cfg(test)]
        self.need.syncs.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
        atomic_file::write_with(&self.path, 0o600, FileOwner::writer(), |file| file.write_all(&bytes))
            .map_err(io::Error::other)?;
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let end = records.len() * RECORD_LEN;
        Ok(OpenLog { file, end, reserved: bytes.len(), limit: POSITIONS_LOG_MAX.max(2 * end) })
    }

    /// Removes the file, once all position files are synced.
    pub(super) fn remove(&mut self) -> Result<(), PositionsError> {
        self.open = None;
        let removed = atomic_file::remove(&self.path).map_err(io::Error::other);
        removed.map(drop).map_err(PositionsError::context("remove", &self.path))
    }

    /// Makes the next write fail.
    #[cfg(test)]
    pub(super) fn fail_next_write(&mut self) {
        if let Some(log) = &mut self.open {
            log.file = File::open(&self.path).expect("the log");
        }
    }
}

impl OpenLog {
    fn has_room(&self, records: usize) -> bool {
        self.end + records * RECORD_LEN <= self.limit
    }

    /// Appends `records`, and syncs them.
    fn append(mut self, records: &[LogRecord], need: &SyncNeed) -> io::Result<Self> {
        let bytes = encode(records, self.end, self.reserved);
        let offset = u64::try_from(self.end).map_err(io::Error::other)?;
        self.file.write_all_at(&bytes, offset)?;
        need.sync_data(&self.file)?;
        self.reserved = self.reserved.max(self.end + bytes.len());
        self.end += records.len() * RECORD_LEN;
        Ok(self)
    }
}

/// Encodes `records` for a file that ends at `reserved`, to be written at `offset`. If they pass its end,
/// zeros follow as reserved space.
fn encode(records: &[LogRecord], offset: usize, reserved: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.len() * RECORD_LEN);
    for record in records {
        record.encode(&mut bytes);
    }
    let end = offset + bytes.len();
    if end > reserved {
        bytes.resize(end.next_multiple_of(POSITIONS_LOG_RESERVED) - offset, 0);
    }
    bytes
}
