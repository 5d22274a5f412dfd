//! Description of the measuring machine.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use nf_transport_kit::netflow_tools::find;

use crate::numbers::grouped_bytes;
use crate::relay::receive_buffer;

/// Describes processor, cores, memory, kernel, receive buffers and the versions of the other relays.
pub(crate) fn description() -> String {
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "Measured on: {}, {cores} cores, {} of memory, Linux {}; receive buffers of {}. {}; {}.",
        field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        memory(),
        kernel.trim(),
        grouped_bytes(receive_buffer()),
        version("nfcapd", "Version:"),
        version("nfacctd", "NetFlow Accounting Daemon, nfacctd"),
    )
}

fn memory() -> String {
    let total = field("/proc/meminfo", "MemTotal");
    let kibibytes = total.and_then(|total| total.trim_end_matches(" kB").parse::<u64>().ok());
    grouped_bytes(kibibytes.unwrap_or_default() * 1024)
}

/// Returns the text after a name and a colon in a kernel file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Returns a relay's version as it prints it.
fn version(program: &str, before: &str) -> String {
    let Some(path) = find(program) else { return format!("{program} not installed") };
    let output = Command::new(path).arg("-V").output().unwrap();
    let output_text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let line = output_text.lines().find(|line| line.contains(before)).unwrap_or_default();
    let (_, version) = line.rsplit_once(before).unwrap_or_default();
    format!("{program} {}", version.trim())
}
