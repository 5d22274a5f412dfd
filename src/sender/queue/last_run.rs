//! The file `boot` of the spool: the boot and the time in which the last run began.
//!
//! One line of text: the boot id in hexadecimal, a space, nanoseconds since 1970-01-01. It serves one log
//! line only: it shows if a missing receive journal was lost with the memory of the machine or was removed.

use std::path::Path;

use nf_transport_core::datagram::Timestamp;

use crate::host::files::atomic_file::{self, FileError, FileOwner};

const FILE: &str = "boot";

/// The time and the boot in which a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunStart {
    pub(crate) boot: [u8; 16],
    pub(crate) at: Timestamp,
}

impl RunStart {
    /// Reads the start of the last run of the spool in `directory`, if known.
    pub(crate) fn read(directory: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(directory.join(FILE)).ok()?;
        let (boot, at) = text.trim_end().split_once(' ')?;
        let boot = u128::from_str_radix(boot, 16).ok()?.to_be_bytes();
        Some(Self { boot, at: Timestamp(at.parse().ok()?) })
    }

    /// Replaces the file for the next run. On failure, removes it: the one of an earlier run would be wrong.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), FileError> {
        let path = directory.join(FILE);
        let line = format!("{:032x} {}\n", u128::from_be_bytes(self.boot), self.at.0);
        match atomic_file::write(&path, line.as_bytes(), 0o600, FileOwner::writer()) {
            Ok(_) => Ok(()),
            Err(error) => atomic_file::remove(&path).and(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_reads_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(RunStart::read(directory.path()), None);
        let began = RunStart { boot: [0x0A; 16], at: Timestamp(u64::MAX) };
        began.write(directory.path()).unwrap();
        assert_eq!(RunStart::read(directory.path()), Some(began));
        std::fs::write(directory.path().join(FILE), "nonsense").unwrap();
        assert_eq!(RunStart::read(directory.path()), None);
    }

    #[test]
    fn the_old_file_stays_whole_until_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (path, linked) = (directory.path().join(FILE), directory.path().join("linked"));
        RunStart { boot: [1; 16], at: Timestamp(1) }.write(directory.path()).unwrap();
        let before = std::fs::read(&path).unwrap();
        std::fs::hard_link(&path, &linked).unwrap();
        let began = RunStart { boot: [2; 16], at: Timestamp(2) };
        began.write(directory.path()).unwrap();
        assert_eq!(std::fs::read(&linked).unwrap(), before, "it was written over");
        assert_eq!(RunStart::read(directory.path()), Some(began));
        assert_eq!(directory.path().read_dir().unwrap().count(), 2, "only these two files");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let earlier = tempfile::tempdir().unwrap();
        RunStart { boot: [1; 16], at: Timestamp(1) }.write(earlier.path()).unwrap();
        // A symbolic link is never written through.
        std::os::unix::fs::symlink(earlier.path().join(FILE), directory.path().join(FILE)).unwrap();
        let written = RunStart { boot: [2; 16], at: Timestamp(2) }.write(directory.path());
        assert!(written.is_err());
        assert_eq!(RunStart::read(directory.path()), None, "it is not that of the last run");
    }
}
