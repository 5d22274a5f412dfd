//! The spool: batches on disk, from the moment they must survive until they are acknowledged.
//!
//! Owns the files of one directory. Never takes a socket, a clock or a thread; whoever calls says what time it
//! is. Always holds: the pieces (segments and gaps) follow each other without a hole, and a position that was
//! acknowledged, dropped or found damaged is never given again.
//!
//! | file | what it is |
//! |---|---|
//! | `00000000000000000042.segment` | batches from position 42 on (format: [`segment`], [`crate::batch`]) |
//! | `00000000000000000042-00000000000000000050-spool-full.gap` | positions that were dropped, and why; empty |
//! | `00000000000000000042.thinned` | that segment was thinned ([`thinning`]); empty |
//! | `thinned.new` | a segment that is being thinned |
//! | `spare` | an empty file, which becomes a segment when the disk has no inodes left |
//! | `stream` | which stream this is, where its numbering stands, and which runs sent it (format: [`identity`]) |
//! | `damaged/` | copies of damaged pieces, within a bound; nothing reads them ([`aside`]) |
//! | `newer/` | segments of a newer version, which takes them in again ([`apart`], [`taking_in`]) |

mod age;
mod apart;
#[cfg(any(test, feature = "testing"))]
pub mod as_newer;
mod aside;
pub mod disk;
pub mod identity;
pub mod lineage;
#[cfg(test)]
pub(crate) mod memory_disk;
mod name;
mod open;
mod policy;
mod reader;
mod room;
mod rotation;
mod segment;
mod taking_in;
mod thinning;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

pub use age::WrongClock;
use age::{Clocks, LastWrite};
pub use apart::KeptApart;
use apart::{Apart, Formats};
pub use aside::Aside;
use disk::{Disk, DiskFile};
use identity::Identity;
pub use identity::LastRun;
pub use lineage::{Divergence, Lineage, OwnStream, StreamSecret};
pub use name::{KEPT_APART, is_segment};
pub use open::{Opened, Survey, open, survey};
pub use policy::{MinFree, Policy, WhenFull};
pub use reader::{Damage, Item, Newer, SegmentReader};
use room::{Awaited, Purpose};
pub use room::{Room, Yielding};
use rotation::{Active, Stuck};
use segment::NewerSegment;
pub use segment::{Begun, SEGMENT_HEADER_LEN};
pub use taking_in::{Broken, TakenIn, Unusable};
pub use thinning::{Candidate, Sieve, Thinned, ThinnedSegment, ThinningJob};

use crate::batch::Batch;
use crate::datagram::Moment;
use crate::internal_error::note_internal_error;
use crate::sequence::{Gap, GapReason, Position, RunId, StreamId};

/// Why a batch was not taken. The spool is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// `max-size` is reached, and nothing may be dropped for it.
    #[error("the spool is full")]
    Full,
    /// The disk has no room, or `min-free` is reached, and nothing may be dropped for it or all of it would not do.
    #[error("no room for the spool: {0}")]
    NoRoom(io::Error),
    /// The disk refused; a later try may succeed.
    #[error("cannot write to the spool: {0}")]
    Disk(#[from] io::Error),
}

/// A run of positions on disk, or the record that they are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Segment { end: Position, size: u64, written: LastWrite, formats: Formats },
    Gap { end: Position, reason: GapReason },
}

impl Piece {
    fn end(&self) -> Position {
        match self {
            Self::Segment { end, .. } | Self::Gap { end, .. } => *end,
        }
    }

    /// When it was last written to, if it is a segment.
    fn last_write(&self) -> Option<LastWrite> {
        match self {
            Self::Segment { written, .. } => Some(*written),
            Self::Gap { .. } => None,
        }
    }
}

/// What must be forced to disk so that all that was appended survives power loss. Runs without the spool, which
/// can be used meanwhile.
#[derive(Debug)]
pub struct SyncJob<F> {
    files: Vec<Arc<F>>,
}

