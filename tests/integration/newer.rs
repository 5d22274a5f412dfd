//! A spool that a newer version wrote: nothing of it is lost, the rest is delivered, and an upgrade delivers it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::losses::{deliver_the_rest, dropped, gaps, go_on, segments, wait_until_spooled};
use crate::running::shared;
use crate::support::chatter::{LARGE, Pattern};
use crate::support::exporter::Exporters;
use crate::support::hosts::QUICK_SENDER;
use crate::support::load::Until;
use crate::support::pair::{Pair, STALL};
use crate::support::samples::{assert_conserved, count};

const BACKLOG: u64 = 2000;

/// Bytes of a segment's header, and of a batch's (docs/spool-format.md).
const SEGMENT_HEADER: u64 = 64;
const BATCH_HEADER: usize = 56;

/// A pair without a link, whose stopped sender has a backlog in segments.
fn stopped_with_backlog() -> (Pair, Exporters) {
    let toml = format!("{QUICK_SENDER}sync-after = \"0s\"\nrotate-size = \"256KiB\"\n");
    let mut pair = Pair::new(2, Pattern::new(LARGE), &toml);
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let exporters = pair.load(None, Until::Sent(BACKLOG)).finish();
    wait_until_spooled(&pair);
    assert_eq!(pair.sender.take().terminate().code(), Some(0));
    (pair, exporters)
}

/// Changes `count` bytes at `offset` of a file.
fn change<const N: usize>(file: &Path, offset: u64, change: impl FnOnce(&mut [u8; N])) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, offset).unwrap();
}

/// Makes a segment one of this version of the format.
fn set_version(segment: &Path, version: u8) {
    change::<64>(segment, 0, |header| {
        header[13] = version;
        let checksum = crc32c::crc32c(&header[12..]);
        header[8..12].copy_from_slice(&checksum.to_be_bytes());
    });
}

/// Gives the first batch of a segment this code of compression.
fn set_compression(segment: &Path, code: u8) {
    let bytes = std::fs::read(segment).unwrap();
    change::<BATCH_HEADER>(segment, SEGMENT_HEADER, |header| {
        header[52] = code;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[16..32]), &header[8..]);
        header[4..8].copy_from_slice(&checksum.to_be_bytes());
    });
}

fn kept(pair: &Pair) -> Vec<PathBuf> {
    segments(&pair.sender.path("spool").join("newer"))
}

/// Delivers all but `kept` datagrams, of which neither side says that they are lost.
fn deliver_but(pair: &Pair, exporters: &Exporters, kept: u64) {
    pair.link.mend();
    pair.collector.wait_for(exporters.total() - kept, STALL);
    let status = pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    assert_conserved(&status);
    assert_eq!((dropped(&status, "corrupt"), gaps(&pair.receiver)), (0, 0), "{status:#}");
    assert_eq!(pair.collector.report().missing(exporters.sent()), kept);
}

/// Starts the sender again and waits until all has arrived, each datagram once.
fn deliver_the_kept(pair: &mut Pair, exporters: &Exporters) {
    pair.sender.start();
    pair.collector.wait_for(exporters.total(), STALL);
    let status = pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    assert_conserved(&status);
    assert_eq!(count(&status, "/newer/files"), 0, "{status:#}");
    let report = pair.collector.report();
    assert_eq!(report.missing(exporters.sent()), 0);
    assert!(report.exporters.iter().all(|tally| tally.repeated + tally.corrupted == 0));
}

#[test]
fn a_newer_spool_is_kept_and_an_upgrade_delivers_it() {
    let _running = shared();
    let (mut pair, exporters) = stopped_with_backlog();
    let spool = pair.sender.path("spool");
    let files = segments(&spool);
    for file in &files {
        set_version(file, 2);
    }
    let before: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();

    pair.sender.start();
    let log = ["newer nf-sender", "segment format 2, this version reads 1"];
    pair.sender.daemon().wait_for_log(&log, STALL);
    let status = pair.sender.status();
    assert_eq!(count(&status, "/newer/files"), u64::try_from(files.len()).unwrap(), "{status:#}");
    let exporters = go_on(&pair, exporters, BACKLOG + 500);
    deliver_but(&pair, &exporters, BACKLOG);
    // A start over, killed and in order, changes nothing.
    pair.sender.take().kill();
    pair.sender.start();
    assert_eq!(pair.sender.take().terminate().code(), Some(0));
    let after: Vec<_> = kept(&pair).iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(after == before, "not a byte was changed");

    for file in kept(&pair) {
        set_version(&file, 1);
    }
    deliver_the_kept(&mut pair, &exporters);
}

