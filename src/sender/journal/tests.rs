mod damage;
mod ring;

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
fn entries_name_the_exporter_of_each_slot() {
    let directory = directory();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let exporters = ["127.0.0.1", "127.0.0.2"].map(|address| UdpSocket::bind((address, 0)).unwrap());
    let order = [0, 0, 1, 0, 1, 1];
    for exporter in order {
        exporters[exporter].send_to(b"x", receiver.local_addr().unwrap()).unwrap();
    }
    let (mut journal, _) = open(&directory);
    journal.slots.clear();
    assert_eq!(journal.slots.receive(&receiver).unwrap(), order.len());
    journal.slots.deny(3);
    let named: Vec<_> = journal
        .slots
        .entries()
        .filter_map(|entry| if let SlotEntry::Filled(slot) = entry { Some(slot.exporter) } else { None })
        .collect();
    let expected = [0, 0, 1, 1, 1].map(|exporter| exporters[exporter].local_addr().unwrap());
    assert_eq!(named, expected);
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
