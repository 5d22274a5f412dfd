//! An intake that a newer version left: it is moved out of the way, and taken in once it can be read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::marks::HEAD_LEN;
use super::{Entry, Kind, Marks, Ring, Slots, file_len, ring_at, slots_at};
use crate::batch::{Batch, BatchBuilder, Compression};
use crate::datagram::{Datagram, Timestamp};
use crate::internal_error::note_internal_error;
use crate::limits::INTAKE_RING;
use crate::sequence::{Position, StreamId};

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
    let Some(version) = super::marks::newer_version_of(&head(&file)?) else { return Ok(None) };
    let place = kept(path).find(|place| !place.exists()).ok_or_else(|| {
        let text = format!("{KEPT_MAX} intakes of newer versions are kept already");
        io::Error::new(io::ErrorKind::AlreadyExists, text)
    })?;
    std::fs::rename(path, &place)?;
    Ok(Some((place, version)))
}

/// What the intakes that were moved away from `path` hold, as far as this version reads them: the file, its stream, and
/// its batches.
pub(crate) fn readable(path: &Path) -> Vec<(PathBuf, StreamId, Vec<Batch>)> {
    let read = |place: PathBuf| {
        let (stream, batches) = read(&place).ok()??;
        Some((place, stream, batches))
    };
    kept(path).filter(|place| place.exists()).filter_map(read).collect()
}

fn read(path: &Path) -> io::Result<Option<(StreamId, Vec<Batch>)>> {
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
    let mut ring = Ring::map(file.clone(), ring_at(), INTAKE_RING)?;
    if !marks.are_whole() {
        return Ok(Some((stream, ring.searched(stream, Position(0)))));
    }
    let floor = marks.acknowledged();
    let held = ring.recover(stream, marks.ring_tail(), floor);
    let mut batches: Vec<Batch> = ring
        .salvaged(stream, &held, floor, Some(marks.next()))
        .unwrap_or_else(|| held.into_iter().map(|held| held.batch).collect());
    let next = batches.last().map_or(marks.next(), Batch::end).max(marks.next());
    let slots = Slots::map(file, slots_at())?;
    batches.extend(encoded(&slots, &marks, stream, next));
    Ok(Some((stream, batches)))
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

/// Datagrams of the slots that are not in the ring, as batches from `next` on.
fn encoded(slots: &Slots, marks: &Marks, stream: StreamId, mut next: Position) -> Vec<Batch> {
    let done = usize::try_from(next.since(marks.slots_first())).unwrap_or(usize::MAX);
    let filled = (0..).map(|slot| slots.get(slot)).take_while(|entry| *entry != Entry::Empty);
    let admitted = filled.filter_map(|entry| match entry {
        Entry::Filled(slot) => Some(Some(slot)),
        Entry::Damaged => Some(None),
        Entry::Denied | Entry::Empty => None,
    });
    let mut builder = BatchBuilder::new(stream, Compression::None);
    let mut batches = Vec::new();
    for slot in admitted.skip(done) {
        let Some(slot) = slot else {
            tracing::error!("a datagram in the intake of a newer version is damaged: it is lost");
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
            }
        }
    }
    batches.extend(builder.finish(next));
    batches
}