#[test]
fn newer_segments_in_the_middle_hold_nothing_up() {
    let _running = shared();
    let (mut pair, exporters) = stopped_with_backlog();
    let files = segments(&pair.sender.path("spool"));
    let first = |index: usize| crate::losses::first_position(&files[index]);
    let middle = first(4) - first(2);
    for file in &files[2..4] {
        set_version(file, 2);
    }
    pair.sender.start();
    deliver_but(&pair, &exporters, middle);
    assert_eq!(kept(&pair).len(), 2);
    assert_eq!(pair.sender.take().terminate().code(), Some(0));
    for file in kept(&pair) {
        set_version(&file, 1);
    }
    deliver_the_kept(&mut pair, &exporters);
}

#[test]
fn batches_of_a_newer_compression_are_kept() {
    let _running = shared();
    let (mut pair, exporters) = stopped_with_backlog();
    let files = segments(&pair.sender.path("spool"));
    for file in [&files[1], &files[5]] {
        set_compression(file, 3);
    }
    pair.sender.start();
    pair.link.mend();
    pair.sender
        .daemon()
        .wait_for_log(&["newer nf-sender", "compression 3, this version reads 0 to 2"], STALL);
    let status = pair.sender.wait_status(STALL, |status| {
        count(status, "/queued/datagrams") == 0 && count(status, "/newer/files") == 2
    });
    let kept_datagrams = BACKLOG - count(&status, "/recovered/datagrams");
    assert!((1..=100).contains(&kept_datagrams), "{status:#}");
    deliver_but(&pair, &exporters, kept_datagrams);
    assert_eq!(pair.sender.take().terminate().code(), Some(0));
    for file in kept(&pair) {
        set_compression(&file, 0);
    }
    deliver_the_kept(&mut pair, &exporters);
}

#[test]
fn a_newer_intake_is_kept_and_an_upgrade_delivers_it() {
    let _running = shared();
    let toml = format!("{QUICK_SENDER}sync-after = \"1h\"\n");
    let mut pair = Pair::new(2, Pattern::new(LARGE), &toml);
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let exporters = pair.load(None, Until::Sent(500)).finish();
    pair.sender.wait_status(STALL, |status| count(status, "/received/datagrams") == 500);
    pair.sender.take().kill();
    let set_magic = |intake: &Path, magic: [u8; 8]| {
        change::<8>(intake, 0, |bytes| *bytes = u64::from_be_bytes(magic).to_ne_bytes());
    };
    set_magic(&pair.sender.path("run/intake"), *b"NFINTAK3");
    pair.sender.start();
    pair.sender.daemon().wait_for_log(&["newer nf-sender", "intake format 3"], STALL);
    assert_eq!(pair.sender.daemon().count_log(&["the intake", "are lost"]), 0, "all of it is kept");
    let exporters = go_on(&pair, exporters, 700);
    deliver_but(&pair, &exporters, 500);
    assert_eq!(pair.sender.take().terminate().code(), Some(0));

    set_magic(&pair.sender.path("run/intake.newer-1"), *b"NFINTAK2");
    deliver_the_kept(&mut pair, &exporters);
}

#[test]
fn a_damaged_header_is_not_taken_for_a_newer_one() {
    let _running = shared();
    let (mut pair, exporters) = stopped_with_backlog();
    let files = segments(&pair.sender.path("spool"));
    // A version without its checksum, as a failing disk makes it up.
    change::<1>(&files[3], 13, |version| version[0] = 2);
    pair.sender.start();
    pair.link.mend();
    assert_eq!(deliver_the_rest(&pair, &exporters).missing, 0);
    assert!(kept(&pair).is_empty());
}
