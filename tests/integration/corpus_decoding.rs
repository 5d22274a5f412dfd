//! Real collectors decode datagrams of real exporters as they decode a direct export, even if the collector
//! restarts between templates and flows. Each group of datagrams has an exporter with its own address.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use nf_transport_kit::corpus::{ExporterGroup, groups};
use nf_transport_kit::decoder::{DecodingCollector, Tool};
use nf_transport_kit::exporter::bind_as;
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::count;
use tempfile::TempDir;

use crate::isolation::shared;

/// Selects some datagrams of a group.
type Selection = fn(&ExporterGroup) -> &[Vec<u8>];

/// Creates an exporter for each group.
fn exporters(groups: &[ExporterGroup]) -> Vec<UdpSocket> {
    let address = |number: usize| [127, 1, 0, u8::try_from(number + 1).unwrap()];
    (0..groups.len()).map(|number| bind_as(SocketAddr::from((address(number), 2055)))).collect()
}

/// Sends the datagrams that `of` selects, at most as many as a receive buffer holds. Returns their number.
fn send(
    exporters: &[UdpSocket],
    groups: &[ExporterGroup],
    target: SocketAddr,
    of: fn(&ExporterGroup) -> &[Vec<u8>],
) -> u64 {
    let mut sent = 0;
    for (exporter, group) in exporters.iter().zip(groups) {
        for payload in of(group) {
            exporter.send_to(payload, target).unwrap();
            sent += 1;
        }
    }
    sent
}

/// Sums packets and bytes by flow, since a collector may merge equal flows.
fn totals(flows: &[String]) -> BTreeMap<String, (u64, u64)> {
    let mut totals: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for flow in flows {
        let mut words = flow.rsplitn(3, [' ', ',']);
        let [bytes, packets] = [(); 2].map(|()| words.next().unwrap().parse::<u64>().unwrap());
        let total = totals.entry(words.next().unwrap().to_owned()).or_default();
        *total = (total.0 + packets, total.1 + bytes);
    }
    totals
}

/// Order of the datagrams: templates first, then flows.
const PARTS: [Selection; 2] = [|group| &group.templates, |group| &group.flows];

fn decoded_directly(tool: Tool, directory: &Path, groups: &[ExporterGroup]) -> BTreeMap<String, (u64, u64)> {
    let mut direct = DecodingCollector::start(tool, directory, "direct");
    let exporters = exporters(groups);
    for part in PARTS {
        send(&exporters, groups, direct.addr(), part);
        direct.wait_until_drained();
    }
    direct.stop_when_drained();
    totals(&direct.flows())
}

/// Returns the flows that a collector decodes from nf-receiver. The collector restarts after the templates if
/// `restarts`.
fn decoded_carried(
    tool: Tool,
    directory: &Path,
    groups: &[ExporterGroup],
    restarts: bool,
) -> BTreeMap<String, (u64, u64)> {
    let name = if restarts { "restarted" } else { "carried" };
    let mut collector = DecodingCollector::start(tool, directory, name);
    let table = format!("[[collector]]\naddress = \"{}\"\nsource = \"exporter\"\n", collector.addr());
    let (sender, _link, _receiver) = connected_daemons(&table);
    let exporters = exporters(groups);
    let mut sent = 0;
    for part in PARTS {
        sent += send(&exporters, groups, sender.udp().addr(), part);
        sender.wait_status(STALL, |status| count(status, "/acknowledged/datagrams") == sent);
        if restarts {
            collector.stop_when_drained();
            collector.start_again();
        }
    }
    collector.stop_when_drained();
    totals(&collector.flows())
}

#[test]
fn real_datagrams_decode_as_from_a_direct_export() {
    let Some(groups) = groups() else {
        eprintln!("skipped: NF_TRANSPORT_CORPUS names no directory of datagrams");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root to send from the addresses of exporters");
        return;
    }
    let _running = shared();
    for tool in Tool::ALL.into_iter().filter(|tool| tool.is_installed()) {
        let directory = TempDir::new().unwrap();
        let direct = decoded_directly(tool, directory.path(), &groups);
        assert!(!direct.is_empty());
        for restarts in [false, true] {
            let carried = decoded_carried(tool, directory.path(), &groups, restarts);
            let equal = carried.iter().filter(|(flow, total)| direct.get(*flow) == Some(total)).count();
            println!(
                "{tool:?}, restarts: {restarts}: {} exporters, {equal} of {} flows decode as directly",
                groups.len(),
                direct.len()
            );
            assert_eq!(carried, direct, "{tool:?}, restarts: {restarts}");
        }
    }
}
