//! The location of the receive journal: its file, or memory after the file failed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::sender::journal::layout::file_len;

/// The location of the journal of this run. Shared by ingest, which detects a failed file, and the status.
#[derive(Debug, Default)]
pub(crate) struct JournalLocation {
    path: Option<PathBuf>,
    /// The reason why the journal is in memory.
    in_memory: OnceLock<String>,
}

impl JournalLocation {
    /// A journal in the file at `path`.
    pub(crate) fn file(path: PathBuf) -> Self {
        Self { path: Some(path), in_memory: OnceLock::new() }
    }

    /// A journal in memory, for `reason`.
    pub(crate) fn memory(reason: String) -> Self {
        Self { path: None, in_memory: OnceLock::from(reason) }
    }

    /// The path of the file; `None` if the journal is in memory.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref().filter(|_| self.in_memory.get().is_none())
    }

    /// The reason why the journal is in memory, if it is.
    pub(crate) fn why_in_memory(&self) -> Option<&str> {
        self.in_memory.get().map(String::as_str)
    }

    /// Notes that the file has failed and was replaced by memory. Returns the reason, or `None` if this was
    /// noted before. The caller must call [`Self::remove_failed_file`] next.
    pub(crate) fn note_failed_file(&self) -> Option<String> {
        let reason = why_failed(self.path()?);
        self.in_memory.set(reason.clone()).ok().map(|()| reason)
    }

    /// Removes the failed file, or at least truncates it. Its positions are stale, and a start after a kill
    /// would trust them.
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

/// Finds the cause of missing pages in the file at `path`.
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
