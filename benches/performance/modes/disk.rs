//! `disk`: bytes that the daemons write to disk per carried byte while the link is healthy. Once the runtime
//! directory of nf-sender is in memory, as under systemd, and once on the disk of the spool.
//!
//! The target is that nf-sender itself forces nothing to disk. Tracing slows it down, so forced writes are
//! counted in a separate run.

use crate::modes::trace::{Forced, Trace};
use crate::numbers::{count, float};
use crate::pair::BenchPair;
use crate::payload::LEN;
use crate::relay::Buffer;
use crate::results::Results;
use crate::run::{Course, EXPORTERS};
use crate::settings::Settings;
use crate::sink::Sink;

/// Topics: bytes written, and forced to disk, per carried byte.
pub(crate) const WRITTEN: &str = "written";
pub(crate) const FORCED: &str = "forced";

/// Topic: calls that forced data to disk in the traced run.
pub(crate) const CALLS: &str = "calls that force";

/// Place of the runtime directory.
pub(crate) const IN_MEMORY: &str = "journal in memory";
pub(crate) const BESIDE: &str = "journal next to the spool";

/// Rate in datagrams per second.
const RATE: f64 = 5000.0;

/// Longest run in seconds for the case that is not the target.
const BESIDE_SECONDS: f64 = 20.0;

/// Longest traced run, in seconds.
const TRACED: f64 = 15.0;

/// Measures once per case: the figures hardly vary between turns.
pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for (who, in_memory) in [(IN_MEMORY, true), (BESIDE, false)] {
        if results.latest(WRITTEN, who, 0).is_none() {
            let seconds = if in_memory { settings.disk } else { settings.disk.min(BESIDE_SECONDS) };
            let written = written(in_memory, seconds);
            results.add(WRITTEN, who, 0, written);
            settings.print_run(who, &format!("{written:.4} bytes written per byte carried"));
            if let Some((per_byte, forced)) = forced(in_memory, settings.disk.min(TRACED)) {
                results.add(FORCED, who, 0, per_byte);
                results.add(CALLS, who, 0, float(forced.calls));
                settings.print_run(who, &forced);
            }
        }
    }
}

fn written(in_memory: bool, seconds: f64) -> f64 {
    let sink = Sink::start();
    let pair = BenchPair::with(sink.addr(), None, Buffer::Package, in_memory).connect();
    let mut course = Course::through(&[pair.input()], pair.processes().to_vec(), sink, EXPORTERS);
    let run = course.run(RATE, seconds);
    if !run.is_exact() {
        println!("disk: not every datagram was carried: {run}");
    }
    float(run.written) / float(run.total * u64::try_from(LEN).unwrap())
}

/// Returns the bytes that nf-sender forced to disk per carried byte, and the trace; `None` if it cannot be
/// traced.
fn forced(in_memory: bool, seconds: f64) -> Option<(f64, Forced)> {
    let sink = Sink::start();
    let pair = BenchPair::with(sink.addr(), None, Buffer::Package, in_memory).connect();
    let mut course = Course::through(&[pair.input()], pair.processes().to_vec(), sink, EXPORTERS);
    let trace = Trace::attach(pair.sender.process().pid)?;
    course.run(RATE, seconds);
    let forced = trace.end();
    let carried = count(RATE * seconds) * u64::try_from(LEN).unwrap();
    Some((float(forced.bytes) / float(carried), forced))
}
