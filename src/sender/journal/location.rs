//! Where the intake is: in its file, or in memory because the file failed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::sender::journal::layout::file_len;

/// Where the intake of this run is. Shared by ingest, which notices that the file fails, and the status.
#[derive(Debug, Default)]
pub(crate) struct JournalLocation {
    path: Option<PathBuf>,
    /// Why it is in memory.
    in_memory: OnceLock<String>,
}

impl JournalLocation {
    /// The file at `path`.
    pub(crate) fn file(path: PathBuf) -> Self {
        Self { path: Some(path), in_memory: OnceLock::new() }
    }

    /// The memory of this process, for this reason.
    pub(crate) fn memory(reason: String) -> Self {
        Self { path: None, in_memory: OnceLock::from(reason) }
    }

    /// The file; `None` if the intake is in memory.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref().filter(|_| self.in_memory.get().is_none())
    }

    /// Why the intake is in memory, if it is.
    pub(crate) fn why_in_memory(&self) -> Option<&str> {
        self.in_memory.get().map(String::as_str)
    }

    /// Notes that the file has failed, and memory has taken its place. Returns the reason; `None` if that was known
    /// already. [`Self::remove_failed_file`] must follow.
    pub(crate) fn note_failed_file(&self) -> Option<String> {
        let reason = why_failed(self.path()?);
        self.in_memory.set(reason.clone()).ok().map(|()| reason)
    }

    /// Removes the failed file, or empties it at least: it no longer shows where the numbering stands, and a start after a
    /// kill would believe it.
    pub(crate) fn remove_failed_file(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                File::options().write(true).truncate(true).open(path).map(drop).map_err(|_| error)
            }
            _ => Ok(()),
        }
    }
}

/// What can be seen of the file at `path` that explains why pages of it are missing.
fn why_failed(path: &Path) -> String {
    let path_shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() < file_len() => {
            format!("{path_shown} was truncated")
        }
        Ok(_) if rustix::fs::statvfs(path).is_ok_and(|facts| facts.f_bavail == 0) => {
            format!("the file system of {path_shown} is full")
        }
        Ok(_) => format!("the file system of {path_shown} cannot read or write it"),
        Err(error) => format!("{path_shown} failed: {error}"),
    }
}
