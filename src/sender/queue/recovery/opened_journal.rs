//! Opens the receive journal of a new run: its file, or memory if there can be none.

use std::io;
use std::path::{Path, PathBuf};

use nf_transport_core::secure::SpoolKeys;
use nf_transport_core::sequence::StreamId;

use crate::host::systemd::messages::sender;
use crate::sender::journal::{JournalLocation, JournalState, ReceiveJournal};
use crate::sender::queue::recovery::error::{RecoveryError, failed};
use crate::sender::queue::recovery::newer;

/// Returns the path of the journal. Its content is unencrypted, so with an encrypted spool it is never in the
/// spool directory. Without a runtime directory it is then in memory, which `None` stands for.
pub(super) fn journal_path(
    directory: &Path,
    runtime_directory: Option<&Path>,
    keys: &SpoolKeys,
) -> Result<Option<PathBuf>, RecoveryError> {
    let in_spool = directory.join("intake");
    let is_bare = keys.seals() && in_spool.exists();
    match runtime_directory {
        Some(runtime_directory) => {
            if is_bare {
                tracing::warn!(
                    "{}: a run without a runtime directory left this file, which may hold unencrypted \
                     datagrams; it is not used any more: remove it",
                    in_spool.display()
                );
            }
            Ok(Some(runtime_directory.join("intake")))
        }
        None if is_bare => Err(RecoveryError::UnencryptedJournal { path: in_spool }),
        None if keys.seals() => {
            tracing::warn!(
                "no runtime directory in memory (RUNTIME_DIRECTORY): received datagrams that are not yet \
                 encrypted stay in the memory of this process; kill -9 would lose them"
            );
            Ok(None)
        }
        None => Ok(Some(in_spool)),
    }
}

/// A journal of a newer version at the path of the journal.
pub(super) enum NewerJournal {
    /// There is none.
    None,
    /// It was moved away.
    Moved,
    /// It cannot be moved, for this reason, and must not be changed.
    Stays(io::Error),
}

/// Moves the journal at `path` away if a newer version left it.
pub(super) fn move_newer_away(path: &Path) -> Result<NewerJournal, RecoveryError> {
    match newer::move_journal_away(path) {
        Ok(true) => Ok(NewerJournal::Moved),
        Ok(false) => Ok(NewerJournal::None),
        Err(error) if has_no_room(&error) || error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(NewerJournal::Stays(error))
        }
        Err(error) => Err(failed("move away the receive journal of a newer version", path)(error)),
    }
}

/// The journal of a new run.
pub(super) struct OpenedJournal {
    pub(super) journal: ReceiveJournal,
    pub(super) location: JournalLocation,
    pub(super) found: JournalState,
    /// It is a copy in memory of a file that cannot be written.
    pub(super) is_copy: bool,
}

/// Opens the journal at `path`. Without a path, or if the disk has no room, creates it in memory: the queue
/// must drain in any case.
pub(super) fn open_journal(
    path: Option<&Path>,
    newer: &NewerJournal,
    stream: StreamId,
    boot: [u8; 16],
) -> Result<OpenedJournal, RecoveryError> {
    let in_memory = |reason: String| {
        let journal = ReceiveJournal::in_memory(stream)
            .map_err(failed("create in memory", Path::new("the receive journal")))?;
        Ok(OpenedJournal {
            journal,
            location: JournalLocation::memory(reason),
            found: JournalState::New,
            is_copy: false,
        })
    };
    let Some(path) = path else {
        return in_memory(
            "the spool is encrypted, and there is no runtime directory (RUNTIME_DIRECTORY)".to_owned(),
        );
    };
    if let NewerJournal::Stays(error) = newer {
        let reason = format!("the receive journal of a newer nf-sender stays at {}: {error}", path.display());
        tracing::error!(
            message_id = sender::JOURNAL_IN_MEMORY,
            "{reason}; the receive journal is in memory now: kill -9 would lose datagrams that are not yet \
             in the spool; make it possible to rename that file, and restart"
        );
        return in_memory(reason);
    }
    match ReceiveJournal::open(path, stream, boot) {
        Ok((journal, found)) => Ok(OpenedJournal {
            journal,
            location: JournalLocation::file(path.to_owned()),
            found,
            is_copy: false,
        }),
        Err(error) if has_no_room(&error) => {
            tracing::error!(
                message_id = sender::JOURNAL_IN_MEMORY,
                %error,
                "no room for the receive journal {}: {error}; it is in memory now: kill -9 would lose \
                 received datagrams that are not yet in the spool; free space and restart nf-sender",
                path.display()
            );
            let reason = format!("no room for {}: {error}", path.display());
            match ReceiveJournal::copy_to_memory(path, stream, boot) {
                Ok((journal, found)) => Ok(OpenedJournal {
                    journal,
                    location: JournalLocation::memory(reason),
                    found,
                    is_copy: true,
                }),
                Err(_) => in_memory(reason),
            }
        }
        Err(error) => Err(failed("create the receive journal", path)(error)),
    }
}

fn has_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull, Unsupported};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | Unsupported)
}
