//! The exporter's own address at the collector, on a machine with systemd: what the service needs for it, and what is said
//! without.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use nf_transport_kit::samples::count;

use crate::running::shared;
use crate::systemd::Site;
use crate::systemd::machine::{Machine, Parts};

const EXAMPLE: &str = "/usr/share/doc/nf-receiver/examples/nf-receiver-source-address.conf";

/// The next datagram at a collector, and where it comes from.
fn next(collector: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut room = [0; 100];
    let (length, from) = collector.recv_from(&mut room).unwrap();
    (room[..length].to_vec(), from)
}

/// The settings that the comment of a drop-in shows.
fn settings_of(example: &str) -> String {
    let shown: Vec<&str> = example.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    shown.join("\n") + "\n"
}

fn main_process(machine: &Machine) -> String {
    machine.property("nf-receiver", "MainPID")
}

#[test]
fn the_service_needs_the_example_to_deliver_from_addresses_of_exporters_and_holds_data_until_it_is_there() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = Site::paired(&parts);
    let center = &site.center;
    let example = center.sh(&format!("cat {EXAMPLE}"));
    let settings = settings_of(&example);
    assert!(settings.contains("source = \"exporter\""), "{example}");
    center.write("/etc/nf-receiver/nf-receiver.toml.d/source.toml", &settings);
    let collector = center.inside(|| UdpSocket::bind("127.0.0.1:9995").unwrap());
    collector.set_read_timeout(Some(Duration::from_secs(20))).unwrap();

    // Not running yet: it is tried, and said what the service needs.
    let said = center.sh("systemctl stop nf-receiver.socket nf-receiver; nf-receiver check");
    assert!(said.contains("127.0.0.1:9995: tested") && said.contains(EXAMPLE), "{said}");
    assert!(said.ends_with("configuration is good\n"), "{said}");

    center.sh("systemctl start nf-receiver.socket nf-receiver");
    let exporter = site.edge.inside(|| UdpSocket::bind("10.77.0.1:0").unwrap());
    let address = exporter.local_addr().unwrap();
    exporter.send_to(b"held", "10.77.0.1:2055").unwrap();
    center.wait_journal("nf-receiver", &["127.0.0.1:9995", "CAP_NET_RAW", "nf-receiver check"]);
    let queued = site.edge.wait_status("nf-sender", |status| status["state"] == "connected");
    assert_eq!(count(&queued, "/queued/datagrams"), 1, "{queued:#}");
    let refused = format!("the running nf-receiver (process {}) lacks CAP_NET_RAW", main_process(center));
    let said = center.sh_fails("nf-receiver check");
    assert!(said.contains(&refused) && said.contains(EXAMPLE), "{said}");
    // Whoever may not try it sees that, too.
    let said =
        center.sh_fails("setpriv --reuid nf-receiver --regid nf-receiver --clear-groups nf-receiver check");
    assert!(said.contains(&refused), "{said}");

    // The capability alone does not do.
    let half = example.replace("PrivateUsers=no\n", "PrivateUsers=yes\n");
    center.edit("nf-receiver.service", &half);
    center.sh("systemctl restart nf-receiver");
    let said = center.sh_fails("nf-receiver check");
    assert!(said.contains("PrivateUsers=yes") && said.contains(EXAMPLE), "{said}");

    center.edit("nf-receiver.service", &example);
    center.sh("systemctl restart nf-receiver");
    assert_eq!(next(&collector), (b"held".to_vec(), address));
    exporter.send_to(b"next", "10.77.0.1:2055").unwrap();
    assert_eq!(next(&collector), (b"next".to_vec(), address));
    let said = center.sh("nf-receiver check");
    assert!(said.contains("127.0.0.1:9995: tested") && !said.contains("running"), "{said}");
}
