//! An intake that a newer version left: it is moved out of the way, and taken in once it can be read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nf_transport_core::batch::{Batch, BatchBuilder, Compression};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::limits::POSITIONS_PER_RUN;
use nf_transport_core::sequence::{Position, StreamId};

use super::{Entry, Kind, Marks, Ring, Slots, file_len, ring_at, slots_at};
use crate::limits::JOURNAL_RING;
use crate::sender::journal::checkpoint::HEAD_LEN;

/// Intakes of newer versions that are kept at once.
const KEPT_MAX: u32 = 9;

/// Where intakes of newer versions are kept that were found at `path`.
fn kept(path: &Path) -> impl Iterator<Item = PathBuf> {
    (1..=KEPT_MAX).map(|number| path.with_extension(format!("newer-{number}")))
}

/// Moves the intake at `path` out of the way if a newer version left it. Returns where it is now, and its version.
pub(crate) fn move_away(path: &Path) -> io::Result<Option<(PathBuf, char)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let Some(version) = crate::sender::journal::checkpoint::newer_version_of(&head(&file)?) else {
        return Ok(None);
    };
    let place = kept(path).find(|place| !place.exists()).ok_or_else(|| {
        let text = format!("{KEPT_MAX} intakes of newer versions are kept already");
        io::Error::new(io::ErrorKind::AlreadyExists, text)
    })?;
    std::fs::rename(path, &place)?;
    Ok(Some((place, version)))
}

/// The content of an intake of a newer version, as far as this version reads it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) stream: StreamId,
    pub(crate) batches: Vec<Batch>,
    /// Datagrams that are missing in the ring or damaged in the slots.
    pub(crate) lost: u64,
}

/// The intakes that were moved away from `path` and that this version reads.
pub(crate) fn readable(path: &Path) -> Vec<(PathBuf, Content)> {
    let read = |place: PathBuf| {
        let content = read(&place).ok()??;
        Some((place, content))
    };
    kept(path).filter(|place| place.exists()).filter_map(read).collect()
}

fn read(path: &Path) -> io::Result<Option<Content>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() != file_len() {
        return Ok(None);
    }
    let file = Arc::new(file);
    let marks = Marks::map(file.clone())?;
    let stream = marks.stream();
    if marks.kind(stream) != Kind::Ours {
        return Ok(None);
    }
    let mut ring = Ring::map(file.clone(), ring_at(), JOURNAL_RING)?;
    if !marks.are_whole() {
        let batches = ring.searched(stream, Position(0));
        let lost = missing_in(&batches, Position(0));
        return Ok(Some(Content { stream, batches, lost }));
    }
    let floor = marks.acknowledged();
    let held = ring.recover(stream, marks.ring_tail(), floor);
    let mut batches: Vec<Batch> = ring
        .salvaged(stream, &held, floor, Some(marks.next()))
        .unwrap_or_else(|| held.into_iter().map(|held| held.batch).collect());
    let missing = missing_in(&batches, marks.next());
    let next = batches.last().map_or(marks.next(), Batch::end).max(marks.next());
    let slots = Slots::map(file, slots_at())?;
    let (encoded, damaged) = encoded(&slots, &marks, stream, next);
    batches.extend(encoded);
    Ok(Some(Content { stream, batches, lost: missing + damaged }))
}

/// Positions that are missing between `batches`, and from the last one to `next`. Those before the first one may be in segments.
fn missing_in(batches: &[Batch], next: Position) -> u64 {
    let ends = batches.iter().map(Batch::end);
    let firsts = batches.iter().skip(1).map(Batch::first).chain([next]);
    // A start may leap over positions, which never had datagrams.
    ends.zip(firsts).map(|(end, first)| first.since(end)).filter(|missing| *missing < POSITIONS_PER_RUN).sum()
}

/// The first bytes of an intake; zeros behind its end.
fn head(file: &File) -> io::Result<[u8; HEAD_LEN]> {
    let mut head = [0; HEAD_LEN];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(filled).unwrap_or(u64::MAX))? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(head)
}

/// Datagrams of the slots that are not in the ring, as batches from `next` on, and the number of those that are lost.
fn encoded(slots: &Slots, marks: &Marks, stream: StreamId, mut next: Position) -> (Vec<Batch>, u64) {
    let done = usize::try_from(next.since(marks.slots_first())).unwrap_or(usize::MAX);
    let filled = (0..).map(|slot| slots.get(slot)).take_while(|entry| *entry != Entry::Empty);
    let admitted = filled.filter_map(|entry| match entry {
        Entry::Filled(slot) => Some(Some(slot)),
        Entry::Damaged => Some(None),
        Entry::Denied | Entry::Empty => None,
    });
    let mut builder = BatchBuilder::new(stream, Compression::None);
    let (mut batches, mut lost) = (Vec::new(), 0);
    for slot in admitted.skip(done) {
        let Some(slot) = slot else {
            lost += 1;
            continue;
        };
        let local = core::net::SocketAddr::new(
            slot.local.unwrap_or(core::net::Ipv4Addr::UNSPECIFIED.into()),
            marks.slots_port(),
        );
        let arrival = slot.arrival.unwrap_or(Timestamp(0));
        let datagram = Datagram { exporter: slot.exporter, local, arrival, payload: slot.payload };
        if builder.push(&datagram).is_err() {
            batches.extend(builder.finish(next));
            next = batches.last().map_or(next, Batch::end);
            if builder.push(&datagram).is_err() {
                note_internal_error("an empty batch does not take a datagram of the slots");
                lost += 1;
            }
        }
    }
    batches.extend(builder.finish(next));
    (batches, lost)
}
