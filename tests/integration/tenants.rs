//! Sites whose exporters share an address, and a sender that claims the exporters of another one.

use std::net::UdpSocket;

use nf_transport_kit::collector::payloads_by_source;
use nf_transport_kit::daemon::Program;
use nf_transport_kit::decoder::{DecodingCollector, Tool, decoded_directly};
use nf_transport_kit::field_cases::payloads;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost, write_key};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::count;
use tempfile::TempDir;

use crate::isolation::shared;

/// Address of the exporter at each site.
const SHARED: &str = "127.0.0.9";

/// Returns the datagrams of the exporters east and west. Both use the same source id and template id with
/// different templates.
fn of_east_and_west() -> [Vec<Vec<u8>>; 2] {
    let all = payloads("j-layout-changed");
    let (east, west) = all.split_at(5);
    [east.to_vec(), west.to_vec()]
}

/// A site: nf-sender with its own key, and an exporter.
struct TenantSite {
    sender: SenderHost,
    exporter: UdpSocket,
    sent: u64,
}

impl TenantSite {
    /// Starts a site and waits until it is connected to `receiver`.
    fn connected(id: &str, receiver: &ReceiverHost) -> Self {
        let mut sender =
            SenderHost::new(id, &receiver.addr(), &format!("cipher = \"aes-256-gcm\"\n{QUICK_SENDER}"));
        sender.use_key(id);
        sender.start();
        sender.wait_state("connected", STALL);
        Self { sender, exporter: UdpSocket::bind((SHARED, 0)).unwrap(), sent: 0 }
    }

    /// Sends datagrams and waits until the receiver has acknowledged them.
    fn send(&mut self, payloads: &[Vec<u8>]) {
        for payload in payloads {
            self.exporter.send_to(payload, self.sender.udp().addr()).unwrap();
            self.sent += 1;
        }
        self.sender.wait_status(STALL, |status| {
            count(status, "/received/datagrams") == self.sent && count(status, "/queued/datagrams") == 0
        });
    }
}

/// Starts a receiver with these settings and the senders east and west, whose tables have these lines.
fn receiver(settings: &str, of_senders: [&str; 2]) -> ReceiverHost {
    let mut receiver = ReceiverHost::new(&[], "");
    receiver.protect(&[]);
    configure(&mut receiver, settings, of_senders);
    receiver
}

fn configure(receiver: &mut ReceiverHost, settings: &str, of_senders: [&str; 2]) {
    let table = |(id, lines): (&str, &str)| {
        let key = receiver.path(&format!("{id}.key"));
        write_key(&key, id);
        format!("[[sender]]\nid = \"{id}\"\nkey-file = \"{}\"\n{lines}\n", key.display())
    };
    let tables: String = ["east", "west"].into_iter().zip(of_senders).map(table).collect();
    receiver.set_toml(&format!("{settings}\n{tables}"));
}

#[test]
fn sites_with_one_exporter_address_decode() {
    let _running = shared();
    for tool in Tool::ALL.into_iter().filter(|tool| tool.is_installed()) {
        let directory = TempDir::new().unwrap();
        let of_sites = of_east_and_west();
        let mut collectors =
            ["east", "west"].map(|name| DecodingCollector::start(tool, directory.path(), name));
        let table = |id: &str, collector: &DecodingCollector| {
            format!("[[collector]]\naddress = \"{}\"\nsenders = [\"{id}\"]\n", collector.addr())
        };
        let settings = table("east", &collectors[0]) + &table("west", &collectors[1]);
        let mut receiver = receiver(&settings, [""; 2]);
        receiver.start();
        let mut sites = ["east", "west"].map(|id| TenantSite::connected(id, &receiver));
        for (site, payloads) in sites.iter_mut().zip(&of_sites) {
            site.send(&payloads[..2]);
        }
        // Both collectors and nf-receiver restart, so templates must come from nf-receiver's state.
        collectors.iter_mut().for_each(DecodingCollector::stop_when_drained);
        assert_eq!(receiver.take_daemon().terminate().code(), Some(0));
        collectors.iter_mut().for_each(DecodingCollector::start_again);
        receiver.start();
        for (site, payloads) in sites.iter_mut().zip(&of_sites) {
            site.sender.wait_state("connected", STALL);
            site.send(&payloads[2..]);
        }
        for (place, (mut collector, payloads)) in collectors.into_iter().zip(&of_sites).enumerate() {
            collector.stop_when_drained();
            let direct =
                decoded_directly(tool, directory.path(), &format!("direct{place}"), SHARED, payloads);
            assert_eq!(collector.flows(), direct, "{tool:?}");
        }
    }
}

