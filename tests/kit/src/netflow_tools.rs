//! Real tools: softflowd exports the flows of a packet capture, nfcapd collects flows, and nfdump prints
//! them.
//!
//! They come from Debian's packages softflowd and nfdump. The demo works without them.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use rustix::process::{Pid, Signal, kill_process};

use crate::kernel_socket::KernelSocket;

/// Fields that nfdump prints for each flow: all exported fields, but none that depends on the time of
/// arrival.
const FLOW_FORMAT: &str =
    "fmt:%ts %te %td %pr %sap %dap %flg %tos %pkt %byt %fl %in %out %sas %das %nfv %ra %eng";

/// Returns whether softflowd, nfcapd and nfdump are installed.
pub fn installed() -> bool {
    have(&["softflowd", "nfcapd", "nfdump"])
}

/// Returns whether these tools are installed. In continuous integration (`CI=true`) a missing tool is a
/// failure.
pub fn have(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| find(tool).is_none()).collect();
    let required = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!required || missing.is_empty(), "not installed: {missing:?}; `make test` as root installs them");
    missing.is_empty()
}

/// Finds a program in PATH and in directories that only root's PATH contains on Debian.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(tool)).find(|file| file.is_file())
}

/// Writes a capture of `flows` flows: TCP, UDP and ICMP over IPv4 and IPv6, one to five packets each.
pub fn write_capture(path: &Path, flows: u16) {
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

/// Exports a capture's flows in this version (5, 9, or 10 for IPFIX) and sends each datagram to all targets.
pub fn export(capture: &Path, version: u8, targets: &[SocketAddr]) {
    let targets: Vec<_> = targets.iter().map(SocketAddr::to_string).collect();
    let output = Command::new(find("softflowd").unwrap())
        .args(["-d", "-a", "-v", &version.to_string(), "-n", &targets.join(",")])
        .args(["-r".as_ref(), capture.as_os_str()])
        .args(["-p".as_ref(), capture.with_extension("pid").as_os_str()])
        .args(["-c", "none"]) // softflowd 1.1.0 may wait for a control connection instead of reading
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "softflowd: {}", String::from_utf8_lossy(&output.stderr));
}

/// Settings of an nfcapd: its address and its directories.
pub struct NfcapdSettings {
    addr: SocketAddr,
    args: Vec<OsString>,
    directories: Vec<PathBuf>,
}

impl NfcapdSettings {
    /// Settings with a free port of this address.
    fn at(ip: IpAddr) -> Self {
        let addr = free_port(ip);
        let family = if ip.is_ipv4() { "-4" } else { "-6" };
        let args = [family, "-b", &ip.to_string(), "-p", &addr.port().to_string()].map(OsString::from);
        Self { addr, args: args.to_vec(), directories: Vec::new() }
    }

    /// Settings to store the flows of all exporters in one directory.
    pub fn of_all(ip: IpAddr, flows: PathBuf) -> Self {
        let settings = Self { directories: vec![flows.clone()], ..Self::at(ip) };
        settings.with(["-w".into(), flows.into_os_string()])
    }

    /// Settings to identify exporters by these addresses and store the flows of each in its own directory.
    pub fn of_each(ip: IpAddr, sources: &[(IpAddr, PathBuf)]) -> Self {
        let settings =
            Self { directories: sources.iter().map(|(_, flows)| flows.clone()).collect(), ..Self::at(ip) };
        sources.iter().enumerate().fold(settings, |settings, (number, (exporter, flows))| {
            let source = format!("exporter{number},{exporter},{}", flows.to_str().unwrap());
            settings.with(["-n".into(), source.into()])
        })
    }

    /// Requests this receive buffer, in bytes, instead of the system's default.
    pub fn buffer(self, bytes: u32) -> Self {
        self.with(["-B".into(), bytes.to_string().into()])
    }

    /// Repeats all received datagrams to this address.
    pub fn repeat_to(self, addr: SocketAddr) -> Self {
        self.with(["-R".into(), format!("{}/{}", addr.ip(), addr.port()).into()])
    }

    /// Starts a new file at this interval, in seconds; at least 2.
    pub fn rotate_every(self, seconds: u32) -> Self {
        self.with(["-t".into(), seconds.to_string().into()])
    }

