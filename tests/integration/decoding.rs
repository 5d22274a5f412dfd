//! Real collectors decode the datagrams of nf-receiver record for record as they decode a direct export,
//! whichever part was down before.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use nf_transport_kit::decoder::{DecodingCollector, Tool, decoded_directly};
use nf_transport_kit::field_cases::payloads;
use nf_transport_kit::hosts::{ReceiverHost, SenderHost};
use nf_transport_kit::link::Link;
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::count;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::isolation::shared;

/// Filters that match all exporters of these tests (which are on loopback) or none.
const ALL_EXPORTERS: &str = "";
const NO_EXPORTERS: &str = "exporters = [\"192.0.2.0/24\"]";

/// A pair, one exporter, and the number of datagrams it has sent.
struct DecodingSetup {
    sender: SenderHost,
    link: Link,
    receiver: ReceiverHost,
    exporter: UdpSocket,
    sent: u64,
}

impl DecodingSetup {
    /// Starts a pair that delivers to these collectors with these settings.
    fn running(collectors: &[(&DecodingCollector, &str)]) -> Self {
        let table = |(collector, lines): &(&DecodingCollector, &str)| {
            format!("[[collector]]\naddress = \"{}\"\n{lines}\n", collector.addr())
        };
        let (sender, link, receiver) = connected_daemons(&collectors.iter().map(table).collect::<String>());
        Self { sender, link, receiver, exporter: UdpSocket::bind("127.0.0.1:0").unwrap(), sent: 0 }
    }

    /// Sends datagrams and waits until nf-sender has received them.
    fn send(&mut self, payloads: &[Vec<u8>]) {
        for payload in payloads {
            self.exporter.send_to(payload, self.sender.udp().addr()).unwrap();
            self.sent += 1;
        }
        self.sender.wait_status(STALL, |status| count(status, "/received/datagrams") == self.sent);
    }

    /// Restarts nf-receiver as if the collector had seen the exporter at this port before.
    fn see_exporter_at(&mut self, port: u16, collector: &UdpSocket) {
        assert_eq!(self.receiver.take_daemon().terminate().code(), Some(0));
        let exporters = json!([{
            "sender": "edge",
            "exporter": self.exporter.local_addr().unwrap(),
            "seen_as": SocketAddr::from(([127, 0, 0, 1], port)),
        }]);
        let collector = collector.local_addr().unwrap();
        let stored = json!({
            "boot": 0,
            "collectors": [
                { "collector": collector, "socket": null, "exporters": exporters, "complete": [] },
            ],
        });
        std::fs::write(self.receiver.path("state/collectors.json"), stored.to_string()).unwrap();
        self.receiver.start();
        self.sender.wait_state("connected", STALL);
    }

    /// Waits until every collector has every datagram.
    fn wait_delivered(&self) {
        self.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    }

    /// Waits until nf-receiver holds a datagram for a collector.
    fn wait_held(&self) {
        let is_held = |collector: &Value| count(collector, "/held_s") >= 1;
        self.receiver
            .wait_status(STALL, |status| status["collectors"].as_array().unwrap().iter().any(is_held));
    }

