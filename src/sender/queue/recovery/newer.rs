//! What newer versions left: what this one reads of it goes to the end of the queue again, the rest stays where it is.

use std::io;
use std::path::Path;

use nf_transport_core::secure::{OpenError, SpoolKeys};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{Broken, ImportError, Reimported, Spool};

use crate::host::systemd::messages::sender;
use crate::sender::journal;
use crate::sender::queue::ledger::Ledger;
use crate::sender::queue::{NEWER_DIRECTORY, tell_newer};
use crate::status::count_of;

/// Moves the intake at `path` out of the way if a newer version left it. Says whether it did.
pub(super) fn move_intake_away(path: &Path) -> io::Result<bool> {
    let Some((place, version)) = journal::newer::move_away(path)? else { return Ok(false) };
    let needs = format!("intake format {version}, this version reads up to 2");
    tell_newer("datagrams in the intake", place.display(), &needs);
    Ok(true)
}

/// Takes what newer versions left into the queue, as far as this version reads it. The spool ends where the ledger does,
/// and nothing else is held.
pub(super) fn take_in(
    spool: &mut Spool<Directory>,
    ledger: &mut Ledger,
    keys: &SpoolKeys,
    intake: Option<&Path>,
) -> io::Result<()> {
    for (place, content) in intake.map(journal::newer::readable).unwrap_or_default() {
        let journal::newer::Content { stream, batches, lost, is_searched } = content;
        // An intake is in clear text, the spool may not be.
        let sealed: Result<Vec<_>, _> = batches.iter().map(|batch| keys.seal(stream, batch)).collect();
        spool.put_newer(stream, &sealed.map_err(io::Error::other)?)?;
        std::fs::remove_file(&place)?;
        if is_searched {
            let found: u64 = batches.iter().map(|batch| u64::from(batch.datagrams())).sum();
            tracing::warn!(
                message_id = sender::SPOOL_DAMAGED,
                datagrams = found,
                lost,
                "the marks of the intake {} of a newer version were damaged: recovered all {} that a search found in it; \
                 some may arrive twice, as nothing shows what was delivered",
                place.display(),
                count_of(found, "datagram")
            );
        }
        if lost > 0 {
            ledger.lose_taken_in(lost);
            tracing::error!(
                message_id = sender::SPOOL_DAMAGED,
                lost,
                "the intake {} of a newer version was damaged: lost {}, which count as corrupt; the rest is queued",
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
        let what = count_of(taken, "datagram");
        tracing::info!(datagrams = taken, "took {what} into the queue that a newer version had left");
    }
    if let Some(needs) = stays.first() {
        let files = count_of(u64::try_from(stays.len()).unwrap_or(u64::MAX), "file");
        tell_newer(format_args!("{files} in the spool"), NEWER_DIRECTORY, needs);
    }
    Ok(())
}

/// Counts what was lost with damaged pieces of `file` in `newer/`, and logs it.
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
        "{file:?} of the spool, which a newer nf-sender wrote, is damaged: {} cannot be read, and {at_least}{} in them \
         are lost{number}; they count as corrupt, and {rest}; the damaged bytes are kept in the directory 'damaged'; \
         check the disk",
        count_of(bytes, "byte"),
        count_of(datagrams, "datagram"),
    );
}
