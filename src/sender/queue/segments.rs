//! The segments of the queue, as the uplink reads them. Data that cannot be read leaves the queue and is
//! kept.

use std::fs::File;
use std::io;

use nf_transport_core::sequence::{Gap, GapReason, Position};
use nf_transport_core::spool::{Damage, Newer, Preserved, SegmentReader};

use crate::host::systemd::messages::sender;
use crate::sender::queue::Queue;
use crate::status::count_of;

/// A segment that is being read.
#[derive(Debug)]
pub(crate) struct OpenedSegment {
    /// Its first position.
    pub(crate) first: Position,
    pub(crate) reader: SegmentReader<File>,
    /// The number of thinned segments when it was opened.
    thinnings: u64,
}

impl Queue {
    /// Opens a segment reader at `position`. Returns `None` if no segment holds the position any more.
    /// Unreadable blocks are errors, or damage if `skip_unreadable`.
    pub(crate) fn reader(
        &self,
        position: Position,
        skip_unreadable: bool,
    ) -> io::Result<Option<OpenedSegment>> {
        let spool = self.spool();
        let Some((first, _, _)) = spool.segment_at(position) else { return Ok(None) };
        let thinnings = spool.thinnings();
        let reader = spool.reader(position, skip_unreadable)?;
        Ok(reader.map(|reader| OpenedSegment { first, reader, thinnings }))
    }

    /// Returns the current end of `segment`, which holds `position`, and its size in bytes. Returns `None` if
    /// it may have been thinned since it was opened.
    pub(crate) fn segment_end(&self, segment: &OpenedSegment, position: Position) -> Option<(Position, u64)> {
        let spool = self.spool();
        let (found, end, size) = spool.segment_at(position)?;
        (found == segment.first && spool.thinnings() == segment.thinnings).then_some((end, size))
    }

    /// Returns all positions from `position` to the end of its segment, which cannot be read.
    pub(crate) fn rest_of_segment(&self, position: Position) -> Option<Damage> {
        let (_, end, _) = self.spool().segment_at(position)?;
        Some(Damage { offset: 0, length: 0, first: position, end })
    }

    /// Quarantines a damaged piece of the segment that starts at `segment`: counts it and moves a copy to
    /// `damaged/`.
    pub(crate) fn quarantine(&self, segment: Position, damage: Damage) {
        let (set_aside, aside) = {
            let mut spool = self.spool();
            let set_aside = if damage.length > 0 {
                spool.copy_damaged(segment, damage.offset, damage.length)
            } else {
                Ok(())
            };
            (set_aside, spool.damaged())
        };
        let gap = Gap { first: damage.first, end: damage.end, reason: GapReason::Corrupt };
        let lost = self.state().lose_damaged(gap, aside);
        if lost == 0 && damage.length == 0 {
            // Positions of a gap whose record was replaced by a segment.
            return;
        }
        tracing::error!(
            message_id = sender::SPOOL_DAMAGED,
            segment = segment.0,
            offset = damage.offset,
            bytes = damage.length,
            lost,
            "a piece of the spool is damaged: {} in it are lost; it is kept in the directory 'damaged', and \
             the rest is delivered; check the disk",
            count_of(lost, "datagram")
        );
        if let Err(error) = set_aside {
            tracing::warn!(%error, "cannot keep a copy of the damaged piece in the directory 'damaged': \
             {error}");
        }
    }

    /// Removes a piece that a newer version wrote from the queue and keeps it in `newer/`. The receiver is
    /// informed that its positions are unused. Its datagrams get new positions once a version can read it.
    pub(crate) fn preserve_newer(&self, segment: Position, newer: &Newer) -> io::Result<()> {
        let (gap, aside) = {
            let mut spool = self.spool();
            (spool.preserve_newer(segment, newer.place)?, spool.newer())
        };
        // If it has left the queue since it was read, the flusher accounts for it.
        let Some(gap) = gap else { return Ok(()) };
        let kept = self.state().keep_apart_with(gap, aside);
        log_newer(format_args!("{} in the spool", count_of(kept, "datagram")), NEWER_DIRECTORY, &newer.needs);
        Ok(())
    }

    /// Accounts for pieces of newer versions that the spool has kept apart.
    pub(crate) fn note_kept_apart(&self, kept: Vec<Preserved>) {
        for Preserved { gap, needs } in kept {
            self.state().keep_apart(gap);
            let data = format_args!("datagrams in the spool, from position {} on,", gap.first.0);
            log_newer(data, NEWER_DIRECTORY, &needs);
        }
    }
}

/// The place of data from newer versions, for messages.
pub(crate) const NEWER_DIRECTORY: &str = "the directory 'newer'";

/// Logs that `data` of a newer version is kept in `place`, and the version it needs.
pub(crate) fn log_newer(data: impl core::fmt::Display, place: impl core::fmt::Display, needs: &str) {
    tracing::error!(
        message_id = sender::NEWER_FORMAT,
        needs,
        "{data} come from a newer nf-sender ({needs}): they are kept in {place} and not sent; start a \
         version that reads them, which queues them again"
    );
}
