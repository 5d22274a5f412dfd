//! CPU time, memory and disk writes of processes.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;

/// A process of a relay, with all its children.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Peak of the resident memory.
    pub(crate) peak: u64,
    /// Resident now: anonymous memory, mapped files (including programs and libraries), and shared memory
    /// such as a mapping in `/run`.
    pub(crate) anonymous: u64,
    pub(crate) file: u64,
    pub(crate) shared: u64,
}

impl Process {
    /// Returns the CPU time of the process and its children so far. The clock of a process counts nanoseconds
    /// and includes threads that have ended.
    pub(crate) fn cpu(&self) -> Duration {
        let clocks = self.tree().into_iter().filter_map(|pid| {
            ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid).unwrap())).ok()?.now().ok()
        });
        clocks.map(Duration::from).sum()
    }

    /// Returns the memory of the process and its children.
    pub(crate) fn memory(&self) -> Memory {
        let each = self.tree().into_iter().map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let figure = |name: &str| 1024 * figure(&status, name);
            Memory {
                peak: figure("VmHWM:"),
                anonymous: figure("RssAnon:"),
                file: figure("RssFile:"),
                shared: figure("RssShmem:"),
            }
        });
        each.reduce(|sum, one| Memory {
            peak: sum.peak + one.peak,
            anonymous: sum.anonymous + one.anonymous,
            file: sum.file + one.file,
            shared: sum.shared + one.shared,
        })
        .unwrap_or_default()
    }

    /// Returns how often each thread of the process was switched to so far, by name.
    pub(crate) fn wake_ups(&self) -> BTreeMap<String, u64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let mut by_name = BTreeMap::new();
        for status in threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok()) {
            let name = status.lines().find_map(|line| line.strip_prefix("Name:")).unwrap_or_default().trim();
            let switches = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
            let count: u64 = switches.iter().map(|kind| figure(&status, kind)).sum();
            *by_name.entry(name.to_owned()).or_default() += count;
        }
        by_name
    }

    /// Returns the bytes that the process and its children wrote to storage, without those that were
    /// discarded before.
    pub(crate) fn written(&self) -> u64 {
        let each = self.tree().into_iter().map(|pid| {
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            figure(&io, "write_bytes:").saturating_sub(figure(&io, "cancelled_write_bytes:"))
        });
        each.sum()
    }

    /// Kills the process and its children.
    pub(crate) fn kill(&self) {
        for pid in self.tree() {
            // A process that has already ended is not an error.
            kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap_or_default();
        }
    }

    /// Returns the ids of the process and all its descendants.
    fn tree(&self) -> Vec<u32> {
        let mut pids = vec![self.pid];
        let mut at = 0;
        while let Some(pid) = pids.get(at) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        pids
    }
}

/// Returns the number after a name at the start of a line.
fn figure(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}
