//! Why a program ends, and the exit code that says so. No other file chooses exit codes.

use core::fmt::Display;

use sysexits::ExitCode;

use crate::config::ConfigError;
use crate::host::files::atomic_file::FileError;
use crate::host::{KeyTrouble, OwnershipError, SocketError, TlsTrouble};

/// A sentence for the operator, and the exit code of sysexits that goes with it.
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

    /// The command line says something that cannot be (64).
    pub fn usage(sentence: impl Display) -> Self {
        Self::new(ExitCode::Usage, sentence)
    }

    /// A service that should answer does not (69).
    pub fn unavailable(sentence: impl Display) -> Self {
        Self::new(ExitCode::Unavailable, sentence)
    }

    /// The system refuses what every service needs: a socket, a thread, memory (71).
    pub fn system(sentence: impl Display) -> Self {
        Self::new(ExitCode::OsErr, sentence)
    }

    /// A file or directory cannot be created or owned (73).
    pub fn cannot_create(sentence: impl Display) -> Self {
        Self::new(ExitCode::CantCreat, sentence)
    }

    /// Reading or writing failed (74).
    pub fn input_output(sentence: impl Display) -> Self {
        Self::new(ExitCode::IoErr, sentence)
    }

    /// The configuration cannot be followed, and a restart will not change that (78).
    pub fn configuration(sentence: impl Display) -> Self {
        Self::new(ExitCode::Config, sentence)
    }

    /// The exit code.
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

impl From<TlsTrouble> for DaemonError {
    fn from(error: TlsTrouble) -> Self {
        Self::configuration(error)
    }
}

impl From<KeyTrouble> for DaemonError {
    fn from(error: KeyTrouble) -> Self {
        Self::configuration(error)
    }
}

impl From<OwnershipError> for DaemonError {
    fn from(error: OwnershipError) -> Self {
        Self::cannot_create(error)
    }
}

impl From<SocketError> for DaemonError {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::WrongKind { .. } => Self::configuration(error),
            SocketError::InUse { .. }
            | SocketError::Denied { .. }
            | SocketError::NotHere { .. }
            | SocketError::Other { .. } => Self::system(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_restart_cannot_change_ends_with_78() {
        let code = |error: DaemonError| u8::from(error.code());
        let address = "[::]:2055".parse().unwrap();
        assert_eq!(code(SocketError::InUse { protocol: sockets::Protocol::Udp, address }.into()), 71);
        let wrong =
            SocketError::WrongKind { fd: 3, name: None, found: "a unix socket", wanted: "a UDP socket" };
        assert_eq!(code(wrong.into()), 78);
        let held = OwnershipError::Held { path: "/srv".into(), process: None };
        assert_eq!(code(held.into()), 73);
        assert_eq!(code(DaemonError::unavailable("x")), 69);
        assert_eq!(code(DaemonError::input_output("x")), 74);
    }

    use crate::host::systemd::sockets;
}
