//! `start`: time from the start of nf-sender to READY with many segments, compared with an empty spool.
//!
//! The smallest segment that the configuration allows has 128 KiB. So the library writes the segments here,
//! with one datagram each.

use std::path::Path;
use std::time::Duration;

use nf_transport_core::batch::{BatchBuilder, Compression};
use nf_transport_core::datagram::{Datagram, Moment, Timestamp};
use nf_transport_core::secure::StreamKey;
use nf_transport_core::sequence::Position;
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{self, MinFree, OwnStream, Policy, StreamSecret};
use nf_transport_kit::samples;

use crate::modes::ingest::NOWHERE;
use crate::numbers::float;
use crate::pair::Sender;
use crate::payload;
use crate::relay::Buffer;
use crate::results::Results;
use crate::settings::Settings;

/// Topic: milliseconds from start to READY, by number of segments.
pub(crate) const START: &str = "start";

/// Subject.
pub(crate) const SENDER: &str = "nf-sender";

/// Starts of each kind per turn.
const STARTS: usize = 3;

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    let mut empty = Sender::new("empty", NOWHERE.into(), Buffer::Permitted);
    let mut full = Sender::new("full", NOWHERE.into(), Buffer::Permitted);
    std::fs::create_dir(full.host.path("spool")).unwrap();
    write_segments(&full.host.path("spool"), settings.segments);
    for _ in 0..STARTS {
        for (sender, segments) in [(&mut empty, 0), (&mut full, settings.segments)] {
            let took = sender.host.start().ready_after();
            let status = sender.host.status();
            assert_eq!(samples::count(&status, "/queued/segments"), segments, "not recovered:\n{status:#}");
            sender.host.take_daemon().terminate();
            settings.print_run(SENDER, &format!("{segments} segments: ready after {took:.2?}"));
            results.add(START, SENDER, segments, took.as_secs_f64() * 1000.0);
        }
    }
}

/// Writes a spool with this number of segments of one datagram each.
fn write_segments(directory: &Path, segments: u64) {
    let key = StreamKey::generate().unwrap();
    let own = OwnStream { id: key.id(), secret: StreamSecret(key.seed().clone()) };
    let policy = Policy { rotate_size: 1, min_free: MinFree::Bytes(0), ..Policy::default() };
    let mut spool = spool::open(Directory::open(directory).unwrap(), own, policy).unwrap().spool;
    let mut builder = BatchBuilder::new(key.id(), Compression::None);
    let addr = ([127, 0, 0, 1], 2055).into();
    let now = Timestamp::from_unix(Duration::from_secs(1_700_000_000));
    let payload = payload::template();
    for first in (0..segments).map(Position) {
        builder.push(&Datagram { exporter: addr, local: addr, arrival: now, payload: &payload }).unwrap();
        spool
            .append(&builder.finish(first).unwrap(), Moment { wall: now, ..Moment::default() }, first)
            .unwrap();
    }
    spool.end_run(Position(0), Position(segments)).unwrap();
}

/// Returns the extra milliseconds of a start with segments.
pub(crate) fn difference(results: &Results) -> Option<f64> {
    let series = results.series(START, SENDER);
    let [(0, empty), (_, full)] = *series else { return None };
    Some(full - empty)
}

/// Returns the number of segments.
pub(crate) fn segments(results: &Results) -> f64 {
    results.series(START, SENDER).last().map_or(0.0, |(segments, _)| float(*segments))
}
