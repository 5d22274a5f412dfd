//! Damage in the receive journal of a killed run.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nf_transport_core::batch::{Batch, BatchBuilder, Compression};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::sequence::Position;
use proptest::prelude::*;
use tempfile::TempDir;

use super::running::RunningIngest;
use super::{assert_balanced, drain, kill, policy, push, start};
use crate::host::Pulse;
use crate::limits::{JOURNAL_RING, JOURNAL_SLOTS};
use crate::sender::journal::SlotEntry;
use crate::sender::queue::recovery::RecoveredRun;

/// The number of batches in the ring, of one datagram each.
const BATCHES: u64 = 12;

/// The length of a payload in bytes.
const LENGTH: usize = 90;

/// The length of a batch in bytes: header, record and payload.
const BATCH_LEN: u64 = 56 + 23 + 90;

/// The used bytes of the checkpoint.
const MARKS_LEN: u64 = 448;

fn flip(journal: &Path, bit: u64) {
    let file = File::options().read(true).write(true).open(journal).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

/// Returns the directory of a killed run with `BATCHES` batches in its ring.
fn killed_run() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, BATCHES, LENGTH);
    kill(run);
    directory
}

/// Starts a copy of the killed run in `original` with `bit` of its journal flipped. Returns the recovered
/// datagrams and the number counted as corrupt.
fn recovered_with_flipped(original: &TempDir, bit: u64) -> (Vec<u64>, u64) {
    let damaged = tempfile::tempdir().unwrap();
    for name in ["stream", "boot", "intake"] {
        std::fs::copy(original.path().join(name), damaged.path().join(name)).unwrap();
    }
    flip(&damaged.path().join("intake"), bit);
    let run = start(&damaged, policy());
    let given = drain(&run.queue, Position(0));
    assert_balanced(&run.queue);
    let corrupt = run.queue.figures().counts.corrupt;
    kill(run);
    (given, corrupt)
}

/// Returns the offset of the ring in the journal of `directory`.
fn ring_at(directory: &TempDir) -> u64 {
    directory.path().join("intake").metadata().unwrap().len() - JOURNAL_RING
}

#[test]
fn a_flipped_bit_in_the_ring_costs_one_batch() {
    let original = killed_run();
    let ring = ring_at(&original) * 8;
    let mut lost = Vec::new();
    // A prime step hits one batch after the other, each at another place.
    for bit in (0..BATCHES * BATCH_LEN * 8).step_by(1201) {
        let (given, corrupt) = recovered_with_flipped(&original, ring + bit);
        let missing: Vec<u64> = (0..BATCHES).filter(|number| !given.contains(number)).collect();
        assert!(missing.len() == 1 && given.is_sorted(), "bit {bit}: {given:?}");
        assert_eq!(corrupt, 1, "bit {bit}");
        lost.extend(missing);
    }
    lost.dedup();
    assert_eq!(lost, (0..BATCHES).collect::<Vec<_>>(), "each batch was hit");
}

#[test]
fn a_flipped_bit_in_the_checkpoint_costs_nothing() {
    let original = killed_run();
    for bit in (0..MARKS_LEN * 8).step_by(251) {
        let expected = ((0..BATCHES).collect(), 0);
        assert_eq!(recovered_with_flipped(&original, bit), expected, "bit {bit}");
    }
}

#[test]
fn a_flipped_bit_in_a_wrapped_ring_loses_one() {
    // The ring holds 209 batches of this length; batches 120 to 299 are live, and 209 is at its start.
    const LENGTH: usize = 60_000;
    const BATCH_LEN: u64 = 56 + 23 + 60_000;
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    for next in 1..=300_u64 {
        push(&mut run, 1, LENGTH);
        run.queue.acknowledge(Position(next.saturating_sub(180)), 0);
    }
    kill(run);
    let ring = ring_at(&directory);
    flip(&directory.path().join("intake"), (ring + 150 * BATCH_LEN + 1000) * 8);
    let run = start(&directory, policy());
    let given = drain(&run.queue, Position(120));
    assert_eq!(given, (120..150).chain(151..300).collect::<Vec<_>>());
    assert_balanced(&run.queue);
    assert_eq!(run.queue.figures().counts.corrupt, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_flipped_bit_costs_one_batch_at_most(
        bit in prop_oneof![0..4096_u64 * 8, 0..JOURNAL_RING * 8, 0..BATCHES * BATCH_LEN * 8],
        is_in_ring in any::<bool>(),
    ) {
        let original = killed_run();
        let begin = if is_in_ring { ring_at(&original) * 8 } else { 0 };
        let (given, corrupt) = recovered_with_flipped(&original, begin + bit);
        prop_assert!(corrupt <= 1);
        prop_assert_eq!(u64::try_from(given.len()).unwrap() + corrupt, BATCHES);
    }
}

/// Sets an unknown address family in a slot.
fn damage_slot(journal: &Path, slot: u64) {
    let file = File::options().read(true).write(true).open(journal).unwrap();
    let slots = u64::try_from(JOURNAL_SLOTS).unwrap();
    let names = 4096 + slots * (64 + 16);
    file.write_all_at(&[0xFF; 2], names + slot * 128).unwrap();
}

/// Returns the directory and the socket of a run that was killed when recvmmsg had returned five datagrams.
/// `batches` batches of one datagram are in the ring.
fn killed_with_slots(batches: u64) -> (TempDir, UdpSocket) {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, batches, LENGTH);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in batches..batches + 5 {
        let payload = [u8::try_from(number).unwrap(); 50];
        exporter.send_to(&payload, socket.local_addr().unwrap()).unwrap();
    }
    run.slots.clear();
    run.checkpoint.set_slots(run.queue.next_position(), socket.local_addr().unwrap().port());
    assert_eq!(run.slots.receive(&socket).unwrap(), 5);
    kill(run);
    (directory, socket)
}

