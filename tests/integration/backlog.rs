//! A long outage of the link: a backlog of 2 GiB needs little memory and little start time, and arrives in
//! order.

use std::time::Duration;

use nf_transport_kit::chatter::{LARGE, Pattern};
use nf_transport_kit::hosts::{QUICK_SENDER, SenderHost};
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::Pair;
use nf_transport_kit::samples::{Sampler, count};

use crate::isolation::alone;

/// Payload bytes of the backlog.
const BACKLOG: u64 = 2 * 1024 * 1024 * 1024;

/// Largest memory of nf-sender, in bytes.
const MEMORY: u64 = 64 * 1024 * 1024;

/// Largest extra time of a start compared with an empty spool.
const SLOWER_START: Duration = Duration::from_millis(100);

/// Stops the sender cleanly and starts it again. Checks its memory and returns the time of the start.
fn restart(sender: &mut SenderHost) -> Duration {
    let daemon = sender.take_daemon();
    assert_modest(daemon.memory_peak());
    assert_eq!(daemon.terminate().code(), Some(0));
    sender.start().ready_after()
}

fn assert_modest(memory: u64) {
    assert!(memory < MEMORY, "nf-sender had {} MiB of memory", memory >> 20);
}

/// Returns the median of five starts.
fn typical_start(sender: &mut SenderHost) -> Duration {
    let mut starts = [(); 5].map(|()| restart(sender));
    starts.sort();
    starts[2]
}

#[test]
fn a_backlog_of_2_gib_needs_little_memory() {
    let _running = alone();
    let pattern = Pattern::new(LARGE);
    let mut pair = Pair::new(4, pattern, QUICK_SENDER);
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let empty_start = typical_start(&mut pair.sender);
    let watch = Sampler::start(pair.sender.control(), Duration::from_millis(250));

    let half = BACKLOG / 2 / 1358; // LARGE's datagrams have at least 1,358 bytes on average
    let load = pair.load(None, Until::Sent(half));
    let exporters = load.finish();
    pair.sender.udp().wait_until_drained();
    restart(&mut pair.sender);
    let load = SteadyLoad::start(exporters, pair.sender.udp().clone(), None, Until::Sent(2 * half));
    let exporters = load.finish();
    pair.sender.udp().wait_until_drained();
    let status = pair.sender.wait_status(Duration::from_secs(60), |status| {
        count(status, "/queued/datagrams") == exporters.total()
    });
    assert!(count(&status, "/queued/bytes") >= BACKLOG, "{status:#}");
    let full_start = typical_start(&mut pair.sender);

    pair.link.restore();
    pair.assert_all_arrive(&exporters, true);
    let memory = pair.sender.daemon().memory_peak();
    let samples = watch.finish();
    println!(
        "{} datagrams; start {empty_start:?} empty, {full_start:?} with the backlog; {} MiB; {} samples",
        exporters.total(),
        memory >> 20,
        samples.len(),
    );
    assert_modest(memory);
    assert!(full_start < empty_start + SLOWER_START, "{full_start:?} against {empty_start:?}");
}
