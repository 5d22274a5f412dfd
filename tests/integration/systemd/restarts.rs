//! Clean restarts under 20,000 datagrams a second: the socket's drop counter stays 0, and nothing is lost,
//! repeated or out of order.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nf_transport_kit::load::SteadyLoad;

use crate::isolation::alone;
use crate::systemd::MachinePair;
use crate::systemd::machine::{Machine, Parts};

const RATE: u32 = 20_000;

/// Runs an action on both services, one after the other, under load.
fn under_load(what: impl Fn(&Machine, &str)) {
    let _running = alone();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    let collector = site.collector();
    let load = SteadyLoad::relentless(site.exporters(), RATE);
    let began = Instant::now();
    site.wait_connected();
    let socket = site.socket();
    for (machine, service) in site.services() {
        let before = machine.property(service, "MainPID");
        let sent = load.sent();
        what(machine, service);
        machine.wait_status(service, |_| true);
        assert_ne!(machine.property(service, "MainPID"), before, "{service} is another process now");
        site.wait_connected();
        collector.wait_for(sent, Duration::from_secs(30));
    }
    let exporters = load.stop();
    let wanted = f64::from(RATE) * began.elapsed().as_secs_f64();
    let sent = f64::from(u32::try_from(exporters.total()).unwrap());
    assert!(sent > wanted * 0.9, "the load was meant to go on at its rate: {sent} of {wanted}");
    site.assert_all_arrive(&exporters, &collector, true);
    assert_eq!(socket.figures().dropped, 0, "dropped at the socket of nf-sender");
    let journal = site.edge.journal("nf-sender", "-o cat");
    assert!(journal.contains("stopping") && journal.contains("stopped"), "{journal}");
}

#[test]
fn a_restart_under_load_loses_nothing() {
    under_load(|machine, service| {
        machine.sh(&format!("systemctl restart {service}"));
    });
}

#[test]
fn socket_activation_after_a_stop_loses_nothing() {
    under_load(|machine, service| {
        let printed = machine.sh(&format!("systemctl stop {service} 2>&1"));
        assert!(
            printed.contains("can still be activated by") && printed.contains(&format!("{service}.socket")),
            "{printed}"
        );
        machine.sh("sleep 5");
        let started_by_socket = machine.property(service, "MainPID");
        assert_ne!(started_by_socket, "0");
        machine.sh(&format!("systemctl start {service}"));
        assert_eq!(machine.property(service, "MainPID"), started_by_socket);
    });
}

/// Datagrams wait in the socket while no service runs, here for three seconds.
#[test]
fn a_slow_start_under_load_loses_nothing() {
    under_load(|machine, service| {
        machine.edit(&format!("{service}.service"), "[Service]\nExecStartPre=/bin/sleep 3\n");
        machine.sh(&format!("systemctl restart {service}"));
    });
}

#[test]
fn a_package_upgrade_under_load_loses_nothing() {
    let Some(parts) = Parts::find() else { return };
    let directory = tempfile::tempdir().unwrap();
    let newer: Vec<PathBuf> = parts.debs().iter().map(|deb| newer(deb, directory.path())).collect();
    under_load(|machine, service| {
        let deb = newer.iter().find(|deb| deb.to_str().unwrap().contains(service)).unwrap();
        machine.install(std::slice::from_ref(deb));
        let installed = machine.sh(&format!("dpkg-query --show --showformat='${{Version}}' {service}"));
        assert!(installed.ends_with("+upgrade"), "{installed}");
    });
}

/// Builds the same package with a higher version.
fn newer(deb: &Path, directory: &Path) -> PathBuf {
    let tree = directory.join("tree");
    let path = directory.join(deb.file_name().unwrap());
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(deb).arg(&tree));
    run(Command::new("sed").args(["-i", "s/^Version: .*/&+upgrade/"]).arg(tree.join("DEBIAN/control")));
    run(Command::new("dpkg-deb").args(["--build", "--root-owner-group", "-Znone"]).arg(&tree).arg(&path));
    std::fs::remove_dir_all(tree).unwrap();
    path
}
