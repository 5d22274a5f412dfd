//! Hosts on which units could fail to start: without user namespaces, without IPv4 on IPv6 sockets, without
//! the address yet.

use std::net::UdpSocket;

use nf_transport_kit::samples::count;

use crate::isolation::shared;
use crate::systemd::machine::{Machine, Parts};
use crate::systemd::{MachinePair, lone};

/// Installs a shipped example unchanged.
fn apply_example(machine: &Machine, unit: &str, example: &str) {
    let service = unit.split('.').next().unwrap();
    let text = machine.sh(&format!("cat /usr/share/doc/{service}/examples/{example}"));
    machine.edit(unit, &text);
}

#[test]
fn both_services_start_without_user_namespaces() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::hardened(&parts);
    for (machine, service) in site.services() {
        assert_eq!(machine.sh("cat /proc/sys/user/max_user_namespaces"), "0\n");
        machine.sh_fails("unshare --user true");
        machine.sh(&format!("systemctl start {service}"));
        assert_eq!(machine.property(service, "NRestarts"), "0");
    }
    let collector = site.collector();
    let mut exporters = site.exporters();
    exporters.send(100);
    site.assert_all_arrive(&exporters, &collector, true);
}

#[test]
fn source_addresses_work_without_user_namespaces() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::hardened(&parts);
    apply_example(&site.center, "nf-receiver.service", "nf-receiver-source-address.conf");
    let settings = "[[collector]]\naddress = \"127.0.0.1:9995\"\nsource = \"exporter\"\n";
    site.center.write("/etc/nf-receiver/nf-receiver.toml.d/source.toml", settings);
    site.center.sh("systemctl start nf-receiver");
    let collector = site.center.inside(|| UdpSocket::bind("127.0.0.1:9995").unwrap());
    collector.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let exporter = site.edge.inside(|| UdpSocket::bind("10.77.0.1:0").unwrap());
    exporter.send_to(b"x", "10.77.0.1:2055").unwrap();
    assert_eq!(collector.recv_from(&mut [0; 2]).unwrap(), (1, exporter.local_addr().unwrap()));
}

#[test]
fn example_ports_open_before_their_address_exists() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let mut machine = lone("early", &parts);
    apply_example(&machine, "nf-sender.socket", "nf-sender-ports.conf");
    machine.sh("systemctl enable --quiet nf-sender.socket");
    machine.halt();
    machine.boot();
    machine.wait_property("nf-sender.socket", "ActiveState", "active");
    machine.sh("ip address add 192.0.2.1/32 dev lo");
    for (sent, to) in (1..).zip(["192.0.2.1:9995", "127.0.0.1:4739", "127.0.0.1:2055"]) {
        machine.inside(move || UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", to).unwrap());
        machine.wait_status("nf-sender", |status| count(status, "/received/datagrams") == sent);
    }
}

#[test]
fn receiver_port_opens_before_its_address_exists() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::new(&parts);
    apply_example(&site.center, "nf-receiver.socket", "nf-receiver-port.conf");
    site.center.sh("systemctl enable --quiet --now nf-receiver.socket");
    site.center.sh("ip address add 192.0.2.2/32 dev eth0");
    site.edge.sh("ip route add 192.0.2.2 via 10.77.0.2");
    let token = site.center.sh("nf-receiver invite edge --address 192.0.2.2:9000");
    site.edge.sh_with("nf-sender join -", &token);
    site.edge.sh("systemctl start nf-sender");
    let status = site.edge.wait_status("nf-sender", |status| status["state"] == "connected");
    assert_eq!(status["receiver"], "192.0.2.2:9000");
}

#[test]
fn socket_units_accept_ipv4_with_bindv6only() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::new(&parts);
    for (machine, _) in site.services() {
        machine.sh("sysctl --quiet --write net.ipv6.bindv6only=1");
    }
    site.pair();
    let collector = site.collector();
    let mut exporters = site.exporters();
    exporters.send(10);
    site.assert_all_arrive(&exporters, &collector, true);
}
