//! Few file descriptors: the sockets for exporters leave enough for new senders.

use std::net::UdpSocket;

use nf_transport_kit::collector::Inbox;
use nf_transport_kit::daemon::Program;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::pair::STALL;

use crate::isolation::shared;

/// More exporters than the limit of the first test allows.
const EXPORTERS: usize = 150;

/// A collector, and an established sender with many exporters that each send a datagram per round.
struct ManyExporters {
    inbox: Inbox,
    receiver: ReceiverHost,
    sender: SenderHost,
    exporters: Vec<UdpSocket>,
}

impl ManyExporters {
    fn start(limit: &'static str) -> Self {
        let inbox = Inbox::start("127.0.0.1:0");
        let mut receiver = ReceiverHost::new(&[inbox.addr()], "");
        receiver.limit_open_files(limit);
        receiver.start();
        let sender = connect("established", &receiver);
        let exporters = (0..EXPORTERS).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut crowd = Self { inbox, receiver, sender, exporters };
        crowd.send_round(1);
        crowd
    }

    /// Sends a datagram from each exporter and waits until the collector has all datagrams of all rounds.
    fn send_round(&mut self, round: usize) {
        for exporter in &self.exporters {
            exporter.send_to(b"x", self.sender.udp().addr()).unwrap();
        }
        self.inbox.wait_for(round * EXPORTERS, STALL);
    }
}

/// Starts a new sender and waits until it is connected.
fn connect(id: &str, receiver: &ReceiverHost) -> SenderHost {
    let mut sender = SenderHost::new(id, &receiver.addr(), QUICK_SENDER);
    sender.start();
    sender.wait_state("connected", STALL);
    sender
}

#[test]
fn exporter_sockets_leave_files_for_new_senders() {
    let _running = shared();
    let mut crowd = ManyExporters::start("--nofile=128");
    crowd.receiver.daemon().wait_for_log(&["file limit 128 is below", "LimitNOFILE="], STALL);
    let senders: Vec<_> = (0..10).map(|number| connect(&format!("new-{number}"), &crowd.receiver)).collect();
    let status = Program::Receiver.status(&crowd.receiver.control()).unwrap();
    assert_eq!(status["senders"].as_array().unwrap().len(), 11, "{status:#}");
    crowd.send_round(2);
    drop(senders);
}

#[test]
fn senders_beyond_the_file_limit_get_a_reason() {
    let _running = shared();
    let mut receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], "");
    receiver.limit_open_files("--nofile=40");
    receiver.start();
    let mut senders = Vec::new();
    let refused = (0..20).find_map(|number| {
        let mut sender = SenderHost::new(&format!("edge-{number}"), &receiver.addr(), QUICK_SENDER);
        sender.start();
        let status =
            sender.wait_status(STALL, |status| status["state"] == "connected" || !status["reason"].is_null());
        let reason = status["reason"].as_str().map(str::to_owned);
        senders.push(sender);
        reason
    });
    assert!(refused.as_deref().is_some_and(|reason| reason.contains("too many connections")), "{refused:?}");
    assert_eq!(receiver.status()["senders"].as_array().unwrap().len(), senders.len() - 1);
}
