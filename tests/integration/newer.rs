//! A spool written by a newer version: none of its data is lost, readable data is delivered, and an upgrade
//! delivers the rest.

mod disks;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nf_transport_kit::chatter::{LARGE, Pattern};
use nf_transport_kit::collector::{Collector, Reading, ReadingPace};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};
use serde_json::Value;

use crate::full_disk::SmallDisk;
use crate::isolation::shared;
use crate::loss_accounting::{
    deliver_the_rest, dropped, first_position, gaps, go_on, segments, wait_until_spooled,
};

const BACKLOG: u64 = 2000;

/// Settings in `[spool]` that split the backlog into about a dozen segments.
const SEGMENTS: &str = "rotate-size = \"256KiB\"\n";

/// Length of the headers of a segment and of a batch, in bytes (docs/spool-format.md).
const SEGMENT_HEADER: u64 = 64;
const BATCH_HEADER: usize = 56;

/// Changes bytes at `offset` of a file.
fn change<const N: usize>(file: &Path, offset: u64, change: impl FnOnce(&mut [u8; N])) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, offset).unwrap();
}

/// Sets the format version of a segment.
fn set_version(segment: &Path, version: u8) {
    change::<64>(segment, 0, |header| {
        header[13] = version;
        let checksum = crc32c::crc32c(&header[12..]);
        header[8..12].copy_from_slice(&checksum.to_be_bytes());
    });
}

/// Sets the compression code of the first batch of a segment. Returns the batch's number of datagrams.
fn set_compression(segment: &Path, code: u8) -> u64 {
    let bytes = std::fs::read(segment).unwrap();
    let mut datagrams = [0; 4];
    change::<BATCH_HEADER>(segment, SEGMENT_HEADER, |header| {
        header[52] = code;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[16..32]), &header[8..]);
        header[4..8].copy_from_slice(&checksum.to_be_bytes());
        datagrams.copy_from_slice(&header[32..36]);
    });
    u64::from(u32::from_be_bytes(datagrams))
}

/// Converts a file of `newer/` to this version, so that it is readable as after an upgrade.
fn make_readable(file: &Path) {
    if std::fs::read(file).unwrap()[13] == 1 {
        set_compression(file, 0);
    } else {
        set_version(file, 1);
    }
}

/// A pair with a backlog in segments, some of which are changed to a newer version.
struct Downgrade {
    pair: Pair,
    exporters: Exporters,
    /// Segments at the first stop, oldest first.
    files: Vec<PathBuf>,
    disk: Option<SmallDisk>,
}

fn pattern() -> Pattern {
    Pattern::new(LARGE)
}

impl Downgrade {
    /// Creates a stopped sender with a cut link and a backlog in segments. `toml` holds settings for
    /// `[spool]`.
    fn new(toml: &str) -> Self {
        Self::with_backlog(Self::pair(Collector::start(2, pattern()), toml), BACKLOG)
    }

    /// Does the same with the spool on its own disk.
    fn on(toml: &str, mount: impl FnOnce(&Path, &Path) -> SmallDisk) -> Self {
        let pair = Self::pair(Collector::start(2, pattern()), toml);
        let disk = mount(&pair.sender.path("disk"), &pair.sender.path("spool"));
        Self { disk: Some(disk), ..Self::with_backlog(pair, BACKLOG) }
    }

    fn pair(collector: Collector, toml: &str) -> Pair {
        Pair::around(collector, 2, pattern(), &format!("{QUICK_SENDER}sync-after = \"0s\"\n{toml}"))
    }

    fn with_backlog(mut pair: Pair, backlog: u64) -> Self {
        pair.link.cut();
        pair.receiver.start();
        pair.sender.start();
        let exporters = pair.load(None, Until::Sent(backlog)).finish();
        wait_until_spooled(&pair);
        assert_eq!(pair.sender.take_daemon().terminate().code(), Some(0));
        let files = segments(&pair.sender.path("spool"));
        assert!(files.len() > 8, "{files:?}");
        Self { pair, exporters, files, disk: None }
    }

    /// Changes these segments to a newer version. Returns their number of datagrams.
    fn make_newer(&self, indices: impl IntoIterator<Item = usize>) -> u64 {
        let end = |index: usize| self.files.get(index + 1).map_or(BACKLOG, |next| first_position(next));
        let datagrams = |index: usize| {
            set_version(&self.files[index], 2);
            end(index) - first_position(&self.files[index])
        };
        indices.into_iter().map(datagrams).sum()
    }

