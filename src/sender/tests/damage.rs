//! Damage in the intake of a killed run.

use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::running::Running;
use super::{assert_balanced, drain, kill, policy, push, start};
use crate::limits::INTAKE_SLOTS;
use crate::sequence::Position;

/// Gives the exporter's address in a slot an unknown family.
fn damage_slot(intake: &Path, slot: u64) {
    let file = File::options().read(true).write(true).open(intake).unwrap();
    let slots = u64::try_from(INTAKE_SLOTS).unwrap();
    let names = 4096 + slots * (64 + 16);
    file.write_all_at(&[0xFF; 2], names + slot * 128).unwrap();
}

#[test]
fn a_damaged_slot_costs_its_datagram_only() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 2, 90);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 2..7_u8 {
        exporter.send_to(&[number; 50], socket.local_addr().unwrap()).unwrap();
    }
    // As a run does that is killed when recvmmsg has returned.
    run.slots.clear();
    run.marks.set_slots(run.queue.next_position(), socket.local_addr().unwrap().port());
    assert_eq!(run.slots.receive(&socket).unwrap(), 5);
    kill(run);
    damage_slot(&directory.path().join("intake"), 1);

    let run = start(&directory, policy());
    let queue = run.queue.clone();
    Running::start(run, vec![socket], &[]).stop();
    assert_balanced(&queue);
    assert_eq!(drain(&queue, Position(0)), [0, 1, 2, 4, 5, 6]);
    assert_eq!(queue.figures().counts.corrupt, 1);
}
