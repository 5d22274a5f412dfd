//! Errors of system calls, as values that can be copied and compared.

use std::io;

use rustix::io::Errno;

/// Error of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SystemError {
    /// A number of the system.
    #[error("{0}")]
    Number(Errno),
    /// An error of the standard library, without such a number.
    #[error("{0}")]
    Other(io::ErrorKind),
}

impl From<&io::Error> for SystemError {
    fn from(error: &io::Error) -> Self {
        Errno::from_io_error(error).map_or_else(|| Self::Other(error.kind()), Self::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_that_of_the_system() {
        for error in [io::Error::from_raw_os_error(libc::ECONNREFUSED), io::ErrorKind::TimedOut.into()] {
            assert_eq!(SystemError::from(&error).to_string(), error.to_string());
        }
    }
}
