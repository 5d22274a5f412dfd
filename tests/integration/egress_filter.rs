//! Exporters whose datagrams a packet filter on nf-receiver's machine blocks. Only their datagrams are lost,
//! and nf-receiver counts them.

use std::net::{SocketAddr, UdpSocket};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::exporter::bind_as;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::kernel_socket;
use nf_transport_kit::other_host::{NETWORK, OtherHost, shell};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::count;

use crate::isolation::{in_a_network, shared};

/// Exporters by number. The filter blocks the second one.
const EXPORTERS: [&str; 3] = ["192.0.2.1:2055", "192.0.2.66:2055", "198.51.100.3:2055"];

/// Datagrams of each exporter.
const EACH: u32 = 2000;

fn pattern() -> Pattern {
    Pattern::new(MIXED)
}

/// Makes the kernel reject outgoing packets that match `rule`.
fn block(rule: &str) {
    shell(&format!(
        "nft add table inet test; nft \"add chain inet test out {{ type filter hook output priority 0; }}\"; \
         nft add rule inet test out {rule} drop"
    ));
}

/// A receiver with one collector and two senders. Each exporter sends to both senders in turn.
struct FilteredOutput {
    receiver: ReceiverHost,
    senders: [SenderHost; 2],
    exporters: [UdpSocket; 3],
    sent: [u32; 3],
}

impl FilteredOutput {
    fn with_collector(address: SocketAddr) -> Self {
        let toml = format!("[[collector]]\naddress = \"{address}\"\nsource = \"exporter\"\n");
        let mut receiver = ReceiverHost::new(&[], &toml);
        receiver.start();
        let senders = ["one", "two"].map(|id| {
            let mut sender = SenderHost::new(id, &receiver.addr(), QUICK_SENDER);
            sender.start();
            sender.wait_state("connected", STALL);
            sender
        });
        Self {
            receiver,
            senders,
            exporters: EXPORTERS.map(|address| bind_as(address.parse().unwrap())),
            sent: [0; 3],
        }
    }

    /// Sends the next datagram of `exporter` to `sender`.
    fn send(&mut self, exporter: usize, sender: usize) {
        let (mut payload, sent) = (Vec::new(), &mut self.sent[exporter]);
        pattern().datagram(exporter.try_into().unwrap(), *sent, &mut payload);
        self.exporters[exporter].send_to(&payload, self.senders[sender].udp().addr()).unwrap();
        *sent += 1;
    }

    /// Sends [`EACH`] datagrams of each exporter, no faster than nf-sender receives them.
    fn send_all(&mut self) {
        for number in 0..EACH {
            for exporter in 0..EXPORTERS.len() {
                self.send(exporter, (usize::try_from(number).unwrap() + exporter) % 2);
            }
            if number % 100 == 99 {
                self.senders.iter().for_each(|sender| sender.udp().wait_until_drained());
            }
        }
    }

    /// Returns the collector's figure with this name.
    fn collector(&self, name: &str) -> u64 {
        count(&self.receiver.status(), &format!("/collectors/0/{name}"))
    }

    /// Panics unless `collector` gets the datagrams of the other exporters, and those of the blocked one are
    /// counted as refused.
    fn assert_others_arrive(&self, collector: &Collector) {
        let [first, refused, third] = self.sent;
        let status = self.receiver.wait_status(STALL, |status| {
            count(status, "/collectors/0/delivered/datagrams") == u64::from(first + third)
        });
        collector.wait_for(u64::from(first + third), STALL);
        let arrived: Vec<u64> = collector.report().exporters.iter().map(|tally| tally.arrived).collect();
        assert_eq!(arrived, [u64::from(first), 0, u64::from(third)], "{status:#}");
        for sender in &self.senders {
            sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
        }
        assert_eq!(self.collector("refused"), u64::from(refused));
        assert_eq!(self.collector("skipped"), 0);
        let words = ["kernel refused to send", "of exporter 192.0.2.66"];
        let lines = self.receiver.daemon().count_log(&words);
        assert!((1..=4).contains(&lines), "{}", self.receiver.daemon().log());
    }
}

#[test]
fn a_blocked_exporter_delays_no_other() {
    let _running = shared();
    in_a_network("ip link set lo up", "egress_filter::inside_a_blocked_exporter");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_blocked_exporter() {
    let collector = Collector::start(3, pattern());
    let mut setup = FilteredOutput::with_collector(collector.addr());
    block(&format!("ip saddr 192.0.2.66 udp dport {}", collector.addr().port()));
    setup.send_all();
    setup.assert_others_arrive(&collector);
}

/// Address of the collector on the other machine.
const ELSEWHERE: &str = "10.77.0.2:9995";

fn collector_elsewhere(there: &OtherHost) -> Collector {
    there.shell("ip route add default via 10.77.0.1");
    there.run(|process| {
        kernel_socket::use_tables(format!("/proc/{process}/net"));
        Collector::start_on(ELSEWHERE, 3, pattern())
    })
}

#[test]
fn a_blocked_exporter_delays_no_other_remotely() {
    let _running = shared();
    in_a_network(NETWORK, "egress_filter::inside_a_blocked_exporter_remotely");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_blocked_exporter_remotely() {
    let there = OtherHost::connected();
    let collector = collector_elsewhere(&there);
    let mut setup = FilteredOutput::with_collector(ELSEWHERE.parse().unwrap());
    block("ip saddr 192.0.2.66 udp dport 9995");
    setup.send_all();
    setup.assert_others_arrive(&collector);
}

#[test]
fn an_exporter_dropped_below_ip_delays_no_other() {
    let _running = shared();
    in_a_network(NETWORK, "egress_filter::inside_an_exporter_dropped_below_ip");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_an_exporter_dropped_below_ip() {
    let there = OtherHost::connected();
    let collector = collector_elsewhere(&there);
    let mut setup = FilteredOutput::with_collector(ELSEWHERE.parse().unwrap());
    // While the kernel resolves the other machine's address it accepts every datagram.
    setup.send(0, 0);
    collector.wait_for(1, STALL);
    // The kernel reports ENOBUFS for packets dropped here.
    shell(
        "nft add table netdev test; \
         nft \"add chain netdev test out { type filter hook egress device here priority 0; }\"; \
         nft add rule netdev test out ip saddr 192.0.2.66 drop",
    );
    setup.send_all();
    setup.assert_others_arrive(&collector);
}

#[test]
fn a_filter_on_the_collector_loses_at_most_64() {
    let _running = shared();
    in_a_network("ip link set lo up", "egress_filter::inside_a_filter_against_the_collector");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_filter_against_the_collector() {
    let collector = Collector::start(3, pattern());
    let mut setup = FilteredOutput::with_collector(collector.addr());
    for exporter in 0..3 {
        setup.send(exporter, 0);
    }
    collector.wait_for(3, STALL);
    block(&format!("udp dport {}", collector.addr().port()));
    setup.send_all();
    setup.receiver.wait_status(STALL, |status| {
        status["collectors"][0]["state"] == "down" && count(status, "/collectors/0/held_s") >= 2
    });
    shell("nft delete table inet test");
    let total: u64 = setup.sent.iter().map(|sent| u64::from(*sent)).sum();
    let refused = setup.collector("refused");
    collector.wait_for(total - refused, STALL);
    for sender in &setup.senders {
        sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    }
    assert_eq!(collector.report().exporters.iter().map(|tally| tally.repeated).sum::<u64>(), 0);
    println!("{refused} of {total} datagrams dropped");
    assert!(refused <= 64, "{refused} of {total}");
}