impl<F: DiskFile> SyncJob<F> {
    /// Waits until the disk has it all.
    pub fn run(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync())
    }
}

/// Whether the disk, or this user's share of it, has no room left.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Batches on disk.
#[derive(Debug)]
pub struct Spool<D: Disk> {
    disk: D,
    stream: StreamId,
    lineage: Lineage,
    /// Whether the file `stream` is of a newer version, and stays as it is.
    is_identity_newer: bool,
    policy: Policy,
    /// By first position; each ends where the next one starts.
    pieces: BTreeMap<Position, Piece>,
    active: Option<Active<D::File>>,
    /// A segment that takes nothing more, as a sync of it failed.
    closed: Option<Position>,
    /// No file could be created when it was last tried.
    stuck: Option<Stuck>,
    /// Whether the file `spare` is there.
    has_spare: bool,
    /// Bytes of all segments.
    size: u64,
    /// Everything below was acknowledged.
    acknowledged: Position,
    /// Dropped since somebody last asked.
    dropped: Vec<Gap>,
    /// Segments written to since the last sync, by first position.
    unsynced: BTreeMap<Position, Arc<D::File>>,
    /// Whether files were created or renamed since the last sync of the directory.
    names_unsynced: bool,
    /// What lies in `damaged/`.
    damaged: Aside,
    /// What lies in `newer/`.
    newer: Aside,
    /// What a newer version wrote and is on its way there.
    apart: Apart,
    /// First positions of gaps that have no record on disk, as that could not be written.
    gaps_unrecorded: BTreeSet<Position>,
    /// What the file `stream` does not say yet, as it could not be written.
    unrecorded: Option<LastRun>,
    /// Files that are not needed and could not be removed.
    unremoved: BTreeSet<String>,
    /// Bytes of removed files that are not reported as free yet.
    awaited: Awaited,
    /// `None` until something was done at a time.
    clocks: Option<Clocks>,
    /// Segments of which datagrams were dropped one by one, by first position, and how many datagrams.
    thinned: BTreeMap<Position, u64>,
    /// How many segments were thinned.
    thinnings: u64,
}

impl<D: Disk> Spool<D> {
    /// The stream that this spool numbers.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Which stream the spool is sent as, and by which runs.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The first position that a piece covers; `None` if there is none.
    pub fn first(&self) -> Option<Position> {
        self.pieces.keys().next().copied()
    }

