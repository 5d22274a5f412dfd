//! A journal that a newer version left: moved away, and recovered by a version that can read it.

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

use crate::host::files::atomic_file;
use crate::limits::JOURNAL_RING;
use crate::sender::journal::checkpoint::{Checkpoint, HEAD_LEN, JournalKind, newer_version_of};
use crate::sender::journal::layout::{file_len, ring_at, slots_at};
use crate::sender::journal::ring::{Ring, RingEntry};
use crate::sender::journal::slots::{FilledSlot, SlotEntry, Slots};

/// The largest number of kept journals of newer versions.
const KEPT_MAX: u32 = 9;

/// The paths of kept journals of newer versions that were found at `path`.
fn kept_paths(path: &Path) -> impl Iterator<Item = PathBuf> {
    (1..=KEPT_MAX).map(|number| path.with_extension(format!("newer-{number}")))
}

/// Moves the journal at `path` away if a newer version left it. Returns its new path and its version.
pub(crate) fn move_away(path: &Path) -> io::Result<Option<(PathBuf, char)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let Some(version) = newer_version_of(&head(&file)?) else {
        return Ok(None);
    };
    let place = kept_paths(path).find(|place| !place.exists()).ok_or_else(|| {
        let text = format!("{KEPT_MAX} receive journals of newer versions are kept already: move them away");
        io::Error::new(io::ErrorKind::AlreadyExists, text)
    })?;
    atomic_file::rename(path, &place)?;
    Ok(Some((place, version)))
}

/// The content of a journal of a newer version, as far as this version can read it.
#[derive(Debug)]
pub(crate) struct JournalContent {
    pub(crate) stream: StreamId,
    pub(crate) batches: Vec<Batch>,
    /// Datagrams that are missing in the ring or damaged in the slots.
    pub(crate) lost: u64,
    /// The checkpoint is damaged: nothing shows where the ring ended and which datagrams were delivered.
    pub(crate) is_searched: bool,
}

/// Reads the journals that were moved away from `path`, as far as this version can.
pub(crate) fn readable(path: &Path) -> Vec<(PathBuf, JournalContent)> {
    let read = |place: PathBuf| {
        let content = read(&place).ok()??;
        Some((place, content))
    };
    kept_paths(path).filter(|place| place.exists()).filter_map(read).collect()
}

fn read(path: &Path) -> io::Result<Option<JournalContent>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() != file_len() {
        return Ok(None);
    }
    let file = Arc::new(file);
    let checkpoint = Checkpoint::map(file.clone())?;
    let stream = checkpoint.stream();
    if checkpoint.kind(stream) != JournalKind::Ours {
        return Ok(None);
    }
    let mut ring = Ring::map(file.clone(), ring_at(), JOURNAL_RING)?;
    let slots = Slots::map(file, slots_at())?;
    let is_searched = !checkpoint.is_intact();
    let (mut batches, next) = if is_searched {
        let batches = batches_of(ring.searched(stream, Position(0)));
        let next = batches.last().map_or(Position(0), Batch::end);
        (batches, next)
    } else {
        let floor = checkpoint.acknowledged();
        let entries = ring.recover(stream, checkpoint.ring_tail(), floor);
        let found = ring.salvaged(stream, &entries, floor, Some(checkpoint.next()));
        (batches_of(found.unwrap_or(entries)), checkpoint.next())
    };
    let missing = missing_in(&batches, next);
    let next = batches.last().map_or(next, Batch::end).max(next);
    let (done, port) = if is_searched {
        (done_in(&slots, &batches), batches.last().and_then(local_port).unwrap_or(0))
    } else {
        let done = usize::try_from(next.since(checkpoint.slots_first())).unwrap_or(usize::MAX);
        (done, checkpoint.slots_port())
    };
    let (encoded, damaged) = encoded(&slots, done, port, stream, next);
    batches.extend(encoded);
    Ok(Some(JournalContent { stream, batches, lost: missing + damaged, is_searched }))
}

fn batches_of(entries: Vec<RingEntry>) -> Vec<Batch> {
    entries.into_iter().map(|entries| entries.batch).collect()
}

/// Returns the destination port of the last datagram of `batch`.
fn local_port(batch: &Batch) -> Option<u16> {
    Some(batch.records().ok()?.iter().last()?.local.port())
}

/// Returns how many datagrams of the slots are also in `batches`, the newest of the ring, for use with a
/// damaged checkpoint. It is the longest run of first slots that equals the end of the last batches.
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
    // A damaged slot matches any datagram.
    let is_same = |(slot, datagram): (&Option<DatagramKey>, &DatagramKey)| {
        slot.as_ref().is_none_or(|slot| slot == datagram)
    };
    let most = in_slots.len().min(in_ring.len());
    let ends_with = |done: &usize| {
        in_slots.iter().zip(in_ring.iter().skip(in_ring.len() - done)).take(*done).all(is_same)
    };
    (1..=most).rev().find(ends_with).unwrap_or(0)
}

/// The fields of a datagram that both a slot and the ring contain.
type DatagramKey = (SocketAddr, Timestamp, Vec<u8>);

fn datagram_key(datagram: &Datagram<'_>) -> DatagramKey {
    (datagram.exporter, datagram.arrival, datagram.payload.to_vec())
}

/// Counts positions that are missing between `batches` and from the last one to `next`. Positions before the
/// first one may be in segments.
fn missing_in(batches: &[Batch], next: Position) -> u64 {
    let ends = batches.iter().map(Batch::end);
    let firsts = batches.iter().skip(1).map(Batch::first).chain([next]);
    // A start may skip positions, which never had datagrams.
    ends.zip(firsts).map(|(end, first)| first.since(end)).filter(|missing| *missing < POSITIONS_PER_RUN).sum()
}

/// Reads the first bytes of a journal, with zeros after its end.
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

/// Returns the admitted datagrams of the slots; `None` for damaged ones.
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

/// Encodes the datagrams of the slots after the first `done` as batches from `next` on. Returns them and the
/// number of lost datagrams.
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
                note_internal_error("an empty batch rejects a datagram of the slots");
                lost += 1;
            }
        }
    }
    batches.extend(builder.finish(next));
    (batches, lost)
}
