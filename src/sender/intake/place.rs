//! Where the intake is: in its file, or in memory because the file failed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where the intake of this run is. Shared by ingest, which notices that the file fails, and the status.
#[derive(Debug, Default)]
pub(crate) struct Place {
    path: Option<PathBuf>,
    /// Why it is in memory.
    in_memory: OnceLock<String>,
}

impl Place {
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

    /// The file has failed, and memory has taken its place. No start may believe from now on what it holds: it is
    /// removed, or at least emptied. Returns the reason; `None` if that was known already.
    pub(crate) fn leave_file(&self) -> Option<String> {
        let path = self.path()?;
        let reason = why_failed(path);
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
            && let Err(truncating) = File::options().write(true).truncate(true).open(path)
        {
            tracing::error!(
                %error,
                "cannot remove the failed intake {}: {error}, nor empty it: {truncating}; remove it before the next start",
                path.display()
            );
        }
        self.in_memory.set(reason.clone()).ok().map(|()| reason)
    }
}

/// What can be seen of the file at `path` that explains why pages of it are missing.
fn why_failed(path: &Path) -> String {
    let path_shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() < super::file_len() => format!("{path_shown} was truncated"),
        Ok(_) if rustix::fs::statvfs(path).is_ok_and(|facts| facts.f_bavail == 0) => {
            format!("the file system of {path_shown} is full")
        }
        Ok(_) => format!("the file system of {path_shown} cannot read or write it"),
        Err(error) => format!("{path_shown} failed: {error}"),
    }
}
