//! Disks that other programs fill, that are too small, have no free inodes, or are read-only. No queued
//! datagram is lost.
//!
//! Needs root to mount small file systems.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nf_transport_kit::chatter::{LARGE, Pattern};
use nf_transport_kit::daemon::Program;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};
use serde_json::Value;

use crate::full_disk::{SmallDisk, may_mount};
use crate::isolation::shared;
use crate::loss_accounting::{deliver_the_rest, dropped, go_on, segments, wait_until_spooled};

/// Datagrams in the backlog.
const BACKLOG: u64 = 9000;

/// Returns settings of a sender that spools at once, with this `min-free` and these lines in its table
/// `[spool]`.
fn settings(min_free: &str, more: &str) -> String {
    let toml = QUICK_SENDER.replace("min-free = \"0B\"", &format!("min-free = \"{min_free}\""));
    format!("{toml}sync-after = \"0s\"\n{more}")
}

/// Starts a pair with a cut link and with the spool on its own disk.
fn cut_pair(toml: &str, mount: impl FnOnce(&Path, &Path) -> SmallDisk) -> (Pair, SmallDisk) {
    let mut pair = Pair::new(2, Pattern::new(LARGE), toml);
    let disk = mount(&pair.sender.path("disk"), &pair.sender.path("spool"));
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    (pair, disk)
}

/// Restores the link. Every datagram must arrive, and none may be dropped.
fn deliver_all(pair: &Pair, exporters: &Exporters) {
    pair.link.restore();
    let outcome = deliver_the_rest(pair, exporters);
    assert_eq!(outcome.missing, 0, "{:#}", outcome.status);
}

/// Waits until nf-sender has received this number of datagrams. None may be dropped.
fn wait_received(pair: &Pair, total: u64) -> Value {
    pair.sender.udp().wait_until_drained();
    pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        assert_eq!(dropped(status, "spool_full"), 0, "{status:#}");
        count(status, "/received/datagrams") == total
    })
}

/// Returns whether a warning of this status contains these words.
fn warns(status: &Value, words: &str) -> bool {
    let warnings = status["warnings"].as_array().expect("a list of warnings");
    warnings.iter().any(|warning| warning.as_str().unwrap().contains(words))
}

/// Another program fills the disk for two seconds, and `min-free` exceeds the size of the spool.
fn is_filled_for_a_while(mount: impl FnOnce(&Path, &Path) -> SmallDisk) {
    let (pair, disk) = cut_pair(&settings("128MiB", "rotate-size = \"1MiB\"\n"), mount);
    let exporters = pair.load(None, Until::Sent(40_000)).finish();
    wait_until_spooled(&pair);
    let filler = disk.fill();
    let load = SteadyLoad::start(exporters, pair.sender.udp().clone(), Some(1000), Until::Sent(42_000));
    let exporters = load.finish();
    let status = wait_received(&pair, 42_000);
    assert!(warns(&status, "min-free keeps"), "{status:#}");
    pair.sender.daemon().wait_for_log(&["spool full: no room on its disk", "min-free keeps"], STALL);

    std::fs::remove_file(filler).unwrap();
    let exporters = go_on(&pair, exporters, 50_000);
    let status = wait_until_spooled(&pair);
    assert_eq!(count(&status, "/queued/datagrams"), 50_000, "{status:#}");
    deliver_all(&pair, &exporters);
}

#[test]
fn an_ext4_full_for_2_s_drops_nothing() {
    let _running = shared();
    if may_mount() {
        is_filled_for_a_while(|image, place| SmallDisk::ext4(320, image, place));
    }
}

#[test]
fn an_xfs_full_for_2_s_drops_nothing() {
    let _running = shared();
    if may_mount() {
        is_filled_for_a_while(|image, place| SmallDisk::xfs(400, image, place));
    }
}

#[test]
fn a_tmpfs_full_for_2_s_drops_nothing() {
    let _running = shared();
    if may_mount() {
        is_filled_for_a_while(|_, place| {
            SmallDisk::mount(&["-t", "tmpfs", "-o", "size=320m", "spool"], place)
        });
    }
}

