//! Recovers the previous run: the spool, the ring of the receive journal, and the numbering.
//!
//! The receive journal shows which positions were assigned, if the machine was not rebooted since. Otherwise
//! the `stream` file shows it, if the last run stopped in order. Otherwise the numbering skips so far ahead
//! that no position can be assigned twice, and the skipped range is an `unused` gap.

mod lost_journal;
mod newer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lost_journal::LostJournal;
use nf_transport_core::limits::POSITIONS_PER_RUN;
use nf_transport_core::secure::{KeyError, KeyId, SpoolKeys, StreamKey};
use nf_transport_core::sequence::{Gap, GapReason, Position, RunId, StreamId};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{self, LastRun, OwnStream, Policy, Spool, StreamSecret, Survey};

use crate::host::files::atomic_file;
use crate::host::systemd::messages::sender;
use crate::host::{DaemonError, wall_clock};
use crate::sender::journal::{
    self, JournalLocation, JournalState, PreviousRun, ReceiveJournal, Ring, RingEntry, SlotEntry, Slots,
};
use crate::sender::queue::Queue;
use crate::sender::queue::last_run::RunStart;
use crate::sender::queue::ledger::Ledger;
use crate::status::count_of;

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
        "{}: an earlier run without spool.encrypt left datagrams in this file: start once without spool.encrypt and \
         stop in order, which moves them; nothing was changed",
        path.display()
    )]
    UnencryptedJournal {
        /// The journal.
        path: PathBuf,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecoveryError {
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

/// The state with which a run starts.
#[derive(Debug)]
pub(crate) struct Recovered {
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
) -> Result<Recovered, RecoveryError> {
    let disk = Directory::open(directory).map_err(failed("open the spool directory", directory))?;
    let unreadable = || failed("read the spool directory", directory);
    let survey = spool::survey(disk).map_err(unreadable())?;
    check_keys(directory, &survey, keys)?;
    let path = journal_path(directory, runtime_directory, keys)?;
    let new = StreamKey::generate()?;
    let mut opened = survey.take_up(own_stream(&new), policy).map_err(unreadable())?;
    let stream = opened.spool.stream();
    let boot = journal::boot_id().map_err(failed("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
    let newer = match &path {
        Some(path) => move_newer_away(path)?,
        None => NewerJournal::None,
    };
    let OpenedJournal { mut journal, place, found, is_copy } =
        open_journal(path.as_deref(), &newer, stream, boot)?;
    let any_previous = match found {
        JournalState::Intact(left) => Some(left),
        JournalState::New | JournalState::Damaged => None,
    };
    let left = any_previous.filter(|left| is_current(left, &opened));
    let trusted = left.as_ref().filter(|left| left.same_boot);

    let acknowledged = match (trusted, opened.last_run) {
        (Some(left), _) => Some(left.acknowledged),
        (None, Some(LastRun::Orderly { acknowledged, .. })) => Some(acknowledged),
        (None, _) => None,
    };
    if let Some(left) = trusted {
        // The disk may have rejected copies until that run was killed.
        opened.spool.keep_passed(left.acknowledged, &opened.copied);
    }
    opened.spool.acknowledge(acknowledged.unwrap_or_default());
    let acknowledged_there = any_previous.map(|left| left.acknowledged);
    let known = [opened.spool.end(), acknowledged, acknowledged_there];
    let floor = known.into_iter().flatten().max().unwrap_or_default();
    let was_cut_short = matches!(opened.last_run, Some(LastRun::CutShort { .. }));
    // An untrusted checkpoint does not make the ring useless: the receiver drops repeated datagrams.
    let entries = if left.is_some() || (was_cut_short && found != JournalState::New) {
        journal.recover_ring(stream, left.is_some(), floor)
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
        trusted.map(|left| left.next),
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
        let taken_in = newer::take_in(&mut opened.spool, &mut ledger, keys, path.as_deref());
        if let Err(error) = taken_in {
            let directory = directory.display();
            tracing::error!(%error, "{directory}: cannot recover the data of a newer version: {error}; it stays there");
        }
    }
    let (stream_key, is_abandoned) = stream_key(&mut opened.spool, new);
    begin_run(directory, &mut opened.spool, &journal.checkpoint, &ledger, start, boot);
    log_recovery(&opened, &ledger, &entries);

    let queue =
        Queue::new(ledger, opened.spool, stream_key, entries, journal.checkpoint.clone(), keys.clone());
    if is_abandoned {
        queue.note_abandoned_stream();
    }
    Ok(Recovered {
        queue: Arc::new(queue),
        stream,
        ring: journal.ring,
        slots: journal.slots,
        checkpoint: journal.checkpoint,
        slots_done,
        location: Arc::new(place),
    })
}

/// Records a run that numbers datagrams from `start` on. The order matters: after a kill between any two
/// steps, the next start recognizes the journal as that of the last run, and trusts it only if its checkpoint
/// is valid.
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
            "{}: cannot write the file 'stream': {error}; nf-sender continues and tries again",
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

/// Returns the path of the journal. Its content is unencrypted, so with an encrypted spool it is never in the
/// spool directory. Without a runtime directory it is then in memory, which `None` stands for.
fn journal_path(
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
                    "{}: a run without a runtime directory left this file, which may hold unencrypted datagrams; it is not \
                     used any more: remove it",
                    in_spool.display()
                );
            }
            Ok(Some(runtime_directory.join("intake")))
        }
        None if is_bare => Err(RecoveryError::UnencryptedJournal { path: in_spool }),
        None if keys.seals() => {
            tracing::warn!(
                "no runtime directory in memory (RUNTIME_DIRECTORY): received datagrams that are not yet encrypted stay in \
                 the memory of this process; kill -9 would lose them"
            );
            Ok(None)
        }
        None => Ok(Some(in_spool)),
    }
}

