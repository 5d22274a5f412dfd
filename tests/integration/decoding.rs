//! Real collectors decode what comes through the pair as they decode what exporters send them directly, record for record:
//! whatever was away, and whenever.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use nf_transport_kit::decoder::{Decoder, Tool, decoded_directly};
use nf_transport_kit::field_cases::payloads;
use nf_transport_kit::hosts::{ReceiverHost, SenderHost};
use nf_transport_kit::link::Link;
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::count;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::running::shared;

/// The exporters of these tests are on loopback.
const EVERYBODY: &str = "";
const NOBODY: &str = "exporters = [\"192.0.2.0/24\"]";

/// The pair, one exporter, and how many datagrams it has sent.
struct Field {
    sender: SenderHost,
    link: Link,
    receiver: ReceiverHost,
    exporter: UdpSocket,
    sent: u64,
}

impl Field {
    /// It runs and delivers to these collectors, with these lines of settings each.
    fn running(collectors: &[(&Decoder, &str)]) -> Self {
        let table = |(collector, lines): &(&Decoder, &str)| {
            format!("[[collector]]\naddress = \"{}\"\n{lines}\n", collector.addr())
        };
        let (sender, link, receiver) = connected_daemons(&collectors.iter().map(table).collect::<String>());
        Self { sender, link, receiver, exporter: UdpSocket::bind("127.0.0.1:0").unwrap(), sent: 0 }
    }

    /// The exporter sends these, and nf-sender takes them.
    fn send(&mut self, payloads: &[Vec<u8>]) {
        for payload in payloads {
            self.exporter.send_to(payload, self.sender.udp().addr()).unwrap();
            self.sent += 1;
        }
        self.sender.wait_status(STALL, |status| count(status, "/received/datagrams") == self.sent);
    }

    /// nf-receiver restarts as if the collector had seen the exporter at this port before.
    fn see_exporter_at(&mut self, port: u16, collector: &UdpSocket) {
        assert_eq!(self.receiver.take().terminate().code(), Some(0));
        let exporters = json!([{
            "sender": "edge",
            "exporter": self.exporter.local_addr().unwrap(),
            "seen_as": SocketAddr::from(([127, 0, 0, 1], port)),
        }]);
        let collector = collector.local_addr().unwrap();
        let stored = json!({
            "boot": 0,
            "collectors": [{ "collector": collector, "socket": null, "exporters": exporters, "complete": [] }],
        });
        std::fs::write(self.receiver.path("state/collectors.json"), stored.to_string()).unwrap();
        self.receiver.start();
        self.sender.wait_state("connected", STALL);
    }

    /// Waits until every collector has everything.
    fn wait_delivered(&self) {
        self.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    }

    /// Waits until a datagram waits for a collector.
    fn wait_held(&self) {
        let is_held = |collector: &Value| count(collector, "/held_s") >= 1;
        self.receiver
            .wait_status(STALL, |status| status["collectors"].as_array().unwrap().iter().any(is_held));
    }

