//! Faults of the journal's file while nf-sender runs, and damage after a kill. The service continues and
//! counts or logs every loss.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nf_transport_kit::chatter::{LARGE, Pattern};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};

use crate::full_disk::{SmallDisk, may_mount, run};
use crate::isolation::shared;
use crate::loss_accounting::{deliver_the_rest, dropped, go_on};

/// Datagrams in the journal when it fails: 1.3 MiB, none of which is in the spool yet.
const HELD: u64 = 1000;

/// Most datagrams of one recvmmsg call.
const SLOTS: u64 = 128;

/// Starts a pair with a cut link whose sender holds `HELD` datagrams in its journal and none in the spool.
fn holding(prepare: impl FnOnce(&mut Pair)) -> (Pair, Exporters) {
    let toml = format!("{QUICK_SENDER}sync-after = \"1h\"\n");
    let mut pair = Pair::new(2, Pattern::new(LARGE), &toml);
    prepare(&mut pair);
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let exporters = pair.load(None, Until::Sent(HELD)).finish();
    wait_until_received(&pair, HELD);
    (pair, exporters)
}

fn wait_until_received(pair: &Pair, datagrams: u64) {
    pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        count(status, "/received/datagrams") == datagrams
    });
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Panics unless nf-sender reports that its journal is in memory, and the reason.
fn assert_in_memory(pair: &Pair, reason: &str) {
    pair.sender.daemon().wait_for_log(&["the receive journal failed", reason, "in memory now"], STALL);
    let status = pair.sender.status();
    assert_eq!(status["intake"]["in_memory"], true, "{status:#}");
    assert!(status["intake"]["reason"].as_str().unwrap().contains(reason), "{status:#}");
}

/// Panics unless all datagrams arrive except at most `loss_max` counted ones. They count as corrupt, or as
/// dropped by the kernel where it could not write to a page of the journal.
fn assert_counted(pair: &Pair, exporters: &Exporters, loss_max: u64) {
    let status = pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        let places = ["/received/datagrams", "/recovered/datagrams", "/dropped/kernel"];
        let taken_in: u64 = places.iter().map(|place| count(status, place)).sum();
        taken_in == exporters.total() && count(status, "/queued/datagrams") == 0
    });
    let lost = dropped(&status, "corrupt") + dropped(&status, "kernel");
    assert!(lost <= loss_max, "{status:#}");
    pair.collector.wait_for(exporters.total() - lost, STALL);
    assert_eq!(pair.collector.report().missing(exporters.sent()), lost);
}

#[test]
fn a_truncated_journal_loses_nothing_queued() {
    let _running = shared();
    let (pair, exporters) = holding(|_| ());
    let process = pair.sender.daemon().pid();
    assert_eq!(pair.sender.status()["intake"]["in_memory"], false);
    let journal = pair.sender.path("run/intake");
    open(&journal).set_len(0).unwrap();
    let exporters = go_on(&pair, exporters, 3 * HELD);
    assert_in_memory(&pair, "was truncated");
    assert!(!journal.exists(), "the truncated file must be removed");
    pair.link.restore();
    assert_eq!(deliver_the_rest(&pair, &exporters).missing, 0);
    assert_eq!(pair.sender.daemon().pid(), process);
}

#[test]
fn a_journal_truncated_under_load_counts_losses() {
    let _running = shared();
    let pair = Pair::connected(2, Pattern::new(LARGE), QUICK_SENDER);
    let load = pair.load(Some(20_000), Until::Sent(40_000));
    pair.collector.wait_for(10_000, STALL);
    open(&pair.sender.path("run/intake")).set_len(0).unwrap();
    let exporters = load.finish();
    assert_in_memory(&pair, "was truncated");
    assert_counted(&pair, &exporters, SLOTS + 1);
}

#[test]
fn a_full_btrfs_loses_nothing() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let mut disk = None;
    let (pair, exporters) = holding(|pair| {
        pair.sender.omit_runtime_directory();
        disk = Some(SmallDisk::btrfs(128, &pair.sender.path("disk"), &pair.sender.path("spool")));
    });
    let disk = disk.unwrap();
    disk.snapshot();
    let filler = disk.fill();
    let exporters = go_on(&pair, exporters, 3 * HELD);
    assert_in_memory(&pair, "spool/intake");
    std::fs::remove_file(filler).unwrap();
    pair.link.restore();
    assert_eq!(deliver_the_rest(&pair, &exporters).missing, 0);
}

