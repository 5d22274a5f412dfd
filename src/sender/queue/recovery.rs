//! Takes up what the last run left: the spool, the intake's ring, and the numbering.
//!
//! Which positions were given out is known from the intake, if the machine was not booted since; else from the
//! `stream` file, if the last run stopped in order. Else the numbering leaps so far ahead that no position can
//! have been given out twice, and the leap is an `unused` gap.

mod lost_intake;
mod newer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lost_intake::LostIntake;
use nf_transport_core::limits::POSITIONS_PER_RUN;
use nf_transport_core::secure::{KeyError, KeyId, SpoolKeys, StreamKey};
use nf_transport_core::sequence::{Gap, GapReason, Position, RunId, StreamId};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{self, LastRun, OwnStream, Policy, Spool, StreamSecret, Survey};

use crate::host::files::atomic_file;
use crate::host::systemd::messages::sender;
use crate::host::{DaemonError, wall_clock};
use crate::sender::journal::{self, Entry, Found, Held, Intake, Left, Place, Ring, Slots};
use crate::sender::queue::Queue;
use crate::sender::queue::last_run::Began;
use crate::sender::queue::ledger::Ledger;
use crate::status::count_of;

/// Why nf-sender cannot take up its spool. What is there stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    /// The system says no.
    #[error("cannot {action} {path}: {cause}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// No secret for a new stream can be made.
    #[error("cannot make the secret of a stream: {0}")]
    Secret(#[from] KeyError),
    /// The spool cannot be read with the keys that are given.
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
        /// The keys that are there, in words.
        given: String,
    },
    /// Datagrams of a run without encryption lie where encryption is asked for.
    #[error(
        "{}: datagrams that an earlier run without spool.encrypt left are still here: start once without it and stop \
         in order, which moves them; nothing was changed",
        path.display()
    )]
    BareIntake {
        /// The intake.
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
            RecoveryError::KeyMissing { .. } | RecoveryError::BareIntake { .. } => Self::configuration(error),
        }
    }
}

/// All that a run starts with.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) queue: Arc<Queue>,
    pub(crate) stream: StreamId,
    pub(crate) ring: Ring,
    pub(crate) slots: Slots,
    pub(crate) marks: Arc<journal::Marks>,
    /// How many datagrams of the slots are in the ring already; `None` if the slots hold nothing to take up.
    pub(crate) slots_done: Option<u64>,
    /// Where the intake is.
    pub(crate) intake: Arc<Place>,
}

