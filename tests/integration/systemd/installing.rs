//! The promises of docs/install.md: after a few commands on two machines flows arrive, also after a reboot.

use std::time::Duration;

use nf_transport_kit::samples::count;

use crate::isolation::shared;
use crate::systemd::MachinePair;
use crate::systemd::machine::{Machine, Parts};

#[test]
fn two_machines_are_installed_and_paired() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::new(&parts);
    site.center.sh(
        "mkdir /root/flows; systemd-run --quiet --unit=nfcapd nfcapd -b 127.0.0.1 -p 9995 -w /root/flows",
    );
    site.pair();
    // nf-sender is not running yet; the first datagram starts it.
    assert_eq!(site.edge.property("nf-sender.service", "ActiveState"), "inactive");
    let mut exporters = site.exporters();
    exporters.send(40);
    site.wait_connected();
    let delivered = |status: &serde_json::Value| count(status, "/senders/0/delivered/datagrams") == 40;
    let status = site.center.wait_status("nf-receiver", delivered);
    assert_eq!(status["senders"][0]["id"], "edge");
    assert_eq!(status["senders"][0]["cipher"], "chacha20-poly1305");
    site.center.sh("systemctl stop nfcapd");
    let flows = site.center.sh("nfdump -q -R /root/flows -o 'fmt:%sap %dap'");
    assert!(flows.lines().count() >= 40, "{flows}");

    // Both report their state in one line, and the sockets have the options of the units.
    site.edge.wait_line("nf-sender", "Status: \"connected to 10.77.0.2:2055; 0 datagrams queued; ");
    site.center.wait_line("nf-receiver", "Status: \"1 sender connected; 40 datagrams delivered; ");
    let buffer = site.edge.sh("ss --udp --listening --no-header --memory 'sport = :2055'");
    assert!(buffer.contains("rb134217728"), "64 MiB, which the kernel counts double: {buffer}");
}

#[test]
fn a_backlog_drains_at_boot_after_a_crash() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let mut site = MachinePair::paired(&parts);
    let collector = site.collector();
    let mut exporters = site.exporters();
    exporters.send(100);
    collector.wait_for(100, Duration::from_secs(20));
    // Acknowledgements follow the delivery with a short delay.
    let is_empty = |status: &serde_json::Value| count(status, "/queued/datagrams") == 0;
    let before = count(&site.edge.wait_status("nf-sender", is_empty), "/received/bytes");
    site.center.cut();
    exporters.send(5000);
    let queued = |status: &serde_json::Value| count(status, "/queued/datagrams") == 5000;
    let bytes = count(&site.edge.wait_status("nf-sender", queued), "/received/bytes") - before;
    // After half of sync-after every datagram is in segments, which survive a power loss.
    site.edge.wait_spooled(bytes);
    site.edge.crash();
    site.center.restore();
    site.edge.boot();
    assert_eq!(
        site.edge.property("nf-sender.service", "ActiveState"),
        "active",
        "started by the boot itself"
    );
    let report = collector.wait_for_all(exporters.sent(), Duration::from_secs(20));
    report.assert_complete_and_in_order(exporters.sent());
    assert_eq!(count(&site.edge.status("nf-sender").unwrap(), "/received/datagrams"), 0);
    site.edge.wait_journal("nf-sender", &["recovered 5000 datagrams from the previous run"]);
}

#[test]
fn services_run_unprivileged_with_private_files() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    site.exporters().send(1);
    site.wait_connected();
    for (machine, service) in site.services() {
        let pid = machine.property(service, "MainPID");
        let process = machine.sh(&format!("cat /proc/{pid}/status; stat -c 'owner %U' /proc/{pid}"));
        assert!(process.contains(&format!("owner {service}")), "{process}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(process.contains(&format!("{set}:\t0000000000000000")), "{process}");
        }
        assert!(process.contains("NoNewPrivs:\t1") && process.contains("Seccomp:\t2"), "{process}");
        let limits = machine.sh(&format!("cat /proc/{pid}/limits"));
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
    let modes =
        |machine: &Machine, paths: &[&str]| machine.sh(&format!("stat -c '%n %a %U:%G' {}", paths.join(" ")));
    assert_eq!(
        modes(
            &site.edge,
            &[
                "/var/lib/nf-sender",
                "/var/lib/nf-sender/stream",
                "/run/nf-sender",
                "/run/nf-sender/intake",
                "/run/nf-sender/control.sock",
                "/etc/nf-sender",
                "/etc/nf-sender/nf-sender.toml",
                "/etc/nf-sender/key",
                "/etc/nf-sender/nf-sender.toml.d"
            ]
        ),
        "/var/lib/nf-sender 700 nf-sender:nf-sender\n\
         /var/lib/nf-sender/stream 600 nf-sender:nf-sender\n\
         /run/nf-sender 755 nf-sender:nf-sender\n\
         /run/nf-sender/intake 600 nf-sender:nf-sender\n\
         /run/nf-sender/control.sock 660 nf-sender:nf-sender\n\
         /etc/nf-sender 755 root:root\n\
         /etc/nf-sender/nf-sender.toml 644 root:root\n\
         /etc/nf-sender/key 600 nf-sender:nf-sender\n\
         /etc/nf-sender/nf-sender.toml.d 755 root:root\n"
    );
    assert_eq!(
        modes(&site.center, &["/var/lib/nf-receiver", "/etc/nf-receiver/keys", "/etc/nf-receiver/keys/edge"]),
        "/var/lib/nf-receiver 700 nf-receiver:nf-receiver\n\
         /etc/nf-receiver/keys 700 nf-receiver:nf-receiver\n\
         /etc/nf-receiver/keys/edge 600 nf-receiver:nf-receiver\n"
    );
}
