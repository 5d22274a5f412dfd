//! A separate wall clock for a daemon, which a test can set. libfaketime replaces the machine's wall clock in
//! that process.
//! Monotonic clocks, file times and the kernel's receive timestamps stay real.

use std::ffi::OsString;
use std::path::PathBuf;

use tempfile::TempDir;

/// A wall clock for a daemon. It starts with the correct time.
pub struct WallClock {
    directory: TempDir,
}

impl WallClock {
    pub fn correct() -> Self {
        let clock = Self { directory: tempfile::tempdir().unwrap() };
        clock.set("+0");
        clock
    }

    /// Sets the offset from the correct time, such as `+10y` or `-3600s`.
    pub fn set(&self, offset: &str) {
        // The rename makes the change atomic: the daemon reads the file each time it asks for the time.
        let new = self.directory.path().join("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, self.offset()).unwrap();
    }

    fn offset(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// Returns the environment of a daemon that uses this clock.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", library().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }
}

/// Finds the library of libfaketime where Debian's or Fedora's package installs it.
fn library() -> PathBuf {
    let by_architecture = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut places = by_architecture.chain(["/usr/lib64".into()]);
    let library = |place: PathBuf| place.join("faketime/libfaketimeMT.so.1");
    places
        .find_map(|place| Some(library(place)).filter(|path| path.exists()))
        .expect("libfaketime: make test-tools")
}