#[test]
fn sites_with_one_address_keep_their_templates() {
    let _running = shared();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap();
    let mut receiver = receiver(&format!("[[collector]]\naddress = \"{address}\"\n"), [""; 2]);
    receiver.start();
    let mut sites = ["east", "west"].map(|id| TenantSite::connected(id, &receiver));
    let of_sites = of_east_and_west();
    for (site, payloads) in sites.iter_mut().zip(&of_sites) {
        site.send(&payloads[..1]);
    }
    assert_eq!(payloads_by_source(&collector, 2).len(), 2);
    assert_eq!(receiver.take_daemon().terminate().code(), Some(0));
    drop(collector);
    let collector = UdpSocket::bind(address).unwrap();
    receiver.start();
    for (site, payloads) in sites.iter_mut().zip(&of_sites) {
        site.sender.wait_state("connected", STALL);
        site.send(&payloads[1..]);
    }
    // Each port has the flows of one site after the template of that site.
    let all = of_sites.iter().map(Vec::len).sum();
    let mut sources: Vec<_> = payloads_by_source(&collector, all).into_values().collect();
    sources.sort_by_key(|payloads| payloads[1] != of_sites[0][1]);
    assert_eq!(sources.len(), 2);
    for (payloads, sent) in sources.iter().zip(&of_sites) {
        assert_eq!(payloads[1..], sent[1..]);
        assert_eq!(payloads[0][20..], sent[0][20..], "the template of the site comes first");
    }
}

#[test]
fn a_claimed_exporter_address_is_denied() {
    let _running = shared();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let settings = format!(
        "[metrics]\nlisten = \"127.0.0.1:0\"\n[[collector]]\naddress = \"{}\"\n",
        collector.local_addr().unwrap()
    );
    let of_senders = ["exporters = [\"127.0.0.9/32\"]", "exporters = [\"127.0.0.8/32\"]"];
    let mut receiver = receiver(&settings, of_senders);
    receiver.start();
    let [mut east, mut west] = ["east", "west"].map(|id| TenantSite::connected(id, &receiver));
    let [of_east, of_west] = of_east_and_west();
    east.send(&of_east);
    west.send(&of_west);
    west.exporter = UdpSocket::bind(("127.0.0.8", 0)).unwrap();
    west.exporter.send_to(b"own", west.sender.udp().addr()).unwrap();
    west.sent += 1;
    west.sender.wait_status(STALL, |status| {
        count(status, "/acknowledged/datagrams") == west.sent && count(status, "/dropped/denied") == 0
    });
    let status = receiver.wait_status(STALL, |status| count(status, "/senders/1/delivered/datagrams") == 1);
    assert_eq!(count(&status, "/senders/0/denied"), 0, "{status:#}");
    assert_eq!(count(&status, "/senders/1/denied"), 4, "{status:#}");
    assert_eq!(status["senders"][1]["denied_exporters"][0]["address"], SHARED, "{status:#}");
    receiver.daemon().wait_for_log(&["denied", "of west, from 127.0.0.9"], STALL);
    let shown = Program::Receiver.run(&["status", "--control", receiver.control().to_str().unwrap()]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("west: 4 datagrams denied, from 127.0.0.9 (4)"), "{shown}");
    let mut arrived: Vec<_> = payloads_by_source(&collector, 1 + of_east.len()).into_values().collect();
    arrived.sort_by_key(Vec::len);
    assert_eq!(arrived, [vec![b"own".to_vec()], of_east]);
}

#[test]
fn a_reload_changes_the_exporters_of_a_sender() {
    let _running = shared();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let settings = format!("[[collector]]\naddress = \"{}\"\n", collector.local_addr().unwrap());
    let mut receiver = receiver(&settings, ["exporters = [\"192.0.2.0/24\"]", ""]);
    receiver.start();
    let mut east = TenantSite::connected("east", &receiver);
    east.send(&[b"denied".to_vec()]);
    configure(&mut receiver, &settings, ["exporters = [\"192.0.2.0/24\", \"127.0.0.9/32\"]", ""]);
    receiver.daemon().reload();
    east.send(&[b"allowed".to_vec()]);
    let arrived: Vec<_> = payloads_by_source(&collector, 1).into_values().collect();
    assert_eq!(arrived, [[b"allowed".to_vec()]]);
    let status = receiver.wait_status(STALL, |status| count(status, "/senders/0/delivered/datagrams") == 1);
    assert_eq!(count(&status, "/senders/0/denied"), 1, "{status:#}");
    assert_eq!(status["senders"][0]["state"], "connected");
}