#[test]
fn a_damaged_slot_costs_its_datagram_only() {
    let (directory, socket) = killed_with_slots(2);
    damage_slot(&directory.path().join("intake"), 1);

    let run = start(&directory, policy());
    let queue = run.queue.clone();
    RunningIngest::start(run, vec![socket], &[]).stop();
    assert_balanced(&queue);
    assert_eq!(drain(&queue, Position(0)), [0, 1, 2, 4, 5, 6]);
    assert_eq!(queue.figures().counts.corrupt, 1);
}

#[test]
fn damage_in_a_newer_journal_is_counted() {
    let (directory, _socket) = killed_with_slots(4);
    let journal = directory.path().join("intake");
    damage_slot(&journal, 1);
    flip(&journal, (ring_at(&directory) + BATCH_LEN + 70) * 8);
    flip(&journal, (ring_at(&directory) + 3 * BATCH_LEN + 70) * 8);
    // The state after an upgrade: an older version moved the journal away, and this version can read it.
    std::fs::rename(&journal, directory.path().join("intake.newer-1")).unwrap();
    let run = start(&directory, policy());
    let figures = run.queue.figures();
    assert_eq!((figures.counts.recovered, figures.counts.corrupt, figures.queued), (9, 3, 6));
    assert_balanced(&run.queue);
}

/// Leaves a journal of a newer version as this version finds it after an upgrade. It has 4 batches in the
/// ring, 5 datagrams in the slots, of which one is damaged, and a damaged checkpoint. `done` of the slots are
/// in the ring.
fn newer_with_damaged_checkpoint(done: u64) -> TempDir {
    let (directory, socket) = killed_with_slots(4);
    if done > 0 {
        // Ingest has encoded these already, and not yet the others.
        let mut run = start(&directory, policy());
        let batch = encoded_slots(&run, socket.local_addr().unwrap(), done);
        assert!(run.queue.push(batch, &mut run.ring, &Pulse::default()).is_none());
        kill(run);
    }
    let journal = directory.path().join("intake");
    damage_slot(&journal, 4);
    let file = File::options().write(true).open(&journal).unwrap();
    // All marks, but not the header.
    file.write_all_at(&[0xFF; 160], 128).unwrap();
    std::fs::rename(&journal, directory.path().join("intake.newer-1")).unwrap();
    directory
}

/// Encodes the first `count` datagrams of the slots like ingest.
fn encoded_slots(run: &RecoveredRun, local: SocketAddr, count: u64) -> Batch {
    let mut builder = BatchBuilder::new(run.stream, Compression::None);
    for slot in 0..usize::try_from(count).unwrap() {
        let SlotEntry::Filled(slot) = run.slots.get(slot) else { panic!("a datagram") };
        let arrival = slot.arrival.unwrap_or(Timestamp(0));
        let datagram = Datagram { exporter: slot.exporter, local, arrival, payload: slot.payload };
        builder.push(&datagram).unwrap();
    }
    builder.finish(run.queue.next_position()).unwrap()
}

#[test]
fn slots_of_a_newer_damaged_journal() {
    for done in [0, 3] {
        let directory = newer_with_damaged_checkpoint(done);
        let run = start(&directory, policy());
        let figures = run.queue.figures();
        let counts = (figures.counts.recovered, figures.counts.corrupt, figures.queued);
        assert_eq!(counts, (9, 1, 8), "{done} of the slots are in the ring");
        assert_balanced(&run.queue);
    }
}