#[test]
fn drops_of_a_full_disk_and_memory_are_counted() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let (pair, disk) = cut_pair(&settings("64MiB", ""), |image, place| SmallDisk::ext4(128, image, place));
    let exporters = pair.load(None, Until::Sent(2000)).finish();
    wait_until_spooled(&pair);
    let filler = disk.fill();
    let exporters = go_on(&pair, exporters, 20_000);
    pair.sender.udp().wait_until_drained();
    let status = pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        count(status, "/received/datagrams") == 20_000 && dropped(status, "spool_full") > 0
    });
    let held = count(&status, "/queued/datagrams");
    assert!(held > 2000 + 8000, "memory holds 12 MiB more than the spool\n{status:#}");

    std::fs::remove_file(filler).unwrap();
    wait_until_spooled(&pair);
    let exporters = go_on(&pair, exporters, 22_000);
    pair.link.restore();
    let outcome = deliver_the_rest(&pair, &exporters);
    assert_eq!(outcome.missing, 20_000 - held, "{:#}", outcome.status);
}

/// XFS reports the space of removed files late, and allocates space ahead of growing files. nf-sender must
/// drop only as much as `min-free` needs.
#[test]
fn min_free_on_an_xfs_drops_no_more_than_needed() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let toml = settings("64MiB", "rotate-size = \"8MiB\"\n");
    let (pair, disk) = cut_pair(&toml, |image, place| SmallDisk::xfs(320, image, place));
    disk.fill_up_to(140 << 20);
    let mut exporters = pair.load(None, Until::Sent(40_000)).finish();
    // 56 MB of 76 MiB are used; 42 MB more follow.
    exporters = go_on(&pair, exporters, 70_000);
    pair.sender.udp().wait_until_drained();
    pair.sender.wait_status(STALL, |status| count(status, "/received/datagrams") == 70_000);
    pair.link.restore();
    let outcome = deliver_the_rest(&pair, &exporters);
    let lost = dropped(&outcome.status, "spool_full");
    assert_eq!(outcome.missing, lost);
    assert!(lost > 0 && lost < 13_000, "two segments hold 12,000\n{:#}", outcome.status);
}

#[test]
fn a_small_volume_spools_by_default() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let options = ["-t", "tmpfs", "-o", "size=900m", "spool"];
    let (pair, _disk) = cut_pair(&settings("auto", ""), |_, place| SmallDisk::mount(&options, place));
    let exporters = pair.load(None, Until::Sent(30_000)).finish();
    let status = wait_until_spooled(&pair);
    assert_eq!(count(&status, "/queued/datagrams"), 30_000, "{status:#}");
    let room = count(&status, "/queued/room_bytes");
    assert!((700 << 20..810 << 20).contains(&room), "{status:#}");
    deliver_all(&pair, &exporters);
}

