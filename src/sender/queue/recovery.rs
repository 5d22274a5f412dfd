//! Recovers the previous run: the spool, the ring of the receive journal, and the numbering.
//!
//! The receive journal shows which positions were assigned, if the machine was not rebooted since. Otherwise
//! the `stream` file shows it, if the last run ended with an orderly stop. Otherwise the numbering skips so
//! far ahead that no position can be assigned twice, and the skipped range is an `unused` gap.

pub(crate) mod error;
mod lost_journal;
mod newer;
mod numbering;
mod opened_journal;

use std::path::Path;
use std::sync::Arc;

use error::{RecoveryError, failed};
use lost_journal::LostJournal;
use nf_transport_core::secure::{SpoolKeys, StreamKey};
use nf_transport_core::sequence::{GapReason, Position, RunId, StreamId};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{self, LastRun, OwnStream, Policy, Spool, StreamSecret, Survey};
use numbering::{Numbering, is_current};
use opened_journal::{NewerJournal, OpenedJournal, journal_path, move_newer_away, open_journal};

use crate::host::files::atomic_file;
use crate::host::systemd::messages::sender;
use crate::host::wall_clock;
use crate::sender::journal::{self, JournalLocation, JournalState, Ring, RingEntry, SlotEntry, Slots};
use crate::sender::queue::Queue;
use crate::sender::queue::last_run::RunStart;
use crate::sender::queue::ledger::Ledger;
use crate::status::count_of;

/// The state with which a run starts.
#[derive(Debug)]
pub(crate) struct RecoveredRun {
    pub(crate) queue: Arc<Queue>,
    pub(crate) stream: StreamId,
    pub(crate) ring: Ring,
    pub(crate) slots: Slots,
    pub(crate) checkpoint: Arc<journal::Checkpoint>,
    /// The number of datagrams of the slots that are in the ring already; `None` if the slots hold nothing to
    /// recover.
    pub(crate) slots_done: Option<u64>,
    /// The location of the receive journal.
    pub(crate) location: Arc<JournalLocation>,
}

