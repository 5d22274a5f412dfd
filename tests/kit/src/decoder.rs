//! Real collectors that decode flows: nfcapd and nfacctd, from Debian's packages nfdump and pmacct.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::kernel_socket::KernelSocket;
use crate::netflow_tools::{Nfcapd, NfcapdSettings, find, free_port, have};

/// One of the collectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Nfcapd,
    Nfacctd,
}

impl Tool {
    pub const ALL: [Self; 2] = [Self::Nfcapd, Self::Nfacctd];

    /// Returns whether the collector is installed.
    pub fn is_installed(self) -> bool {
        match self {
            Self::Nfcapd => have(&["nfcapd", "nfdump"]),
            Self::Nfacctd => have(&["nfacctd"]),
        }
    }
}

/// Longest delay until nfacctd prints the flows it has received. It prints once a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// Fields that nfdump prints for each flow.
const FLOW: &str = "fmt:%sa %da %sp %dp %pr %pkt %byt";

/// A collector that can be stopped and started again with the same address and files.
pub enum DecodingCollector {
    Nfcapd(Nfcapd),
    Nfacctd(Nfacctd),
}

impl DecodingCollector {
    /// Starts the collector on a free port. It keeps its files in `directory` under this name.
    pub fn start(tool: Tool, directory: &Path, name: &str) -> Self {
        let path = directory.join(name);
        match tool {
            Tool::Nfcapd => {
                let settings = NfcapdSettings::of_all(Ipv4Addr::LOCALHOST.into(), path);
                Self::Nfcapd(settings.buffer(4 << 20).rotate_every(3600).start())
            }
            Tool::Nfacctd => Self::Nfacctd(Nfacctd::start(path)),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Nfcapd(nfcapd) => nfcapd.addr(),
            Self::Nfacctd(nfacctd) => nfacctd.addr,
        }
    }

    /// Waits until the collector has read everything in its socket, then stops it.
    pub fn stop_when_drained(&mut self) {
        match self {
            Self::Nfcapd(nfcapd) => nfcapd.stop_when_drained(),
            Self::Nfacctd(nfacctd) => nfacctd.stop_when_drained(),
        }
    }

    pub fn start_again(&mut self) {
        match self {
            Self::Nfcapd(nfcapd) => nfcapd.start_again(),
            Self::Nfacctd(nfacctd) => nfacctd.start_again(),
        }
    }

    /// Waits until the collector has read everything in its socket.
    pub fn wait_until_drained(&self) {
        match self {
            Self::Nfcapd(nfcapd) => nfcapd.kernel().wait_until_drained(),
            Self::Nfacctd(nfacctd) => nfacctd.wait_until_printed(),
        }
    }

    /// Returns the decoded flows, sorted. The collector must be stopped.
    pub fn flows(&self) -> Vec<String> {
        match self {
            Self::Nfcapd(nfcapd) => {
                let flows = nfcapd.flows(0, FLOW);
                if flows == ["No matching flows"] {
                    return Vec::new();
                }
                let one_space = |flow: &String| flow.split_whitespace().collect::<Vec<_>>().join(" ");
                let mut flows: Vec<_> = flows.iter().map(one_space).collect();
                flows.sort();
                flows
            }
            Self::Nfacctd(nfacctd) => nfacctd.flows(),
        }
    }
}

/// nfacctd prints flows, with packets and bytes scaled by the sampling interval where it knows that interval.
///
/// nfacctd passes flows from one process to another and loses those in between when it exits. So the kit
/// sends it marker flows, which are printed after all earlier flows.
pub struct Nfacctd {
    addr: SocketAddr,
    path: PathBuf,
    running: Option<RunningNfacctd>,
    markers: Cell<u16>,
}

/// The process and its socket.
struct RunningNfacctd {
    child: Child,
    kernel: KernelSocket,
}