/// Takes up the spool in `directory`, which this process owns. Nothing is changed there before it is known that
/// `keys` are the right ones.
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
    let path = intake_path(directory, runtime_directory, keys)?;
    let new = StreamKey::generate()?;
    let mut opened = survey.recover(own_stream(&new), policy).map_err(unreadable())?;
    let stream = opened.spool.stream();
    let boot = journal::boot_id().map_err(failed("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
    let newer = match &path {
        Some(path) => move_newer_away(path)?,
        None => NewerIntake::None,
    };
    let OpenedIntake { mut intake, place, found, is_copy } =
        open_intake(path.as_deref(), &newer, stream, boot)?;
    let any_left = match found {
        Found::Left(left) => Some(left),
        Found::New | Found::Damaged => None,
    };
    let left = any_left.filter(|left| is_current(left, &opened));
    let trusted = left.as_ref().filter(|left| left.same_boot);

    let acknowledged = match (trusted, opened.last_run) {
        (Some(left), _) => Some(left.acknowledged),
        (None, Some(LastRun::Orderly { acknowledged, .. })) => Some(acknowledged),
        (None, _) => None,
    };
    if let Some(left) = trusted {
        // The disk may have refused copies until that run was killed.
        opened.spool.preserve_passed(left.acknowledged, &opened.copied);
    }
    opened.spool.acknowledge(acknowledged.unwrap_or_default());
    let acknowledged_there = any_left.map(|left| left.acknowledged);
    let known = [opened.spool.end(), acknowledged, acknowledged_there];
    let floor = known.into_iter().flatten().max().unwrap_or_default();
    let was_cut_short = matches!(opened.last_run, Some(LastRun::CutShort { .. }));
    // Marks that cannot be believed do not make the ring useless: what a receiver has of it is a repeat, which it drops.
    let held = if left.is_some() || (was_cut_short && found != Found::New) {
        intake.recover_ring(stream, left.is_some(), floor)
    } else {
        intake.forget_ring();
        Vec::new()
    };
    // A spool that was wiped, or never recorded its run, does not say that there was one: the intake does.
    let was_forgotten = opened.last_run.is_none() && found == Found::Damaged;
    if (was_cut_short || was_forgotten)
        && (trusted.is_none() || is_copy)
        && matches!(newer, NewerIntake::None)
    {
        let lost = LostIntake {
            path: path.as_deref(),
            found,
            is_believed: trusted.is_some(),
            began: Began::read(directory),
            boot,
            newest: opened.newest,
            salvaged: held.iter().map(|held| u64::from(held.batch.datagrams())).sum(),
        };
        lost.log();
    }

    let numbering = Numbering::work_out(
        acknowledged,
        opened.spool.first().zip(opened.spool.end()),
        &held,
        trusted.map(|left| left.next),
        opened.last_run,
        opened.newer,
    );
    let slots_done = trusted.map(|_| numbering.next.since(intake.marks.slots_first()));
    if slots_done.is_none() {
        intake.slots.clear();
        // Old marks must not be believed with the record of the run that begins.
        intake.marks.set_boot([0; 16]);
    }
    let mut ledger = make_ledger(&numbering, &opened);
    for gap in &numbering.gaps {
        if opened.spool.end() == Some(gap.first) {
            opened.spool.record_gap(*gap);
        }
    }
    // What is taken in below belongs to this run: no run before it can have sent it.
    let start = ledger.next();
    let is_at_end = opened.spool.end().is_none_or(|end| end == ledger.next());
    if held.is_empty() && slots_done.is_none_or(|_| intake.slots.get(0) == Entry::Empty) && is_at_end {
        let taken_in = newer::take_in(&mut opened.spool, &mut ledger, keys, path.as_deref());
        if let Err(error) = taken_in {
            let directory = directory.display();
            tracing::error!(%error, "{directory}: cannot take in what a newer version left: {error}; it stays there");
        }
    }
    let (stream_key, is_abandoned) = stream_key(&mut opened.spool, new);
    begin_run(directory, &mut opened.spool, &intake.marks, &ledger, start, boot);
    tell(&opened, &ledger, &held);

    let queue = Queue::new(ledger, opened.spool, stream_key, held, intake.marks.clone(), keys.clone());
    if is_abandoned {
        queue.note_abandoned_stream();
    }
    Ok(Recovered {
        queue: Arc::new(queue),
        stream,
        ring: intake.ring,
        slots: intake.slots,
        marks: intake.marks,
        slots_done,
        intake: Arc::new(place),
    })
}

/// Records a run that numbers datagrams from `start` on. In this order, so that a kill between any two steps leaves an intake
/// that the next start knows as the last run's, and believes only if its marks are right.
fn begin_run(
    directory: &Path,
    spool: &mut Spool<Directory>,
    marks: &journal::Marks,
    ledger: &Ledger,
    start: Position,
    boot: [u8; 16],
) {
    marks.set_run(RunId::NONE);
    marks.set_acknowledged(ledger.acknowledged());
    marks.set_next(ledger.next());
    let run = RunId(random_id());
    match spool.begin_run(run, start) {
        Ok(()) => marks.set_run(run),
        Err(error) => tracing::error!(
            message_id = sender::SPOOL_FAILS,
            %error,
            "{}: cannot write the file 'stream': {error}; going on, and trying again",
            directory.display()
        ),
    }
    if let Err(error) = atomic_file::remove_unfinished(directory) {
        tracing::debug!(%error, "cannot remove unfinished files of the spool: {error}");
    }
    if let Err(error) = (Began { boot, at: wall_clock() }).write(directory) {
        tracing::debug!(%error, "cannot write the file 'boot' of the spool: {error}");
    }
    marks.set_boot(boot);
}

/// Whether the oldest and the newest segment can be read with `keys`. What lies between was written with one of
/// theirs, or is waited for when it is reached.
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

/// Where the intake is to be. What lies in it is in clear, so that with an encrypted spool it is never in the spool
/// directory: without a runtime directory it is in memory then, which `None` stands for.
fn intake_path(
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
                    "{}: a run without a runtime directory left this file, which may hold datagrams \
                     in clear; it is not used any more: remove it",
                    in_spool.display()
                );
            }
            Ok(Some(runtime_directory.join("intake")))
        }
        None if is_bare => Err(RecoveryError::BareIntake { path: in_spool }),
        None if keys.seals() => {
            tracing::warn!(
                "without a runtime directory in memory (RUNTIME_DIRECTORY), what is received and not \
                 yet encrypted stays in this process: kill -9 would lose it"
            );
            Ok(None)
        }
        None => Ok(Some(in_spool)),
    }
}

