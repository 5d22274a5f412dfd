//! Forced disk writes of a process, as strace reports them.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// System calls that write to files, and those that force written data to disk.
const CALLS: &str = "trace=pwrite64,write,fsync,fdatasync,sync_file_range,msync,syncfs";

/// A strace attached to a process.
pub(super) struct Trace {
    strace: Child,
    log: PathBuf,
    _directory: TempDir,
}

/// Forced disk writes of a process.
#[derive(Debug, Default)]
pub(super) struct Forced {
    pub(super) calls: u64,
    /// Bytes written by system calls to the forced files since the previous call that forced them.
    pub(super) bytes: u64,
    /// Writes seen at all, which prove that the trace was attached.
    writes: u64,
}

impl fmt::Display for Forced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} calls forced {} B to disk ({} writes seen)", self.calls, self.bytes, self.writes)
    }
}

impl Trace {
    /// Attaches strace to a process; `None` if strace is missing or not permitted.
    pub(super) fn attach(pid: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "0", "-e", CALLS, "-p", &pid.to_string(), "-o"]).arg(&log);
        let mut strace = command.stderr(Stdio::piped()).spawn().ok()?;
        let mut output = String::new();
        BufReader::new(strace.stderr.take().unwrap()).read_line(&mut output).unwrap();
        if output.contains("attached") {
            return Some(Self { strace, log, _directory: directory });
        }
        strace.wait().unwrap();
        None
    }

    /// Detaches strace and returns the figures.
    pub(super) fn end(mut self) -> Forced {
        kill_process(Pid::from_child(&self.strace), Signal::INT).unwrap();
        self.strace.wait().unwrap();
        forced(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }
}

/// Reads a trace. Lines look like `12 pwrite64(5</run/intake>, ""..., 1400, 0) = 1400` and `12
/// fdatasync(5</x>) = 0`.
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
        } else if call.contains("write") {
            forced.writes += 1;
            let count = line.rsplit_once("= ").and_then(|(_, count)| count.parse::<u64>().ok());
            *unforced.entry(file).or_default() += count.unwrap_or_default();
        }
    }
    forced
}