impl Nfacctd {
    fn start(path: PathBuf) -> Self {
        let addr = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let settings = [
            ("daemonize", "false".to_owned()),
            ("logfile", path.with_extension("log").display().to_string()),
            ("nfacctd_ip", addr.ip().to_string()),
            ("nfacctd_port", addr.port().to_string()),
            ("nfacctd_renormalize", "true".to_owned()),
            ("plugins", "print".to_owned()),
            ("aggregate", "src_host,dst_host,src_port,dst_port,proto".to_owned()),
            ("print_output", "csv".to_owned()),
            ("print_output_file", path.with_extension("csv").display().to_string()),
            ("print_output_file_append", "true".to_owned()),
            ("print_refresh_time", "1".to_owned()),
        ];
        let text = settings.map(|(key, value)| [key, ": ", &value, "\n"].concat()).concat();
        std::fs::write(path.with_extension("conf"), text).unwrap();
        let mut nfacctd = Self { addr, path, running: None, markers: Cell::new(0) };
        nfacctd.start_again();
        nfacctd
    }

    fn start_again(&mut self) {
        assert!(self.running.is_none(), "nfacctd runs already");
        let output = |extension| {
            let path = self.path.with_extension(extension);
            OpenOptions::new().create(true).append(true).open(path).unwrap()
        };
        let child = Command::new(find("nfacctd").unwrap())
            .arg("-f")
            .arg(self.path.with_extension("conf"))
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .unwrap();
        self.running = Some(RunningNfacctd { child, kernel: KernelSocket::wait_for(self.addr) });
        self.wait_until_printed();
    }

    fn running(&self) -> &RunningNfacctd {
        self.running.as_ref().expect("nfacctd runs")
    }

    /// Waits until nfacctd has printed all received flows. It prints only while datagrams arrive, so markers
    /// are sent until the first of them is printed.
    fn wait_until_printed(&self) {
        self.running().kernel.wait_until_drained();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let first = format!("{MARKER},{MARKER},{},", self.markers.get() + 1);
        let deadline = Instant::now() + PATIENCE;
        while !self.lines().iter().any(|line| line.starts_with(&first)) {
            assert!(Instant::now() < deadline, "nfacctd does not print the flows it received");
            self.markers.set(self.markers.get() + 1);
            socket.send_to(&marker(self.markers.get()), self.addr).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop_when_drained(&mut self) {
        self.wait_until_printed();
        self.running = None;
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path.with_extension("csv")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn flows(&self) -> Vec<String> {
        let is_flow = |line: &String| !line.starts_with("SRC_IP") && !line.starts_with(MARKER);
        let mut flows: Vec<_> = self.lines().into_iter().filter(is_flow).collect();
        flows.sort();
        flows
    }
}

impl Drop for RunningNfacctd {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).ok();
        drop(self.child.wait());
    }
}

/// Source and destination address of a marker.
const MARKER: &str = "203.0.113.77";

/// Returns a NetFlow v5 datagram with one flow that carries this number.
fn marker(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let address = MARKER.parse::<Ipv4Addr>().unwrap().octets();
    let header =
        [0, 5, 0, 1, 0, 0, 3, 232, 0x65, 0x53, 0xF1, 0, 0, 0, 0, 0, 0, 0, 0, number.to_be_bytes()[1]];
    let mut payload = [&header[..], &[0; 4], &address, &address, &[0; 8]].concat();
    payload.extend([0, 0, 0, 1, 0, 0, 0, 64, 0, 0, 1, 0, 0, 0, 2, 0]);
    payload.extend([high, low, 0, 0, 0, 0, 17, 0]);
    payload.resize(24 + 48, 0);
    payload
}

/// Returns the flows that a collector decodes when an exporter at the address `source` sends it these
/// datagrams directly. The collector's files are named `name`.
pub fn decoded_directly(
    tool: Tool,
    directory: &Path,
    name: &str,
    source: &str,
    payloads: &[Vec<u8>],
) -> Vec<String> {
    let mut direct = DecodingCollector::start(tool, directory, name);
    let exporter = UdpSocket::bind((source, 0)).unwrap();
    for payload in payloads {
        exporter.send_to(payload, direct.addr()).unwrap();
    }
    direct.stop_when_drained();
    let flows = direct.flows();
    assert!(!flows.is_empty(), "{tool:?} decoded no flow");
    flows
}
