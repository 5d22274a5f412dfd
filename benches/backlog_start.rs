//! How long nf-sender takes from its start to READY with a backlog of 2 GiB, against an empty spool.
//!
//! `NF_BENCH_BACKLOG_MIB` changes the size of the backlog.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on ends there, and says what it saw"
)]

#[expect(dead_code, reason = "the tests use parts of the kit that this does not need")]
#[path = "../tests/integration/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use support::chatter::{LARGE, Pattern};
use support::hosts::{QUICK_SENDER, SenderHost};
use support::load::{Load, Until};
use support::samples::count;

/// Payload of the backlog in MiB, and the least bytes that a datagram of `LARGE` has on average.
const BACKLOG_MIB: u64 = 2048;
const DATAGRAM: u64 = 1358;

/// Starts of each kind, in turn.
const STARTS: usize = 9;

/// Nobody listens there: TCP's discard port.
const NOWHERE: &str = "127.0.0.1:9";

fn main() {
    let mebibytes = std::env::var("NF_BENCH_BACKLOG_MIB")
        .map_or(BACKLOG_MIB, |text| text.parse().expect("a number of MiB"));
    let mut empty = SenderHost::new("empty", &NOWHERE, QUICK_SENDER);
    let mut full = SenderHost::new("full", &NOWHERE, QUICK_SENDER);
    full.start();
    let exporters = full.exporters(4, Pattern::new(LARGE));
    let load =
        Load::start(exporters, Arc::clone(full.udp()), None, Until::Sent((mebibytes << 20) / DATAGRAM));
    let total = load.finish().total();
    let status =
        full.wait_status(Duration::from_secs(120), |status| count(status, "/queued/datagrams") == total);
    full.take().terminate();
    let mut starts = [Vec::new(), Vec::new()];
    for _ in 0..STARTS {
        for (host, starts) in [&mut empty, &mut full].into_iter().zip(&mut starts) {
            starts.push(host.start().ready_after());
            host.take().terminate();
        }
    }
    let [empty, full] = starts.map(median);
    println!("nf-sender from its start to READY, medians of {STARTS} starts of each kind in turn");
    println!("{:<40} {:>10.2?}", "empty spool", empty);
    let backlog = format!("{total} datagrams in {} segments", count(&status, "/queued/segments"));
    println!("{backlog:<40} {full:>10.2?}");
    let difference = full.as_secs_f64() - empty.as_secs_f64();
    println!("{:<40} {:>8.2}ms", "difference", difference * 1000.0);
    println!("{:<40} {:>10.2}", "ratio", full.as_secs_f64() / empty.as_secs_f64());
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
