//! The state directory of nf-receiver on a disk that is full, has no free inodes, or is read-only.
//! nf-receiver acknowledges nothing that it has not stored. The sender keeps the datagrams, shows the reason,
//! and delivers them once the disk works again.
//!
//! Needs root to mount small file systems.

use std::path::Path;

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};
use serde_json::Value;

use crate::full_disk::{SmallDisk, may_mount};
use crate::isolation::shared;
use crate::small_disks::take_inodes;

/// Creates a pair and mounts the disk of the state directory.
fn pair_with(mount: impl FnOnce(&Path, &Path) -> SmallDisk) -> (Pair, SmallDisk) {
    let pair = Pair::new(2, Pattern::new(MIXED), QUICK_SENDER);
    let disk = mount(&pair.receiver.path("disk"), &pair.receiver.path("state"));
    (pair, disk)
}

/// Starts both daemons. nf-receiver cannot store the position of a new stream until `repair`.
fn waits_for(mut pair: Pair, reason: &str, repair: impl FnOnce()) {
    pair.receiver.start();
    pair.sender.start();
    let exporters = pair.load(None, Until::Sent(3000)).finish();
    pair.sender.udp().wait_until_drained();
    let is_shown = |status: &Value| status["reason"].as_str().is_some_and(|text| text.contains(reason));
    let status = pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        is_shown(status) && count(status, "/received/datagrams") == 3000
    });
    assert_eq!(count(&status, "/acknowledged/datagrams"), 0, "{status:#}");
    repair();
    pair.assert_all_arrive(&exporters, false);
    pair.receiver.take_daemon().terminate();
}

#[test]
fn senders_wait_for_a_state_disk_without_inodes() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let (mut pair, disk) = pair_with(|image, place| SmallDisk::ext4_with(&["-N", "64"], 16, image, place));
    pair.receiver.start();
    pair.receiver.take_daemon().kill();
    let others = take_inodes(disk.place());
    waits_for(pair, "no inodes left on the file system of", || std::fs::remove_dir_all(others).unwrap());
}

#[test]
fn senders_wait_for_a_full_state_disk() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let options = ["-t", "tmpfs", "-o", "size=1m", "state"];
    let (mut pair, disk) = pair_with(|_, place| SmallDisk::mount(&options, place));
    pair.receiver.start();
    pair.receiver.take_daemon().kill();
    let filler = disk.fill();
    waits_for(pair, "No space left on device", || std::fs::remove_file(filler).unwrap());
}

#[test]
fn senders_wait_for_a_read_only_state_disk() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let (mut pair, disk) = pair_with(|image, place| SmallDisk::ext4(16, image, place));
    pair.receiver.start();
    pair.receiver.take_daemon().kill();
    disk.remount("ro");
    waits_for(pair, "Read-only file system", || disk.remount("rw"));
}
