//! Newer segments on small, full and read-only disks. These tests need root.

use std::path::PathBuf;

use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::count;

use super::{BACKLOG, Downgrade, SEGMENTS, set_compression};
use crate::full_disk::{SmallDisk, may_mount};
use crate::isolation::shared;
use crate::loss_accounting::segments;
use crate::small_disks::take_inodes;

#[test]
fn min_free_never_drops_a_newer_segment() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let options = ["-t", "tmpfs", "-o", "size=16m", "spool"];
    let toml = SEGMENTS.to_owned() + "max-size = \"1GiB\"\n";
    let mut test = Downgrade::on(&toml, |_, place| SmallDisk::mount(&options, place));
    let kept = test.make_newer(0..3);
    test.pair.sender.start();
    test = test.go_on(10 * BACKLOG);
    test.pair.sender.daemon().wait_for_log(&["dropped", "by the spool's limits"], STALL);
    assert!(test.files[..3].iter().all(|file| file.exists()), "newer segments were dropped early");
    let full = test.deliver_but(kept);
    assert!(full > 0);
    test.upgrade_and_deliver_but(full);
}

#[test]
fn newer_segments_stay_on_a_read_only_disk() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let mut test = Downgrade::on(SEGMENTS, |image, place| SmallDisk::ext4(32, image, place));
    let kept = test.make_three_newer() + set_compression(&test.files[5], 3);
    let remount = |test: &Downgrade, option| test.disk.as_ref().expect("a disk of its own").remount(option);
    remount(&test, "ro");
    for (run, total) in [(1, BACKLOG + 500), (2, BACKLOG + 1000)] {
        test.pair.sender.start();
        test = test.go_on(total);
        assert_eq!(test.deliver_but(kept), 0, "run {run}");
        let status = test.pair.sender.status();
        assert_eq!(count(&status, "/newer/files"), 3, "run {run}: {status:#}");
        let lines =
            test.pair.sender.daemon().count_log(&["cannot move data of a newer nf-sender", "Read-only"]);
        assert_eq!(lines, 1, "run {run}");
        if run == 1 {
            test.pair.sender.take_daemon().kill();
        }
    }
    remount(&test, "rw");
    test.pair.sender.daemon().wait_for_log(&["data of a newer nf-sender is in 'newer' of the spool"], STALL);
    test.pair.sender.wait_status(STALL, |status| count(status, "/newer/files") == 4);
    assert_eq!(segments(&test.pair.sender.path("spool")), Vec::<PathBuf>::new(), "other segments are left");
    test.upgrade_and_deliver_but(0);
}

/// Creates a stopped spool with newer segments on a disk without free inodes, where the directory `newer` is
/// missing.
fn without_inodes() -> (Downgrade, u64, PathBuf) {
    let options = ["-t", "tmpfs", "-o", "size=64m,nr_inodes=100", "spool"];
    let test = Downgrade::on(SEGMENTS, |_, place| SmallDisk::mount(&options, place));
    let kept = test.make_three_newer();
    let spool = test.pair.sender.path("spool");
    std::fs::remove_dir(spool.join("newer")).unwrap();
    let others = take_inodes(&spool);
    (test, kept, others)
}

#[test]
fn a_newer_segment_is_moved_with_the_last_inode() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let (mut test, kept, _) = without_inodes();
    test.pair.sender.start();
    assert_eq!(test.kept().len(), 1, "the directory did not replace the spare file");
    assert_eq!(test.deliver_but(kept), 0);
    test.upgrade_and_deliver_but(0);
}

#[test]
fn newer_segments_stay_on_a_disk_without_inodes() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let (mut test, kept, others) = without_inodes();
    let spool = test.pair.sender.path("spool");
    std::fs::rename(spool.join("spare"), others.join("spare")).unwrap();
    test.pair.sender.start();
    let words = ["cannot move data of a newer nf-sender", "no inodes left"];
    test.pair.sender.daemon().wait_for_log(&words, STALL);
    test = test.go_on(BACKLOG + 500);
    assert_eq!(test.deliver_but(kept), 0);
    assert_eq!(test.pair.sender.daemon().count_log(&words), 1);
    std::fs::remove_dir_all(others).unwrap();
    test.pair.sender.wait_status(STALL, |_| spool.join("newer").exists() && test.kept().len() == 3);
    test.upgrade_and_deliver_but(0);
}