/// An intake that a newer version left at the place of this run's.
enum NewerIntake {
    /// There is none.
    None,
    /// It is out of the way.
    Moved,
    /// It cannot be moved, for this reason: nothing may touch it.
    Stays(io::Error),
}

/// Moves the intake at `path` away if a newer version left it.
fn move_newer_away(path: &Path) -> Result<NewerIntake, RecoveryError> {
    match newer::move_intake_away(path) {
        Ok(true) => Ok(NewerIntake::Moved),
        Ok(false) => Ok(NewerIntake::None),
        Err(error) if has_no_room(&error) || error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(NewerIntake::Stays(error))
        }
        Err(error) => Err(failed("move away the intake of a newer version", path)(error)),
    }
}

/// The intake of a run that begins.
struct OpenedIntake {
    intake: Intake,
    place: Place,
    found: Found,
    /// Whether it is a copy in memory of a file that cannot be written.
    is_copy: bool,
}

/// Opens the intake at `path`; one in memory without a path, and where the disk has no room for it, as the queue must drain
/// all the same.
fn open_intake(
    path: Option<&Path>,
    newer: &NewerIntake,
    stream: StreamId,
    boot: [u8; 16],
) -> Result<OpenedIntake, RecoveryError> {
    let in_memory = |reason: String| {
        let intake = Intake::in_memory(stream).map_err(failed("make in memory", Path::new("intake")))?;
        Ok(OpenedIntake { intake, place: Place::memory(reason), found: Found::New, is_copy: false })
    };
    let Some(path) = path else {
        return in_memory(
            "the spool is encrypted, and there is no runtime directory (RUNTIME_DIRECTORY)".to_owned(),
        );
    };
    if let NewerIntake::Stays(error) = newer {
        let reason = format!("the intake of a newer nf-sender stays at {}: {error}", path.display());
        tracing::error!(
            message_id = sender::INTAKE_IN_MEMORY,
            "{reason}; the intake is in memory now: kill -9 would lose datagrams that are not yet in the spool; make it \
             possible to rename that file, and restart"
        );
        return in_memory(reason);
    }
    match Intake::open(path, stream, boot) {
        Ok((intake, found)) => {
            Ok(OpenedIntake { intake, place: Place::file(path.to_owned()), found, is_copy: false })
        }
        Err(error) if has_no_room(&error) => {
            tracing::error!(
                message_id = sender::INTAKE_IN_MEMORY,
                %error,
                "no room for the intake {}: {error}; it is in memory now: kill -9 would lose what is received and not \
                 yet in the spool; make room and restart",
                path.display()
            );
            let reason = format!("no room for {}: {error}", path.display());
            match Intake::copied(path, stream, boot) {
                Ok((intake, found)) => {
                    Ok(OpenedIntake { intake, place: Place::memory(reason), found, is_copy: true })
                }
                Err(_) => in_memory(reason),
            }
        }
        Err(error) => Err(failed("make the intake", path)(error)),
    }
}

