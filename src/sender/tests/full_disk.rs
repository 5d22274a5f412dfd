//! A spool on a disk that is full or fails.

use std::path::Path;

use nf_transport_core::spool::WhenFull;

use super::*;

/// Returns the datagrams that a run without uplink holds at the end of 600 datagrams of 60,000 bytes. The
/// disk of its spool fails after `breaking` it.
fn held_without_disk(full: Policy, breaking: impl FnOnce(&Path)) -> Vec<u64> {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, full);
    breaking(directory.path());
    let flusher = flusher(&run, full, Duration::ZERO);
    let thread = std::thread::spawn(move || flusher.run());
    push(&mut run, 600, 60_000);
    let figures = run.queue.figures();
    assert!(figures.counts.spool_full > 0 && figures.queued > 0, "{figures:?}");
    assert!(!run.queue.problems().is_empty());
    assert_balanced(&run.queue);
    let given = drain(&run.queue, run.queue.acknowledged());
    run.queue.acknowledge(run.queue.next_position(), 0);
    run.queue.advance_to(ShutdownStage::Stopped);
    thread.join().unwrap();
    given
}

#[test]
fn a_disk_filled_by_others_drops_new_datagrams() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
        // Nothing fits: all free space must stay free.
        let full = Policy { min_free: MinFree::Bytes(u64::MAX / 2), when_full, ..policy() };
        let given = held_without_disk(full, |_| {});
        assert_eq!((given.first(), given.last() == Some(&599)), (Some(&0), false), "{when_full:?}");
        assert!(given.len() > 190, "the ring holds 12 MiB, not {}", given.len());
    }
}

#[test]
fn a_failing_disk_drops_by_when_full() {
    for (when_full, first_is_kept) in [(WhenFull::DropOldest, false), (WhenFull::DropNewest, true)] {
        let given = held_without_disk(Policy { when_full, ..policy() }, |spool| {
            std::fs::remove_dir_all(spool).unwrap();
        });
        assert_eq!(given.first() == Some(&0), first_is_kept);
        assert_eq!(given.last() == Some(&599), !first_is_kept);
    }
}
