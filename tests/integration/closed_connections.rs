//! Clients that close their connection while nf-receiver reads nothing from them, because a collector is
//! down. nf-receiver must free all their resources.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nf_transport_core::framing::{Message, RefusalCode};
use nf_transport_core::sequence::Position;
use nf_transport_kit::collector::Inbox;
use nf_transport_kit::daemon::Daemon;
use nf_transport_kit::hostile::Client;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::pair::STALL;

use crate::isolation::shared;

/// Longest heartbeat that a sender may announce.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Returns an address where no collector listens.
fn down() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

fn receiver(collectors: &[SocketAddr], toml: &str) -> ReceiverHost {
    let mut receiver = ReceiverHost::new(collectors, toml);
    receiver.use_key("one");
    receiver.start();
    receiver
}

/// Connects a client with a datagram that one collector cannot get, so that nf-receiver reads nothing more
/// from it.
fn paused(receiver: &ReceiverHost, number: u8) -> Client {
    let mut client = Client::with_key(receiver.addr(), &format!("gone-{number}"), "one").unwrap();
    client.hello(number, HEARTBEAT).unwrap();
    assert!(matches!(client.receive().unwrap(), Message::Welcome(_)));
    client.data(number).unwrap();
    client
}

#[test]
fn closed_connections_are_freed_during_an_outage() {
    let _running = shared();
    let receiver = receiver(&[down()], "[limits]\nconnections = 4\n");
    let clients: Vec<Client> = (0..4).map(|number| paused(&receiver, number)).collect();
    // Two of them close only their sending direction.
    let mut half_closed = Vec::new();
    for (number, client) in clients.into_iter().enumerate() {
        if number % 2 == 0 {
            client.half_close().unwrap();
            half_closed.push(client);
        }
    }
    let senders = ["edge-1", "edge-2", "edge-3", "edge-4"].map(|id| {
        let mut sender = SenderHost::new(id, &receiver.addr(), QUICK_SENDER);
        sender.use_key("one");
        sender.start();
        sender
    });
    for sender in &senders {
        sender.wait_state("connected", STALL);
    }
}

/// Counts the position files that a daemon has open.
fn open_positions(daemon: &Daemon) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let paths = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    paths.filter(|path| path.to_string_lossy().contains("/positions/")).count()
}

#[test]
fn closed_senders_leave_no_open_files() {
    let _running = shared();
    let inbox = Inbox::start("127.0.0.1:0");
    let receiver = receiver(&[inbox.addr(), down()], "");
    for number in 0..50 {
        let _client = paused(&receiver, number);
        inbox.wait_for(usize::from(number) + 1, STALL);
    }
    let began = Instant::now();
    while open_positions(receiver.daemon()) > 0 {
        assert!(began.elapsed() < STALL, "{} files", open_positions(receiver.daemon()));
        std::thread::sleep(Duration::from_millis(10));
    }
    // When a client comes back, nf-receiver still knows that one collector has its datagram.
    let mut client = Client::with_key(receiver.addr(), "gone-7", "one").unwrap();
    client.hello(7, HEARTBEAT).unwrap();
    let Message::Welcome(welcome) = client.receive().unwrap() else { panic!("no session") };
    assert_eq!((welcome.resume, welcome.received), (Position(0), Position(1)));
}

#[test]
fn a_heartbeat_of_an_hour_is_rejected() {
    let _running = shared();
    let receiver = receiver(&[down()], "");
    let mut client = Client::with_key(receiver.addr(), "slow", "one").unwrap();
    client.hello_unchecked(1, 3_600_000).unwrap();
    let Message::Refuse(refusal) = client.receive().unwrap() else { panic!("no refusal") };
    assert_eq!(refusal.code(), RefusalCode::BrokenProtocol);
    let words = "a heartbeat of 3600000 ms, where 10 to 60000 are allowed";
    assert!(refusal.text().contains(words), "{}", refusal.text());
    receiver.wait_status(STALL, |status| status["refused"].to_string().contains(words));
}
