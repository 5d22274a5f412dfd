//! Errors that end a program, with their exit codes. No other file chooses exit codes.

use core::fmt::Display;

use sysexits::ExitCode;

use crate::config::ConfigError;
use crate::host::files::atomic_file::FileError;
use crate::host::{DirectoryError, DirectoryLockError, KeyFileError, SocketError, TlsFileError, WrongSocket};

/// A message for the operator and its exit code (sysexits).
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct DaemonError {
    sentence: String,
    code: ExitCode,
}

impl DaemonError {
    fn new(code: ExitCode, sentence: impl Display) -> Self {
        Self { sentence: sentence.to_string(), code }
    }

    /// An invalid command line (64).
    pub fn usage(sentence: impl Display) -> Self {
        Self::new(ExitCode::Usage, sentence)
    }

    /// A service that does not answer (69).
    pub fn unavailable(sentence: impl Display) -> Self {
        Self::new(ExitCode::Unavailable, sentence)
    }

    /// The system denies a basic resource: a socket, a thread, memory (71).
    pub fn system(sentence: impl Display) -> Self {
        Self::new(ExitCode::OsErr, sentence)
    }

    /// A file or directory that cannot be created or locked (73).
    pub fn cannot_create(sentence: impl Display) -> Self {
        Self::new(ExitCode::CantCreat, sentence)
    }

    /// A failed read or write (74).
    pub fn input_output(sentence: impl Display) -> Self {
        Self::new(ExitCode::IoErr, sentence)
    }

    /// An invalid configuration, which a restart does not fix (78).
    pub fn configuration(sentence: impl Display) -> Self {
        Self::new(ExitCode::Config, sentence)
    }

    /// Returns the exit code.
    pub fn code(&self) -> ExitCode {
        self.code
    }
}

impl From<ConfigError> for DaemonError {
    fn from(error: ConfigError) -> Self {
        Self::configuration(error)
    }
}

impl From<FileError> for DaemonError {
    fn from(error: FileError) -> Self {
        Self::cannot_create(error)
    }
}

impl From<TlsFileError> for DaemonError {
    fn from(error: TlsFileError) -> Self {
        Self::configuration(error)
    }
}

impl From<KeyFileError> for DaemonError {
    fn from(error: KeyFileError) -> Self {
        Self::configuration(error)
    }
}

impl From<DirectoryError> for DaemonError {
    fn from(error: DirectoryError) -> Self {
        Self::cannot_create(error)
    }
}

impl From<DirectoryLockError> for DaemonError {
    fn from(error: DirectoryLockError) -> Self {
        Self::cannot_create(error)
    }
}

impl From<SocketError> for DaemonError {
    fn from(error: SocketError) -> Self {
        Self::system(error)
    }
}

impl From<WrongSocket> for DaemonError {
    fn from(error: WrongSocket) -> Self {
        Self::configuration(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sockets::bind::Protocol;

    #[test]
    fn only_configuration_errors_exit_with_78() {
        let code = |error: DaemonError| u8::from(error.code());
        let address = "[::]:2055".parse().unwrap();
        assert_eq!(code(SocketError::InUse { protocol: Protocol::Udp, address }.into()), 71);
        let wrong = WrongSocket { fd: 3, name: None, found: "a unix socket", wanted: "a UDP socket" };
        assert_eq!(code(wrong.into()), 78);
        let held = DirectoryLockError::Held { path: "/srv".into(), process: None };
        assert_eq!(code(held.into()), 73);
        assert_eq!(code(DaemonError::unavailable("x")), 69);
        assert_eq!(code(DaemonError::input_output("x")), 74);
    }
}
