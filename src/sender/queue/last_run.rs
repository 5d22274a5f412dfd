//! The file `boot` of the spool: in which boot of the machine the last run began, and when.
//!
//! One line of text: the boot id in hexadecimal, a space, nanoseconds since 1970-01-01. It serves one log line only:
//! whether an intake that is missing went with the machine's memory, or was removed. Without it, that is not known.

use std::io;
use std::path::Path;

use nf_transport_core::datagram::Timestamp;

const FILE: &str = "boot";

/// When and in which boot a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Began {
    pub(crate) boot: [u8; 16],
    pub(crate) at: Timestamp,
}

impl Began {
    /// Of the last run whose spool is in `directory`, as far as it is known.
    pub(crate) fn read(directory: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(directory.join(FILE)).ok()?;
        let (boot, at) = text.trim_end().split_once(' ')?;
        let boot = u128::from_str_radix(boot, 16).ok()?.to_be_bytes();
        Some(Self { boot, at: Timestamp(at.parse().ok()?) })
    }

    /// Writes it down for the next run.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let line = format!("{:032x} {}\n", u128::from_be_bytes(self.boot), self.at.0);
        std::fs::write(directory.join(FILE), line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_reads_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Began::read(directory.path()), None);
        let began = Began { boot: [0x0A; 16], at: Timestamp(u64::MAX) };
        began.write(directory.path()).unwrap();
        assert_eq!(Began::read(directory.path()), Some(began));
        std::fs::write(directory.path().join(FILE), "nonsense").unwrap();
        assert_eq!(Began::read(directory.path()), None);
    }
}
