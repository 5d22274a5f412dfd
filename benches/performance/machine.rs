//! Description of the measuring machine.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::thread::available_parallelism;

use nf_transport_kit::kernel_socket::{self, RECEIVE_BUFFER, enlarge};
use nf_transport_kit::netflow_tools::find;

use crate::numbers::grouped_bytes;
use crate::relay::receive_buffer;

/// Describes processor, cores, memory, kernel, receive buffers and the versions of the other relays.
pub(crate) fn description() -> String {
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "Measured on: {}, {cores} cores, {} of memory, Linux {}; receive buffers of {}. {}. {}; {}.",
        field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        memory(),
        kernel.trim(),
        grouped_bytes(receive_buffer()),
        package_buffer(),
        version("nfcapd", "Version:"),
        version("nfacctd", "NetFlow Accounting Daemon, nfacctd"),
    )
}

/// Describes the receive buffer that nf-sender had where its package sets one.
fn package_buffer() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    enlarge(&socket);
    // The kernel counts twice as many.
    let granted = u64::try_from(kernel_socket::receive_buffer(&socket) / 2).unwrap();
    let granted_text = grouped_bytes(granted);
    let wanted = u64::try_from(RECEIVE_BUFFER).unwrap();
    if granted < wanted {
        return format!(
            "nf-sender had no more than {granted_text} either, since the benchmark had no CAP_NET_ADMIN. \
             So gathering was limited to less than `max-delay`"
        );
    }
    format!(
        "Except for the rates of loss-free relaying and of ingest, all but nfcapd and nfacctd had the \
         {granted_text} of nf-sender's socket unit, which `max-delay` needs"
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
