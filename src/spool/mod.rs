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
//! | `stream` | which stream this is, where its numbering stands, and which runs sent it (format: [`identity`]) |
//! | `damaged/` | copies of damaged pieces, within a bound; nothing reads them ([`aside`]) |
//! | `newer/` | segments of a newer version, which takes them in again ([`aside`], [`taking_in`]) |

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
mod segment;
mod taking_in;

pub use aside::Aside;
pub use identity::LastRun;
pub use lineage::{Divergence, Lineage};
pub use open::{Opened, Survey, open, survey};
pub use policy::{Policy, WhenFull};
pub use reader::{Damage, Item, Newer, SegmentReader};
pub use segment::SEGMENT_HEADER_LEN;
pub use taking_in::TakenIn;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::batch::Batch;
use crate::datagram::Timestamp;
use crate::sequence::{Gap, GapReason, Position, RunId, StreamId};
use disk::{Disk, DiskFile};
use identity::Identity;
use segment::{NewerSegment, SegmentHeader};

/// Why a batch was not taken. The spool is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// `max-size` or `min-free` is reached, and nothing may be dropped for it.
    #[error("the spool is full")]
    Full,
    /// The disk refused; a later try may succeed.
    #[error("cannot write to the spool: {0}")]
    Disk(#[from] io::Error),
}

/// A run of positions on disk, or the record that they are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Segment { end: Position, size: u64, newest: Timestamp },
    Gap { end: Position, reason: GapReason },
}

impl Piece {
    fn end(&self) -> Position {
        match self {
            Self::Segment { end, .. } | Self::Gap { end, .. } => *end,
        }
    }
}

/// The segment that batches are appended to.
#[derive(Debug)]
struct Active<F> {
    first: Position,
    file: Arc<F>,
    begun: Timestamp,
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