/// Returns the output of `nf-sender check` for this `min-free`.
fn check(pair: &Pair, min_free: &str) -> String {
    let file = pair.sender.path("check.toml");
    let paths = [pair.sender.path("spool"), pair.sender.control()];
    let [spool, control] = paths.map(|path| path.to_str().unwrap().to_owned());
    let toml = format!(
        "plaintext = true\ncontrol = {control:?}\n[spool]\ndirectory = {spool:?}\nmin-free = \"{min_free}\"\n"
    );
    std::fs::write(&file, toml).unwrap();
    let output = Program::Sender.run(&["check", "-c", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_volume_below_min_free_causes_a_warning() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let options = ["-t", "tmpfs", "-o", "size=64m", "spool"];
    let (pair, _disk) = cut_pair(&settings("1GiB", ""), |_, place| SmallDisk::mount(&options, place));
    let words = "64.0 MiB in all, and min-free keeps 1.0 GiB free: nothing can be spooled";
    pair.sender.daemon().wait_for_log(&[words], STALL);
    assert!(warns(&pair.sender.status(), words), "{:#}", pair.sender.status());
    let checked = check(&pair, "1GiB");
    assert!(
        checked.contains("warning: the file system of the spool") && checked.contains(words),
        "{checked}"
    );
    let control = pair.sender.control();
    let shown = Program::Sender.run(&["status", "--control", control.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(words));
}

#[test]
fn room_for_under_an_hour_causes_a_warning() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let options = ["-t", "tmpfs", "-o", "size=64m", "spool"];
    let (pair, _disk) = cut_pair(&settings("auto", ""), |_, place| SmallDisk::mount(&options, place));
    assert_eq!(pair.sender.status()["warnings"], Value::Array(Vec::new()));
    let load = pair.load(Some(500), Until::Stopped);
    let status = pair.sender.wait_status(STALL, |status| warns(status, "at the present rate"));
    assert!(count(&status, "/queued/room_s") < 3600, "{status:#}");
    pair.sender.daemon().wait_for_log(&["the spool in", "has room for", "at the present rate"], STALL);
    let checked = check(&pair, "auto");
    assert!(
        checked.contains("warning: the spool in") && checked.contains("at the present rate"),
        "{checked}"
    );
    deliver_all(&pair, &load.stop());
}

/// Uses all free inodes, as another program might.
pub(crate) fn take_inodes(disk: &Path) -> PathBuf {
    let others = disk.join("others");
    std::fs::create_dir(&others).unwrap();
    let mut number = 0;
    while File::create(others.join(number.to_string())).is_ok() {
        number += 1;
    }
    others
}

/// Another program uses all inodes while the spool holds this number of datagrams, and frees them later.
fn has_no_inodes(backlog: u64, mount: impl FnOnce(&Path, &Path) -> SmallDisk) {
    let (mut pair, disk) = cut_pair(&settings("0B", "rotate-size = \"128KiB\"\n"), mount);
    let mut exporters = pair.load(None, Until::Sent(backlog)).finish();
    if backlog > 0 {
        wait_until_spooled(&pair);
    } else {
        pair.sender.wait_status(STALL, |_| pair.sender.path("spool/spare").exists());
    }
    let others = take_inodes(disk.place());
    exporters = go_on(&pair, exporters, backlog + 14_000);
    let status = wait_until_spooled(&pair);
    assert_eq!(count(&status, "/queued/datagrams"), backlog + 14_000, "{status:#}");
    assert!(warns(&status, "no inodes left on the file system of"), "{status:#}");
    pair.sender.daemon().wait_for_log(&["no inodes left on the file system of", "spool"], STALL);
    pair.sender.take_daemon().kill();
    pair.sender.start();
    exporters = go_on(&pair, exporters, backlog + 23_000);
    let status = wait_until_spooled(&pair);
    assert_eq!(count(&status, "/queued/datagrams"), backlog + 23_000, "{status:#}");

    std::fs::remove_dir_all(others).unwrap();
    let before = segments(&pair.sender.path("spool")).len();
    let paced =
        SteadyLoad::start(exporters, pair.sender.udp().clone(), Some(1000), Until::Sent(backlog + 26_000));
    exporters = paced.finish();
    wait_until_spooled(&pair);
    assert!(segments(&pair.sender.path("spool")).len() > before, "segments are begun again");
    deliver_all(&pair, &exporters);
}

#[test]
fn an_ext4_without_inodes_drops_nothing() {
    let _running = shared();
    if may_mount() {
        has_no_inodes(2000, |image, place| SmallDisk::ext4_with(&["-N", "128"], 128, image, place));
    }
}

#[test]
fn an_ext4_without_inodes_gets_a_first_segment() {
    let _running = shared();
    if may_mount() {
        has_no_inodes(0, |image, place| SmallDisk::ext4_with(&["-N", "128"], 128, image, place));
    }
}

#[test]
fn a_tmpfs_without_inodes_drops_nothing() {
    let _running = shared();
    if may_mount() {
        let options = ["-t", "tmpfs", "-o", "size=128m,nr_inodes=100", "spool"];
        has_no_inodes(2000, |_, place| SmallDisk::mount(&options, place));
    }
}

/// Kills nf-sender with a backlog and starts it again with a read-only disk.
fn starts_read_only(mount: impl FnOnce(&Path, &Path) -> SmallDisk) {
    let (mut pair, disk) = cut_pair(&settings("0B", "rotate-size = \"1MiB\"\n"), mount);
    let exporters = pair.load(None, Until::Sent(BACKLOG)).finish();
    wait_until_spooled(&pair);
    pair.sender.take_daemon().kill();
    let last = segments(&pair.sender.path("spool")).pop().unwrap();
    File::options().append(true).open(last).unwrap().write_all(&[0x5A; 100]).unwrap();
    disk.remount("ro");
    pair.sender.start();
    let status = pair.sender.status();
    assert_eq!(count(&status, "/queued/datagrams"), BACKLOG, "{status:#}");
    assert!(warns(&status, "mounted read-only"), "{status:#}");
    pair.sender.daemon().wait_for_log(&["cannot write the file 'stream'", "trying again"], STALL);
    let exporters = go_on(&pair, exporters, BACKLOG + 2000);
    wait_received(&pair, 2000);
    pair.link.restore();
    let half = |status: &Value| count(status, "/queued/datagrams") == 0;
    assert_eq!(dropped(&pair.sender.wait_status(STALL, half), "spool_full"), 0);

    pair.link.cut();
    disk.remount("rw");
    pair.sender.daemon().wait_for_log(&["wrote the file 'stream' of the spool"], STALL);
    let exporters = go_on(&pair, exporters, 2 * BACKLOG);
    let status = wait_until_spooled(&pair);
    assert_eq!(count(&status, "/queued/datagrams"), BACKLOG - 2000, "{status:#}");
    deliver_all(&pair, &exporters);
}

#[test]
fn a_read_only_ext4_delivers_its_backlog() {
    let _running = shared();
    if may_mount() {
        starts_read_only(|image, place| SmallDisk::ext4(64, image, place));
    }
}

#[test]
fn a_read_only_xfs_delivers_its_backlog() {
    let _running = shared();
    if may_mount() {
        starts_read_only(|image, place| SmallDisk::xfs(320, image, place));
    }
}

/// Kills nf-sender with a backlog and starts it again with a full disk.
fn starts_full(mount: impl FnOnce(&Path, &Path) -> SmallDisk) {
    let (mut pair, disk) = cut_pair(&settings("0B", ""), mount);
    let exporters = pair.load(None, Until::Sent(BACKLOG)).finish();
    wait_until_spooled(&pair);
    pair.sender.take_daemon().kill();
    let filler = disk.fill();
    std::fs::remove_file(pair.sender.path("spool/lock")).unwrap();
    let others = take_inodes(disk.place());
    pair.sender.start();
    let exporters = go_on(&pair, exporters, BACKLOG + 3000);
    let status = wait_received(&pair, 3000);
    assert_eq!(count(&status, "/queued/datagrams"), BACKLOG + 3000, "{status:#}");
    std::fs::remove_file(filler).unwrap();
    std::fs::remove_dir_all(others).unwrap();
    let exporters = go_on(&pair, exporters, 2 * BACKLOG);
    let status = wait_until_spooled(&pair);
    assert_eq!(count(&status, "/queued/datagrams"), 2 * BACKLOG, "{status:#}");
    deliver_all(&pair, &exporters);
}

#[test]
fn a_full_ext4_at_start_drops_nothing() {
    let _running = shared();
    if may_mount() {
        starts_full(|image, place| SmallDisk::ext4_with(&["-N", "64"], 64, image, place));
    }
}

#[test]
fn a_full_tmpfs_at_start_drops_nothing() {
    let _running = shared();
    if may_mount() {
        let options = ["-t", "tmpfs", "-o", "size=64m,nr_inodes=64", "spool"];
        starts_full(|_, place| SmallDisk::mount(&options, place));
    }
}

#[test]
fn a_read_only_spool_is_locked_against_a_second() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let (mut pair, disk) = cut_pair(&settings("0B", ""), |image, place| SmallDisk::ext4(64, image, place));
    pair.sender.take_daemon().kill();
    std::fs::remove_file(pair.sender.path("spool/lock")).unwrap();
    disk.remount("ro");
    pair.sender.start();
    let (status, log) = pair.sender.launch().spawn().wait_exit(Duration::from_secs(20));
    assert!(!status.success() && log.contains("another process uses this directory"), "{log}");
}