    /// Changes segments in the middle and at the end to a newer version. Returns their number of datagrams.
    fn make_three_newer(&self) -> u64 {
        self.make_newer([2, 3, self.files.len() - 1])
    }

    /// Sends datagrams until the exporters have sent `total`.
    fn go_on(mut self, total: u64) -> Self {
        self.exporters = go_on(&self.pair, self.exporters, total);
        self
    }

    fn kept(&self) -> Vec<PathBuf> {
        segments(&self.pair.sender.path("spool").join("newer"))
    }

    /// Delivers all datagrams except `kept` ones, which neither side may count as lost, and those that a
    /// limit dropped. Returns the number that the limit dropped.
    fn deliver_but(&self, kept: u64) -> u64 {
        self.pair.link.restore();
        let status = self.wait_until_empty();
        let full = dropped(&status, "spool_full");
        self.pair.collector.wait_for(self.exporters.total() - kept - full, STALL);
        assert_eq!((dropped(&status, "corrupt"), gaps(&self.pair.receiver)), (0, full), "{status:#}");
        assert_eq!(self.pair.collector.report().missing(self.exporters.sent()), kept + full);
        full
    }

    fn wait_until_empty(&self) -> Value {
        self.pair.sender.udp().wait_until_drained();
        let status = self.pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
        assert_conserved(&status);
        status
    }

    /// Stops the older version cleanly and starts one that can read everything.
    fn upgrade(&mut self) {
        assert_eq!(self.pair.sender.take_daemon().terminate().code(), Some(0));
        self.kept().iter().for_each(|file| make_readable(file));
        self.pair.sender.start();
    }

    /// Upgrades and waits until all datagrams except the `lost` ones have arrived once.
    fn upgrade_and_deliver_but(&mut self, lost: u64) {
        self.upgrade();
        self.arrive_but(lost);
    }

    fn arrive_but(&self, lost: u64) {
        self.pair.collector.wait_for(self.exporters.total() - lost, STALL);
        let status = self.wait_until_empty();
        assert_eq!(count(&status, "/newer/files"), 0, "{status:#}");
        let report = self.pair.collector.report();
        assert_eq!(report.missing(self.exporters.sent()), lost);
        assert!(report.exporters.iter().all(|tally| tally.repeated + tally.corrupted == 0));
    }
}

#[test]
fn an_upgrade_delivers_a_newer_spool() {
    let _running = shared();
    let mut test = Downgrade::new(SEGMENTS);
    test.make_newer(0..test.files.len());
    let before: Vec<_> = test.files.iter().map(|file| std::fs::read(file).unwrap()).collect();

    test.pair.sender.start();
    let log = ["newer nf-sender", "segment format 2, this version reads 1"];
    test.pair.sender.daemon().wait_for_log(&log, STALL);
    let status = test.pair.sender.status();
    assert_eq!(count(&status, "/newer/files"), u64::try_from(before.len()).unwrap(), "{status:#}");
    test = test.go_on(BACKLOG + 500);
    assert_eq!(test.deliver_but(BACKLOG), 0);
    // Neither a kill nor a clean stop changes the files.
    test.pair.sender.take_daemon().kill();
    test.pair.sender.start();
    assert_eq!(test.pair.sender.take_daemon().terminate().code(), Some(0));
    let after: Vec<_> = test.kept().iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(after == before, "bytes of newer segments changed");
    test.pair.sender.start();
    test.upgrade_and_deliver_but(0);
}

#[test]
fn newer_segments_do_not_delay_the_others() {
    let _running = shared();
    let mut test = Downgrade::new(SEGMENTS);
    let middle = test.make_newer(2..4);
    test.pair.sender.start();
    assert_eq!(test.deliver_but(middle), 0);
    assert_eq!(test.kept().len(), 2);
    test.upgrade_and_deliver_but(0);
}

#[test]
fn batches_of_a_newer_compression_are_kept() {
    let _running = shared();
    let mut test = Downgrade::new(SEGMENTS);
    let kept = [1, 5].into_iter().map(|index| set_compression(&test.files[index], 3)).sum();
    test.pair.sender.start();
    assert_eq!(test.deliver_but(kept), 0);
    let words = ["newer nf-sender", "compression 3, this version reads 0 to 2"];
    assert_eq!(test.pair.sender.daemon().count_log(&words), 2);
    assert_eq!(test.kept().len(), 2);
    test.upgrade_and_deliver_but(0);
}

