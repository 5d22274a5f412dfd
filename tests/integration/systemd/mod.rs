//! The packages on machines with a real systemd: installed, paired, restarted, upgraded, cut off, crashed,
//! misconfigured.

mod faults;
mod installing;
mod machine;
mod packages;
mod restarts;
mod settings;
mod source_address;
mod start_up;
mod stopped_journal;

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::kernel_socket::KernelSocket;
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::{assert_conserved, count};

use crate::systemd::machine::{Machine, Network, Parts};

const EXPORTERS: u16 = 4;

/// Two machines on one network with both packages installed and no service enabled.
struct MachinePair {
    /// Machine of the exporters and nf-sender.
    edge: Machine,
    /// Machine of nf-receiver and the collector.
    center: Machine,
}

impl MachinePair {
    fn new(parts: &Parts) -> Self {
        let network = Network::new();
        let machine = |name, address| Machine::installed(name, address, &network, parts);
        Self { edge: machine("edge", "10.77.0.1/24"), center: machine("center", "10.77.0.2/24") }
    }

    /// Does the same as [`Self::paired`] on machines without user namespaces.
    fn hardened(parts: &Parts) -> Self {
        let network = Network::new();
        let machine = |name, address| Machine::hardened(name, address, &network, parts);
        let site = Self { edge: machine("edge", "10.77.0.1/24"), center: machine("center", "10.77.0.2/24") };
        site.pair();
        site
    }

    /// Does the same as [`Self::new`] with the services enabled and paired as docs/install.md describes.
    fn paired(parts: &Parts) -> Self {
        let site = Self::new(parts);
        site.pair();
        site
    }

    fn pair(&self) {
        self.center.sh("systemctl enable --quiet --now nf-receiver.socket");
        let address = format!("{}:2055", self.center.ip());
        let token = self.center.sh(&format!("nf-receiver invite edge --address {address}"));
        self.edge.sh("systemctl enable --quiet --now nf-sender.socket");
        self.edge.sh_with("nf-sender join -", &token);
    }

    /// Returns each service with its machine.
    fn services(&self) -> [(&Machine, &'static str); 2] {
        [(&self.edge, "nf-sender"), (&self.center, "nf-receiver")]
    }

    /// Starts a collector at nf-receiver's default target.
    fn collector(&self) -> Collector {
        self.center.inside(|| Collector::start_on("127.0.0.1:9995", EXPORTERS, pattern()))
    }

    /// Creates exporters on the sender's machine.
    fn exporters(&self) -> Exporters {
        self.edge.inside(|| Exporters::new(0..EXPORTERS, "127.0.0.1:2055".parse().unwrap(), pattern()))
    }

    /// Returns the socket that systemd holds for nf-sender. Its figures become unavailable once it is
    /// replaced.
    fn socket(&self) -> KernelSocket {
        self.edge.inside(|| KernelSocket::wait_for_port(2055))
    }

    fn wait_connected(&self) {
        self.edge.wait_status("nf-sender", |status| status["state"] == "connected");
    }

    /// Panics unless every sent datagram is at the collector in order, and exactly once if `once`.
    fn assert_all_arrive(&self, exporters: &Exporters, collector: &Collector, once: bool) {
        let report = collector.wait_for_all(exporters.sent(), STALL);
        assert_eq!(report.kernel_drops, 0, "the collector was too slow for its own socket");
        if once {
            report.assert_exact(exporters.sent());
        } else {
            report.assert_complete_and_in_order(exporters.sent());
        }
        let is_empty = |status: &serde_json::Value| count(status, "/queued/datagrams") == 0;
        assert_conserved(&self.edge.wait_status("nf-sender", is_empty));
    }
}

fn pattern() -> Pattern {
    Pattern::new(MIXED)
}

/// Asserts that the journal contains these sentences in this order.
fn assert_journal_order(journal: &str, story: &[&str]) {
    let mut rest = journal;
    for sentence in story {
        let at = rest.find(sentence);
        let at = at.unwrap_or_else(|| panic!("the journal lacks {sentence:?} at this point:\n{journal}"));
        rest = &rest[at + sentence.len()..];
    }
}

/// Creates a machine with both packages, alone on its network.
fn lone(name: &str, parts: &Parts) -> Machine {
    Machine::installed(name, "10.77.0.9/24", &Network::new(), parts)
}
