//! A spool on a full disk: nf-sender continues, counts the dropped datagrams, and delivers the rest.
//!
//! Needs root to mount a small file system.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nf_transport_kit::chatter::{LARGE, Pattern};
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{Sampler, assert_conserved, count};
use serde_json::Value;

use crate::isolation::shared;
use crate::loss_accounting::{deliver_the_rest, dropped, go_on, wait_until_spooled};

/// Least average payload of a datagram of `LARGE`, in bytes.
const DATAGRAM: u64 = 1358;

/// Returns whether small file systems can be mounted. In continuous integration (`CI=true`) it must be
/// possible.
pub(crate) fn may_mount() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(is_root || !required, "only root can mount the small disks of these tests");
    if !is_root {
        eprintln!("skipped: only root can mount a small disk");
    }
    is_root
}

/// A small file system mounted at its own directory.
pub(crate) struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    /// Runs mount(8) with these arguments.
    pub(crate) fn mount(arguments: &[&str], place: &Path) -> Self {
        std::fs::create_dir(place).unwrap();
        run(Command::new("mount").args(arguments).arg(place));
        // Some file systems are writable by everybody, as /tmp is.
        std::fs::set_permissions(place, Permissions::from_mode(0o700)).unwrap();
        Self { place: place.to_owned() }
    }

    /// Makes `file` read-only, as if its file system were read-only.
    pub(crate) fn freeze(file: &Path) -> Self {
        run(Command::new("mount").arg("--bind").args([file, file]));
        let frozen = Self { place: file.to_owned() };
        frozen.remount("bind,ro");
        frozen
    }

    /// Creates an ext4 of this size in a file.
    pub(crate) fn ext4(mebibytes: u64, image: &Path, place: &Path) -> Self {
        Self::ext4_with(&[], mebibytes, image, place)
    }

    /// Does the same with these arguments of mkfs.
    pub(crate) fn ext4_with(arguments: &[&str], mebibytes: u64, image: &Path, place: &Path) -> Self {
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-m", "0"]).args(arguments);
        Self::make(&mut make, mebibytes, image, place)
    }

    /// Creates an XFS of this size in a file; at least 300 MiB.
    pub(crate) fn xfs(mebibytes: u64, image: &Path, place: &Path) -> Self {
        Self::make(Command::new("mkfs.xfs").arg("-q"), mebibytes, image, place)
    }

    fn make(make: &mut Command, mebibytes: u64, image: &Path, place: &Path) -> Self {
        File::create(image).unwrap().set_len(mebibytes << 20).unwrap();
        run(make.arg(image));
        Self::mount(&["-o", "loop", image.to_str().unwrap()], place)
    }

    /// Creates a btrfs of this size in a file; at least 110 MiB.
    pub(crate) fn btrfs(mebibytes: u64, image: &Path, place: &Path) -> Self {
        File::create(image).unwrap().set_len(mebibytes << 20).unwrap();
        run(Command::new("mkfs.btrfs").args(["-q", "-m", "single"]).arg(image));
        Self::mount(&["-o", "loop", image.to_str().unwrap()], place)
    }

    /// Takes a snapshot of a btrfs, so that each later write of a page needs new space.
    pub(crate) fn snapshot(&self) {
        let (place, snapshot) = (self.place.clone(), self.place.join("snapshot"));
        run(Command::new("btrfs").args(["-q", "subvolume", "snapshot", "-r"]).args([place, snapshot]));
    }

    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// Remounts the file system with this option, such as `ro`.
    pub(crate) fn remount(&self, option: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.place));
    }

    /// Fills the file system as another program might. Returns the file that fills it.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.place.join("somebody-elses");
        let mut file = File::create(&path).unwrap();
        let chunk = [1; 4096];
        while file.write_all(&chunk).is_ok() {}
        path
    }

    /// Fills the file system until this number of bytes is left.
    pub(crate) fn fill_up_to(&self, left: u64) {
        let file = File::create(self.place.join("somebody-elses")).unwrap();
        let facts = rustix::fs::statvfs(&self.place).unwrap();
        let length = (facts.f_bavail * facts.f_frsize).checked_sub(left).expect("a larger disk");
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.place).status());
    }
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until nf-sender has received this number of datagrams and dropped some.
fn wait_until_full(pair: &Pair, received: u64) -> Value {
    pair.sender.udp().wait_until_drained();
    pair.sender.wait_status(STALL, |status| {
        assert_conserved(status);
        count(status, "/received/datagrams") == received && dropped(status, "spool_full") > 0
    })
}

