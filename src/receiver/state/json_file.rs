//! State files of nf-receiver in JSON, each replaced as a whole.
//!
//! A file that a newer version wrote is kept under another name, and recovered by a version that can read it.
//! A JSON file counts as newer if it is well-formed and has another structure than this version writes. A
//! damaged file is not well-formed.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::host::files::atomic_file::{self, FileOwner};

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

/// Replaces the file at `path` by `content`, which may be too large for memory as text.
pub(in crate::receiver) fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let fill = |file: &mut File| -> io::Result<()> {
        let mut out = BufWriter::new(file);
        serde_json::to_writer(&mut out, content)?;
        out.flush()
    };
    atomic_file::write_with(path, 0o600, FileOwner::writer(), fill).map_err(io::Error::other)
}

/// Reads and removes the file at `path`. A newer file is kept. Removes it before its content is used: if this
/// run is killed later, the next one must not find it again.
pub(in crate::receiver) fn take<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let read = match StateFile::read(path) {
        StateFile::Absent => return Ok(None),
        StateFile::Newer(error) => {
            keep(path, &error);
            return Ok(None);
        }
        StateFile::Read(content) => Ok(Some(content)),
        StateFile::Unreadable(error) => Err(error),
    };
    let removed = atomic_file::remove(path).map_err(io::Error::other);
    read.and_then(|content| removed.map(|_| content))
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
    match atomic_file::remove(&place) {
        Ok(_) => Some(state),
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
    fn the_old_file_stays_whole_until_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (path, linked) = (directory.path().join("state.json"), directory.path().join("linked"));
        write(&path, &[5]).unwrap();
        std::fs::hard_link(&path, &linked).unwrap();
        write(&path, &[9]).unwrap();
        assert_eq!(std::fs::read_to_string(&linked).unwrap(), "[5]", "it was written over");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[9]");
        assert_eq!(directory.path().read_dir().unwrap().count(), 2, "only these two files");
    }

    #[test]
    fn a_taken_file_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(take::<Vec<u8>>(&path).unwrap(), None);
        for (text, expected) in [("[7]", Some(Some(vec![7]))), ("[7", None), ("{\"version\": 2}", Some(None))]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(take::<Vec<u8>>(&path).ok(), expected, "{text}");
            assert!(!path.exists());
        }
        assert!(kept(&path).exists());
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
