//! How long nf-sender takes from its start to READY with a backlog of 2 GiB, against an empty spool.
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

/// Payload bytes of the backlog, and the least that a datagram of `LARGE` has on average.
const BACKLOG: u64 = 2 * 1024 * 1024 * 1024;
const DATAGRAM: u64 = 1358;

/// Starts of each kind, in turn.
const STARTS: usize = 9;

/// Nobody listens there: TCP's discard port.
const NOWHERE: &str = "127.0.0.1:9";

fn main() {
    let mut empty = SenderHost::new("empty", &NOWHERE, QUICK_SENDER);
    let mut full = SenderHost::new("full", &NOWHERE, QUICK_SENDER);
    full.start();
    let exporters = full.exporters(4, Pattern::new(LARGE));
    let load = Load::start(exporters, Arc::clone(full.udp()), None, Until::Sent(BACKLOG / DATAGRAM));
    let total = load.finish().total();
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
    println!("{STARTS} starts of each kind in turn, medians, from start to READY:");
    println!("empty spool        {empty:?}");
    println!("{total} datagrams  {full:?}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
