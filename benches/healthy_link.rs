//! What nf-sender writes to disk while the link is healthy: 5,000 datagrams a second for a minute, once with the intake
//! in memory, as systemd's runtime directory is, and once on the disk of the spool.
//!
//! The aim is nothing that nf-sender forces there itself. `NF_BENCH_SECONDS` makes it shorter or longer.
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

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::chatter::{MIXED, Pattern};
use support::load::Until;
use support::pair::{Pair, STALL};
use support::samples::count;
use tempfile::TempDir;

const DATAGRAMS_PER_SECOND: u32 = 5000;
const SECONDS: u64 = 60;

/// Tracing slows the daemon down, so what it forces is counted in a run of its own, of at most this length.
const TRACED_SECONDS: u64 = 15;

/// A file system in memory.
const MEMORY: &str = "/dev/shm";

const SETTINGS: &str = "[spool]\nmin-free = \"0B\"\n";

fn main() {
    let seconds =
        std::env::var("NF_BENCH_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    println!("nf-sender on a healthy link, {DATAGRAMS_PER_SECOND} datagrams/s for {seconds} s");
    println!(
        "{:<18} {:>14} {:>14} {:>10} {:>22}",
        "intake", "carried", "written", "per byte", "forced in a trace"
    );
    for in_memory in [true, false] {
        if in_memory && !Path::new(MEMORY).is_dir() {
            println!("in memory: skipped, there is no {MEMORY}");
            continue;
        }
        let name = if in_memory { "in memory" } else { "beside the spool" };
        let (carried, written) = measure(in_memory, seconds);
        let forced = trace(in_memory, seconds.min(TRACED_SECONDS))
            .map_or_else(|| "no strace".to_owned(), |forced| forced.to_string());
        let hundredths = written * 100 / carried.max(1);
        println!(
            "{name:<18} {carried:>12} B {written:>12} B {:>7}.{:02} {forced:>22}",
            hundredths / 100,
            hundredths % 100
        );
    }
}

/// A connected pair. Where the intake is to be in memory, the runtime directory leads there.
fn pair(in_memory: bool) -> (Pair, Option<TempDir>) {
    let mut pair = Pair::new(8, Pattern::new(MIXED), SETTINGS);
    let memory = in_memory.then(|| {
        let memory = tempfile::tempdir_in(MEMORY).unwrap();
        let run = pair.sender.path("run");
        std::fs::remove_dir(&run).unwrap();
        std::os::unix::fs::symlink(memory.path(), run).unwrap();
        memory
    });
    pair.receiver.start();
    pair.sender.start();
    pair.sender.wait_state("connected", STALL);
    (pair, memory)
}

/// Carries datagrams for so long; returns the payload bytes acknowledged.
fn carry(pair: &Pair, seconds: u64) -> u64 {
    let datagrams = seconds * u64::from(DATAGRAMS_PER_SECOND);
    let exporters = pair.load(Some(DATAGRAMS_PER_SECOND), Until::Sent(datagrams)).finish();
    pair.assert_all_arrive(&exporters, true);
    count(&pair.sender.status(), "/acknowledged/bytes")
}

/// Payload bytes carried, and bytes that nf-sender caused to be written to disk meanwhile.
fn measure(in_memory: bool, seconds: u64) -> (u64, u64) {
    let (pair, _memory) = pair(in_memory);
    let pid = pair.sender.daemon().pid();
    let before = written(pid);
    let carried = carry(&pair, seconds);
    (carried, written(pid) - before)
}

/// Bytes that a process caused to be written to storage, less those that were dropped before they got there.
fn written(pid: u32) -> u64 {
    let figures = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let figure = |name: &str| {
        let line =
            figures.lines().find_map(|line| line.strip_prefix(name)).expect("a figure of /proc/PID/io");
        line.parse::<u64>().unwrap()
    };
    figure("write_bytes: ").saturating_sub(figure("cancelled_write_bytes: "))
}

/// What a daemon forced to disk.
#[derive(Debug, Default)]
struct Forced {
    calls: u64,
    /// Bytes written by system calls to the files that were forced, since they were last.
    bytes: u64,
    /// Writes that nobody forced: the trace saw the daemon at work.
    writes: u64,
}

impl std::fmt::Display for Forced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} calls, {} B ({} writes seen)", self.calls, self.bytes, self.writes)
    }
}

/// Counts what is forced to disk while datagrams are carried; nothing if the daemon cannot be traced.
fn trace(in_memory: bool, seconds: u64) -> Option<Forced> {
    let (pair, _memory) = pair(in_memory);
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("trace");
    let (mut strace, attached) = attach(pair.sender.daemon().pid(), &log)?;
    if attached {
        carry(&pair, seconds);
        kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
    }
    strace.wait().unwrap();
    attached.then(|| forced(&std::fs::read_to_string(&log).unwrap_or_default()))
}

/// Attaches strace to a process and says whether it may; nothing if there is no strace.
fn attach(pid: u32, log: &Path) -> Option<(Child, bool)> {
    let calls = "trace=pwrite64,write,fsync,fdatasync,sync_file_range,msync,syncfs";
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "0", "-e", calls, "-p", &pid.to_string(), "-o"]).arg(log);
    let mut strace = command.stderr(Stdio::piped()).spawn().ok()?;
    let mut said = String::new();
    BufReader::new(strace.stderr.take().unwrap()).read_line(&mut said).unwrap();
    Some((strace, said.contains("attached")))
}

/// Reads a trace: lines such as `12 pwrite64(5</run/intake>, ""..., 1400, 0) = 1400` and `12 fdatasync(5</x>) = 0`.
fn forced(trace: &str) -> Forced {
    let mut forced = Forced::default();
    let mut unforced: HashMap<&str, u64> = HashMap::new();
    for line in trace.lines() {
        let Some((call, rest)) = line.split_once('(') else { continue };
        let file =
            rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(file, _)| file);
        if call.contains("sync") {
            forced.calls += 1;
            forced.bytes += unforced.remove(file).unwrap_or_default();
        } else if call.ends_with("write64") {
            forced.writes += 1;
            let count = line.rsplit_once("= ").and_then(|(_, count)| count.parse::<u64>().ok());
            *unforced.entry(file).or_default() += count.unwrap_or_default();
        }
    }
    forced
}
