//! Real peers: softflowd, which exports what a packet capture holds, and nfcapd, which collects and prints it.
//!
//! Both come from Debian's packages softflowd and nfdump. The demo and the benchmarks do without them.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use rustix::process::{Pid, Signal, kill_process};

use super::kernel_socket::KernelSocket;

/// What nfdump prints of each flow: all that an exporter said, and nothing that depends on when it came.
const FLOW_FORMAT: &str =
    "fmt:%ts %te %td %pr %sap %dap %flg %tos %pkt %byt %fl %in %out %sas %das %nfv %ra %eng";

/// Whether real exporters and collectors are installed.
pub(crate) fn installed() -> bool {
    have(&["softflowd", "nfcapd", "nfdump"])
}

/// Whether these tools are installed. Where continuous integration runs (`CI=true`) they must be.
pub(crate) fn have(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| find(tool).is_none()).collect();
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!required || missing.is_empty(), "not installed: {missing:?}; `make test` as root installs them");
    missing.is_empty()
}

/// A daemon of Debian's may lie in a directory that only root's PATH has.
fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(tool)).find(|file| file.is_file())
}

/// Writes a capture of `flows` flows: TCP, UDP and ICMP over IPv4 and IPv6, one to five packets each.
pub(crate) fn write_capture(path: &Path, flows: u16) {
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    let mut time = Duration::from_secs(1_700_000_000);
    for round in 0..5 {
        for flow in (0..flows).filter(|flow| round <= flow % 5) {
            time += Duration::from_micros(731);
            let data = packet(flow, usize::from(flow * 7 % 900 + 16));
            let length = u32::try_from(data.len()).unwrap();
            writer.write_packet(&PcapPacket::new_owned(time, length, data)).unwrap();
        }
    }
}

fn packet(flow: u16, payload: usize) -> Vec<u8> {
    let [high, low] = flow.to_be_bytes();
    let (source, target) = ([10, 1, high, low], [192, 0, 2, low % 40]);
    let v6 = |net: u16| Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, flow).octets();
    let frame = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip =
        if flow.is_multiple_of(2) { frame.ipv4(source, target, 64) } else { frame.ipv6(v6(1), v6(2), 64) };
    let (port, body) = (1024 + flow, vec![low; payload]);
    let mut out = Vec::new();
    match flow % 6 {
        0 | 1 => ip.tcp(port, 443, flow.into(), 1024).ack(1).psh().write(&mut out, &body),
        2 | 3 => ip.udp(port, 53).write(&mut out, &body),
        4 => ip.icmpv4_echo_request(port, 1).write(&mut out, &body),
        _ => ip.icmpv6_echo_request(port, 1).write(&mut out, &body),
    }
    .unwrap();
    out
}

/// Exports a capture's flows in this version (5, 9, or 10 for IPFIX): each datagram to all of the targets.
pub(crate) fn export(capture: &Path, version: u8, targets: &[SocketAddr]) {
    let targets: Vec<_> = targets.iter().map(SocketAddr::to_string).collect();
    let output = Command::new(find("softflowd").unwrap())
        .args(["-d", "-a", "-v", &version.to_string(), "-n", &targets.join(",")])
        .args(["-r".as_ref(), capture.as_os_str()])
        .args(["-p".as_ref(), capture.with_extension("pid").as_os_str()])
        .args(["-c", "none"]) // with a control socket softflowd 1.1.0 may wait for a connection to it instead of reading
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "softflowd: {}", String::from_utf8_lossy(&output.stderr));
}

/// A running nfcapd. Dropping it kills it.
pub(crate) struct Nfcapd {
    child: Child,
    addr: SocketAddr,
    flows: PathBuf,
    kernel: KernelSocket,
}

impl Nfcapd {
    /// Starts nfcapd on a free port; it keeps its files in `flows`.
    pub(crate) fn start(flows: PathBuf) -> Self {
        std::fs::create_dir(&flows).unwrap();
        let addr = free_port();
        let child = Command::new(find("nfcapd").unwrap())
            .args(["-b", "127.0.0.1", "-p", &addr.port().to_string(), "-B", "4194304", "-t", "3600"])
            .args(["-w".as_ref(), flows.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(flows.with_extension("log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, addr, flows, kernel: KernelSocket::wait_for_port(addr.port()) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets nfcapd take what its socket holds, ends it, and returns the flows that nfdump prints, sorted.
    pub(crate) fn finish(mut self) -> Vec<String> {
        self.kernel.wait_until_drained();
        assert_eq!(self.kernel.figures().dropped, 0, "nfcapd's own socket was too small");
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
        let output = Command::new(find("nfdump").unwrap())
            .args(["-q", "-N", "-6", "-o", FLOW_FORMAT, "-R"])
            .arg(&self.flows)
            .output()
            .unwrap();
        assert!(output.status.success(), "nfdump: {}", String::from_utf8_lossy(&output.stderr));
        let mut flows: Vec<_> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        flows.sort();
        flows
    }
}

impl Drop for Nfcapd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An address that nobody listens on at this moment.
fn free_port() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
