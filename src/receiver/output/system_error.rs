//! Errors of system calls, as values that can be copied and compared.

use std::io;

use rustix::io::Errno;

/// Error of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SystemError {
    /// A number of the system.
    #[error("{0}")]
    Number(Errno),
    /// The kernel does not let nf-receiver use the address of an exporter.
    #[error(
        "sending from exporters' addresses needs CAP_NET_RAW and PrivateUsers=no; run nf-receiver check for \
         details"
    )]
    NoForeignSource,
    /// An error of the standard library, without such a number.
    #[error("{0}")]
    Other(io::ErrorKind),
}

impl From<&io::Error> for SystemError {
    fn from(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()).copied();
        let number = Errno::from_io_error(error).map(Self::Number);
        inner.or(number).unwrap_or_else(|| Self::Other(error.kind()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_that_of_the_system() {
        let number = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let own = io::Error::new(io::ErrorKind::PermissionDenied, SystemError::NoForeignSource);
        for error in [number, io::ErrorKind::TimedOut.into(), own] {
            assert_eq!(SystemError::from(&error).to_string(), error.to_string());
        }
    }
}
