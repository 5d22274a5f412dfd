//! The packages on machines with a real systemd: installed, paired, restarted, upgraded, cut off, crashed, misconfigured.

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

/// Two machines on one network, both with both packages; nothing is enabled.
struct Site {
    /// That of the exporters and nf-sender.
    edge: Machine,
    /// That of nf-receiver and the collector.
    center: Machine,
}

impl Site {
    fn new(parts: &Parts) -> Self {
        let network = Network::new();
        let machine = |name, address| Machine::installed(name, address, &network, parts);
        Self { edge: machine("edge", "10.77.0.1/24"), center: machine("center", "10.77.0.2/24") }
    }

    /// As [`Self::paired`], on machines without user namespaces.
    fn hardened(parts: &Parts) -> Self {
        let network = Network::new();
        let machine = |name, address| Machine::hardened(name, address, &network, parts);
        let site = Self { edge: machine("edge", "10.77.0.1/24"), center: machine("center", "10.77.0.2/24") };
        site.pair();
        site
    }

    /// As [`Self::new`], with the services enabled and paired as docs/install.md says.
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

    /// Each service, and the machine that it is on.
    fn services(&self) -> [(&Machine, &'static str); 2] {
        [(&self.edge, "nf-sender"), (&self.center, "nf-receiver")]
    }

    /// A collector where nf-receiver delivers by default.
    fn collector(&self) -> Collector {
        self.center.inside(|| Collector::start_on("127.0.0.1:9995", EXPORTERS, pattern()))
    }

    /// Exporters on the sender's machine.
    fn exporters(&self) -> Exporters {
        self.edge.inside(|| Exporters::new(0..EXPORTERS, "127.0.0.1:2055".parse().unwrap(), pattern()))
    }

    /// The socket that systemd holds for nf-sender. Looking at it fails once it is another one.
    fn socket(&self) -> KernelSocket {
        self.edge.inside(|| KernelSocket::wait_for_port(2055))
    }

    fn wait_connected(&self) {
        self.edge.wait_status("nf-sender", |status| status["state"] == "connected");
    }

    /// Panics unless everything that was sent is at the collector: in order, and exactly once if `once`.
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

/// The words of a journal's lines, for looking whether it tells a story in this order.
fn assert_told(journal: &str, story: &[&str]) {
    let mut rest = journal;
    for sentence in story {
        let at = rest.find(sentence);
        let at = at.unwrap_or_else(|| panic!("the journal does not tell {sentence:?} then:\n{journal}"));
        rest = &rest[at + sentence.len()..];
    }
}

/// A machine with both packages that is alone on its network.
fn lone(name: &str, parts: &Parts) -> Machine {
    Machine::installed(name, "10.77.0.9/24", &Network::new(), parts)
}
