//! Recovers a spool directory: reads names, and the last segment only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::batch::Batch;
use crate::datagram::Timestamp;
use crate::limits::POSITIONS_PER_RUN;
use crate::sequence::{Gap, GapReason, Position, StreamId};
use crate::spool::disk::{Disk, DiskFile, FileEntry};
use crate::spool::extent::{Extent, Formats, LastWrite};
use crate::spool::file_totals::FileTotals;
use crate::spool::identity::{Identity, LastRun, StreamFile};
use crate::spool::item::Item;
use crate::spool::lineage::{Lineage, OwnStream};
use crate::spool::name::{self, FileName, NEWER};
use crate::spool::open_segments::OpenSegments;
use crate::spool::policy::Policy;
use crate::spool::preserved::Preservation;
use crate::spool::reader::SegmentReader;
use crate::spool::room::Awaited;
use crate::spool::segment::{NewerSegment, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::spool::state::Spool;

/// A recovered spool.
#[derive(Debug)]
pub struct Opened<D: Disk> {
    /// The spool.
    pub spool: Spool<D>,
    /// State that the last run left; `None` if there was none.
    pub last_run: Option<LastRun>,
    /// Positions whose segments are missing.
    pub missing: Vec<Gap>,
    /// Bytes behind the last whole batch, copied to `damaged/` and cut off.
    pub torn: u64,
    /// Arrival of the newest datagram of the last segment.
    pub newest: Option<Timestamp>,
    /// First position of the newest segments that this start removed from the queue, because they are of a
    /// newer version or another stream.
    pub newer: Option<Position>,
    /// Positions in segments of the queue that a copy in `newer/` replaces.
    pub copied: Vec<Gap>,
}

/// A spool directory that was read and not changed.
#[derive(Debug)]
pub struct Survey<D: Disk> {
    disk: D,
    /// Segments and gaps, by position.
    files: Vec<(FileName, FileEntry)>,
    /// First positions of the segments that are marked as thinned.
    thinned: Vec<Position>,
    /// True if a thinning was cut short.
    is_thinning_unfinished: bool,
    has_spare: bool,
    identity: Option<Identity>,
    /// The version of the file `stream`, if that is newer than this program.
    newer: Option<u16>,
    /// The stream of the batches; `None` if no file names it.
    stream: Option<StreamId>,
}

/// Reads the spool on `disk` without changing it: names, the file `stream`, and at most the headers of
/// segments.
pub fn survey<D: Disk>(disk: D) -> io::Result<Survey<D>> {
    let entries = disk.list()?;
    let has_spare = entries.iter().any(|entry| entry.name == name::SPARE);
    let thinned = entries.iter().filter_map(|entry| name::parse_thinned(&entry.name)).collect();
    let is_thinning_unfinished = entries.iter().any(|entry| entry.name == name::UNFINISHED_THINNED);
    let mut files: Vec<(FileName, FileEntry)> = entries
        .into_iter()
        .filter_map(|entry| FileName::parse(&entry.name).map(|name| (name, entry)))
        .collect();
    // A gap before the segment it stands for, and a longer record after one that it replaces.
    files.sort_by_key(|(name, _)| match name {
        FileName::Gap(gap) => (gap.first, false, gap.end),
        FileName::Segment(first) => (*first, true, *first),
    });
    let (identity, newer) = match Identity::read(&disk)? {
        StreamFile::Identity(identity) => (Some(identity), None),
        StreamFile::Newer(version) => (None, Some(version)),
        StreamFile::Nothing => (None, None),
    };
    let stream = match &identity {
        // Nothing is left under the old id: batches get the id that they are sent as.
        Some(identity) if files.is_empty() && is_drained(identity.last_run) => {
            Some(identity.lineage.sent_as())
        }
        Some(identity) => Some(identity.stream),
        None => stream_of_segments(&disk, &files)?,
    };
    Ok(Survey { disk, files, thinned, is_thinning_unfinished, has_spare, identity, newer, stream })
}

/// Opens the spool on `disk`; an empty one becomes the stream `new_stream`.
pub fn open<D: Disk>(disk: D, new_stream: OwnStream, policy: Policy) -> io::Result<Opened<D>> {
    survey(disk)?.recover(new_stream, policy)
}

impl<D: Disk> Survey<D> {
    /// The first whole batch of the oldest segment, and of the newest one.
    pub fn samples(&self) -> Vec<Batch> {
        let segments = || self.files.iter().filter(|(name, _)| matches!(name, FileName::Segment(_)));
        let ends = [segments().next(), segments().next_back()].into_iter().flatten();
        ends.filter_map(|(name, entry)| self.sample(first_of(name), entry)).collect()
    }

    /// The first whole batch of a segment; `None` if it has none, or cannot be read.
    fn sample(&self, first: Position, entry: &FileEntry) -> Option<Batch> {
        let file = self.disk.open(&entry.name).ok()?;
        let mut reader = SegmentReader::new(file, self.stream?, first, Position(u64::MAX), entry.size);
        reader.skip_unreadable();
        loop {
            match reader.next_item().ok()?? {
                Item::Batch(batch) => return Some(batch),
                Item::Damage(_) | Item::Newer(_) => {}
            }
        }
    }

    /// Opens the spool; an empty one becomes the stream `new_stream`.
    pub fn recover(self, new_stream: OwnStream, policy: Policy) -> io::Result<Opened<D>> {
        let Self { disk, mut files, thinned, is_thinning_unfinished, has_spare, identity, newer, stream } =
            self;
        if let Some(version) = newer {
            tracing::error!(
                "a newer nf-sender wrote the file \"stream\" of the spool (version {version}): leaving it \
                 unchanged and delivering the segments; some datagrams may arrive twice; install the newer \
                 version again to continue exactly where it stopped"
            );
        }
        let lineage = match (identity.as_ref(), stream) {
            (Some(identity), _) => identity.lineage.clone(),
            (None, Some(stream)) => Lineage::unknown(stream),
            (None, None) => Lineage::new(new_stream),
        };
        let stream = stream.unwrap_or_else(|| lineage.sent_as());
        let last_run = identity.as_ref().map(|identity| identity.last_run);
        let mut opened = Opened {
            spool: Spool {
                disk,
                stream,
                lineage,
                is_identity_newer: newer.is_some(),
                policy,
                extents: BTreeMap::new(),
                active: None,
                open: OpenSegments::default(),
                closed: None,
                stuck: None,
                has_spare,
                size: 0,
                acknowledged: Position(0),
                dropped: Vec::new(),
                unsynced: BTreeMap::new(),
                names_unsynced: false,
                damaged: FileTotals::default(),
                newer: FileTotals::default(),
                preservation: Preservation::default(),
                gaps_unrecorded: BTreeSet::new(),
                unrecorded: None,
                unremoved: BTreeSet::new(),
                awaited: Awaited::default(),
                clocks: None,
                thinned: BTreeMap::new(),
                thinnings: 0,
            },
            last_run,
            missing: Vec::new(),
            torn: 0,
            newest: None,
            newer: None,
            copied: Vec::new(),
        };
        let stay = opened.preserve_newest(&mut files)?;
        opened.take_files(&files)?;
        opened.cover(&stay);
        opened.spool.bound_damaged();
        opened.spool.count_newer();
        opened.find_copied();
        opened.spool.count_thinned(&thinned, is_thinning_unfinished);
        if let Some(LastRun::Orderly { acknowledged, .. }) = last_run {
            opened.spool.acknowledge(acknowledged);
        }
        if let (None, Some(end)) = (last_run, opened.spool.end()) {
            opened.last_run = Some(LastRun::CutShort { start: end });
        }
        Ok(opened)
    }
}

/// True if the run left nothing to send.
fn is_drained(last_run: LastRun) -> bool {
    matches!(last_run, LastRun::Orderly { acknowledged, next } if acknowledged == next)
}

/// True if the positions from `first` to `end` can only be a leap of the numbering without its record: no run
/// uses as many.
fn is_leap(first: Position, end: Position) -> bool {
    end.since(first) >= POSITIONS_PER_RUN
}

/// The stream that the header `start` of a segment names.
fn stream_of(start: &[u8]) -> Option<StreamId> {
    let newer = NewerSegment::parse(start).map(|newer| newer.stream);
    newer.or_else(|| SegmentHeader::parse(start).map(|header| header.stream))
}

fn first_of(name: &FileName) -> Position {
    match name {
        FileName::Segment(first) => *first,
        FileName::Gap(gap) => gap.first,
    }
}

/// The stream that the newest segment with a whole header belongs to.
fn stream_of_segments(disk: &impl Disk, files: &[(FileName, FileEntry)]) -> io::Result<Option<StreamId>> {
    for (name, entry) in files.iter().rev() {
        if matches!(name, FileName::Segment(_)) {
            let mut bytes = [0; SEGMENT_HEADER_LEN];
            // An unreadable header counts as a damaged one.
            let read = disk.open(&entry.name)?.read_at(&mut bytes, 0).unwrap_or_default();
            if let Some(header) = SegmentHeader::parse(bytes.get(..read).unwrap_or_default()) {
                return Ok(Some(header.stream));
            }
        }
    }
    Ok(None)
}

impl<D: Disk> Opened<D> {
    /// Moves the last segments to `newer/` if a newer version wrote them, or if they are of another stream,
    /// as an older version leaves them that could not read the file `stream`. Others are found when they are
    /// read. Returns the first positions of those of this stream that could not be moved, oldest first.
    fn preserve_newest(&mut self, files: &mut Vec<(FileName, FileEntry)>) -> io::Result<Vec<Position>> {
        let (mut stay, mut oldest) = (Vec::new(), None);
        while let Some((FileName::Segment(first), entry)) = files.last() {
            let (first, start) = (*first, self.spool.start_of(&entry.name).unwrap_or_default());
            let newer = NewerSegment::parse(&start);
            let stream = stream_of(&start);
            let Some(stream) = stream.filter(|stream| newer.is_some() || *stream != self.spool.stream) else {
                break;
            };
            self.spool.move_stray(first, stream, entry.size)?;
            if stream == self.spool.stream && self.spool.is_place_taken(first) {
                stay.insert(0, first);
            }
            oldest = newer.map(|newer| (first, newer.version)).or(oldest);
            self.newer = Some(first);
            files.pop();
        }
        if let Some((first, version)) = oldest {
            self.spool.note_newest_preserved(first, version);
        }
        Ok(stay)
    }

    /// Covers the segments that start at `stay`, behind all others, with gaps: the last one by as much as is
    /// known.
    fn cover(&mut self, stay: &[Position]) {
        for (index, first) in stay.iter().enumerate() {
            if self.spool.end().is_some_and(|end| *first < end) {
                continue;
            }
            self.note_missing(self.spool.end(), *first);
            let end = stay.get(index + 1).copied().unwrap_or(first.plus(1));
            self.spool.extents.insert(*first, Extent::Gap { end, reason: GapReason::Unused });
            self.spool.gaps_unrecorded.insert(*first);
        }
    }

    fn take_files(&mut self, files: &[(FileName, FileEntry)]) -> io::Result<()> {
        for (index, (name, entry)) in files.iter().enumerate() {
            let end = self.spool.end();
            let first = first_of(name);
            match name {
                FileName::Segment(_) if end.is_some_and(|end| first < end) => {
                    self.clear_covered(first, entry)?;
                }
                FileName::Segment(_) => {
                    self.note_missing(end, first);
                    let next = files.get(index + 1).map(|(name, _)| first_of(name));
                    self.take_segment(first, next, entry)?;
                }
                FileName::Gap(gap) => {
                    self.note_missing(end, first);
                    self.spool.extents.insert(first, Extent::Gap { end: gap.end, reason: gap.reason });
                }
            }
        }
        Ok(())
    }

    /// Removes a segment that a gap stands for, or moves it to `newer/` if it is of a newer version or
    /// another stream. A gap is written before that is done: a crash may leave both.
    fn clear_covered(&mut self, first: Position, entry: &FileEntry) -> io::Result<()> {
        let start = self.spool.start_of(&entry.name).unwrap_or_default();
        let stream = stream_of(&start).unwrap_or(self.spool.stream);
        if NewerSegment::parse(&start).is_some() || stream != self.spool.stream {
            return self.spool.move_stray(first, stream, entry.size);
        }
        self.spool.remove_file(&entry.name);
        Ok(())
    }

    /// Finds the positions that segments of the queue hold and of which copies are kept.
    fn find_copied(&mut self) {
        let files = self.spool.disk.list_in(NEWER).unwrap_or_default();
        for file in files {
            let place = name::parse_newer(&file.name).filter(|(_, stream)| *stream == self.spool.stream);
            let Some((from, _)) = place else { continue };
            let Some((_, end, _)) = self.spool.segment_at(from) else { continue };
            match self.spool.held_by(&file) {
                Ok(held) => {
                    let held = held.into_iter().map(|gap| Gap { end: gap.end.min(end), ..gap });
                    self.copied.extend(held.filter(|gap| gap.first < gap.end));
                }
                Err(error) => tracing::warn!(
                    %error,
                    "cannot read {:?} of the spool: {error}; its datagrams may arrive twice",
                    file.name
                ),
            }
        }
        self.copied.sort_by_key(|gap| gap.first);
    }

    /// The positions from `end` to `first` have neither a segment nor a gap.
    fn note_missing(&mut self, end: Option<Position>, first: Position) {
        if let Some(end) = end.filter(|end| *end < first) {
            let reason = if is_leap(end, first) { GapReason::Unused } else { GapReason::Corrupt };
            self.spool.extents.insert(end, Extent::Gap { end: first, reason });
            if reason == GapReason::Corrupt {
                self.missing.push(Gap { first: end, end: first, reason });
            }
        }
    }

    /// Adds a segment that ends where the `next` file starts. The last one is read for its end.
    fn take_segment(&mut self, first: Position, next: Option<Position>, entry: &FileEntry) -> io::Result<()> {
        let (end, size) = match next {
            Some(next) if !is_leap(first, next) => (next, entry.size),
            // Its end cannot be found.
            Some(next)
                if NewerSegment::parse(&self.spool.start_of(&entry.name).unwrap_or_default()).is_some() =>
            {
                self.spool.move_stray(first, self.spool.stream, entry.size)?;
                self.spool.record_gap(Gap { first, end: next, reason: GapReason::Unused });
                return Ok(());
            }
            _ => self.find_end(first, entry)?,
        };
        if first == end {
            self.spool.remove_file(&entry.name);
            return Ok(());
        }
        let written = LastWrite::Earlier(entry.modified);
        self.spool.extents.insert(first, Extent::Segment { end, size, written, formats: Formats::Unknown });
        self.spool.size += size;
        Ok(())
    }

    /// Finds the end of the last segment. An incomplete batch there is copied to `damaged/` and cut off.
    fn find_end(&mut self, first: Position, entry: &FileEntry) -> io::Result<(Position, u64)> {
        let file = self.spool.disk.open(&entry.name)?;
        let mut reader = SegmentReader::new(file, self.spool.stream, first, Position(u64::MAX), entry.size);
        reader.skip_unreadable();
        let (end, size) = reader.find_end()?;
        self.newest = reader.newest();
        let torn = entry.size.saturating_sub(size);
        if torn > 0 {
            self.torn = torn;
            let copy_damaged = self
                .spool
                .copy_damaged(first, size, torn)
                .and_then(|()| self.spool.disk.create(&entry.name)?.truncate(size));
            if let Err(error) = copy_damaged {
                tracing::warn!(
                    %error,
                    "cannot copy the incomplete batch at the end of the segment {:?} to 'damaged': {error}",
                    entry.name
                );
            }
        }
        Ok((end, size))
    }
}
