//! A damaged spool: the smallest possible piece is quarantined and counted on both sides, and the rest is
//! delivered.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nf_transport_kit::chatter::{LARGE, Pattern};
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::shared;
use crate::loss_accounting::{
    LossOutcome, deliver_the_rest, dropped, first_position, length, segments, wait_until_spooled,
};

/// Datagrams in the backlog: about ten segments of 256 KiB.
const BACKLOG: u64 = 2000;

/// Length of a segment's header, which precedes its first batch, in bytes (docs/spool-format.md).
const SEGMENT_HEADER: u64 = 64;

/// Most datagrams of this pattern in one batch.
const BATCH: u64 = 64 * 1024 / 1300;

/// Loss caused by a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DamageCost {
    Nothing,
    /// At most one batch.
    Batch,
    /// This number of datagrams.
    Exactly(u64),
    /// At least one and at most this number of datagrams.
    Within(u64),
}

/// Applies `damage` to the segments of a stopped sender with a backlog. All datagrams except the expected
/// loss must arrive. Returns the sizes of the quarantined pieces in bytes.
fn damaged(damage: impl FnOnce(&[PathBuf]) -> DamageCost) -> Vec<u64> {
    let _running = shared();
    let toml = format!("{QUICK_SENDER}sync-after = \"0s\"\nrotate-size = \"256KiB\"\n");
    let mut pair = Pair::new(2, Pattern::new(LARGE), &toml);
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let exporters = pair.load(None, Until::Sent(BACKLOG)).finish();
    wait_until_spooled(&pair);
    assert_eq!(pair.sender.take_daemon().terminate().code(), Some(0));
    let spool = pair.sender.path("spool");
    let files = segments(&spool);
    assert!(files.len() > 6, "{files:?}");
    let cost = damage(&files);

    pair.sender.start();
    assert_conserved(&pair.sender.status());
    pair.link.restore();
    let LossOutcome { status, missing, .. } = deliver_the_rest(&pair, &exporters);
    assert_eq!(missing, dropped(&status, "corrupt"), "{status:#}");
    let is_expected = match cost {
        DamageCost::Nothing => missing == 0,
        DamageCost::Batch => (1..=BATCH).contains(&missing),
        DamageCost::Exactly(datagrams) => missing == datagrams,
        DamageCost::Within(datagrams) => (1..=datagrams).contains(&missing),
    };
    assert!(is_expected, "{missing} datagrams are missing where the damage costs {cost:?}\n{status:#}");
    if missing > 0 {
        pair.sender.daemon().wait_for_log(&["spool", "the rest is delivered"], STALL);
    }
    let aside = std::fs::read_dir(spool.join("damaged")).unwrap();
    let aside: Vec<u64> = aside.map(|entry| length(&entry.unwrap().path())).collect();
    pair.sender.wait_status(STALL, |status| {
        let files = u64::try_from(aside.len()).unwrap();
        (count(status, "/damaged/files"), count(status, "/damaged/bytes")) == (files, aside.iter().sum())
    });
    aside
}

/// Flips all bits of `count` bytes at `offset`.
fn flip(segment: &Path, offset: u64, count: usize) {
    let file = OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, offset).unwrap();
    for byte in &mut bytes {
        *byte = !*byte;
    }
    file.write_all_at(&bytes, offset).unwrap();
}

fn cut(segment: &Path, length: u64) {
    OpenOptions::new().write(true).open(segment).unwrap().set_len(length).unwrap();
}

/// Returns the number of positions in the segment at `index`. The last segment ends with the backlog.
fn positions(files: &[PathBuf], index: usize) -> u64 {
    let end = files.get(index + 1).map_or(BACKLOG, |next| first_position(next));
    end - first_position(&files[index])
}

#[test]
fn a_flipped_byte_loses_one_batch() {
    let aside = damaged(|files| {
        flip(&files[4], length(&files[4]) / 2, 1);
        DamageCost::Batch
    });
    assert!(matches!(aside[..], [size] if size > 0), "{aside:?}");
}

#[test]
fn a_damaged_segment_header_loses_nothing() {
    damaged(|files| {
        flip(&files[0], 8, 4);
        flip(&files[3], 0, 64);
        DamageCost::Nothing
    });
}

#[test]
fn a_damaged_batch_header_loses_one_batch() {
    let aside = damaged(|files| {
        flip(&files[2], SEGMENT_HEADER, 4);
        DamageCost::Batch
    });
    assert!(matches!(aside[..], [size] if size > 0), "{aside:?}");
}

#[test]
fn a_truncated_segment_loses_its_end() {
    damaged(|files| {
        cut(&files[3], length(&files[3]) / 2);
        DamageCost::Within(positions(files, 3))
    });
}

#[test]
fn a_truncated_last_segment_loses_one_batch() {
    let aside = damaged(|files| {
        let last = files.last().unwrap();
        cut(last, length(last) - 1);
        DamageCost::Batch
    });
    assert!(matches!(aside[..], [size] if size > 0), "{aside:?}");
}

#[test]
fn a_segment_of_zeros_is_quarantined() {
    let aside = damaged(|files| {
        let size = length(&files[5]);
        cut(&files[5], 0);
        cut(&files[5], size);
        DamageCost::Exactly(positions(files, 5))
    });
    assert!(matches!(aside[..], [size] if size > 0), "{aside:?}");
}

#[test]
fn a_missing_first_segment_is_counted() {
    damaged(|files| {
        std::fs::remove_file(&files[0]).unwrap();
        DamageCost::Exactly(positions(files, 0))
    });
}

#[test]
fn a_missing_middle_segment_is_counted() {
    damaged(|files| {
        std::fs::remove_file(&files[4]).unwrap();
        DamageCost::Exactly(positions(files, 4))
    });
}

#[test]
fn a_missing_last_segment_is_counted() {
    damaged(|files| {
        std::fs::remove_file(files.last().unwrap()).unwrap();
        DamageCost::Exactly(positions(files, files.len() - 1))
    });
}

#[test]
fn foreign_files_and_an_empty_segment_are_ignored() {
    damaged(|files| {
        let spool = files[0].parent().unwrap();
        std::fs::write(spool.join("notes.txt"), "ours").unwrap();
        std::fs::create_dir(spool.join("lost+found")).unwrap();
        File::create(&files[6]).unwrap();
        DamageCost::Exactly(positions(files, 6))
    });
}

#[test]
fn a_damaged_stream_file_loses_nothing() {
    damaged(|files| {
        let stream = files[0].with_file_name("stream");
        flip(&stream, 0, usize::try_from(length(&stream)).unwrap());
        DamageCost::Nothing
    });
}
