//! Thins a segment: drops some of its datagrams and keeps the rest.
//!
//! Every position keeps its meaning. The position of a dropped datagram stays in its batch as a record of one
//! byte, so the batches of a thinned segment follow each other as before, and a receiver that has a part of
//! it continues from there.
//!
//! The new segment is written whole under another name, forced to disk, and takes the place of the old one by
//! a rename. Only the rename needs the spool: an acknowledgement before it leaves the segment as it is. A
//! crash at any moment leaves one or the other. A small segment in front of it is joined with it, so that
//! thinned segments do not pile up as files. An empty file, the marker, names each thinned segment: the next
//! start counts the dropped datagrams in its headers.

use std::io;

use crate::batch::Batch;
use crate::datagram::Timestamp;
use crate::sequence::{Gap, GapReason, Position};
use crate::spool::disk::{Disk, DiskFile};
use crate::spool::extent::{Extent, Formats};
use crate::spool::item::Item;
use crate::spool::name;
use crate::spool::reader::SegmentReader;
use crate::spool::segment::SEGMENT_HEADER_LEN;
use crate::spool::state::Spool;

/// Selects the datagrams of a segment that stay.
pub trait Sieve {
    /// Accepts the next batch of the segment. Returns batches that are complete now. They cover all positions
    /// in order, from the first one on that no batch covers yet.
    fn sift(&mut self, batch: &Batch) -> io::Result<Vec<Batch>>;

    /// Returns the last batch, which covers the remaining positions, if there are any.
    fn finish(&mut self) -> io::Result<Option<Batch>>;
}

/// A segment that may be thinned or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its first position.
    pub first: Position,
    /// The position after its last.
    pub end: Position,
    /// Bytes of it.
    pub size: u64,
}

/// Datagrams that a thinning dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thinned {
    /// The first position of the segment.
    pub first: Position,
    /// The position after its last.
    pub end: Position,
    /// Number of its datagrams that were dropped.
    pub datagrams: u64,
}

/// A thinned segment in the making.
#[derive(Debug)]
struct Writing<F> {
    file: F,
    content: ThinnedContent,
}

#[derive(Debug)]
struct ThinnedContent {
    size: u64,
    end: Position,
    dropped: u64,
}

impl<F: DiskFile> Writing<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.content.size)?;
        self.content.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        if batch.first() != self.content.end {
            return Err(io::Error::other("a batch of a thinned segment does not follow the one before it"));
        }
        self.write(batch.bytes())?;
        self.content.end = batch.end();
        self.content.dropped += u64::from(batch.dropped());
        Ok(())
    }
}

/// A thinning that is prepared. It runs without the spool, which can be used meanwhile.
#[derive(Debug)]
pub struct ThinningJob<F> {
    segment: Candidate,
    /// A small segment in front of it, which becomes part of the same file.
    joined: Option<Candidate>,
    /// The readers, with the first position of each.
    readers: Vec<(Position, SegmentReader<F>)>,
    /// Time of the last write to the segment.
    modified: Timestamp,
    header: Vec<u8>,
    writing: Writing<F>,
}

impl<F: DiskFile> ThinningJob<F> {
    /// Writes those datagrams of the segment that pass `sieve`, forces them to disk, and closes the file;
    /// `None` if a part of the segment is damaged.
    pub fn run(self, sieve: &mut impl Sieve) -> io::Result<Option<ThinnedSegment>> {
        let Self { segment, joined, readers, modified, header, mut writing } = self;
        writing.file.truncate(0)?;
        writing.write(&header)?;
        for (first, mut reader) in readers {
            while let Some(item) = reader.next_item()? {
                let Item::Batch(batch) = item else { return Ok(None) };
                if first == segment.first {
                    sieve.sift(&batch)?.iter().try_for_each(|batch| writing.append(batch))?;
                } else {
                    writing.append(&batch)?;
                }
            }
        }
        if let Some(last) = sieve.finish()? {
            writing.append(&last)?;
        }
        // A start takes the age of the datagrams from it.
        writing.file.set_modified(modified)?;
        writing.file.sync()?;
        // Closing returns the space that XFS allocated ahead. Later it would look like the release of the old
        // file.
        let Writing { file, content } = writing;
        drop(file);
        Ok(Some(ThinnedSegment { segment, joined, content }))
    }
}

/// A thinned segment that is on disk, and has not taken the place of the segment yet.
#[derive(Debug)]
pub struct ThinnedSegment {
    segment: Candidate,
    joined: Option<Candidate>,
    content: ThinnedContent,
}

