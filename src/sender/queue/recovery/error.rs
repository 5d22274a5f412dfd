//! The reasons why a spool cannot be recovered.

use std::io;
use std::path::{Path, PathBuf};

use nf_transport_core::secure::{KeyError, KeyId};

use crate::host::DaemonError;

/// The reason why nf-sender cannot recover its spool. The spool stays unchanged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    /// A system call failed.
    #[error("cannot {action} {path}: {cause}")]
    Failed {
        /// The action that failed.
        action: &'static str,
        /// Its path.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// No secret for a new stream can be created.
    #[error("cannot create the secret of a stream: {0}")]
    Secret(#[from] KeyError),
    /// The spool cannot be read with the given keys.
    #[error(
        "{}: the spool is encrypted with key {missing}, and {given}: name the file with that key as \
         spool.previous-key-file; nothing was changed",
        path.display()
    )]
    KeyMissing {
        /// The spool.
        path: PathBuf,
        /// The key that is needed.
        missing: KeyId,
        /// The given keys, as text.
        given: String,
    },
    /// The spool directory holds unencrypted datagrams of an earlier run, although encryption is required.
    #[error(
        "{}: an earlier run without spool.encrypt left datagrams in this file: start once without \
         spool.encrypt: an orderly stop then moves them; nothing was changed",
        path.display()
    )]
    UnencryptedJournal {
        /// The journal.
        path: PathBuf,
    },
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecoveryError {
    move |cause| RecoveryError::Failed { action, path: path.to_owned(), cause }
}

impl From<RecoveryError> for DaemonError {
    fn from(error: RecoveryError) -> Self {
        match error {
            RecoveryError::Failed { .. } => Self::cannot_create(error),
            RecoveryError::Secret(_) => Self::system(error),
            RecoveryError::KeyMissing { .. } | RecoveryError::UnencryptedJournal { .. } => {
                Self::configuration(error)
            }
        }
    }
}