    /// Bytes that can still be appended before something must give way.
    pub fn room(&self) -> io::Result<u64> {
        let free = self.disk.free_bytes()?.saturating_sub(self.policy.min_free);
        Ok(self.policy.max_size.saturating_sub(self.size).min(free))
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
    pub fn append(&mut self, batch: &Batch, now: Timestamp, in_flight: Position) -> Result<(), AppendError> {
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        self.make_room(length, in_flight)?;
        if self.is_due(length, now) {
            self.active = None;
        }
        loop {
            match self.write(batch, now) {
                Ok(()) => return Ok(()),
                Err(error) if is_full(&error) => {
                    self.drop_oldest(in_flight).ok_or(AppendError::Full)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`Self::append`], but drops nothing to make room. What is dropped while it is forced to disk gives none.
    pub fn append_if_room(&mut self, batch: &Batch, now: Timestamp) -> Result<(), AppendError> {
        let when_full = core::mem::replace(&mut self.policy.when_full, WhenFull::DropNewest);
        let outcome = self.append(batch, now, Position(0));
        self.policy.when_full = when_full;
        outcome
    }

    /// Makes room for `length` bytes by the policy.
    fn make_room(&mut self, length: u64, in_flight: Position) -> Result<(), AppendError> {
        while self.size.saturating_add(length) > self.policy.max_size
            || self.disk.free_bytes()? < self.policy.min_free.saturating_add(length)
        {
            self.drop_oldest(in_flight).ok_or(AppendError::Full)?;
        }
        Ok(())
    }

    /// Whether the active segment has had its time or its size before `length` more bytes.
    fn is_due(&self, length: u64, now: Timestamp) -> bool {
        self.active.as_ref().is_some_and(|active| {
            let full = match self.pieces.get(&active.first) {
                Some(Piece::Segment { size, .. }) => size.saturating_add(length) > self.policy.rotate_size,
                _ => true,
            };
            full || now.since(active.begun) >= self.policy.rotate_every
        })
    }

    fn write(&mut self, batch: &Batch, now: Timestamp) -> io::Result<()> {
        let (first, file) = match &self.active {
            Some(active) => (active.first, active.file.clone()),
            None => self.begin_segment(batch.first(), now)?,
        };
        let Some(Piece::Segment { end, size, newest }) = self.pieces.get_mut(&first) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(error) = file.write_at(batch.bytes(), *size) {
            // What part of it was written must go, or it would stand between two batches as damage.
            if *end == first {
                self.forget_segment(first);
                self.remove_file(&name::segment(first));
            } else if file.truncate(*size).is_err() {
                self.active = None;
            }
            return Err(error);
        }
        let length = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
        *end = batch.end();
        *size += length;
        *newest = (*newest).max(batch.latest());
        self.size += length;
        self.unsynced.insert(first, file);
        Ok(())
    }

    fn begin_segment(&mut self, first: Position, now: Timestamp) -> io::Result<(Position, Arc<D::File>)> {
        let name = name::segment(first);
        let file = self.disk.create(&name)?;
        let header = SegmentHeader { stream: self.stream, first, begun: now }.encode();
        if let Err(error) = file.truncate(0).and_then(|()| file.write_at(&header, 0)) {
            self.disk.remove(&name)?;
            return Err(error);
        }
        let size = u64::try_from(header.len()).unwrap_or(u64::MAX);
        let file = Arc::new(file);
        self.pieces.insert(first, Piece::Segment { end: first, size, newest: Timestamp(0) });
        self.active = Some(Active { first, file: file.clone(), begun: now });
        self.size += size;
        self.names_unsynced = true;
        Ok((first, file))
    }

    /// Drops the oldest segment that may go, if the policy says so, and leaves a gap in its place.
    fn drop_oldest(&mut self, in_flight: Position) -> Option<()> {
        if self.policy.when_full == WhenFull::DropNewest {
            return None;
        }
        self.drop_segment(in_flight, GapReason::SpoolFull, |_| true)
    }

    /// Drops the oldest segment that is not in flight, if `given_up` holds for its newest datagram.
    fn drop_segment(
        &mut self,
        in_flight: Position,
        reason: GapReason,
        given_up: impl Fn(Timestamp) -> bool,
    ) -> Option<()> {
        let (first, end, newest) = self.pieces.iter().find_map(|(first, piece)| match piece {
            Piece::Segment { end, newest, .. } if in_flight <= self.acknowledged.max(*first) => {
                Some((*first, *end, *newest))
            }
            _ => None,
        })?;
        if !given_up(newest) {
            return None;
        }
        self.forget_segment(first);
        let gap = Gap { first: first.max(self.acknowledged), end, reason };
        let recorded = if gap.first < gap.end {
            self.dropped.push(gap);
            self.write_gap(gap)
        } else {
            Ok(())
        };
        self.remove_file(&name::segment(first));
        // A disk that had no room for one more file has it now.
        tell_unrecorded(gap, recorded.or_else(|_| self.disk.create(&name::gap(&gap)).map(drop)));
        Some(())
    }

    fn forget_segment(&mut self, first: Position) {
        if self.active.as_ref().is_some_and(|active| active.first == first) {
            self.active = None;
        }
        self.unsynced.remove(&first);
        if let Some(Piece::Segment { size, .. }) = self.pieces.remove(&first) {
            self.size = self.size.saturating_sub(size);
        }
    }

    /// Removes a file if it is there. One that cannot be removed now is taken up by the next start; what it holds
    /// is then sent once more, and the receiver drops it.
    fn remove_file(&self, name: &str) {
        match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "cannot remove the file {name:?} of the spool: {error}");
            }
            _ => {}
        }
    }

    /// Leaves a record that the positions of `gap` are gone; where no piece covers them yet, they follow the end.
    /// A record that cannot be written is kept in memory.
    pub fn record_gap(&mut self, gap: Gap) {
        let recorded = self.write_gap(gap);
        tell_unrecorded(gap, recorded);
    }

    fn write_gap(&mut self, gap: Gap) -> io::Result<()> {
        self.names_unsynced = true;
        if self.active.as_ref().is_some_and(|active| active.first <= gap.first) {
            self.active = None;
        }
        let before = self.pieces.range(..gap.first).next_back().map(|(first, piece)| (*first, *piece));
        match before {
            Some((first, Piece::Gap { end, reason })) if end == gap.first && reason == gap.reason => {
                let old = Gap { first, end, reason };
                let new = Gap { end: gap.end, ..old };
                self.pieces.insert(first, Piece::Gap { end: gap.end, reason });
                self.disk.rename(&name::gap(&old), &name::gap(&new))
            }
            _ => {
                self.pieces.insert(gap.first, Piece::Gap { end: gap.end, reason: gap.reason });
                self.disk.create(&name::gap(&gap)).map(drop)
            }
        }
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
        self.acknowledged = self.acknowledged.max(position);
        while let Some((&first, piece)) = self.pieces.first_key_value()
            && piece.end() <= self.acknowledged
        {
            match *piece {
                Piece::Segment { .. } => {
                    self.forget_segment(first);
                    self.remove_file(&name::segment(first));
                }
                Piece::Gap { end, reason } => {
                    self.pieces.remove(&first);
                    self.remove_file(&name::gap(&Gap { first, end, reason }));
                }
            }
        }
    }

    /// To be called now and then: ends segments whose time is over and drops those that are too old.
    pub fn tend(&mut self, now: Timestamp, in_flight: Position) {
        if self.is_due(0, now) {
            self.active = None;
        }
        if let Some(max_age) = self.policy.max_age {
            let too_old = |newest| now.since(newest) > max_age;
            while self.drop_segment(in_flight, GapReason::TooOld, too_old).is_some() {}
        }
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
    }

    /// When the oldest segment was begun, as its header says.
    pub fn oldest(&self) -> io::Result<Option<Timestamp>> {
        let is_segment = |piece: &Piece| matches!(piece, Piece::Segment { .. });
        let Some((first, _)) = self.pieces.iter().find(|(_, piece)| is_segment(piece)) else {
            return Ok(None);
        };
        let mut header = [0; SEGMENT_HEADER_LEN];
        let read = self.disk.open(&name::segment(*first))?.read_at(&mut header, 0)?;
        Ok(header.get(..read).and_then(SegmentHeader::parse).map(|header| header.begun))
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
        // A header that cannot be read tells nothing; what follows it may be readable.
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

    /// Sends the spool as the stream `new` from now on, and records that. The present run goes on.
    pub fn replace_stream(&mut self, new: StreamId) -> io::Result<()> {
        self.lineage.replace_stream(new);
        let start = self.lineage.runs().last().map_or(Position(0), |run| run.start);
        self.write_identity(LastRun::CutShort { start })
    }

    fn write_identity(&self, last_run: LastRun) -> io::Result<()> {
        if self.is_identity_newer {
            return Ok(());
        }
        Identity { stream: self.stream, last_run, lineage: self.lineage.clone() }.write(&self.disk)
    }
}

fn tell_unrecorded(gap: Gap, recorded: io::Result<()>) {
    if let Err(error) = recorded {
        tracing::warn!(
            first = gap.first.0,
            end = gap.end.0,
            %error,
            "cannot record a gap in the spool: {error}"
        );
    }
}

#[cfg(test)]
mod tests;
