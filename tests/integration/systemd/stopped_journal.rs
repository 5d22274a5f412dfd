//! A suspended journald.

use std::time::Duration;

use nf_transport_kit::load::SteadyLoad;

use crate::isolation::shared;
use crate::systemd::MachinePair;
use crate::systemd::machine::Parts;

#[test]
fn a_stopped_journald_does_not_stop_delivery() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    for (machine, service) in site.services() {
        machine.edit(&format!("{service}.service"), "[Service]\nWatchdogSec=8s\n");
        machine.sh(&format!("systemctl restart {service}"));
    }
    let collector = site.collector();
    let load = SteadyLoad::relentless(site.exporters(), 1000);
    site.wait_connected();
    let process = |service, machine: &crate::systemd::machine::Machine| machine.property(service, "MainPID");
    let before = [process("nf-sender", &site.edge), process("nf-receiver", &site.center)];
    for (machine, service) in site.services() {
        let journald = machine.property("systemd-journald", "MainPID");
        machine.sh(&format!("kill -STOP {journald}"));
        // More lines than the journal's socket and the log queue hold.
        machine.sh(&format!("for line in $(seq 2000); do {service} reload; done >/dev/null"));
    }
    let arrived = collector.arrived();
    // Twice the watchdog's period.
    std::thread::sleep(Duration::from_secs(16));
    assert!(collector.arrived() > arrived + 8000, "{arrived} datagrams, then {}", collector.arrived());
    assert_eq!([process("nf-sender", &site.edge), process("nf-receiver", &site.center)], before);
    for (machine, _) in site.services() {
        let journald = machine.property("systemd-journald", "MainPID");
        machine.sh(&format!("kill -CONT {journald}"));
    }
    for (machine, service) in site.services() {
        machine.wait_journal(service, &["the journal was blocked", "log lines dropped"]);
        // The queued entries keep their fields.
        let fields = machine.journal(service, "-o json -n 1 --output-fields=DROPPED,CHANGED -g dropped");
        assert!(fields.contains("\"DROPPED\""), "{fields}");
    }
    let exporters = load.stop();
    site.assert_all_arrive(&exporters, &collector, true);
}
