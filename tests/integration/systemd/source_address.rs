//! The exporter's source address at the collector on a machine with systemd: the needs of the service, and
//! the messages without them.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use nf_transport_kit::samples::count;

use crate::isolation::shared;
use crate::systemd::MachinePair;
use crate::systemd::machine::{Machine, Parts};

const EXAMPLE: &str = "/usr/share/doc/nf-receiver/examples/nf-receiver-source-address.conf";

/// Receives the next datagram at a collector and its source address.
fn next(collector: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut room = [0; 100];
    let (length, from) = collector.recv_from(&mut room).unwrap();
    (room[..length].to_vec(), from)
}

/// Returns the settings in the comment of a drop-in.
fn settings_of(example: &str) -> String {
    let shown: Vec<&str> = example.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    shown.join("\n") + "\n"
}

fn main_process(machine: &Machine) -> String {
    machine.property("nf-receiver", "MainPID")
}

#[test]
fn source_addresses_need_the_shipped_example() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    let center = &site.center;
    let example = center.sh(&format!("cat {EXAMPLE}"));
    let settings = settings_of(&example);
    assert!(settings.contains("source = \"exporter\""), "{example}");
    center.write("/etc/nf-receiver/nf-receiver.toml.d/source.toml", &settings);
    let collector = center.inside(|| UdpSocket::bind("127.0.0.1:9995").unwrap());
    collector.set_read_timeout(Some(Duration::from_secs(20))).unwrap();

    // The service does not run yet, so `check` tries it and reports the needs of the service.
    let printed = center.sh("systemctl stop nf-receiver.socket nf-receiver; nf-receiver check");
    assert!(printed.contains("127.0.0.1:9995: tested") && printed.contains(EXAMPLE), "{printed}");
    assert!(printed.ends_with("configuration is valid\n"), "{printed}");

    center.sh("systemctl start nf-receiver.socket nf-receiver");
    let exporter = site.edge.inside(|| UdpSocket::bind("10.77.0.1:0").unwrap());
    let address = exporter.local_addr().unwrap();
    exporter.send_to(b"held", "10.77.0.1:2055").unwrap();
    center.wait_journal("nf-receiver", &["127.0.0.1:9995", "CAP_NET_RAW", "nf-receiver check"]);
    let queued = site.edge.wait_status("nf-sender", |status| status["state"] == "connected");
    assert_eq!(count(&queued, "/queued/datagrams"), 1, "{queued:#}");
    let refused = format!("the running nf-receiver (process {}) lacks CAP_NET_RAW", main_process(center));
    let printed = center.sh_fails("nf-receiver check");
    assert!(printed.contains(&refused) && printed.contains(EXAMPLE), "{printed}");
    // A user without the capability gets the same message.
    let printed =
        center.sh_fails("setpriv --reuid nf-receiver --regid nf-receiver --clear-groups nf-receiver check");
    assert!(printed.contains(&refused), "{printed}");

    // The capability alone is not enough.
    let half = example.replace("PrivateUsers=no\n", "PrivateUsers=yes\n");
    center.edit("nf-receiver.service", &half);
    center.sh("systemctl restart nf-receiver");
    let printed = center.sh_fails("nf-receiver check");
    assert!(printed.contains("PrivateUsers=yes") && printed.contains(EXAMPLE), "{printed}");

    center.edit("nf-receiver.service", &example);
    center.sh("systemctl restart nf-receiver");
    assert_eq!(next(&collector), (b"held".to_vec(), address));
    exporter.send_to(b"next", "10.77.0.1:2055").unwrap();
    assert_eq!(next(&collector), (b"next".to_vec(), address));
    let printed = center.sh("nf-receiver check");
    assert!(printed.contains("127.0.0.1:9995: tested") && !printed.contains("running"), "{printed}");
}