impl<D: Disk> Spool<D> {
    /// The segments that may be thinned or dropped while positions below `in_flight` are on their way, oldest
    /// first. All of their positions are unacknowledged. Batches may still be appended to the last segment,
    /// so it is none of them.
    pub fn candidates(&self, in_flight: Position) -> impl Iterator<Item = Candidate> {
        let last = self.last_segment().map(|(first, _)| first);
        let idle = self.idle_segments(in_flight);
        idle.filter(move |idle| Some(idle.first) != last && idle.first >= self.acknowledged)
            .map(|idle| Candidate { first: idle.first, end: idle.end, size: idle.size })
    }

    /// Bytes to drop before `length` more can be appended within `max-size`.
    pub fn excess(&self, length: u64) -> u64 {
        self.size.saturating_add(length).saturating_sub(self.policy.max_size)
    }

    /// The most bytes that all segments may have together.
    pub fn max_size(&self) -> u64 {
        self.policy.max_size
    }

    /// Marks the segment that starts at `first` as thinned, as `batch`, of which datagrams were dropped, goes
    /// into it.
    pub(super) fn mark_thinned(&mut self, first: Position, batch: &Batch) -> io::Result<()> {
        if batch.dropped() > 0 && !self.thinned.contains_key(&first) {
            let marker = name::thinned(first);
            drop(self.disk.create(&marker)?);
            self.unremoved.remove(&marker);
            self.names_unsynced = true;
            self.thinned.insert(first, 0);
        }
        Ok(())
    }

    /// Counts the datagrams dropped from `batch`, which is in the segment that starts at `first`.
    pub(super) fn note_thinned_batch(&mut self, first: Position, batch: &Batch) {
        if let Some(dropped) = self.thinned.get_mut(&first) {
            *dropped += u64::from(batch.dropped());
        }
    }

    /// True if the file system has room for `bytes` more for a moment, in addition to `min-free`.
    pub fn may_take(&self, bytes: u64) -> bool {
        self.room().is_ok_and(|room| room.space.free.saturating_sub(room.min_free) >= bytes)
    }

    /// Number of thinned segments: a reader that was opened before may read datagrams that were dropped.
    pub fn thinnings(&self) -> u64 {
        self.thinnings
    }

    /// Thinned segments, with the number of datagrams that were dropped from each.
    pub fn thinned(&self) -> impl Iterator<Item = Thinned> {
        let of = |(first, dropped): (&Position, &u64)| {
            let (_, end, _) = self.segment_at(*first)?;
            Some(Thinned { first: *first, end, datagrams: *dropped })
        };
        self.thinned.iter().filter_map(of)
    }

    /// Prepares that `segment` is thinned: opens its file, and the file that takes its place. Only one
    /// thinning may be prepared at a time: the one before has been handed to [`Self::finish_thinning`] or
    /// [`Self::abandon_thinning`], and runs no longer.
    pub fn start_thinning(
        &mut self,
        segment: Candidate,
        in_flight: Position,
    ) -> io::Result<Option<ThinningJob<D::File>>> {
        let joined = self.small_before(segment, in_flight);
        let begin = joined.map_or(segment.first, |joined| joined.first);
        let mut readers = Vec::new();
        for candidate in joined.into_iter().chain([segment]) {
            let Some(reader) = self.reader(candidate.first, false)? else { return Ok(None) };
            readers.push((candidate.first, reader));
        }
        let modified = self.disk.open(&name::segment(segment.first))?.modified()?;
        let mut header = self.start_of(&name::segment(begin))?;
        header.resize(SEGMENT_HEADER_LEN, 0);
        let file = self.disk.create(name::UNFINISHED_THINNED)?;
        self.unremoved.remove(name::UNFINISHED_THINNED);
        let writing = Writing { file, content: ThinnedContent { size: 0, end: begin, dropped: 0 } };
        Ok(Some(ThinningJob { segment, joined, readers, modified, header, writing }))
    }

    /// Replaces the segment with `thinned` if that frees at least `least` bytes and the segment is unchanged.
    /// Returns how many datagrams were dropped; `None` if the segment stays as it is.
    pub fn finish_thinning(
        &mut self,
        thinned: ThinnedSegment,
        least: u64,
        in_flight: Position,
    ) -> io::Result<Option<Thinned>> {
        let ThinnedSegment { segment, joined, content } = thinned;
        let Candidate { first, end, size } = segment;
        let begin = joined.map_or(first, |joined| joined.first);
        let old_size = size + joined.map_or(0, |joined| joined.size);
        let is_worth_it = content.end == end && old_size.saturating_sub(content.size) >= least;
        if !is_worth_it || !joined.into_iter().chain([segment]).all(|part| self.is_candidate(part, in_flight))
        {
            self.abandon_thinning();
            return Ok(None);
        }
        let dropped_before: u64 = self.thinned.range(begin..end).map(|(_, dropped)| dropped).sum();
        if let Err(error) = self.put_thinned(begin) {
            self.abandon_thinning();
            return Err(error);
        }
        self.take_thinned(begin, segment, old_size, &content);
        Ok(Some(Thinned { first, end, datagrams: content.dropped.saturating_sub(dropped_before) }))
    }