    /// Creates the directories and starts nfcapd.
    pub fn start(self) -> Nfcapd {
        for directory in &self.directories {
            std::fs::create_dir(directory).unwrap();
        }
        let running = Some(RunningNfcapd::start(&self));
        Nfcapd { settings: self, running }
    }

    fn with(mut self, args: [OsString; 2]) -> Self {
        self.args.extend(args);
        self
    }
}

/// An nfcapd that can be stopped and started again with the same address and files. Dropping it kills it.
pub struct Nfcapd {
    settings: NfcapdSettings,
    running: Option<RunningNfcapd>,
}

impl Nfcapd {
    /// Starts nfcapd on a free port with its files in `flows`.
    pub fn start(flows: PathBuf) -> Self {
        NfcapdSettings::of_all(Ipv4Addr::LOCALHOST.into(), flows).buffer(4 << 20).rotate_every(3600).start()
    }

    pub fn addr(&self) -> SocketAddr {
        self.settings.addr
    }

    pub fn pid(&self) -> u32 {
        self.running().child.id()
    }

    /// Returns the kernel's view of nfcapd's socket.
    pub fn kernel(&self) -> &KernelSocket {
        &self.running().kernel
    }

    /// Sends SIGTERM and waits until nfcapd exits. nfcapd writes the flows that it has read and ignores the
    /// rest in its socket.
    pub fn stop(&mut self) {
        let mut running = self.running.take().expect("nfcapd runs");
        running.signal(Signal::TERM);
        let status = running.child.wait().unwrap();
        assert!(status.success(), "nfcapd: {status}");
    }

    /// Kills nfcapd with SIGKILL, as a crash would end it.
    pub fn kill(&mut self) {
        drop(self.running.take().expect("nfcapd runs"));
    }

    /// Suspends nfcapd with SIGSTOP, as if it waited for a disk.
    pub fn freeze(&self) {
        self.running().signal(Signal::STOP);
    }

    /// Starts nfcapd again.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "nfcapd runs already");
        self.running = Some(RunningNfcapd::start(&self.settings));
    }

    /// Waits until nfcapd has read everything in its socket, then stops it.
    pub fn stop_when_drained(&mut self) {
        self.kernel().wait_until_drained();
        self.stop();
    }

    /// Returns nfdump's lines in this format for the flows of directory `number`, sorted.
    pub fn flows(&self, number: usize, format: &str) -> Vec<String> {
        let printed = self.printed(number, format);
        let mut flows: Vec<_> = printed.lines().map(str::to_owned).collect();
        flows.sort();
        flows
    }

    /// Returns nfdump's output in this format, one line per flow in no fixed order.
    pub fn printed(&self, number: usize, format: &str) -> String {
        let output = Command::new(find("nfdump").unwrap())
            .args(["-q", "-N", "-6", "-o", format, "-R"])
            .arg(&self.settings.directories[number])
            .output()
            .unwrap();
        assert!(output.status.success(), "nfdump: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until nfcapd has read everything in its socket and stops it. Returns the flows that nfdump
    /// prints, sorted.
    pub fn finish(mut self) -> Vec<String> {
        self.kernel().wait_until_drained();
        assert_eq!(self.kernel().figures().dropped, 0, "nfcapd's own socket was too small");
        self.stop();
        self.flows(0, FLOW_FORMAT)
    }

    fn running(&self) -> &RunningNfcapd {
        self.running.as_ref().expect("nfcapd runs")
    }
}

/// The process and its socket.
struct RunningNfcapd {
    child: Child,
    kernel: KernelSocket,
}

impl RunningNfcapd {
    fn start(settings: &NfcapdSettings) -> Self {
        let log = settings.directories[0].with_extension("log");
        let child = Command::new(find("nfcapd").unwrap())
            .args(&settings.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OpenOptions::new().create(true).append(true).open(log).unwrap())
            .spawn()
            .unwrap();
        Self { child, kernel: KernelSocket::wait_for(settings.addr) }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for RunningNfcapd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns a port of this address that is free at the moment.
pub fn free_port(ip: IpAddr) -> SocketAddr {
    UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap()
}
