//! Reading and creating position files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nf_transport_core::sequence::StreamId;
use nf_transport_core::spool::disk::not_created;

use crate::host::files::atomic_file;
use crate::receiver::state::positions::begun::{self, BEGUN_LEN, BEGUN_OFFSET};
use crate::receiver::state::positions::error::PositionsError;
use crate::receiver::state::positions::slot::{SLOT_LEN, Slot};

/// Offsets of the slots. They are on pages of their own, so that damage to one spares the other.
pub(super) const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// Offset of the slot with the position of collectors set to skip.
pub(super) const SKIP_POSITION_OFFSET: u64 = 8192;

/// Opens or creates the file at `path`. Returns `true` if it created it.
pub(super) fn open_file(path: &Path) -> io::Result<(File, bool)> {
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

pub(super) fn read_slots(file: &File, stream: StreamId) -> io::Result<[Slot; 2]> {
    let [first, second] = SLOT_OFFSETS;
    Ok([read_slot(file, stream, first)?, read_slot(file, stream, second)?])
}

pub(super) fn read_slot(file: &File, stream: StreamId, offset: u64) -> io::Result<Slot> {
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
pub(super) fn set_aside(path: &Path) -> Result<File, PositionsError> {
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
pub(super) fn set_aside_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}
