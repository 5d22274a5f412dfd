//! An intake that a newer version left: it is moved out of the way, and taken in once it can be read.

use core::net::{Ipv4Addr, SocketAddr};
use std::collections::VecDeque;
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

use crate::limits::JOURNAL_RING;
use crate::sender::journal::checkpoint::{Checkpoint, HEAD_LEN, JournalKind, newer_version_of};
use crate::sender::journal::layout::{file_len, ring_at, slots_at};
use crate::sender::journal::ring::{Ring, RingEntry};
use crate::sender::journal::slots::{FilledSlot, SlotEntry, Slots};

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
    let Some(version) = newer_version_of(&head(&file)?) else {
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
pub(crate) struct JournalContent {
    pub(crate) stream: StreamId,
    pub(crate) batches: Vec<Batch>,
    /// Datagrams that are missing in the ring or damaged in the slots.
    pub(crate) lost: u64,
    /// Whether the marks are damaged, so that nothing shows where the ring ended and what was delivered.
    pub(crate) is_searched: bool,
}

/// The intakes that were moved away from `path` and that this version reads.
pub(crate) fn readable(path: &Path) -> Vec<(PathBuf, JournalContent)> {
    let read = |place: PathBuf| {
        let content = read(&place).ok()??;
        Some((place, content))
    };
    kept(path).filter(|place| place.exists()).filter_map(read).collect()
}

fn read(path: &Path) -> io::Result<Option<JournalContent>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() != file_len() {
        return Ok(None);
    }
    let file = Arc::new(file);
    let marks = Checkpoint::map(file.clone())?;
    let stream = marks.stream();
    if marks.kind(stream) != JournalKind::Ours {
        return Ok(None);
    }
    let mut ring = Ring::map(file.clone(), ring_at(), JOURNAL_RING)?;
    let slots = Slots::map(file, slots_at())?;
    let is_searched = !marks.are_whole();
    let (mut batches, next) = if is_searched {
        let batches = batches_of(ring.searched(stream, Position(0)));
        let next = batches.last().map_or(Position(0), Batch::end);
        (batches, next)
    } else {
        let floor = marks.acknowledged();
        let held = ring.recover(stream, marks.ring_tail(), floor);
        let found = ring.salvaged(stream, &held, floor, Some(marks.next()));
        (batches_of(found.unwrap_or(held)), marks.next())
    };
    let missing = missing_in(&batches, next);
    let next = batches.last().map_or(next, Batch::end).max(next);
    let (done, port) = if is_searched {
        (done_in(&slots, &batches), batches.last().and_then(local_port).unwrap_or(0))
    } else {
        let done = usize::try_from(next.since(marks.slots_first())).unwrap_or(usize::MAX);
        (done, marks.slots_port())
    };
    let (encoded, damaged) = encoded(&slots, done, port, stream, next);
    batches.extend(encoded);
    Ok(Some(JournalContent { stream, batches, lost: missing + damaged, is_searched }))
}

fn batches_of(held: Vec<RingEntry>) -> Vec<Batch> {
    held.into_iter().map(|held| held.batch).collect()
}

/// The port that the last datagram of `batch` was sent to.
fn local_port(batch: &Batch) -> Option<u16> {
    Some(batch.records().ok()?.iter().last()?.local.port())
}

/// How many datagrams of the slots are in `batches`, the newest of the ring, where no mark tells: as many of the first ones
/// as the last batches end with.
fn done_in(slots: &Slots, batches: &[Batch]) -> usize {
    let in_slots: Vec<_> =
        admitted(slots).map(|slot| slot.map(|slot| datagram_key(&datagram_of(&slot, 0)))).collect();
    let mut in_ring: VecDeque<_> = VecDeque::new();
    for batch in batches.iter().rev() {
        if in_ring.len() >= in_slots.len() {
            break;
        }
        let Ok(records) = batch.records() else { break };
        let datagrams: Vec<_> = records.iter().map(|datagram| datagram_key(&datagram)).collect();
        datagrams.into_iter().rev().for_each(|datagram| in_ring.push_front(datagram));
    }
    // A damaged slot is like any datagram.
    let is_same = |(slot, datagram): (&Option<DatagramKey>, &DatagramKey)| {
        slot.as_ref().is_none_or(|slot| slot == datagram)
    };
    let most = in_slots.len().min(in_ring.len());
    let ends_with = |done: &usize| {
        in_slots.iter().zip(in_ring.iter().skip(in_ring.len() - done)).take(*done).all(is_same)
    };
    (1..=most).rev().find(ends_with).unwrap_or(0)
}

/// What both a slot and the ring tell of a datagram.
type DatagramKey = (SocketAddr, Timestamp, Vec<u8>);

fn datagram_key(datagram: &Datagram<'_>) -> DatagramKey {
    (datagram.exporter, datagram.arrival, datagram.payload.to_vec())
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

/// The datagrams of the slots that are to be carried; `None` for those that are damaged.
fn admitted(slots: &Slots) -> impl Iterator<Item = Option<FilledSlot<'_>>> {
    let filled = (0..).map(|slot| slots.get(slot)).take_while(|entry| *entry != SlotEntry::Empty);
    filled.filter_map(|entry| match entry {
        SlotEntry::Filled(slot) => Some(Some(slot)),
        SlotEntry::Damaged => Some(None),
        SlotEntry::Denied | SlotEntry::Empty => None,
    })
}

fn datagram_of<'a>(slot: &FilledSlot<'a>, port: u16) -> Datagram<'a> {
    let local = SocketAddr::new(slot.local.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port);
    let arrival = slot.arrival.unwrap_or(Timestamp(0));
    Datagram { exporter: slot.exporter, local, arrival, payload: slot.payload }
}

/// Datagrams of the slots that are not in the ring, unlike the first `done`, as batches from `next` on, and the number of those
/// that are lost.
fn encoded(slots: &Slots, done: usize, port: u16, stream: StreamId, mut next: Position) -> (Vec<Batch>, u64) {
    let mut builder = BatchBuilder::new(stream, Compression::None);
    let (mut batches, mut lost) = (Vec::new(), 0);
    for slot in admitted(slots).skip(done) {
        let Some(slot) = slot else {
            lost += 1;
            continue;
        };
        let datagram = datagram_of(&slot, port);
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
