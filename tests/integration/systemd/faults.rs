//! Faults of a real system: a cut link, a crashed machine, a frozen daemon. Nothing is lost beyond the
//! documented bounds, and the journal reports the events.

use std::time::Duration;

use nf_transport_kit::collector::Collector;
use nf_transport_kit::load::SteadyLoad;
use nf_transport_kit::samples::count;

use crate::isolation::shared;
use crate::systemd::machine::Parts;
use crate::systemd::{EXPORTERS, MachinePair, assert_journal_order, pattern};

const RATE: u32 = 2_000;

#[test]
fn a_link_cut_for_a_minute_loses_nothing() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    let collector = site.collector();
    let load = SteadyLoad::relentless(site.exporters(), RATE);
    site.wait_connected();
    site.center.cut();
    site.edge.wait_status("nf-sender", |status| status["state"] == "waiting");
    // The length of the outage is the subject of the test.
    std::thread::sleep(Duration::from_secs(60));
    // Not shortly before the next scheduled attempt, which would connect by itself.
    site.edge.wait_status("nf-sender", |status| {
        status["retry_in_s"].as_u64().is_some_and(|seconds| seconds >= 10)
    });
    site.center.restore();
    site.edge.sh("nf-sender reconnect");
    site.wait_connected();
    let exporters = load.stop();
    site.assert_all_arrive(&exporters, &collector, true);
    assert_eq!(site.socket().figures().dropped, 0);
    let journal = site.edge.journal("nf-sender", "-o cat");
    assert_journal_order(
        &journal,
        &[
            "connected to 10.77.0.2:2055",
            "not connected to 10.77.0.2:2055",
            "connecting now, without waiting",
            "connected to",
        ],
    );
    let explained = site.edge.journal("nf-sender", "-x");
    assert!(explained.contains("nf-sender reconnect"), "{explained}");
    let receiver = site.center.journal("nf-receiver", "-o cat");
    assert_journal_order(
        &receiver,
        &["edge connected from 10.77.0.1", "session of edge", "ended: ", "edge connected from"],
    );
}

#[test]
fn a_crash_of_the_receivers_machine_loses_nothing() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let mut site = MachinePair::paired(&parts);
    // The collector is on another machine, so that it survives the crash.
    let collector = site.edge.inside(|| Collector::start_on("10.77.0.1:9995", EXPORTERS, pattern()));
    let collectors = "[[collector]]\naddress = \"10.77.0.1:9995\"\n";
    site.center.write("/etc/nf-receiver/nf-receiver.toml.d/collector.toml", collectors);
    site.center.sh("systemctl reload-or-restart nf-receiver");
    let load = SteadyLoad::relentless(site.exporters(), RATE);
    site.wait_connected();
    collector.wait_for(2000, Duration::from_secs(20));
    site.center.crash();
    site.edge.wait_status("nf-sender", |status| status["state"] == "waiting");
    site.center.boot();
    site.edge.sh("nf-sender reconnect");
    site.wait_connected();
    let exporters = load.stop();
    // The machine may have crashed between a datagram and its position. Such datagrams are repeated.
    site.assert_all_arrive(&exporters, &collector, false);
    assert_eq!(site.socket().figures().dropped, 0);
    let journal = site.edge.journal("nf-sender", "-o cat");
    assert_journal_order(
        &journal,
        &["connected to 10.77.0.2:2055", "not connected to 10.77.0.2:2055", "connected to 10.77.0.2:2055"],
    );
    let receiver = site.center.journal("nf-receiver", "-o cat");
    assert_journal_order(&receiver, &["edge connected from", "listening for senders", "edge connected from"]);
}

#[test]
fn a_kill_with_an_invalid_config_loses_nothing() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    let collector = site.collector();
    let mut exporters = site.exporters();
    exporters.send(10);
    site.wait_connected();
    collector.wait_for(10, Duration::from_secs(20));
    // With the longest `sync-after` the queued datagrams stay in the receive journal in memory.
    site.edge.write("/etc/nf-sender/nf-sender.toml.d/memory.toml", "[spool]\nsync-after = \"1h\"\n");
    site.edge.sh("systemctl reload nf-sender");
    site.center.sh("systemctl stop nf-receiver.socket nf-receiver");
    site.edge.wait_status("nf-sender", |status| status["state"] == "waiting");
    exporters.send(1000);
    site.edge.wait_status("nf-sender", |status| status["queued"]["datagrams"] == 1000);
    site.edge.write("/etc/nf-sender/nf-sender.toml.d/typo.toml", "lisen = []\n");
    site.edge.sh("systemctl kill --kill-who=main --signal KILL nf-sender");
    site.edge.wait_journal("nf-sender", &["unknown key 'lisen'"]);
    site.edge.wait_property("nf-sender", "ActiveState", "failed");
    site.center.sh("systemctl start nf-receiver.socket");
    site.edge.sh("rm /etc/nf-sender/nf-sender.toml.d/typo.toml; systemctl start nf-sender");
    site.assert_all_arrive(&exporters, &collector, true);
    assert_eq!(count(&site.edge.status("nf-sender").unwrap(), "/recovered/datagrams"), 1000);
}

#[test]
fn the_watchdog_restarts_a_frozen_sender() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    site.edge.edit("nf-sender.service", "[Service]\nWatchdogSec=8s\n");
    let collector = site.collector();
    let load = SteadyLoad::relentless(site.exporters(), RATE);
    site.wait_connected();
    assert_eq!(site.edge.property("nf-sender", "WatchdogUSec"), "8s");
    let frozen = site.edge.property("nf-sender", "MainPID");
    site.edge.sh(&format!("kill -STOP {frozen}"));
    site.edge.wait_journal("nf-sender", &["Watchdog timeout (limit 8s)"]);
    site.wait_connected();
    assert_ne!(site.edge.property("nf-sender", "MainPID"), frozen);
    let exporters = load.stop();
    site.assert_all_arrive(&exporters, &collector, true);
    assert_eq!(site.socket().figures().dropped, 0);
    let journal = site.edge.journal("nf-sender", "-o cat");
    assert_journal_order(&journal, &["connected to", "Watchdog timeout", "connected to"]);
}

#[test]
fn an_idle_service_feeds_the_watchdog() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    for (machine, service) in site.services() {
        machine.edit(&format!("{service}.service"), "[Service]\nWatchdogSec=8s\n");
        machine.sh(&format!("systemctl restart {service}"));
    }
    site.wait_connected();
    let of = |service, machine: &crate::systemd::machine::Machine| machine.property(service, "MainPID");
    let before = [of("nf-sender", &site.edge), of("nf-receiver", &site.center)];
    // Longer than the watchdog's period and than the pause between two heartbeats.
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!([of("nf-sender", &site.edge), of("nf-receiver", &site.center)], before);
}
