//! What nf-sender writes to disk while the link is healthy: 5,000 datagrams a second for a minute. The aim is nothing
//! that it forces there itself: no fsync, no fdatasync.
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

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::chatter::{MIXED, Pattern};
use support::load::Until;
use support::pair::Pair;
use support::samples::count;

const DATAGRAMS_PER_SECOND: u32 = 5000;
const SECONDS: u64 = 60;

/// Tracing slows the daemon down, so the calls are counted in a run of their own.
const TRACED_SECONDS: u64 = 15;

const SETTINGS: &str = "[spool]\nmin-free = \"0B\"\n";

fn main() {
    let (written, carried) = run(SECONDS, |pair, go_on| {
        let before = bytes_written(pair.sender.daemon().pid());
        go_on();
        let acknowledged = count(&pair.sender.status(), "/acknowledged/bytes");
        (bytes_written(pair.sender.daemon().pid()) - before, acknowledged)
    });
    println!("{DATAGRAMS_PER_SECOND} datagrams/s for {SECONDS} s: {carried} payload bytes carried");
    println!("handed to the disk by nf-sender, by way of the kernel's write-back: {written} bytes");
    println!("that is {} bytes for each 1,000 carried", written * 1000 / carried.max(1));
    match run(TRACED_SECONDS, |pair, go_on| traced(pair.sender.daemon().pid(), go_on)) {
        Some(syncs) => println!("calls that force data to disk: {syncs} in {TRACED_SECONDS} s"),
        None => {
            println!("calls that force data to disk: not counted, strace is not installed or not allowed");
        }
    }
}

/// Gives `measure` a connected pair and a way to carry datagrams for so many seconds.
fn run<T>(seconds: u64, measure: impl FnOnce(&Pair, &dyn Fn()) -> T) -> T {
    let pair = Pair::connected(8, Pattern::new(MIXED), SETTINGS);
    let go_on = || {
        let datagrams = seconds * u64::from(DATAGRAMS_PER_SECOND);
        let exporters = pair.load(Some(DATAGRAMS_PER_SECOND), Until::Sent(datagrams)).finish();
        pair.assert_all_arrive(&exporters, true);
    };
    measure(&pair, &go_on)
}

/// Bytes that a process caused to be written to storage, less those that were dropped before they got there.
fn bytes_written(pid: u32) -> u64 {
    let figures = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let figure = |name: &str| {
        let line =
            figures.lines().find_map(|line| line.strip_prefix(name)).expect("a figure of /proc/PID/io");
        line.parse::<u64>().unwrap()
    };
    figure("write_bytes: ").saturating_sub(figure("cancelled_write_bytes: "))
}

/// Counts the calls that force data to disk while `go_on` runs; nothing if the daemon cannot be traced.
fn traced(pid: u32, go_on: &dyn Fn()) -> Option<usize> {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-e",
            "trace=fsync,fdatasync,sync_file_range,msync,syncfs",
            "-p",
            &pid.to_string(),
            "-o",
        ])
        .arg(&trace)
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut said = String::new();
    let mut stderr = BufReader::new(strace.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    let attached = said.contains("attached");
    if attached {
        go_on();
        kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
    }
    strace.wait().unwrap();
    let lines = std::fs::read_to_string(&trace).unwrap_or_default();
    attached.then(|| lines.lines().filter(|line| line.contains("sync")).count())
}
