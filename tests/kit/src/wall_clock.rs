//! A wall clock of a daemon's own, which a test can set: libfaketime puts it in place of the machine's. Nothing else is
//! touched: not the clocks that count from the boot, nor the times of files, nor those at which the kernel receives datagrams.

use std::ffi::OsString;
use std::path::PathBuf;

use tempfile::TempDir;

/// A wall clock, right at first.
pub struct WallClock {
    directory: TempDir,
}

impl WallClock {
    pub fn right() -> Self {
        let clock = Self { directory: tempfile::tempdir().unwrap() };
        clock.set("+0");
        clock
    }

    /// Sets it so far from the right time, as in `+10y` or `-3600s`.
    pub fn set(&self, offset: &str) {
        // Replaced at once, as the daemon reads it whenever it asks the time.
        let new = self.directory.path().join("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, self.offset()).unwrap();
    }

    fn offset(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// The environment of a daemon that has this clock.
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

/// Where Debian's package libfaketime puts its library, or Fedora's.
fn library() -> PathBuf {
    let by_architecture = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut places = by_architecture.chain(["/usr/lib64".into()]);
    let library = |place: PathBuf| place.join("faketime/libfaketimeMT.so.1");
    places
        .find_map(|place| Some(library(place)).filter(|path| path.exists()))
        .expect("libfaketime: make test-tools")
}