/// Fills the disk of a pair with a cut link, kills nf-sender, sends more, and restores the link. All
/// datagrams except the counted drops arrive.
fn goes_on(toml: &str, mount: impl FnOnce(&Pair) -> SmallDisk) {
    let mut pair = Pair::new(2, Pattern::new(LARGE), &format!("{QUICK_SENDER}{toml}"));
    let disk = mount(&pair);
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let watch = Sampler::start(pair.sender.control(), Duration::from_millis(50));
    let exporters = pair.load(None, Until::Sent(8000)).finish();
    let filler = disk.fill();
    let exporters = go_on(&pair, exporters, 40_000);
    let status = wait_until_full(&pair, 40_000);
    let without_link = ["waiting", "connecting"];
    assert!(without_link.iter().any(|state| status["state"] == *state), "{status:#}");
    pair.sender.daemon().wait_for_log(&["datagrams by the spool's limits"], STALL);

    std::fs::remove_file(filler).unwrap();
    let exporters = go_on(&pair, exporters, 42_000);
    pair.link.restore();
    let outcome = deliver_the_rest(&pair, &exporters);
    watch.finish();
    assert_eq!(outcome.missing, dropped(&outcome.status, "spool_full"), "{:#}", outcome.status);
    for (tally, sent) in outcome.report.exporters.iter().zip(exporters.sent()) {
        assert!(tally.missing(*sent).iter().all(|(_, end)| end < sent), "the newest arrived");
    }
}

#[test]
fn a_full_ext4_drops_only_the_oldest() {
    let _running = shared();
    if may_mount() {
        goes_on("rotate-size = \"1MiB\"\n", |pair| {
            SmallDisk::ext4(32, &pair.sender.path("disk"), &pair.sender.path("spool"))
        });
    }
}

#[test]
fn drop_newest_on_a_full_ext4_keeps_the_oldest() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let toml = format!("{QUICK_SENDER}sync-after = \"0s\"\nwhen-full = \"drop-newest\"\n");
    let mut pair = Pair::new(2, Pattern::new(LARGE), &toml);
    let disk = SmallDisk::ext4(16, &pair.sender.path("disk"), &pair.sender.path("spool"));
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let exporters = pair.load(None, Until::Sent(2000)).finish();
    wait_until_spooled(&pair);
    disk.fill();
    let exporters = go_on(&pair, exporters, 30_000);
    let status = wait_until_full(&pair, 30_000);
    let (held, full) = (count(&status, "/queued/datagrams"), dropped(&status, "spool_full"));
    assert!(held * DATAGRAM > 14 << 20, "the receive journal alone holds 12 MiB\n{status:#}");

    assert_eq!(pair.sender.take_daemon().terminate().code(), Some(0));
    pair.sender.start();
    assert_eq!(count(&pair.sender.status(), "/queued/datagrams"), held);
    pair.link.restore();
    assert_eq!(deliver_the_rest(&pair, &exporters).missing, full);
}

/// A file system with few inodes and a rotation that needs many.
#[test]
fn a_disk_with_few_inodes_drops_nothing() {
    let _running = shared();
    if !may_mount() {
        return;
    }
    let toml = format!("{QUICK_SENDER}sync-after = \"0s\"\nrotate-size = \"128KiB\"\n");
    let mut pair = Pair::new(2, Pattern::new(LARGE), &toml);
    let options = ["-t", "tmpfs", "-o", "size=64m,nr_inodes=24", "spool"];
    let _disk = SmallDisk::mount(&options, &pair.sender.path("spool"));
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let exporters = pair.load(None, Until::Sent(5000)).finish();
    assert_eq!(dropped(&wait_until_spooled(&pair), "spool_full"), 0);
    pair.sender.take_daemon().kill();
    pair.sender.start();
    let exporters = go_on(&pair, exporters, 7000);
    wait_until_spooled(&pair);
    pair.link.restore();
    let outcome = deliver_the_rest(&pair, &exporters);
    assert_eq!(outcome.missing, 0, "{:#}", outcome.status);
}