/// A journal of a newer version at the path of the journal.
enum NewerJournal {
    /// There is none.
    None,
    /// It was moved away.
    Moved,
    /// It cannot be moved, for this reason, and must not be changed.
    Stays(io::Error),
}

/// Moves the journal at `path` away if a newer version left it.
fn move_newer_away(path: &Path) -> Result<NewerJournal, RecoveryError> {
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
struct OpenedJournal {
    journal: ReceiveJournal,
    place: JournalLocation,
    found: JournalState,
    /// It is a copy in memory of a file that cannot be written.
    is_copy: bool,
}

/// Opens the journal at `path`. Without a path, or if the disk has no room, creates it in memory: the queue
/// must drain in any case.
fn open_journal(
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
            place: JournalLocation::memory(reason),
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
            "{reason}; the receive journal is in memory now: kill -9 would lose datagrams that are not yet in the spool; \
             make it possible to rename that file, and restart"
        );
        return in_memory(reason);
    }
    match ReceiveJournal::open(path, stream, boot) {
        Ok((journal, found)) => Ok(OpenedJournal {
            journal,
            place: JournalLocation::file(path.to_owned()),
            found,
            is_copy: false,
        }),
        Err(error) if has_no_room(&error) => {
            tracing::error!(
                message_id = sender::JOURNAL_IN_MEMORY,
                %error,
                "no room for the receive journal {}: {error}; it is in memory now: kill -9 would lose received datagrams \
                 that are not yet in the spool; free space and restart nf-sender",
                path.display()
            );
            let reason = format!("no room for {}: {error}", path.display());
            match ReceiveJournal::copy_to_memory(path, stream, boot) {
                Ok((journal, found)) => Ok(OpenedJournal {
                    journal,
                    place: JournalLocation::memory(reason),
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

/// Returns `true` if the journal is that of the last run. A journal of an earlier run is found if a later run
/// had its own elsewhere or in memory. It knows no more than the `stream` file.
fn is_current(left: &PreviousRun, opened: &spool::Opened<Directory>) -> bool {
    let known = match opened.last_run {
        Some(LastRun::CutShort { start }) => start,
        Some(LastRun::Orderly { next, .. }) => next,
        None => return false,
    };
    let last = opened.spool.lineage().run();
    let is_of_last = [left.run, last].contains(&RunId::NONE) || left.run == last;
    left.next > known || (is_of_last && left.next == known)
}

/// The positions with which a run starts.
#[derive(Debug, PartialEq, Eq)]
struct Numbering {
    acknowledged: Position,
    next: Position,
    /// Positions from `acknowledged` to `next` that neither spool nor ring has.
    gaps: Vec<Gap>,
}

impl Numbering {
    fn derive(
        acknowledged: Option<Position>,
        spool: Option<(Position, Position)>,
        entries: &[RingEntry],
        trusted_next: Option<Position>,
        last_run: Option<LastRun>,
        newer: Option<Position>,
    ) -> Self {
        let mut runs: Vec<(Position, Position)> = Vec::from_iter(spool);
        runs.extend(entries.iter().map(|entry| (entry.batch.first(), entry.batch.end())));
        let known_end = runs.last().map_or(Position(0), |(_, end)| *end);
        let next = match (trusted_next, last_run) {
            (Some(next), _) | (None, Some(LastRun::Orderly { next, .. })) => next.max(known_end),
            (None, Some(LastRun::CutShort { start })) => start.max(known_end).plus(POSITIONS_PER_RUN),
            (None, None) => known_end,
        };
        let first = runs.first().map_or(next, |(first, _)| *first);
        let acknowledged = acknowledged.unwrap_or(first).min(next);
        // Positions below the start of a run were skipped by an earlier start.
        let leap_to = match (trusted_next, last_run) {
            (Some(_), Some(LastRun::CutShort { start })) => start,
            (None, Some(LastRun::CutShort { .. })) => next,
            _ => Position(0),
        };
        let mut gaps = Vec::new();
        let mut at = acknowledged;
        runs.push((next, next));
        for (first, end) in runs {
            // Data of a newer version at the end is kept apart, and its positions are not used any more.
            let leap_to = if newer.is_some_and(|newer| newer <= at) { first } else { leap_to };
            let leapt = leap_to.max(at).min(first);
            gaps.push(Gap { first: at, end: leapt, reason: GapReason::Unused });
            gaps.push(Gap { first: leapt, end: first, reason: GapReason::Corrupt });
            at = at.max(end);
        }
        gaps.retain(|gap| gap.first < gap.end);
        Self { acknowledged, next, gaps }
    }
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
            "the last segment ended with an incomplete batch of {} bytes; it is kept in the directory 'damaged'",
            opened.torn
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(position: u64) -> Position {
        Position(position)
    }

    fn gap(first: u64, end: u64, reason: GapReason) -> Gap {
        Gap { first: at(first), end: at(end), reason }
    }

    const KILLED: Option<LastRun> = Some(LastRun::CutShort { start: at(50) });

    #[test]
    fn a_first_run_starts_at_zero() {
        let numbering = Numbering::derive(None, None, &[], None, None, None);
        assert_eq!(numbering, Numbering { acknowledged: at(0), next: at(0), gaps: vec![] });
    }

    #[test]
    fn after_a_kill_the_journal_has_the_numbers() {
        let numbering =
            Numbering::derive(Some(at(70)), Some((at(60), at(90))), &[], Some(at(90)), KILLED, None);
        assert_eq!(numbering, Numbering { acknowledged: at(70), next: at(90), gaps: vec![] });
    }

    #[test]
    fn numbered_datagrams_that_are_missing_are_corrupt() {
        let numbering =
            Numbering::derive(Some(at(70)), Some((at(75), at(90))), &[], Some(at(99)), KILLED, None);
        let gaps = vec![gap(70, 75, GapReason::Corrupt), gap(90, 99, GapReason::Corrupt)];
        assert_eq!(numbering, Numbering { acknowledged: at(70), next: at(99), gaps });
    }

    #[test]
    fn after_a_power_loss_the_numbering_skips_ahead() {
        let numbering = Numbering::derive(None, Some((at(60), at(90))), &[], None, KILLED, None);
        let next = 90 + POSITIONS_PER_RUN;
        let gaps = vec![gap(90, next, GapReason::Unused)];
        assert_eq!(numbering, Numbering { acknowledged: at(60), next: at(next), gaps });
        let nothing_held = Numbering::derive(None, None, &[], None, KILLED, None);
        let next = at(50 + POSITIONS_PER_RUN);
        assert_eq!(nothing_held, Numbering { acknowledged: next, next, gaps: vec![] });
    }

    #[test]
    fn skipped_positions_stay_unused_after_a_kill() {
        let last_run = Some(LastRun::CutShort { start: at(1000) });
        let numbering =
            Numbering::derive(Some(at(60)), Some((at(60), at(90))), &[], Some(at(1010)), last_run, None);
        let gaps = vec![gap(90, 1000, GapReason::Unused), gap(1000, 1010, GapReason::Corrupt)];
        assert_eq!(numbering, Numbering { acknowledged: at(60), next: at(1010), gaps });
    }

    #[test]
    fn an_orderly_stop_leaves_exact_numbers() {
        let last_run = Some(LastRun::Orderly { acknowledged: at(70), next: at(90) });
        let numbering = Numbering::derive(Some(at(70)), None, &[], None, last_run, None);
        let gaps = vec![gap(70, 90, GapReason::Corrupt)];
        assert_eq!(numbering, Numbering { acknowledged: at(70), next: at(90), gaps });
    }

    #[test]
    fn data_of_a_newer_version_is_not_lost() {
        let last_run = Some(LastRun::Orderly { acknowledged: at(40), next: at(90) });
        let numbering =
            Numbering::derive(Some(at(40)), Some((at(50), at(70))), &[], None, last_run, Some(at(70)));
        let gaps = vec![gap(40, 50, GapReason::Corrupt), gap(70, 90, GapReason::Unused)];
        assert_eq!(numbering, Numbering { acknowledged: at(40), next: at(90), gaps });
    }
}