    /// Removes the file of an abandoned thinning.
    pub fn abandon_thinning(&mut self) {
        self.remove_file(name::UNFINISHED_THINNED);
    }

    /// True if `segment` is unchanged, and may still be thinned or dropped.
    pub fn is_candidate(&self, segment: Candidate, in_flight: Position) -> bool {
        self.candidates(in_flight).any(|candidate| candidate == segment)
    }

    /// The segment right before `segment`, if both can become one file: it was thinned and is small.
    fn small_before(&self, segment: Candidate, in_flight: Position) -> Option<Candidate> {
        let before = self.candidates(in_flight).find(|before| before.end == segment.first)?;
        let is_small = before.size < segment.size / 4 && self.thinned.contains_key(&before.first);
        is_small.then_some(before)
    }

    /// Puts the segment that was written in the place of the one that starts at `begin`.
    fn put_thinned(&mut self, begin: Position) -> io::Result<()> {
        self.look_at_free();
        let marker = name::thinned(begin);
        drop(self.disk.create(&marker)?);
        self.unremoved.remove(&marker);
        self.disk.rename(name::UNFINISHED_THINNED, &name::segment(begin))?;
        // Before anything else goes that the new file holds, too.
        self.names_unsynced = self.disk.sync_directory().is_err();
        Ok(())
    }

    /// Takes over that the file of the segment that starts at `begin` reaches to the end of `segment`, and
    /// was thinned. It took the place of `old_size` bytes.
    fn take_thinned(&mut self, begin: Position, segment: Candidate, old_size: u64, content: &ThinnedContent) {
        // The newest datagrams decide how old a file is.
        let last_write = self.extents.get(&segment.first).and_then(Extent::last_write);
        if begin != segment.first {
            self.forget_segment(segment.first);
            if self.names_unsynced {
                // After a power loss its datagrams may be in no other file.
                self.unremoved.insert(name::segment(segment.first));
                self.thinned.remove(&segment.first);
            } else {
                self.remove_segment_file(segment.first);
            }
        }
        if let Some(Extent::Segment { end, size, written, formats, .. }) = self.extents.get_mut(&begin) {
            self.size = self.size.saturating_sub(*size).saturating_add(content.size);
            (*end, *size) = (segment.end, content.size);
            *written = last_write.unwrap_or(*written);
            // The job has read all batches of both.
            *formats = Formats::Own;
        }
        self.unsynced.remove(&begin);
        self.open.remove(begin);
        self.thinned.insert(begin, content.dropped);
        self.awaited.removed(old_size);
        self.look_at_free();
        self.thinnings += 1;
    }

    /// Drops all of `segment`, and leaves a gap in its place.
    pub fn drop_candidate(&mut self, segment: Candidate) -> io::Result<()> {
        let gap = Gap { first: segment.first, end: segment.end, reason: GapReason::SpoolFull };
        self.put_gap(gap)?;
        self.remove_segment(segment.first);
        self.dropped.push(gap);
        self.note_gap(gap, Ok(()));
        Ok(())
    }

    /// Forgets that the segment that starts at `first` was thinned, as it is gone.
    pub(super) fn forget_thinned(&mut self, first: Position) {
        if self.thinned.remove(&first).is_some() {
            self.remove_file(&name::thinned(first));
        }
    }

    /// Counts the datagrams dropped from the segments with the markers `marked`. Removes markers of other
    /// segments, and the file of an unfinished thinning.
    pub(super) fn count_thinned(&mut self, marked: &[Position], is_unfinished: bool) {
        if is_unfinished {
            self.remove_file(name::UNFINISHED_THINNED);
        }
        for first in marked {
            let dropped = self.reader(*first, true).ok().flatten().map(dropped_of);
            match dropped {
                Some(Ok(dropped)) if dropped > 0 && self.extents.contains_key(first) => {
                    self.thinned.insert(*first, dropped);
                }
                Some(Err(error)) => tracing::warn!(
                    %error,
                    segment = first.0,
                    "cannot count the dropped datagrams of a segment: {error}; they count as queued"
                ),
                _ => self.remove_file(&name::thinned(*first)),
            }
        }
    }
}

/// The datagrams that were dropped from a segment, by the headers of its batches.
fn dropped_of<F: DiskFile>(mut reader: SegmentReader<F>) -> io::Result<u64> {
    reader.find_end()?;
    Ok(reader.dropped())
}
