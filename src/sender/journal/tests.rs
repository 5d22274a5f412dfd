use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::fs::FileExt;

use nf_transport_core::batch::{Batch, BatchBuilder, Compression};
use nf_transport_core::datagram::{Datagram, Timestamp};

use super::*;
use crate::limits::JOURNAL_SLOTS;

const STREAM: StreamId = StreamId([4; 16]);
const BOOT: [u8; 16] = [1; 16];

fn batch(first: u64, payload: &[u8]) -> Batch {
    let address = "192.0.2.7:1".parse().unwrap();
    let mut builder = BatchBuilder::new(STREAM, Compression::None);
    builder.push(&Datagram { exporter: address, local: address, arrival: Timestamp(1), payload }).unwrap();
    builder.finish(Position(first)).unwrap()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn path(directory: &tempfile::TempDir) -> std::path::PathBuf {
    directory.path().join("intake")
}

fn open(directory: &tempfile::TempDir) -> (ReceiveJournal, JournalState) {
    ReceiveJournal::open(&path(directory), STREAM, BOOT).unwrap()
}

/// Opens the file of the journal from outside.
fn file(directory: &tempfile::TempDir) -> File {
    File::options().read(true).write(true).open(path(directory)).unwrap()
}

fn previous(found: JournalState) -> PreviousRun {
    let JournalState::Intact(left) = found else { panic!("{found:?}") };
    left
}

fn firsts(held: &[RingEntry]) -> Vec<u64> {
    held.iter().map(|held| held.batch.first().0).collect()
}

#[test]
fn a_new_journal_is_empty() {
    let directory = directory();
    let (mut journal, found) = open(&directory);
    assert_eq!(found, JournalState::New);
    assert!(journal.recover_ring(STREAM, true, Position(0)).is_empty());
    assert!((0..=JOURNAL_SLOTS).all(|slot| journal.slots.get(slot) == SlotEntry::Empty));
}

#[test]
fn received_datagrams_survive_the_process() {
    let directory = directory();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    enable_ancillary_data(&receiver, false).unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    let payloads: [&[u8]; 3] = [b"one", b"", &[7; 9000]];
    for payload in payloads {
        exporter.send_to(payload, receiver.local_addr().unwrap()).unwrap();
    }
    let (mut journal, _) = open(&directory);
    journal.checkpoint.set_boot(BOOT);
    journal.slots.clear();
    assert_eq!(journal.slots.receive(&receiver).unwrap(), 3);
    // Like a killed process: write nothing more; the kernel closes the file.
    drop(journal);

    let (journal, found) = open(&directory);
    assert!(previous(found).same_boot);
    for (slot, payload) in payloads.into_iter().enumerate() {
        let SlotEntry::Filled(filled) = journal.slots.get(slot) else { panic!("slot {slot} holds nothing") };
        assert_eq!(filled.payload, payload);
        assert_eq!(filled.exporter, exporter.local_addr().unwrap());
        assert_eq!(filled.local, Some("127.0.0.1".parse().unwrap()));
        assert!(filled.arrival.is_some());
    }
    assert!(journal.slots.get(3) == SlotEntry::Empty);
}

#[test]
fn a_dual_stack_socket_reports_ipv4_addresses() {
    let directory = directory();
    let receiver = UdpSocket::bind("[::]:0").unwrap();
    enable_ancillary_data(&receiver, true).unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    exporter.send_to(b"x", ("127.0.0.1", receiver.local_addr().unwrap().port())).unwrap();
    let (mut journal, _) = open(&directory);
    journal.slots.clear();
    assert_eq!(journal.slots.receive(&receiver).unwrap(), 1);
    let SlotEntry::Filled(filled) = journal.slots.get(0) else { panic!("slot {} holds nothing", 0) };
    assert_eq!(filled.exporter, exporter.local_addr().unwrap());
    assert_eq!(filled.local, Some("127.0.0.1".parse().unwrap()));
}

#[test]
fn batches_in_the_ring_survive_in_order() {
    let directory = directory();
    let (mut journal, _) = open(&directory);
    for first in 0..5 {
        journal.ring.write(batch(first, b"payload")).unwrap();
    }
    drop(journal);
    let (mut journal, _) = open(&directory);
    let held = journal.recover_ring(STREAM, true, Position(2));
    assert_eq!(firsts(&held), [2, 3, 4]);
    assert_eq!(held[0].batch, batch(2, b"payload"));
    assert_eq!(journal.checkpoint.ring_tail(), held[0].start);
}

#[test]
fn a_wrapped_ring_returns_live_batches_only() {
    let directory = directory();
    let file =
        File::options().read(true).write(true).create_new(true).open(directory.path().join("ring")).unwrap();
    file.set_len(4096 + 3000).unwrap();
    let file = Arc::new(file);
    let mut ring = Ring::map(file.clone(), 4096, 3000).unwrap();
    let mut live: Vec<RingEntry> = Vec::new();
    for first in 0..400 {
        let next = batch(first, &vec![3; usize::try_from(first * 37 % 700).unwrap()]);
        while !ring.fits(&next, live.first().map_or(ring.head(), |oldest| oldest.start)) {
            live.remove(0);
        }
        live.push(ring.write(next).unwrap());
        let tail = live[0].start;
        let floor = live[0].batch.first();
        let mut again = Ring::map(file.clone(), 4096, 3000).unwrap();
        let found = again.recover(STREAM, tail, floor);
        assert_eq!(
            found.iter().map(|held| (held.batch.first(), held.start, held.end)).collect::<Vec<_>>(),
            live.iter().map(|held| (held.batch.first(), held.start, held.end)).collect::<Vec<_>>(),
        );
        assert_eq!(again.head(), ring.head());
        let empty = Ring::map(file.clone(), 4096, 3000).unwrap().recover(
            STREAM,
            ring.head(),
            live.last().unwrap().batch.end(),
        );
        assert!(empty.is_empty(), "behind the newest batch nothing is live");
    }
}

#[test]
fn the_checkpoint_names_boot_and_stream() {
    let directory = directory();
    let (journal, _) = open(&directory);
    journal.checkpoint.set_next(Position(77));
    journal.checkpoint.set_acknowledged(Position(70));
    journal.checkpoint.set_boot(BOOT);
    drop(journal);
    let path = path(&directory);
    let same = previous(ReceiveJournal::open(&path, STREAM, BOOT).unwrap().1);
    assert_eq!(
        same,
        PreviousRun { same_boot: true, run: RunId::NONE, next: Position(77), acknowledged: Position(70) }
    );
    assert!(!previous(ReceiveJournal::open(&path, STREAM, [2; 16]).unwrap().1).same_boot);
    assert_eq!(ReceiveJournal::open(&path, StreamId([5; 16]), BOOT).unwrap().1, JournalState::Damaged);
}

#[test]
fn a_denied_datagram_stays_denied() {
    let directory = directory();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    for payload in [b"first", b"other"] {
        exporter.send_to(payload, receiver.local_addr().unwrap()).unwrap();
    }
    let (mut journal, _) = open(&directory);
    journal.slots.clear();
    assert_eq!(journal.slots.receive(&receiver).unwrap(), 2);
    journal.slots.deny(0);
    drop(journal);
    let (journal, _) = open(&directory);
    assert!(journal.slots.get(0) == SlotEntry::Denied);
    let SlotEntry::Filled(filled) = journal.slots.get(1) else { panic!("slot 1 holds nothing") };
    assert_eq!(filled.payload, b"other");
}

#[test]
fn a_journal_in_use_is_not_opened() {
    let directory = directory();
    let _held = open(&directory);
    let refused = ReceiveJournal::open(&directory.path().join("intake"), STREAM, BOOT).unwrap_err();
    assert_eq!(refused.to_string(), "another nf-sender uses it");
}

#[test]
fn a_journal_in_memory_works() {
    let mut journal = ReceiveJournal::in_memory(STREAM).unwrap();
    let held = journal.ring.write(batch(0, b"payload")).unwrap();
    assert_eq!(journal.ring.head(), held.end);
    assert!(journal.slots.get(0) == SlotEntry::Empty);
}

/// Leaves a journal with batches 0 to 4 in its ring, as of a killed process.
fn killed(directory: &tempfile::TempDir) {
    let (mut journal, _) = open(directory);
    for first in 0..5 {
        journal.ring.write(batch(first, &[7; 100])).unwrap();
        journal.checkpoint.set_next(Position(first + 1));
    }
    journal.checkpoint.set_boot(BOOT);
}

#[test]
fn a_ring_with_a_damaged_checkpoint_is_searched() {
    let directory = directory();
    killed(&directory);
    file(&directory).write_all_at(&[0xFF; 4096], 0).unwrap();
    let (mut journal, found) = open(&directory);
    assert_eq!(found, JournalState::Damaged);
    let held = journal.recover_ring(STREAM, false, Position(1));
    assert_eq!(firsts(&held), [1, 2, 3, 4]);
    assert_eq!(journal.ring.head(), held[3].end, "it goes on after the newest batch");
}

#[test]
fn a_damaged_batch_hides_no_later_one() {
    let directory = directory();
    killed(&directory);
    let length = u64::try_from(batch(0, &[7; 100]).bytes().len()).unwrap();
    file(&directory).write_all_at(&[0xFF], ring_at() + length + 70).unwrap();
    let (mut journal, found) = open(&directory);
    previous(found);
    assert_eq!(firsts(&journal.recover_ring(STREAM, true, Position(0))), [0, 2, 3, 4]);
}

/// The size of a ring that wraps after a few batches.
const SMALL_RING: u64 = 3000;

#[test]
fn a_flipped_bit_in_a_wrapped_ring_hits_one_batch() {
    let (file, live, whole) = wrapped_ring();
    let (tail, floor) = (live[0].start, live[0].batch.first());
    let lap = |held: &RingEntry| held.start / SMALL_RING;
    assert!(lap(&live[5]) == lap(&live[0]) && lap(&live[11]) > lap(&live[0]), "{:?}", firsts(&live));
    for hit in &live {
        let start = hit.start % SMALL_RING * 8;
        // A prime step hits headers and bodies at many places.
        for bit in (start..start + (hit.end - hit.start) * 8).step_by(7) {
            let mut damaged = whole.clone();
            damaged[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
            file.write_all_at(&damaged, 0).unwrap();
            let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
            let found = firsts(&ring.recover_all(STREAM, Some((tail, Position(26))), floor));
            let mut expected = firsts(&live);
            expected.retain(|first| *first != hit.batch.first().0);
            assert_eq!(found, expected, "bit {bit}, in batch {}", hit.batch.first());
        }
    }
}

/// Creates a small ring with the batches `live` after a few laps. Returns its file, entries and bytes.
fn wrapped_ring() -> (Arc<File>, Vec<RingEntry>, Vec<u8>) {
    let file = Arc::new(File::from(rustix::fs::memfd_create("ring", MemfdFlags::CLOEXEC).unwrap()));
    file.set_len(SMALL_RING).unwrap();
    let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
    let mut live: Vec<RingEntry> = Vec::new();
    for first in 0..26 {
        let next = batch(first, &[7; 100]);
        while !ring.fits(&next, live.first().map_or(ring.head(), |oldest| oldest.start)) {
            live.remove(0);
        }
        live.push(ring.write(next).unwrap());
    }
    let bytes = bytes_of(&file);
    (file, live, bytes)
}

fn bytes_of(ring: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SMALL_RING).unwrap()];
    ring.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn recovery_writes_nothing_to_a_damaged_ring() {
    let (file, live, mut damaged) = wrapped_ring();
    damaged[usize::try_from(live[3].start % SMALL_RING).unwrap() + 70] ^= 1;
    for marks in [None, Some((live[0].start, Position(26)))] {
        file.write_all_at(&damaged, 0).unwrap();
        let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
        let held = ring.recover_all(STREAM, marks, live[0].batch.first());
        assert_eq!(held.len(), live.len() - 1);
        assert!(bytes_of(&file) == damaged, "a kill in the middle would lose what was written over");
    }
}

/// Kills and recovers after each write of a new batch, while the oldest one is freed.
fn never_loses_a_held_batch(file: &Arc<File>, floor: Position) {
    let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
    let mut held = ring.recover_all(STREAM, None, floor);
    for first in 26..80 {
        let next = batch(first, &[8; 90]);
        while !ring.fits(&next, held.first().map_or(ring.head(), |oldest| oldest.start)) {
            held.remove(0);
        }
        let before = firsts(&held);
        held.push(ring.write(next).unwrap());
        let marks = Some((held[0].start, Position(first + 1)));
        for marks in [marks, None] {
            let mut killed = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
            let found = firsts(&killed.recover_all(STREAM, marks, held[0].batch.first()));
            let lost: Vec<_> = before.iter().filter(|batch| !found.contains(batch)).collect();
            assert!(lost.is_empty() && found.contains(&first), "{lost:?} at {first}: {found:?}");
        }
    }
}

#[test]
fn a_kill_after_each_write_to_a_salvaged_ring() {
    for hit in 0..12 {
        let (file, live, mut damaged) = wrapped_ring();
        damaged[usize::try_from(live[hit].start % SMALL_RING).unwrap() + 70] ^= 1;
        file.write_all_at(&damaged, 0).unwrap();
        never_loses_a_held_batch(&file, live[0].batch.first());
    }
}

#[test]
fn a_ring_with_batches_in_no_order() {
    let (file, live, _) = wrapped_ring();
    let length = batch(0, &[7; 100]).bytes().len();
    for order in [[5_u64, 1, 4, 2, 3], [1, 2, 5, 3, 4], [3, 4, 5, 1, 2]] {
        let mut bytes = vec![0; usize::try_from(SMALL_RING).unwrap()];
        for (place, first) in order.into_iter().enumerate() {
            let at = place * (length + 40);
            bytes[at..at + length].copy_from_slice(batch(first, &[7; 100]).bytes());
        }
        file.write_all_at(&bytes, 0).unwrap();
        let mut ring = Ring::map(file.clone(), 0, SMALL_RING).unwrap();
        let held = ring.recover_all(STREAM, None, Position(0));
        assert_eq!(firsts(&held), [1, 2, 3, 4, 5], "{order:?}");
        assert!(held.is_sorted_by_key(|held| held.start) && held.iter().all(|held| held.start < held.end));
        assert_eq!((ring.head(), bytes_of(&file) == bytes), (held[4].end, true), "{order:?}");
        never_loses_a_held_batch(&file, Position(0));
    }
    drop(live);
}

#[test]
fn a_truncated_journal_yields_its_rest() {
    let directory = directory();
    killed(&directory);
    let length = u64::try_from(batch(0, &[7; 100]).bytes().len()).unwrap();
    file(&directory).set_len(ring_at() + 3 * length + 10).unwrap();
    let (mut journal, found) = open(&directory);
    assert_eq!(previous(found).next, Position(5), "so that what is missing is counted");
    assert_eq!(firsts(&journal.recover_ring(STREAM, true, Position(0))), [0, 1, 2]);
    drop(journal);
    file(&directory).set_len(ring_at() - 1).unwrap();
    assert_eq!(open(&directory).1, JournalState::Damaged);
}

#[test]
fn a_truncated_file_does_not_end_the_process() {
    let directory = directory();
    let (mut journal, _) = open(&directory);
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |payload| exporter.send_to(payload, receiver.local_addr().unwrap()).unwrap();
    journal.slots.clear();
    file(&directory).set_len(0).unwrap();

    journal.ring.write(batch(0, b"payload")).unwrap();
    journal.checkpoint.set_next(Position(1));
    assert_eq!(
        (journal.ring.backing(), journal.checkpoint.backing()),
        (Backing::Incomplete, Backing::Incomplete)
    );
    assert_eq!(journal.checkpoint.next(), Position(1));
    for payload in [b"one", b"two"] {
        send(payload);
        assert_eq!(journal.slots.receive(&receiver).unwrap(), 1);
        let SlotEntry::Filled(filled) = journal.slots.get(0) else { panic!("slot {} holds nothing", 0) };
        assert_eq!(filled.payload, payload);
        assert!(journal.slots.get(1) == SlotEntry::Empty);
        journal.slots.clear();
    }
    assert_eq!(journal.slots.backing(), Backing::Incomplete);
}

#[test]
fn a_file_truncated_in_recvmmsg_costs_one() {
    let directory = directory();
    let (mut journal, _) = open(&directory);
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    enable_ancillary_data(&receiver, false).unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |payload| exporter.send_to(payload, receiver.local_addr().unwrap()).unwrap();
    journal.slots.clear();
    // Headers, names and control messages take 44 KiB and stay. All payloads are cut off.
    file(&directory).set_len(slots_at() + 44 * 1024).unwrap();
    send(b"one");
    let error = journal.slots.receive(&receiver).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    assert_eq!(kernel_drops(&receiver), Some(1));
    send(b"two");
    assert_eq!(journal.slots.receive(&receiver).unwrap(), 1);
    let SlotEntry::Filled(filled) = journal.slots.get(0) else { panic!("slot {} holds nothing", 0) };
    assert_eq!((filled.payload, filled.dropped), (&b"two"[..], Some(1)), "the kernel counts the one before");
}

#[test]
fn the_content_of_the_file_moves_to_memory() {
    let directory = directory();
    let (mut journal, _) = open(&directory);
    journal.ring.write(batch(0, b"payload")).unwrap();
    journal.ring.move_to_memory().unwrap();
    assert_eq!(journal.ring.backing(), Backing::Memory);
    file(&directory).set_len(0).unwrap();
    assert_eq!(firsts(&journal.recover_ring(STREAM, false, Position(0))), [0]);
}

#[test]
fn a_failed_file_is_reported_with_its_reason() {
    let directory = directory();
    drop(open(&directory));
    file(&directory).set_len(0).unwrap();
    let place = JournalLocation::file(path(&directory));
    let reason = place.note_failed_file().unwrap();
    assert!(reason.ends_with("/intake was truncated"), "{reason}");
    assert_eq!(place.why_in_memory(), Some(reason.as_str()));
    assert_eq!((place.path(), place.note_failed_file()), (None, None));
    place.remove_failed_file().unwrap();
    assert_eq!(path(&directory).metadata().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_copy_has_the_content_of_the_file() {
    let directory = directory();
    let (mut journal, _) = open(&directory);
    for first in 0..3 {
        journal.ring.write(batch(first, b"payload")).unwrap();
    }
    journal.checkpoint.set_next(Position(3));
    journal.checkpoint.set_boot(BOOT);
    drop(journal);
    let (mut copy, found) =
        ReceiveJournal::copy_to_memory(&directory.path().join("intake"), STREAM, BOOT).unwrap();
    assert!(
        matches!(found, JournalState::Intact(PreviousRun { same_boot: true, next: Position(3), .. })),
        "{found:?}"
    );
    assert_eq!(copy.recover_ring(STREAM, true, Position(0)).len(), 3);
}

#[test]
fn a_batch_that_does_not_fit_is_returned() {
    let file = Arc::new(File::from(rustix::fs::memfd_create("ring", MemfdFlags::CLOEXEC).unwrap()));
    file.set_len(4096).unwrap();
    let mut ring = Ring::map(file, 0, 100).unwrap();
    let long = batch(0, &[7; 100]);
    assert_eq!(ring.write(long.clone()).unwrap_err(), long);
    assert_eq!(ring.head(), 0, "the ring is as it was");
}