/// The slow collector lets the reader run ahead of delivery, so batches are in `newer/` and still in the
/// queue.
#[test]
fn a_queued_newer_batch_arrives_once() {
    let _running = shared();
    let reading = Reading { pace: ReadingPace::PerSecond(1000), ..Reading::default() };
    let collector = Collector::start_reading("127.0.0.1:0", 2, pattern(), reading);
    let mut test = Downgrade::with_backlog(Downgrade::pair(collector, SEGMENTS), 8000);
    for file in &test.files {
        set_compression(file, 3);
    }
    test.pair.sender.start();
    test.pair.link.restore();
    // The window holds 24 of them.
    test.pair.sender.wait_status(STALL, |status| count(status, "/newer/files") >= 26);
    test.pair.link.cut();
    let last = test.kept().pop().unwrap();
    assert_eq!(test.pair.sender.take_daemon().terminate().code(), Some(0));
    for file in segments(&test.pair.sender.path("spool")) {
        set_compression(&file, 0);
    }
    test.kept().iter().for_each(|file| make_readable(file));
    let from = last.file_stem().unwrap().to_str().unwrap().split_once('-').unwrap().0;
    assert!(
        test.pair.sender.path("spool").join(format!("{from}.segment")).exists(),
        "the segment is only in `newer`"
    );
    test.pair.sender.start();
    test.pair.link.restore();
    test.arrive_but(0);
}

#[test]
fn max_size_never_drops_a_newer_segment() {
    let _running = shared();
    let mut test = Downgrade::new(&format!("{SEGMENTS}max-size = \"4MiB\"\n"));
    let kept = test.make_newer(0..3);
    test.pair.sender.start();
    test = test.go_on(3 * BACKLOG);
    let status = wait_until_spooled(&test.pair);
    test.pair.sender.daemon().wait_for_log(&["newer nf-sender", "segment format 2"], STALL);
    assert!(count(&status, "/queued/datagrams") > BACKLOG, "4 MiB hold more datagrams\n{status:#}");
    let full = test.deliver_but(kept);
    assert!(full > 0);
    assert_eq!(test.kept().len(), 3);
    test.upgrade_and_deliver_but(full);
}

#[test]
fn an_upgrade_delivers_a_newer_journal() {
    let _running = shared();
    let toml = format!("{QUICK_SENDER}sync-after = \"1h\"\n");
    let mut pair = Pair::new(2, pattern(), &toml);
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let exporters = pair.load(None, Until::Sent(500)).finish();
    pair.sender.wait_status(STALL, |status| count(status, "/received/datagrams") == 500);
    pair.sender.take_daemon().kill();
    let set_magic = |journal: &Path, magic: [u8; 8]| {
        change::<8>(journal, 0, |bytes| *bytes = u64::from_be_bytes(magic).to_ne_bytes());
    };
    set_magic(&pair.sender.path("run/intake"), *b"NFINTAK3");
    // A newer version leaves no valid copy of this version's header.
    change::<64>(&pair.sender.path("run/intake"), 384, |copy| copy.fill(0));
    pair.sender.start();
    pair.sender.daemon().wait_for_log(&["newer nf-sender", "receive journal format 3"], STALL);
    let mut test = Downgrade { pair, exporters, files: Vec::new(), disk: None }.go_on(700);
    assert_eq!(test.deliver_but(500), 0);
    let log = test.pair.sender.daemon();
    assert_eq!(log.count_log(&["the receive journal", "are lost"]), 0, "all of it is kept");
    assert_eq!(test.pair.sender.take_daemon().terminate().code(), Some(0));

    set_magic(&test.pair.sender.path("run/intake.newer-1"), *b"NFINTAK2");
    test.pair.sender.start();
    test.arrive_but(0);
}

#[test]
fn a_damaged_header_is_not_a_newer_version() {
    let _running = shared();
    let mut test = Downgrade::new(SEGMENTS);
    // A version with a wrong checksum, as from a failing disk.
    change::<1>(&test.files[3], 13, |version| version[0] = 2);
    test.pair.sender.start();
    test.pair.link.restore();
    assert_eq!(deliver_the_rest(&test.pair, &test.exporters).missing, 0);
    assert!(test.kept().is_empty());
}