#[test]
fn a_start_on_a_full_btrfs_recovers_the_journal() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let mut disk = None;
    let (mut pair, exporters) = holding(|pair| {
        pair.sender.omit_runtime_directory();
        disk = Some(SmallDisk::btrfs(128, &pair.sender.path("disk"), &pair.sender.path("spool")));
    });
    let disk = disk.unwrap();
    pair.sender.take_daemon().kill();
    disk.snapshot();
    let filler = disk.fill();
    // Space for the files of a start, but not for the pages of the journal.
    open(&filler).set_len(std::fs::metadata(&filler).unwrap().len() - (256 << 10)).unwrap();
    run(std::process::Command::new("btrfs").args(["filesystem", "sync"]).arg(pair.sender.path("spool")));
    pair.sender.start();
    assert_eq!(count(&pair.sender.status(), "/recovered/datagrams"), HELD);
    let exporters = go_on(&pair, exporters, 3 * HELD);
    assert_in_memory(&pair, "spool/intake");
    pair.link.restore();
    assert_counted(&pair, &exporters, 1);
}

/// Kills a sender with datagrams in its journal, applies `damage` to it, and restarts the sender. Returns the
/// pair, the exporters and the number of recovered datagrams.
fn damaged(damage: impl FnOnce(PathBuf)) -> (Pair, Exporters, u64) {
    let (mut pair, exporters) = holding(|_| ());
    pair.sender.take_daemon().kill();
    damage(pair.sender.path("run/intake"));
    pair.sender.start();
    let status = pair.sender.status();
    assert_conserved(&status);
    let recovered = count(&status, "/recovered/datagrams");
    (pair, exporters, recovered)
}

/// Panics unless the log reports the possible loss, and all recovered and later datagrams arrive.
fn assert_bound_is_logged(pair: &Pair, exporters: Exporters, words: &str, recovered: u64) {
    let bound = ["the receive journal", words, "received after 20", "at most 12 MiB and 128 datagrams"];
    pair.sender.daemon().wait_for_log(&bound, STALL);
    let exporters = go_on(pair, exporters, 2 * HELD);
    pair.link.restore();
    pair.collector.wait_for(HELD + recovered, STALL);
    assert_eq!(pair.collector.report().missing(exporters.sent()), HELD - recovered);
    assert_eq!(pair.sender.daemon().count_log(&bound), 1, "{}", pair.sender.daemon().log());
}

#[test]
fn a_removed_journal_is_logged_with_its_bound() {
    let _running = shared();
    let (pair, exporters, recovered) = damaged(|journal| std::fs::remove_file(journal).unwrap());
    assert_eq!(recovered, 0);
    assert_bound_is_logged(&pair, exporters, "is missing or empty", 0);
}

#[test]
fn an_emptied_journal_is_logged_with_its_bound() {
    let _running = shared();
    let (pair, exporters, recovered) = damaged(|journal| open(&journal).set_len(0).unwrap());
    assert_eq!(recovered, 0);
    assert_bound_is_logged(&pair, exporters, "is missing or empty", 0);
}

#[test]
fn a_wiped_spool_logs_the_lost_journal() {
    let _running = shared();
    let (mut pair, _) = holding(|_| {});
    pair.sender.take_daemon().kill();
    std::fs::remove_dir_all(pair.sender.path("spool")).unwrap();
    pair.sender.start();
    pair.sender.daemon().wait_for_log(
        &["the receive journal", "belongs to another spool", "are lost, at most 12 MiB"],
        STALL,
    );
}

/// Panics unless the log has one line about the possible loss of a run in memory, and all other datagrams
/// arrive once.
fn assert_memory_was_lost(pair: &Pair, exporters: Exporters, words: &str, lost: u64) {
    pair.sender
        .daemon()
        .wait_for_log(&["the receive journal", words, "at most 12 MiB and 128 datagrams"], STALL);
    assert_eq!(
        pair.sender.daemon().count_log(&["the receive journal", "are lost"]),
        1,
        "{}",
        pair.sender.daemon().log()
    );
    let exporters = go_on(pair, exporters, 3 * HELD);
    pair.link.restore();
    pair.collector.wait_for(3 * HELD - lost, STALL);
    let report = pair.collector.report();
    assert_eq!((report.missing(exporters.sent()), report.repeated()), (lost, 0));
}

