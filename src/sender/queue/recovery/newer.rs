//! Data of newer versions: readable data is queued again at the end, and the rest stays in its place.

use std::io;
use std::path::Path;

use nf_transport_core::secure::{OpenError, SpoolKeys};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{Broken, ImportError, Reimported, Spool};

use crate::host::systemd::messages::sender;
use crate::sender::journal;
use crate::sender::queue::ledger::Ledger;
use crate::sender::queue::segments::{NEWER_DIRECTORY, log_newer};
use crate::status::count_of;

/// Moves the journal at `path` away if a newer version left it. Returns `true` if it did.
pub(super) fn move_journal_away(path: &Path) -> io::Result<bool> {
    let Some((place, version)) = journal::newer::move_away(path)? else { return Ok(false) };
    let needs = format!("receive journal format {version}, this version reads up to 2");
    log_newer("datagrams in the receive journal", place.display(), &needs);
    Ok(true)
}

/// Queues the data of newer versions in `directory`; logs a failure, after which the data stays there.
pub(super) fn recover(
    directory: &Path,
    spool: &mut Spool<Directory>,
    ledger: &mut Ledger,
    keys: &SpoolKeys,
    journal_path: Option<&Path>,
) {
    if let Err(error) = queue_readable(spool, ledger, keys, journal_path) {
        let directory = directory.display();
        tracing::error!(
            %error,
            "{directory}: cannot recover the data of a newer version: {error}; it stays there"
        );
    }
}

/// Queues the data of newer versions, as far as this version can read it. The spool must end where the ledger
/// does, and nothing else may be held.
fn queue_readable(
    spool: &mut Spool<Directory>,
    ledger: &mut Ledger,
    keys: &SpoolKeys,
    journal_path: Option<&Path>,
) -> io::Result<()> {
    for (place, content) in journal_path.map(journal::newer::readable).unwrap_or_default() {
        let journal::newer::JournalContent { stream, batches, lost, is_searched } = content;
        // A journal is unencrypted; the spool may be encrypted.
        let sealed: Result<Vec<_>, _> = batches.iter().map(|batch| keys.seal(stream, batch)).collect();
        spool.put_newer(stream, &sealed.map_err(io::Error::other)?)?;
        std::fs::remove_file(&place)?;
        if is_searched {
            let found: u64 = batches.iter().map(|batch| u64::from(batch.datagrams())).sum();
            tracing::warn!(
                message_id = sender::SPOOL_DAMAGED,
                datagrams = found,
                lost,
                "the checkpoint of the receive journal {} of a newer version was damaged: recovered all {} \
                 that a search found; some may arrive twice, as nothing shows which were delivered",
                place.display(),
                count_of(found, "datagram")
            );
        }
        if lost > 0 {
            ledger.lose_taken_in(lost);
            tracing::error!(
                message_id = sender::SPOOL_DAMAGED,
                lost,
                "the receive journal {} of a newer version was damaged: {} are lost and count as corrupt; \
                 the rest is queued",
                place.display(),
                count_of(lost, "datagram")
            );
        }
    }
    let (mut taken, mut stays) = (0, Vec::new());
    for file in spool.newer_files()? {
        let next = ledger.next();
        let own_stream = spool.stream();
        let outcome = spool.reimport(&file, next, |stream, batch, first| {
            let batch = keys.open(stream, batch).map_err(|error| match error {
                OpenError::UnknownKey(_) => ImportError::NoKey,
                OpenError::Damaged => ImportError::Damaged,
            })?;
            let batch = batch.renumbered(own_stream, first).ok_or(ImportError::NoKey)?;
            keys.seal(own_stream, &batch).map_err(|_| ImportError::NoKey)
        })?;
        match outcome {
            Reimported::Until(end, broken) => {
                taken += ledger.take_in(end);
                if broken.bytes > 0 {
                    lose_broken(ledger, &file.name, broken, "the rest is queued");
                }
            }
            Reimported::Newer(needs) => stays.push(needs),
            Reimported::NoRoom => {
                tracing::warn!("{:?} of the spool stays there: the queue has no room for it", file.name);
            }
            Reimported::NoKey => tracing::error!(
                "{:?} of the spool stays there: start with its key as spool.previous-key-file",
                file.name
            ),
            Reimported::Damaged(broken) => lose_broken(ledger, &file.name, broken, "nothing else was in it"),
        }
    }
    if taken > 0 {
        let count = count_of(taken, "datagram");
        tracing::info!(datagrams = taken, "recovered {count} that a newer version had left");
    }
    if let Some(needs) = stays.first() {
        let files = count_of(u64::try_from(stays.len()).unwrap_or(u64::MAX), "file");
        log_newer(format_args!("{files} in the spool"), NEWER_DIRECTORY, needs);
    }
    Ok(())
}

/// Counts and logs the losses in damaged pieces of `file` in `newer/`.
fn lose_broken(ledger: &mut Ledger, file: &str, broken: Broken, rest: &str) {
    let Broken { bytes, datagrams, may_be_more } = broken;
    ledger.lose_taken_in(datagrams);
    let at_least = if may_be_more { "at least " } else { "" };
    let number =
        if may_be_more { " (how many, the damage does not show: each such piece counts as one)" } else { "" };
    tracing::error!(
        message_id = sender::SPOOL_DAMAGED,
        file,
        bytes,
        lost = datagrams,
        may_be_more,
        "{file:?} of the spool, which a newer nf-sender wrote, is damaged: {} cannot be read, and \
         {at_least}{} in them are lost{number}; they count as corrupt, and {rest}; the damaged bytes are \
         kept in the directory 'damaged'; check the disk",
        count_of(bytes, "byte"),
        count_of(datagrams, "datagram"),
    );
}