    /// The position after the last piece; `None` if there is none.
    pub fn end(&self) -> Option<Position> {
        self.pieces.values().next_back().map(Piece::end)
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.pieces.values().filter(|piece| matches!(piece, Piece::Segment { .. })).count()
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All gaps on record, oldest first.
    pub fn gaps(&self) -> impl Iterator<Item = Gap> {
        self.pieces.iter().filter_map(|(first, piece)| match *piece {
            Piece::Gap { end, reason } => Some(Gap { first: *first, end, reason }),
            Piece::Segment { .. } => None,
        })
    }

    /// Appends `batch`, which starts where the spool ends, or anywhere if the spool is empty. Positions below
    /// `in_flight` may be on their way to the receiver and are not dropped to make room.
    pub fn append(&mut self, batch: &Batch, now: Moment, in_flight: Position) -> Result<(), AppendError> {
        self.append_yielding(batch, now, in_flight, Yielding::ToDisk)
    }

    /// As [`Self::append`], but drops only what `yielding` allows.
    pub fn append_yielding(
        &mut self,
        batch: &Batch,
        now: Moment,
        in_flight: Position,
        yielding: Yielding,
    ) -> Result<(), AppendError> {
        self.look_at_clocks(now);
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        self.make_room(length, in_flight, yielding)?;
        match self.write(batch, now) {
            Err(error) if is_full(&error) => {
                self.make_room_on_full_disk(error, length, in_flight, yielding)?;
                let full_again =
                    |error| if is_full(&error) { AppendError::NoRoom(error) } else { error.into() };
                self.write(batch, now).map_err(full_again)
            }
            other => Ok(other?),
        }
    }

    fn write(&mut self, batch: &Batch, now: Moment) -> io::Result<()> {
        let (first, file) = self.segment_for(batch, now)?;
        let marked = self.mark_thinned(first, batch);
        let Some(Piece::Segment { end, size, written, .. }) = self.pieces.get_mut(&first) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(error) = marked.and_then(|()| file.write_at(batch.bytes(), *size)) {
            // What part of it was written must go, or it would stand between two batches as damage.
            if *end == first {
                self.forget_segment(first);
                self.remove_segment_file(first);
            } else if file.truncate(*size).is_err() {
                self.active = None;
            }
            return Err(error);
        }
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        *end = batch.end();
        *size += length;
        *written = LastWrite::ThisRun(now.boot);
        self.size += length;
        self.awaited.written(length);
        self.unsynced.insert(first, file);
        self.note_thinned_batch(first, batch);
        Ok(())
    }

    /// Removes a segment that is not needed any more.
    fn remove_segment(&mut self, first: Position) {
        let before = self.size;
        self.forget_segment(first);
        // Looked at before and after, so that what others write and free does not count.
        self.look_at_free();
        self.remove_segment_file(first);
        self.awaited.removed(before.saturating_sub(self.size));
        self.look_at_free();
    }

    fn forget_segment(&mut self, first: Position) {
        if self.active.as_ref().is_some_and(|active| active.first == first) {
            self.active = None;
        }
        self.unsynced.remove(&first);
        if let Some(Piece::Segment { size, .. }) = self.pieces.remove(&first) {
            self.size = self.size.checked_sub(size).unwrap_or_else(|| {
                note_internal_error("a segment is larger than the spool");
                0
            });
        }
    }

    /// Removes the file of the segment that starts at `first`, and then its marker, if it was thinned: without it, a start would
    /// count the dropped datagrams as queued.
    fn remove_segment_file(&mut self, first: Position) {
        let name = name::segment(first);
        self.remove_file(&name);
        if !self.unremoved.contains(&name) {
            self.forget_thinned(first);
        }
    }

    /// Removes a file if it is there. One that cannot be removed now is tried again, at last by the next start; what it
    /// holds is then sent once more, and the receiver drops it.
    fn remove_file(&mut self, name: &str) {
        match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                if self.unremoved.is_empty() {
                    tracing::warn!(
                        %error,
                        "cannot remove the file {name:?} of the spool, which is not needed any more: {error}; \
                         trying again until the disk allows it"
                    );
                }
                self.unremoved.insert(name.to_owned());
            }
            _ => {
                self.unremoved.remove(name);
            }
        }
    }

    /// Leaves a record that the positions of `gap` are gone; where no piece covers them yet, they follow the end.
    /// A record that cannot be written is kept in memory, and tried again.
    pub fn record_gap(&mut self, gap: Gap) {
        let recorded = self.put_gap(gap);
        self.note_gap(gap, recorded);
    }

    /// The gap of the same reason that `gap` makes longer.
    fn gap_before(&self, gap: Gap) -> Option<Gap> {
        match self.pieces.range(..gap.first).next_back() {
            Some((first, Piece::Gap { end, reason })) if *end == gap.first && *reason == gap.reason => {
                Some(Gap { first: *first, end: *end, reason: *reason })
            }
            _ => None,
        }
    }

    /// Writes the record of `gap` to disk.
    fn put_gap(&mut self, gap: Gap) -> io::Result<()> {
        let old = self.gap_before(gap);
        let name = name::gap(&Gap { first: old.map_or(gap.first, |old| old.first), ..gap });
        let renamed = match old {
            Some(old) => self.disk.rename(&name::gap(&old), &name),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match renamed {
            // There is no record that could be made longer.
            Err(error) if error.kind() == io::ErrorKind::NotFound => drop(self.disk.create(&name)?),
            other => other?,
        }
        self.unremoved.remove(&name);
        self.names_unsynced = true;
        Ok(())
    }

    /// Takes `gap` in, whose record is on disk if `recorded`.
    fn note_gap(&mut self, gap: Gap, recorded: io::Result<()>) {
        if self.active.as_ref().is_some_and(|active| active.first <= gap.first) {
            self.active = None;
        }
        let Err(error) = recorded else {
            let first = self.gap_before(gap).map_or(gap.first, |old| old.first);
            self.pieces.insert(first, Piece::Gap { end: gap.end, reason: gap.reason });
            return;
        };
        // It gets a record of its own, as the one before it cannot be made longer.
        self.pieces.insert(gap.first, Piece::Gap { end: gap.end, reason: gap.reason });
        if self.gaps_unrecorded.is_empty() {
            tracing::warn!(
                first = gap.first.0,
                end = gap.end.0,
                %error,
                "cannot record a gap in the spool: {error}; trying again"
            );
        }
        self.gaps_unrecorded.insert(gap.first);
    }

    /// From now on these are its bounds. What it holds beyond `max_size` gives way when something is to be written.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// From now on `max-size` bounds nothing: for the last batches of a run, which have no other place to stay.
    pub fn lift_max_size(&mut self) {
        self.policy.max_size = u64::MAX;
    }

    /// What was dropped since the last call.
    pub fn take_dropped(&mut self) -> Vec<Gap> {
        core::mem::take(&mut self.dropped)
    }

    /// Everything below `position` has been acknowledged: its files go as soon as no other batch is in them.
    pub fn acknowledge(&mut self, position: Position) {
        let before = self.acknowledged;
        self.acknowledged = before.max(position);
        while let Some((&first, piece)) = self.pieces.first_key_value()
            && piece.end() <= self.acknowledged
        {
            match *piece {
                Piece::Segment { .. } => self.retire_segment(first, before),
                Piece::Gap { end, reason } => {
                    self.pieces.remove(&first);
                    self.remove_file(&name::gap(&Gap { first, end, reason }));
                }
            }
        }
    }

    /// To be called now and then: ends segments whose time is over, drops those that are too old, and tries again what
    /// the disk has refused.
    pub fn tend(&mut self, now: Moment, in_flight: Position) {
        self.look_at_clocks(now);
        self.end_segment_if_due(now);
        self.try_again();
        if let Some(max_age) = self.policy.max_age {
            while self.is_oldest_too_old(now, in_flight, max_age)
                && matches!(self.drop_segment(in_flight, GapReason::TooOld, Purpose::Limit), Ok(Some(_)))
            {
            }
        }
    }

    /// Does what the disk has refused before, as far as it allows it now.
    fn try_again(&mut self) {
        self.make_spare();
        if let Some(last_run) = self.unrecorded
            && self.write_identity(last_run).is_ok()
        {
            tracing::info!("the file 'stream' of the spool is written: the disk takes it again");
        }
        for first in core::mem::take(&mut self.gaps_unrecorded) {
            if let Some(Piece::Gap { end, reason }) = self.pieces.get(&first).copied() {
                let written = self.disk.create(&name::gap(&Gap { first, end, reason }));
                self.names_unsynced = true;
                if written.is_err() {
                    self.gaps_unrecorded.insert(first);
                }
            }
        }
        if !self.unremoved.is_empty() {
            let is_there = |name: &String| match self.disk.remove(name) {
                Ok(()) => false,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            };
            self.unremoved = core::mem::take(&mut self.unremoved).into_iter().filter(is_there).collect();
        }
        self.keep_apart_again();
    }

    /// What is to be forced to disk; `None` if nothing is.
    pub fn sync_job(&mut self) -> io::Result<Option<SyncJob<D::File>>> {
        if self.names_unsynced {
            self.disk.sync_directory()?;
            self.names_unsynced = false;
        }
        let files: Vec<_> = core::mem::take(&mut self.unsynced).into_values().collect();
        Ok((!files.is_empty()).then_some(SyncJob { files }))
    }

    /// A sync failed: what the kernel held of the active segment may be gone, so nothing more goes into it.
    pub fn sync_failed(&mut self) {
        self.active = None;
        self.closed = self.last_segment().map(|(first, _)| first);
    }

    /// When the oldest segment was begun, as its header says.
    pub fn oldest(&self) -> Option<Begun> {
        let is_segment = |piece: &Piece| matches!(piece, Piece::Segment { .. });
        let (first, _) = self.pieces.iter().find(|(_, piece)| is_segment(piece))?;
        self.begun(*first)
    }

    /// A reader from `position` on, which ends where that segment ends now; `None` if no segment holds it. Blocks
    /// that cannot be read are errors, or damage if they are given up.
    pub fn reader(
        &self,
        position: Position,
        give_unreadable_up: bool,
    ) -> io::Result<Option<SegmentReader<D::File>>> {
        let Some((first, end, size)) = self.segment_at(position) else { return Ok(None) };
        let file = self.disk.open(&name::segment(first))?;
        let mut reader = SegmentReader::new(file, self.stream, first, end, size);
        if give_unreadable_up {
            reader.give_unreadable_up();
        }
        // An unreadable header says nothing of the rest: what follows it may be readable.
        if let Some(newer) =
            self.start_of(&name::segment(first)).ok().as_deref().and_then(NewerSegment::parse)
        {
            reader.set_newer(newer.version);
        }
        reader.skip_to(position)?;
        Ok(Some(reader))
    }

    /// The segment that holds `position`: its first position, the position after its last, and its size in bytes.
    pub fn segment_at(&self, position: Position) -> Option<(Position, Position, u64)> {
        match self.pieces.range(..=position).next_back() {
            Some((first, Piece::Segment { end, size, .. })) if *end > position => Some((*first, *end, *size)),
            _ => None,
        }
    }

    /// Begins the run `run`, which gives out positions from `start` on, and records that. A run that cannot be recorded
    /// loses nothing: a later one takes what it sent for another life of the spool, and sends what is queued again.
    pub fn begin_run(&mut self, run: RunId, start: Position) -> io::Result<()> {
        self.lineage.begin(run, start, self.acknowledged);
        self.write_identity(LastRun::CutShort { start })
    }

    /// Records where an orderly run ends, once everything else is on disk.
    pub fn end_run(&mut self, acknowledged: Position, next: Position) -> io::Result<()> {
        self.lineage.forget(acknowledged);
        self.write_identity(LastRun::Orderly { acknowledged, next })
    }

    /// Sends the spool as the stream `new` from the next run on, which records that: the secret of the present one is lost.
    pub fn abandon_stream(&mut self, new: OwnStream) {
        self.lineage.abandon(new);
    }

    /// Sends the spool as the stream `new` from now on, and records that. The present run goes on.
    pub fn replace_stream(&mut self, new: OwnStream) -> io::Result<()> {
        self.lineage.replace_stream(new);
        let start = self.lineage.runs().last().map_or(Position(0), |run| run.start);
        self.write_identity(LastRun::CutShort { start })
    }

    /// Whether the file `stream` shows where the run stands.
    pub fn is_run_recorded(&self) -> bool {
        self.unrecorded.is_none()
    }

    /// Writes the file `stream`. If that fails, [`Self::tend`] tries again.
    fn write_identity(&mut self, last_run: LastRun) -> io::Result<()> {
        if self.is_identity_newer {
            return Ok(());
        }
        self.unrecorded = Some(last_run);
        Identity { stream: self.stream, last_run, lineage: self.lineage.clone() }.write(&self.disk)?;
        self.unrecorded = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