#[test]
fn a_kill_after_a_run_in_memory_is_logged() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let (mut pair, exporters) = holding(|_| ());
    pair.sender.take_daemon().kill();
    let frozen = SmallDisk::freeze(&pair.sender.path("run/intake"));
    pair.sender.start();
    assert_eq!(pair.sender.status()["intake"]["in_memory"], true);
    assert_eq!(count(&pair.sender.status(), "/recovered/datagrams"), HELD);
    let exporters = go_on(&pair, exporters, 2 * HELD);
    wait_until_received(&pair, HELD);
    pair.sender.take_daemon().kill();
    drop(frozen);
    pair.sender.start();
    assert_eq!(
        count(&pair.sender.status(), "/recovered/datagrams"),
        HELD,
        "recovered from the remaining file"
    );
    assert_memory_was_lost(&pair, exporters, "is not that of the last run", HELD);
}

/// Starts a sender whose journal has failed after `HELD` datagrams and cannot be removed, with as many more
/// in memory.
fn failed_and_frozen() -> (Pair, Exporters, SmallDisk) {
    let (pair, exporters) = holding(|_| ());
    let path = pair.sender.path("run/intake");
    let journal = open(&path);
    let frozen = SmallDisk::freeze(&path);
    // The marks stay intact. The ring fails at the place of the next batches.
    let ring = journal.metadata().unwrap().len() - (12 << 20);
    journal.set_len(ring + (1500 << 10)).unwrap();
    let exporters = go_on(&pair, exporters, 2 * HELD);
    wait_until_received(&pair, 2 * HELD);
    assert_in_memory(&pair, "was truncated");
    pair.sender
        .daemon()
        .wait_for_log(&["cannot remove the file of the failed receive journal", "trying again"], STALL);
    (pair, exporters, frozen)
}

#[test]
fn a_failed_journal_that_stays_is_not_trusted() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let (mut pair, exporters, _frozen) = failed_and_frozen();
    pair.sender.take_daemon().kill();
    pair.sender.start();
    let recovered = count(&pair.sender.status(), "/recovered/datagrams");
    let lost = exporters.total() - recovered + dropped(&pair.sender.status(), "corrupt");
    assert!(lost <= HELD, "the first datagrams were not recovered from the file");
    assert_memory_was_lost(&pair, exporters, "cannot be written", lost);
}

#[test]
fn a_failed_journal_is_removed_once_it_can_be() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let (mut pair, exporters, frozen) = failed_and_frozen();
    drop(frozen);
    pair.sender.daemon().wait_for_log(&["removed the file of the failed receive journal"], STALL);
    assert!(!pair.sender.path("run/intake").exists());
    pair.sender.take_daemon().kill();
    pair.sender.start();
    assert_memory_was_lost(&pair, exporters, "is missing or empty", 2 * HELD);
}

#[test]
fn losses_of_a_truncated_ring_are_counted() {
    let _running = shared();
    let (pair, exporters, recovered) = damaged(|journal| {
        let file = open(&journal);
        let ring = file.metadata().unwrap().len() - (12 << 20);
        file.set_len(ring + (600 << 10)).unwrap();
    });
    assert_eq!(recovered, HELD);
    let corrupt = dropped(&pair.sender.status(), "corrupt");
    assert!((300..HELD - 300).contains(&corrupt), "{corrupt}");
    pair.link.restore();
    assert_eq!(deliver_the_rest(&pair, &exporters).missing, corrupt);
}

#[test]
fn a_journal_cut_before_its_ring_is_logged() {
    let _running = shared();
    let (pair, exporters, _) = damaged(|journal| open(&journal).set_len(100_000).unwrap());
    assert_bound_is_logged(&pair, exporters, "is truncated or damaged", 0);
}

#[test]
fn damaged_marks_do_not_lose_the_ring() {
    let _running = shared();
    let (pair, exporters, recovered) =
        damaged(|journal| open(&journal).write_all_at(&[0xA5; 4096], 0).unwrap());
    assert_eq!(recovered, HELD);
    assert_bound_is_logged(&pair, exporters, "is truncated or damaged", HELD);
}

#[test]
fn losses_of_a_damaged_ring_are_counted() {
    let _running = shared();
    let (pair, exporters, recovered) = damaged(|journal| {
        let file = open(&journal);
        let ring = file.metadata().unwrap().len() - (12 << 20);
        file.write_all_at(&[0xA5; 4096], ring + (600 << 10)).unwrap();
    });
    assert_eq!(recovered, HELD);
    let corrupt = dropped(&pair.sender.status(), "corrupt");
    assert!((1..200).contains(&corrupt), "{corrupt}");
    pair.link.restore();
    assert_eq!(deliver_the_rest(&pair, &exporters).missing, corrupt);
}