    /// Datagrams that were repeated to each collector, in the order of their tables.
    fn repeats(&self) -> Vec<u64> {
        let status = self.receiver.status();
        status["collectors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|collector| count(collector, "/templates"))
            .collect()
    }
}

/// Runs a test with each collector that is installed, in a directory of its own.
fn with_each_tool(test: impl Fn(Tool, &Path)) {
    let _running = shared();
    for tool in Tool::ALL {
        if tool.is_installed() {
            test(tool, TempDir::new().unwrap().path());
        } else {
            eprintln!("skipped: needs {tool:?} (Debian packages nfdump, pmacct)");
        }
    }
}

/// The case of sampled flows: the exporter's sampling is known from the second datagram alone, flows follow from the fourth
/// on. nfcapd 1.7.1 understands a sampling interval (element 34) only where it stands alone.
fn sampled(tool: Tool) -> Vec<Vec<u8>> {
    let mut payloads = payloads("k-sampling-options");
    if tool == Tool::Nfcapd {
        let set = |id: u8, body: &[u8]| [&[0, id, 0, u8::try_from(4 + body.len()).unwrap()], body].concat();
        let template = set(1, &[1, 1, 0, 4, 0, 4, 0, 1, 0, 4, 0, 34, 0, 4, 0, 0]);
        let record = [&[1, 1, 0, 12], &[0, 0, 0, 0, 0, 0, 3, 232][..]].concat();
        payloads[0] = [&payloads[0][..20], &template].concat();
        payloads[1] = [&payloads[1][..20], &record].concat();
    }
    payloads
}

/// Packets of all flows, by the last column but one.
fn packets(flows: &[String]) -> u64 {
    let words = flows.iter().map(|flow| flow.split([' ', ',']).rev().nth(1).unwrap());
    words.map(|packets| packets.parse::<u64>().unwrap()).sum()
}

/// A collector restarts before flows whose sampling was known before, and `beside` happens while it is away.
fn sampling_is_known_after(beside: impl Fn(&mut Field)) {
    with_each_tool(|tool, directory| {
        let payloads = sampled(tool);
        let direct = decoded_directly(tool, directory, "direct", "127.0.0.1", &payloads);
        let mut collector = Decoder::start(tool, directory, "carried");
        let mut field = Field::running(&[(&collector, EVERYBODY)]);
        field.send(&payloads[..4]);
        field.wait_delivered();
        collector.stop_when_drained();
        beside(&mut field);
        collector.start_again();
        field.send(&payloads[4..]);
        field.wait_delivered();
        collector.stop_when_drained();
        let flows = collector.flows();
        assert_eq!(packets(&flows), packets(&direct), "{tool:?}");
        assert_eq!(flows, direct, "{tool:?}");
        assert!(packets(&direct) >= 1000, "{direct:?}");
    });
}

#[test]
fn sampling_is_known_after_a_collector_restart() {
    sampling_is_known_after(|_| ());
}

#[test]
fn sampling_is_known_after_a_restart_of_both() {
    sampling_is_known_after(|field| {
        assert_eq!(field.receiver.take().terminate().code(), Some(0));
        field.receiver.start();
    });
}

/// How long the link is down before flows are late.
const OUTAGE: Duration = Duration::from_millis(1500);

#[test]
fn sampling_is_known_to_a_collector_of_late_data() {
    with_each_tool(|tool, directory| {
        let payloads = sampled(tool);
        let direct = decoded_directly(tool, directory, "direct", "127.0.0.1", &payloads);
        let [mut main, mut late] = ["main", "late"].map(|name| Decoder::start(tool, directory, name));
        let lines = format!("late-after = \"1s\"\nlate-address = \"{}\"", late.addr());
        let mut field = Field::running(&[(&main, &lines)]);
        field.send(&payloads[..4]);
        field.wait_delivered();
        field.link.cut();
        field.send(&payloads[4..]);
        std::thread::sleep(OUTAGE); // what was sent is to become late
        field.link.mend();
        field.wait_delivered();
        main.stop_when_drained();
        late.stop_when_drained();
        assert!(!late.flows().is_empty());
        let mut both = [main.flows(), late.flows()].concat();
        both.sort();
        assert_eq!(both, direct, "{tool:?}");
    });
}

/// A template is redefined while one of two collectors is away, which both hold; the one that stays has these settings.
fn redefined_while_one_is_away(of_the_other: &str) {
    with_each_tool(|tool, directory| {
        let payloads = payloads("j-layout-changed");
        let direct = decoded_directly(tool, directory, "direct", "127.0.0.1", &payloads);
        let [mut stays, mut leaves] = ["stays", "leaves"].map(|name| Decoder::start(tool, directory, name));
        let mut field = Field::running(&[(&stays, of_the_other), (&leaves, EVERYBODY)]);
        field.send(&payloads[..2]);
        field.wait_delivered();
        leaves.stop_when_drained();
        field.send(&payloads[2..]);
        field.wait_held();
        leaves.start_again();
        field.wait_delivered();
        assert_eq!(field.repeats()[0], 0, "to a collector that never went away");
        stays.stop_when_drained();
        leaves.stop_when_drained();
        assert_eq!(leaves.flows(), direct, "{tool:?}");
        let of_the_other = if of_the_other == NOBODY { Vec::new() } else { direct };
        assert_eq!(stays.flows(), of_the_other, "{tool:?}");
    });
}

#[test]
fn a_redefined_template_decodes_after_an_absence() {
    redefined_while_one_is_away(EVERYBODY);
}

#[test]
fn a_redefined_template_decodes_with_a_filter() {
    redefined_while_one_is_away(NOBODY);
}

#[test]
fn a_redefined_template_decodes_next_to_skip() {
    redefined_while_one_is_away("when-down = \"skip\"");
}

/// A port that the kernel gives to no process by itself, so that it stays free over a restart.
fn free_port_of_nobody() -> u16 {
    let first = 15_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    (first..32_000).find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

#[test]
fn a_clean_restart_of_nf_receiver_repeats_nothing() {
    let _running = shared();
    let payloads = payloads("j-layout-changed");
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_nonblocking(true).unwrap();
    let arrived = || {
        let mut buffer = vec![0; 65_536];
        std::iter::from_fn(|| collector.recv(&mut buffer).ok()).collect::<Vec<_>>()
    };
    let toml = format!("[[collector]]\naddress = \"{}\"\n", collector.local_addr().unwrap());
    let (sender, link, receiver) = connected_daemons(&toml);
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut field = Field { sender, link, receiver, exporter, sent: 0 };
    field.see_exporter_at(free_port_of_nobody(), &collector);
    field.send(&payloads[..2]);
    field.wait_delivered();
    assert_eq!(arrived().len(), 2);

    assert_eq!(field.receiver.take().terminate().code(), Some(0));
    field.receiver.start();
    field.send(&payloads[2..4]);
    field.wait_delivered();
    assert_eq!((arrived().len(), field.repeats()), (2, vec![0]));

    // Nobody can know what a killed nf-receiver has sent.
    field.receiver.take().kill();
    field.receiver.start();
    field.send(&payloads[4..5]);
    field.wait_delivered();
    assert_eq!((arrived().len(), field.repeats()), (2, vec![1]));
}