/// Recovers the spool in `directory`, which this process owns. Changes nothing there before `keys` are known
/// to be the right ones.
pub(crate) fn recover(
    directory: &Path,
    runtime_directory: Option<&Path>,
    policy: Policy,
    keys: &Arc<SpoolKeys>,
) -> Result<RecoveredRun, RecoveryError> {
    let disk = Directory::open(directory).map_err(failed("open the spool directory", directory))?;
    let unreadable = || failed("read the spool directory", directory);
    let survey = spool::survey(disk).map_err(unreadable())?;
    check_keys(directory, &survey, keys)?;
    let path = journal_path(directory, runtime_directory, keys)?;
    let new = StreamKey::generate()?;
    let mut opened = survey.recover(own_stream(&new), policy).map_err(unreadable())?;
    let stream = opened.spool.stream();
    let boot = journal::boot_id().map_err(failed("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
    let newer = match &path {
        Some(path) => move_newer_away(path)?,
        None => NewerJournal::None,
    };
    let OpenedJournal { mut journal, location, found, is_copy } =
        open_journal(path.as_deref(), &newer, stream, boot)?;
    let any_previous = match found {
        JournalState::Intact(previous) => Some(previous),
        JournalState::New | JournalState::Damaged => None,
    };
    let previous = any_previous.filter(|previous| is_current(previous, &opened));
    let trusted = previous.as_ref().filter(|previous| previous.same_boot);

    let acknowledged = match (trusted, opened.last_run) {
        (Some(previous), _) => Some(previous.acknowledged),
        (None, Some(LastRun::Orderly { acknowledged, .. })) => Some(acknowledged),
        (None, _) => None,
    };
    if let Some(previous) = trusted {
        // The disk may have rejected copies until that run was killed.
        opened.spool.preserve_passed(previous.acknowledged, &opened.copied);
    }
    opened.spool.acknowledge(acknowledged.unwrap_or_default());
    let acknowledged_there = any_previous.map(|previous| previous.acknowledged);
    let known = [opened.spool.end(), acknowledged, acknowledged_there];
    let floor = known.into_iter().flatten().max().unwrap_or_default();
    let was_cut_short = matches!(opened.last_run, Some(LastRun::CutShort { .. }));
    // An untrusted checkpoint does not make the ring useless: the receiver drops repeated datagrams.
    let entries = if previous.is_some() || (was_cut_short && found != JournalState::New) {
        journal.recover_ring(stream, previous.is_some(), floor)
    } else {
        journal.reset_ring();
        Vec::new()
    };
    // A spool that was wiped, or never recorded its run, does not show that there was one. The journal does.
    let was_forgotten = opened.last_run.is_none() && found == JournalState::Damaged;
    if (was_cut_short || was_forgotten)
        && (trusted.is_none() || is_copy)
        && matches!(newer, NewerJournal::None)
    {
        let lost = LostJournal {
            path: path.as_deref(),
            found,
            is_trusted: trusted.is_some(),
            began: RunStart::read(directory),
            boot,
            newest: opened.newest,
            salvaged: entries.iter().map(|entry| u64::from(entry.batch.datagrams())).sum(),
        };
        lost.log();
    }

    let numbering = Numbering::derive(
        acknowledged,
        opened.spool.first().zip(opened.spool.end()),
        &entries,
        trusted.map(|previous| previous.next),
        opened.last_run,
        opened.newer,
    );
    let slots_done = trusted.map(|_| numbering.next.since(journal.checkpoint.slots_first()));
    if slots_done.is_none() {
        journal.slots.clear();
        // An old checkpoint must not be trusted with the record of the new run.
        journal.checkpoint.set_boot([0; 16]);
    }
    let mut ledger = make_ledger(&numbering, &opened);
    for gap in &numbering.gaps {
        if opened.spool.end() == Some(gap.first) {
            opened.spool.record_gap(*gap);
        }
    }
    // Datagrams recovered below belong to this run: no earlier run can have sent them.
    let start = ledger.next();
    let is_at_end = opened.spool.end().is_none_or(|end| end == ledger.next());
    if entries.is_empty() && slots_done.is_none_or(|_| journal.slots.get(0) == SlotEntry::Empty) && is_at_end
    {
        newer::recover(directory, &mut opened.spool, &mut ledger, keys, path.as_deref());
    }
    let (stream_key, is_abandoned) = stream_key(&mut opened.spool, new);
    begin_run(directory, &mut opened.spool, &journal.checkpoint, &ledger, start, boot);
    log_recovery(&opened, &ledger, &entries);

    let queue =
        Queue::new(ledger, opened.spool, stream_key, entries, journal.checkpoint.clone(), keys.clone());
    if is_abandoned {
        queue.note_abandoned_stream();
    }
    Ok(RecoveredRun {
        queue: Arc::new(queue),
        stream,
        ring: journal.ring,
        slots: journal.slots,
        checkpoint: journal.checkpoint,
        slots_done,
        location: Arc::new(location),
    })
}

/// Records a run that numbers datagrams from `start` on. The order matters, as a kill may come between any
/// two steps. The next start then recognizes the journal as that of the last run. It trusts the journal only
/// if the checkpoint is valid.
fn begin_run(
    directory: &Path,
    spool: &mut Spool<Directory>,
    checkpoint: &journal::Checkpoint,
    ledger: &Ledger,
    start: Position,
    boot: [u8; 16],
) {
    checkpoint.set_run(RunId::NONE);
    checkpoint.set_acknowledged(ledger.acknowledged());
    checkpoint.set_next(ledger.next());
    let run = RunId(random_id());
    match spool.begin_run(run, start) {
        Ok(()) => checkpoint.set_run(run),
        Err(error) => tracing::error!(
            message_id = sender::SPOOL_FAILS,
            %error,
            "{}: cannot write the file 'stream': {error}; continuing, and trying again",
            directory.display()
        ),
    }
    if let Err(error) = atomic_file::remove_unfinished(directory) {
        tracing::debug!(%error, "cannot remove unfinished files of the spool: {error}");
    }
    if let Err(error) = (RunStart { boot, at: wall_clock() }).write(directory) {
        tracing::debug!(%error, "cannot write the file 'boot' of the spool: {error}");
    }
    checkpoint.set_boot(boot);
}

/// Checks that the oldest and the newest segment can be read with `keys`. Segments in between have one of
/// their keys, or wait for their key when the uplink reaches them.
fn check_keys(path: &Path, survey: &Survey<Directory>, keys: &SpoolKeys) -> Result<(), RecoveryError> {
    let Some(missing) = survey.samples().iter().find_map(|batch| keys.missing(batch)) else {
        return Ok(());
    };
    let ids: Vec<String> = keys.ids().map(|id| id.to_string()).collect();
    let given = if ids.is_empty() {
        "no key is given for it".to_owned()
    } else {
        format!("the keys given for it are {}", ids.join(" and "))
    };
    Err(RecoveryError::KeyMissing { path: path.to_owned(), missing, given })
}

/// Returns the secret of the stream that the spool is sent as. If it is lost, the spool becomes the stream of
/// `new`, and the second value is `true`.
fn stream_key(spool: &mut Spool<Directory>, new: StreamKey) -> (StreamKey, bool) {
    if let Some(kept) = kept_key(spool) {
        return (kept, false);
    }
    spool.abandon_stream(own_stream(&new));
    (new, true)
}

/// Returns the stored secret of the stream; `None` if it is missing or belongs to another stream.
fn kept_key(spool: &Spool<Directory>) -> Option<StreamKey> {
    let lineage = spool.lineage();
    let key = StreamKey::new(lineage.secret()?.0.clone()).ok()?;
    (key.id() == lineage.sent_as()).then_some(key)
}

/// Returns the stream of `key`, in the form that the spool stores.
pub(crate) fn own_stream(key: &StreamKey) -> OwnStream {
    OwnStream { id: key.id(), secret: StreamSecret(key.seed().clone()) }
}

fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    // Without randomness two spools could share an id. Process id and time make that unlikely.
    if getrandom::fill(&mut id).is_err() {
        id = (u128::from(wall_clock().0) << 64 | u128::from(std::process::id())).to_be_bytes();
    }
    id
}

/// Creates a ledger that counts all expected datagrams as recovered, and those found missing now as corrupt.
/// Recorded gaps were counted by the run that recorded them. Data kept apart is not in the queue.
fn make_ledger(numbering: &Numbering, opened: &spool::Opened<Directory>) -> Ledger {
    let on_record = opened.spool.gaps().filter(|gap| !opened.missing.contains(gap));
    let leaps = numbering.gaps.iter().filter(|gap| gap.reason == GapReason::Unused).copied();
    let apart = on_record.chain(leaps).chain(opened.copied.iter().copied());
    let mut ledger = Ledger::new(numbering.acknowledged, numbering.next, apart, opened.spool.thinned());
    for gap in opened.missing.iter().chain(&numbering.gaps) {
        ledger.lose(*gap);
    }
    ledger
}

fn log_recovery(opened: &spool::Opened<Directory>, ledger: &Ledger, entries: &[RingEntry]) {
    let counts = ledger.counts();
    if counts.recovered > 0 {
        let segments = opened.spool.segments();
        let from_memory: u64 = entries.iter().map(|entry| u64::from(entry.batch.datagrams())).sum();
        let from_disk = counts.recovered.saturating_sub(from_memory);
        tracing::info!(
            datagrams = counts.recovered,
            segments,
            from_memory,
            "recovered {} from the previous run ({from_disk} from disk, {from_memory} from memory)",
            count_of(counts.recovered, "datagram")
        );
    }
    if counts.corrupt > 0 {
        tracing::error!(
            datagrams = counts.corrupt,
            "part of the spool is missing: {} in it are lost; the rest is delivered",
            count_of(counts.corrupt, "datagram")
        );
    }
    if opened.torn > 0 {
        tracing::warn!(
            bytes = opened.torn,
            "the last segment ended with an incomplete batch of {} bytes; it is kept in the directory \
             'damaged'",
            opened.torn
        );
    }
}