fn has_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull, Unsupported};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | Unsupported)
}

/// The secret of the stream that the spool is sent as. If that is lost, the spool becomes the stream of `new`, and the second value is `true`.
fn stream_key(spool: &mut Spool<Directory>, new: StreamKey) -> (StreamKey, bool) {
    if let Some(kept) = kept_key(spool) {
        return (kept, false);
    }
    spool.abandon_stream(own_stream(&new));
    (new, true)
}

/// The secret of the stream that the spool is sent as; `None` if it is not there, or that of another stream.
fn kept_key(spool: &Spool<Directory>) -> Option<StreamKey> {
    let lineage = spool.lineage();
    let key = StreamKey::new(lineage.secret()?.0.clone()).ok()?;
    (key.id() == lineage.sent_as()).then_some(key)
}

/// The stream of `key`, as the spool keeps it.
pub(crate) fn own_stream(key: &StreamKey) -> OwnStream {
    OwnStream { id: key.id(), secret: StreamSecret(key.seed().clone()) }
}

fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    // Without randomness two spools could share an id; the process id and the time keep that unlikely.
    if getrandom::fill(&mut id).is_err() {
        id = (u128::from(wall_clock().0) << 64 | u128::from(std::process::id())).to_be_bytes();
    }
    id
}

/// Whether the intake is the last run's. One of an earlier run is found where a later run had its own elsewhere, or in
/// memory. It knows no more than the `stream` file.
fn is_current(left: &Left, opened: &spool::Opened<Directory>) -> bool {
    let known = match opened.last_run {
        Some(LastRun::CutShort { start }) => start,
        Some(LastRun::Orderly { next, .. }) => next,
        None => return false,
    };
    let last = opened.spool.lineage().run();
    let is_of_last = [left.run, last].contains(&RunId::NONE) || left.run == last;
    left.next > known || (is_of_last && left.next == known)
}

/// Which positions a run starts with.
#[derive(Debug, PartialEq, Eq)]
struct Numbering {
    acknowledged: Position,
    next: Position,
    /// Positions from `acknowledged` to `next` that neither spool nor ring has.
    gaps: Vec<Gap>,
}

