//! Sockets that the daemons bind themselves, without a service manager, on hosts with unusual network
//! settings.

use std::net::{TcpStream, UdpSocket};

use nf_transport_kit::collector::Inbox;
use nf_transport_kit::daemon::{Daemon, Launch, Program};
use nf_transport_kit::hosts::directory;
use nf_transport_kit::pair::STALL;
use tempfile::TempDir;

use crate::isolation::{in_a_network, shared};

const INSIDE: &str = "wildcard_sockets::inside_every_wildcard_socket_accepts_ipv4";

#[test]
fn wildcard_sockets_accept_ipv4_with_bindv6only() {
    let _running = shared();
    in_a_network("ip link set lo up; sysctl -qw net.ipv6.bindv6only=1", INSIDE);
}

#[test]
fn wildcard_sockets_accept_ipv4_without_ipv6() {
    let _running = shared();
    in_a_network("ip link set lo up; sysctl -qw net.ipv6.conf.all.disable_ipv6=1", INSIDE);
}

/// Starts a daemon with the default `listen` and with metrics on the wildcard address.
fn start(program: Program, directory: &TempDir, args: &[&str]) -> Daemon {
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (settings, control) = (path(&format!("{}.toml", program.name())), path(program.name()));
    let port = if program == Program::Sender { 9255 } else { 9256 };
    let text = format!("[metrics]\nlisten = \"[::]:{port}\"\n[spool]\nmin-free = \"0B\"\n");
    let text =
        if program == Program::Sender { text } else { text.replace("[spool]\nmin-free = \"0B\"\n", "") };
    std::fs::write(&settings, text).unwrap();
    let launch =
        Launch::new(program).args(["-c", &settings, "--plaintext", "--control", &control]).args(args);
    let daemon = launch.start();
    drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    daemon
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_every_wildcard_socket_accepts_ipv4() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let inbox = Inbox::start("127.0.0.1:0");
    let collector = inbox.addr().to_string();
    let _receiver = start(Program::Receiver, &directory, &["--state", &path("state"), "-C", &collector]);
    let _sender = start(Program::Sender, &directory, &["--spool", &path("spool"), "-r", "127.0.0.1:2055"]);
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    exporter.send_to(b"over IPv4", "127.0.0.1:2055").unwrap();
    assert_eq!(inbox.wait_for(1, STALL), [b"over IPv4"]);
}
