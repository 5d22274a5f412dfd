//! State files of nf-receiver that a newer version wrote: kept under another name, and read by a version that can.
//!
//! A file of JSON is newer if it is well-formed and has another shape than this version writes. A damaged one is not
//! well-formed.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::host::files::atomic_file;

/// What a state file holds.
#[derive(Debug)]
pub(in crate::receiver) enum State<T> {
    /// There is none.
    Absent,
    Read(T),
    /// It cannot be read, or is damaged.
    Unreadable(io::Error),
    /// A newer version wrote it.
    Newer(serde_json::Error),
}

impl<T: DeserializeOwned> State<T> {
    /// Reads the file at `path`.
    pub(in crate::receiver) fn read(path: &Path) -> Self {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::Absent,
            Err(error) => return Self::Unreadable(error),
        };
        match serde_json::from_reader(BufReader::new(file)) {
            Ok(state) => Self::Read(state),
            // What else follows in the file shows whether all of it is well-formed.
            Err(error) if error.classify() == Category::Data && is_json(path) => Self::Newer(error),
            Err(error) => Self::Unreadable(error.into()),
        }
    }
}

fn is_json(path: &Path) -> bool {
    let file = File::open(path).map(BufReader::new);
    file.is_ok_and(|file| serde_json::from_reader::<_, serde::de::IgnoredAny>(file).is_ok())
}

/// Where a newer file at `path` is kept.
pub(in crate::receiver) fn kept(path: &Path) -> PathBuf {
    path.with_extension("json.newer")
}

/// Keeps the newer file at `path`, and logs it.
pub(in crate::receiver) fn keep(path: &Path, error: &serde_json::Error) {
    let place = kept(path);
    match atomic_file::rename(path, &place) {
        Ok(()) => tracing::warn!(
            %error,
            "{}: a newer nf-receiver wrote it, and this one does not read it ({error}): it is kept as {}, and taken up \
             by a version that reads it",
            path.display(),
            place.display()
        ),
        Err(renaming) => tracing::warn!(
            error = %renaming,
            "{}: a newer nf-receiver wrote it, and it cannot be kept under another name: {renaming}",
            path.display()
        ),
    }
}

/// Reads and removes a file that was kept from `path`, once this version understands it.
pub(in crate::receiver) fn take_up_kept<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let place = kept(path);
    let State::Read(state) = State::read(&place) else { return None };
    match std::fs::remove_file(&place) {
        Ok(()) => Some(state),
        Err(error) => {
            tracing::warn!(%error, "{}: cannot be taken up: {error}", place.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_file_is_known_from_a_damaged_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert!(matches!(State::<Vec<u8>>::read(&path), State::Absent));
        for (text, is_newer) in
            [("{\"version\": 2}", true), ("[1, {\"x\": 2}]", true), ("[1, {\"x\": 2]", false)]
        {
            std::fs::write(&path, text).unwrap();
            let state = State::<Vec<u8>>::read(&path);
            assert_eq!(matches!(state, State::Newer(_)), is_newer, "{text}");
            assert_eq!(matches!(state, State::Unreadable(_)), !is_newer, "{text}");
        }
    }

    #[test]
    fn a_kept_file_is_taken_up_once_it_is_readable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        std::fs::write(&path, "{\"version\": 2}").unwrap();
        let State::Newer(error) = State::<Vec<u8>>::read(&path) else { panic!("newer") };
        keep(&path, &error);
        assert!(!path.exists());
        assert_eq!(take_up_kept::<Vec<u8>>(&path), None);
        std::fs::write(kept(&path), "[7]").unwrap();
        assert_eq!(take_up_kept::<Vec<u8>>(&path), Some(vec![7]));
        assert!(!kept(&path).exists());
    }
}
