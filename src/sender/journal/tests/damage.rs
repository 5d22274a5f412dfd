//! A journal whose file is damaged or truncated.

use std::io::ErrorKind;

use super::*;

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
    assert_eq!(socket_memory(&receiver).map(|memory| memory.drops), Some(1));
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
