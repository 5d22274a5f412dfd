//! The state of a spool, and the questions that callers ask of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use crate::sequence::{Gap, Position, StreamId};
use crate::spool::active::{Active, Stuck};
use crate::spool::clocks::Clocks;
use crate::spool::disk::Disk;
use crate::spool::extent::Extent;
use crate::spool::file_totals::FileTotals;
use crate::spool::identity::LastRun;
use crate::spool::lineage::Lineage;
use crate::spool::name;
use crate::spool::open_segments::OpenSegments;
use crate::spool::policy::Policy;
use crate::spool::preserved::Preservation;
use crate::spool::reader::SegmentReader;
use crate::spool::room::Awaited;
use crate::spool::segment::{Begun, NewerSegment};

/// Batches on disk.
#[derive(Debug)]
pub struct Spool<D: Disk> {
    pub(super) disk: D,
    pub(super) stream: StreamId,
    pub(super) lineage: Lineage,
    /// True if the file `stream` is of a newer version, and stays unchanged.
    pub(super) is_identity_newer: bool,
    pub(super) policy: Policy,
    /// By first position; each ends where the next one starts.
    pub(super) extents: BTreeMap<Position, Extent>,
    pub(super) active: Option<Active<D::File>>,
    pub(super) open: OpenSegments<D::File>,
    /// A segment that accepts nothing more, because a sync of it failed.
    pub(super) closed: Option<Position>,
    /// The failure of the last attempt to create a file.
    pub(super) stuck: Option<Stuck>,
    /// True if the file `spare` exists.
    pub(super) has_spare: bool,
    /// Bytes of all segments.
    pub(super) size: u64,
    /// Everything below was acknowledged.
    pub(super) acknowledged: Position,
    /// Gaps of dropped segments since the last call of `take_dropped`.
    pub(super) dropped: Vec<Gap>,
    /// Segments written to since the last sync, by first position.
    pub(super) unsynced: BTreeMap<Position, Arc<D::File>>,
    /// True if files were created or renamed since the last sync of the directory.
    pub(super) names_unsynced: bool,
    /// Files in `damaged/`.
    pub(super) damaged: FileTotals,
    /// Files in `newer/`, and files on their way there.
    pub(super) newer: FileTotals,
    /// Data of a newer version on its way to `newer/`.
    pub(super) preservation: Preservation,
    /// First positions of gaps that have no record on disk, as that could not be written.
    pub(super) gaps_unrecorded: BTreeSet<Position>,
    /// State of the run that the file `stream` lacks, because the write failed.
    pub(super) unrecorded: Option<LastRun>,
    /// Files that are not needed and could not be removed.
    pub(super) unremoved: BTreeSet<String>,
    /// Bytes of removed files that are not reported as free yet.
    pub(super) awaited: Awaited,
    /// `None` until the first operation with a time.
    pub(super) clocks: Option<Clocks>,
    /// Segments of which datagrams were dropped one by one, by first position, and how many datagrams.
    pub(super) thinned: BTreeMap<Position, u64>,
    /// Number of thinned segments.
    pub(super) thinnings: u64,
}

impl<D: Disk> Spool<D> {
    /// The stream that this spool numbers.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// The stream that the spool is sent as, and its runs.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The first position that an extent covers; `None` if there is none.
    pub fn first(&self) -> Option<Position> {
        self.extents.keys().next().copied()
    }

    /// The position after the last extent; `None` if there is none.
    pub fn end(&self) -> Option<Position> {
        self.extents.values().next_back().map(Extent::end)
    }

    /// The number of segments.
    pub fn segments(&self) -> usize {
        self.extents.values().filter(|extent| matches!(extent, Extent::Segment { .. })).count()
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All gaps on record, oldest first.
    pub fn gaps(&self) -> impl Iterator<Item = Gap> {
        self.extents.iter().filter_map(|(first, extent)| match *extent {
            Extent::Gap { end, reason } => Some(Gap { first: *first, end, reason }),
            Extent::Segment { .. } => None,
        })
    }

    /// The segment that holds `position`: its first position, the position after its last, and its size in
    /// bytes.
    pub fn segment_at(&self, position: Position) -> Option<(Position, Position, u64)> {
        match self.extents.range(..=position).next_back() {
            Some((first, Extent::Segment { end, size, .. })) if *end > position => {
                Some((*first, *end, *size))
            }
            _ => None,
        }
    }

    /// The start of the oldest segment by its header.
    pub fn oldest(&self) -> Option<Begun> {
        let is_segment = |extent: &Extent| matches!(extent, Extent::Segment { .. });
        let (first, _) = self.extents.iter().find(|(_, extent)| is_segment(extent))?;
        self.begun(*first)
    }

    /// A reader from `position` on, which ends where that segment ends now; `None` if no segment holds it.
    /// Unreadable blocks are errors, or damage with `skip_unreadable`.
    pub fn reader(
        &self,
        position: Position,
        skip_unreadable: bool,
    ) -> io::Result<Option<SegmentReader<D::File>>> {
        let Some((first, end, size)) = self.segment_at(position) else { return Ok(None) };
        let file = self.disk.open(&name::segment(first))?;
        let mut reader = SegmentReader::new(file, self.stream, first, end, size);
        if skip_unreadable {
            reader.skip_unreadable();
        }
        // An unreadable header does not mean an unreadable segment: the batches may be readable.
        if let Some(newer) =
            self.start_of(&name::segment(first)).ok().as_deref().and_then(NewerSegment::parse)
        {
            reader.set_newer(newer.version);
        }
        reader.skip_to(position)?;
        Ok(Some(reader))
    }

    /// Sets the bounds. Data beyond `max_size` is dropped at the next append.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Removes the bound `max-size`, for the last batches of a run, which have no other place.
    pub fn lift_max_size(&mut self) {
        self.policy.max_size = u64::MAX;
    }

    /// Returns the gaps of segments dropped since the last call.
    pub fn take_dropped(&mut self) -> Vec<Gap> {
        core::mem::take(&mut self.dropped)
    }
}
