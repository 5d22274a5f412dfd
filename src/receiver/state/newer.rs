//! State files of nf-receiver that a newer version wrote: kept under another name, and recovered by a version
//! that can read them.
//!
//! A JSON file counts as newer if it is well-formed and has another structure than this version writes. A
//! damaged file is not well-formed.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::host::files::atomic_file;

/// Content of a state file.
#[derive(Debug)]
pub(in crate::receiver) enum StateFile<T> {
    /// The file does not exist.
    Absent,
    Read(T),
    /// It cannot be read, or is damaged.
    Unreadable(io::Error),
    /// A newer version wrote it.
    Newer(serde_json::Error),
}

impl<T: DeserializeOwned> StateFile<T> {
    /// Reads the file at `path`.
    pub(in crate::receiver) fn read(path: &Path) -> Self {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::Absent,
            Err(error) => return Self::Unreadable(error),
        };
        match serde_json::from_reader(BufReader::new(file)) {
            Ok(state) => Self::Read(state),
            // The parser stops at the first unknown field. Only the whole file shows whether it is
            // well-formed.
            Err(error) if error.classify() == Category::Data && is_json(path) => Self::Newer(error),
            Err(error) => Self::Unreadable(error.into()),
        }
    }
}

fn is_json(path: &Path) -> bool {
    let file = File::open(path).map(BufReader::new);
    file.is_ok_and(|file| serde_json::from_reader::<_, serde::de::IgnoredAny>(file).is_ok())
}

/// Returns the path under which a newer file at `path` is kept.
pub(in crate::receiver) fn kept(path: &Path) -> PathBuf {
    path.with_extension("json.newer")
}

/// Renames the newer file at `path` to keep it, and logs that.
pub(in crate::receiver) fn keep(path: &Path, error: &serde_json::Error) {
    let place = kept(path);
    match atomic_file::rename(path, &place) {
        Ok(()) => tracing::warn!(
            %error,
            "{} was written by a newer nf-receiver and cannot be read ({error}); it is kept as {}, and \
             recovered by a version that can read it",
            path.display(),
            place.display()
        ),
        Err(renaming) => tracing::warn!(
            error = %renaming,
            "{} was written by a newer nf-receiver and cannot be renamed to keep it: {renaming}",
            path.display()
        ),
    }
}

/// Reads and removes a file that was kept from `path`, if this version can read it.
pub(in crate::receiver) fn recover_kept<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let place = kept(path);
    let StateFile::Read(state) = StateFile::read(&place) else { return None };
    match std::fs::remove_file(&place) {
        Ok(()) => Some(state),
        Err(error) => {
            tracing::warn!(%error, "cannot recover {}: {error}", place.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_and_damaged_files_differ() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert!(matches!(StateFile::<Vec<u8>>::read(&path), StateFile::Absent));
        for (text, is_newer) in
            [("{\"version\": 2}", true), ("[1, {\"x\": 2}]", true), ("[1, {\"x\": 2]", false)]
        {
            std::fs::write(&path, text).unwrap();
            let state = StateFile::<Vec<u8>>::read(&path);
            assert_eq!(matches!(state, StateFile::Newer(_)), is_newer, "{text}");
            assert_eq!(matches!(state, StateFile::Unreadable(_)), !is_newer, "{text}");
        }
    }

    #[test]
    fn a_kept_file_is_recovered_once_readable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        std::fs::write(&path, "{\"version\": 2}").unwrap();
        let StateFile::Newer(error) = StateFile::<Vec<u8>>::read(&path) else { panic!("newer") };
        keep(&path, &error);
        assert!(!path.exists());
        assert_eq!(recover_kept::<Vec<u8>>(&path), None);
        std::fs::write(kept(&path), "[7]").unwrap();
        assert_eq!(recover_kept::<Vec<u8>>(&path), Some(vec![7]));
        assert!(!kept(&path).exists());
    }
}