    /// Returns the number of datagrams repeated to each collector, in the order of the settings.
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

/// Runs a test with each installed collector, in its own directory.
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

/// Returns the case of sampled flows. Only the second datagram defines the exporter's sampling; flows start
/// with the fourth. nfcapd 1.7.1 understands a sampling interval (element 34) only as the only field of its
/// record.
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

/// Sums the packets of all flows: the second-last column.
fn packets(flows: &[String]) -> u64 {
    let words = flows.iter().map(|flow| flow.split([' ', ',']).rev().nth(1).unwrap());
    words.map(|packets| packets.parse::<u64>().unwrap()).sum()
}

/// Restarts a collector before flows whose sampling was sent earlier. `meanwhile` runs while it is down.
fn sampling_is_known_after(meanwhile: impl Fn(&mut DecodingSetup)) {
    with_each_tool(|tool, directory| {
        let payloads = sampled(tool);
        let direct = decoded_directly(tool, directory, "direct", "127.0.0.1", &payloads);
        let mut collector = DecodingCollector::start(tool, directory, "carried");
        let mut setup = DecodingSetup::running(&[(&collector, ALL_EXPORTERS)]);
        setup.send(&payloads[..4]);
        setup.wait_delivered();
        collector.stop_when_drained();
        meanwhile(&mut setup);
        collector.start_again();
        setup.send(&payloads[4..]);
        setup.wait_delivered();
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
    sampling_is_known_after(|setup| {
        assert_eq!(setup.receiver.take_daemon().terminate().code(), Some(0));
        setup.receiver.start();
    });
}

/// Duration of the outage that makes flows late.
const OUTAGE: Duration = Duration::from_millis(1500);

#[test]
fn sampling_is_known_to_a_collector_of_late_data() {
    with_each_tool(|tool, directory| {
        let payloads = sampled(tool);
        let direct = decoded_directly(tool, directory, "direct", "127.0.0.1", &payloads);
        let [mut main, mut late] =
            ["main", "late"].map(|name| DecodingCollector::start(tool, directory, name));
        let lines = format!("late-after = \"1s\"\nlate-address = \"{}\"", late.addr());
        let mut setup = DecodingSetup::running(&[(&main, &lines)]);
        setup.send(&payloads[..4]);
        setup.wait_delivered();
        setup.link.cut();
        setup.send(&payloads[4..]);
        std::thread::sleep(OUTAGE); // the sent datagrams must become late
        setup.link.restore();
        setup.wait_delivered();
        main.stop_when_drained();
        late.stop_when_drained();
        assert!(!late.flows().is_empty());
        let mut both = [main.flows(), late.flows()].concat();
        both.sort();
        assert_eq!(both, direct, "{tool:?}");
    });
}

/// Redefines a template while one of two collectors is down. Both are set to hold. The other collector has
/// the settings `of_the_other`.
fn redefined_while_one_is_away(of_the_other: &str) {
    with_each_tool(|tool, directory| {
        let payloads = payloads("j-layout-changed");
        let direct = decoded_directly(tool, directory, "direct", "127.0.0.1", &payloads);
        let [mut stays, mut leaves] =
            ["stays", "leaves"].map(|name| DecodingCollector::start(tool, directory, name));
        let mut setup = DecodingSetup::running(&[(&stays, of_the_other), (&leaves, ALL_EXPORTERS)]);
        setup.send(&payloads[..2]);
        setup.wait_delivered();
        leaves.stop_when_drained();
        setup.send(&payloads[2..]);
        setup.wait_held();
        leaves.start_again();
        setup.wait_delivered();
        assert_eq!(setup.repeats()[0], 0, "templates repeated to a collector that was never down");
        stays.stop_when_drained();
        leaves.stop_when_drained();
        assert_eq!(leaves.flows(), direct, "{tool:?}");
        let of_the_other = if of_the_other == NO_EXPORTERS { Vec::new() } else { direct };
        assert_eq!(stays.flows(), of_the_other, "{tool:?}");
    });
}

#[test]
fn a_redefined_template_decodes_after_an_absence() {
    redefined_while_one_is_away(ALL_EXPORTERS);
}

#[test]
fn a_redefined_template_decodes_with_a_filter() {
    redefined_while_one_is_away(NO_EXPORTERS);
}

#[test]
fn a_redefined_template_decodes_next_to_skip() {
    redefined_while_one_is_away("when-down = \"skip\"");
}

/// Returns a port outside the kernel's automatic range, so that it stays free during a restart.
fn free_port_of_nobody() -> u16 {
    let first = 15_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    (first..32_000).find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

#[test]
fn a_clean_receiver_restart_repeats_nothing() {
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
    let mut setup = DecodingSetup { sender, link, receiver, exporter, sent: 0 };
    setup.see_exporter_at(free_port_of_nobody(), &collector);
    setup.send(&payloads[..2]);
    setup.wait_delivered();
    assert_eq!(arrived().len(), 2);

    assert_eq!(setup.receiver.take_daemon().terminate().code(), Some(0));
    setup.receiver.start();
    setup.send(&payloads[2..4]);
    setup.wait_delivered();
    assert_eq!((arrived().len(), setup.repeats()), (2, vec![0]));

    // A killed nf-receiver cannot record its last datagrams, so the template is repeated.
    setup.receiver.take_daemon().kill();
    setup.receiver.start();
    setup.send(&payloads[4..5]);
    setup.wait_delivered();
    assert_eq!((arrived().len(), setup.repeats()), (2, vec![1]));
}