impl Numbering {
    fn work_out(
        acknowledged: Option<Position>,
        spool: Option<(Position, Position)>,
        held: &[Held],
        trusted_next: Option<Position>,
        last_run: Option<LastRun>,
        newer: Option<Position>,
    ) -> Self {
        let mut runs: Vec<(Position, Position)> = Vec::from_iter(spool);
        runs.extend(held.iter().map(|held| (held.batch.first(), held.batch.end())));
        let known_end = runs.last().map_or(Position(0), |(_, end)| *end);
        let next = match (trusted_next, last_run) {
            (Some(next), _) | (None, Some(LastRun::Orderly { next, .. })) => next.max(known_end),
            (None, Some(LastRun::CutShort { start })) => start.max(known_end).plus(POSITIONS_PER_RUN),
            (None, None) => known_end,
        };
        let first = runs.first().map_or(next, |(first, _)| *first);
        let acknowledged = acknowledged.unwrap_or(first).min(next);
        // Below the start of a run lie the positions that an earlier start leapt over.
        let leap_to = match (trusted_next, last_run) {
            (Some(_), Some(LastRun::CutShort { start })) => start,
            (None, Some(LastRun::CutShort { .. })) => next,
            _ => Position(0),
        };
        let mut gaps = Vec::new();
        let mut at = acknowledged;
        runs.push((next, next));
        for (first, end) in runs {
            // What a newer version wrote at the end is kept, under positions that are not used any more.
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

/// A ledger that counts as recovered what should be there, and as corrupt what of it is found missing now. Gaps
/// on record were counted by the run that recorded them, and what is kept apart is not in the queue.
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

fn tell(opened: &spool::Opened<Directory>, ledger: &Ledger, held: &[Held]) {
    let counts = ledger.counts();
    if counts.recovered > 0 {
        let segments = opened.spool.segments();
        let in_intake: u64 = held.iter().map(|held| u64::from(held.batch.datagrams())).sum();
        tracing::info!(
            datagrams = counts.recovered,
            segments,
            in_intake,
            "took up {} that the last run left, {in_intake} of them in the intake",
            count_of(counts.recovered, "datagram")
        );
    }
    if counts.corrupt > 0 {
        tracing::error!(
            datagrams = counts.corrupt,
            "part of the spool is missing, {}; the rest is delivered",
            count_of(counts.corrupt, "datagram")
        );
    }
    if opened.torn > 0 {
        tracing::warn!(
            bytes = opened.torn,
            "the last segment ended in a torn batch of {} bytes; it is set aside",
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
        let numbering = Numbering::work_out(None, None, &[], None, None, None);
        assert_eq!(numbering, Numbering { acknowledged: at(0), next: at(0), gaps: vec![] });
    }

    #[test]
    fn after_a_kill_the_intake_says_where_to_go_on() {
        let numbering =
            Numbering::work_out(Some(at(70)), Some((at(60), at(90))), &[], Some(at(90)), KILLED, None);
        assert_eq!(numbering, Numbering { acknowledged: at(70), next: at(90), gaps: vec![] });
    }

    #[test]
    fn what_the_intake_has_numbered_and_nobody_holds_is_corrupt() {
        let numbering =
            Numbering::work_out(Some(at(70)), Some((at(75), at(90))), &[], Some(at(99)), KILLED, None);
        let gaps = vec![gap(70, 75, GapReason::Corrupt), gap(90, 99, GapReason::Corrupt)];
        assert_eq!(numbering, Numbering { acknowledged: at(70), next: at(99), gaps });
    }

    #[test]
    fn after_a_power_loss_the_numbering_leaps_over_all_that_may_have_been_given_out() {
        let numbering = Numbering::work_out(None, Some((at(60), at(90))), &[], None, KILLED, None);
        let next = 90 + POSITIONS_PER_RUN;
        let gaps = vec![gap(90, next, GapReason::Unused)];
        assert_eq!(numbering, Numbering { acknowledged: at(60), next: at(next), gaps });
        let nothing_held = Numbering::work_out(None, None, &[], None, KILLED, None);
        let next = at(50 + POSITIONS_PER_RUN);
        assert_eq!(nothing_held, Numbering { acknowledged: next, next, gaps: vec![] });
    }

    #[test]
    fn a_leap_of_the_start_before_stays_unused_after_a_kill() {
        let last_run = Some(LastRun::CutShort { start: at(1000) });
        let numbering =
            Numbering::work_out(Some(at(60)), Some((at(60), at(90))), &[], Some(at(1010)), last_run, None);
        let gaps = vec![gap(90, 1000, GapReason::Unused), gap(1000, 1010, GapReason::Corrupt)];
        assert_eq!(numbering, Numbering { acknowledged: at(60), next: at(1010), gaps });
    }

    #[test]
    fn an_orderly_stop_leaves_exact_numbers() {
        let last_run = Some(LastRun::Orderly { acknowledged: at(70), next: at(90) });
        let numbering = Numbering::work_out(Some(at(70)), None, &[], None, last_run, None);
        let gaps = vec![gap(70, 90, GapReason::Corrupt)];
        assert_eq!(numbering, Numbering { acknowledged: at(70), next: at(90), gaps });
    }

    #[test]
    fn what_a_newer_version_wrote_is_not_lost() {
        let last_run = Some(LastRun::Orderly { acknowledged: at(40), next: at(90) });
        let numbering =
            Numbering::work_out(Some(at(40)), Some((at(50), at(70))), &[], None, last_run, Some(at(70)));
        let gaps = vec![gap(40, 50, GapReason::Corrupt), gap(70, 90, GapReason::Unused)];
        assert_eq!(numbering, Numbering { acknowledged: at(40), next: at(90), gaps });
    }
}
