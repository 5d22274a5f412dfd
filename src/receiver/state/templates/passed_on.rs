//! `collectors.json` in the state directory: the state of collectors, from an orderly stop to the next start.
//!
//! For each collector it lists the collector's socket, the local port of each exporter, and the domains of
//! which the collector has all definitions. A collector at the same socket is the same process, so nothing is
//! repeated to it.
//!
//! The file is removed before its content is used: after kill -9 everything is repeated once. Everything is
//! also repeated to collectors on other machines, which may have restarted unnoticed, and to addresses for
//! late datagrams.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nf_transport_core::netflow::{KeptDomain, Recipient};
use nf_transport_core::sequence::SenderId;
use serde::{Deserialize, Serialize};

use crate::host::boot_clock;
use crate::receiver::numbers::next_number;
use crate::receiver::output::{OutputName, PassedOn};
use crate::receiver::state::json_file;
use crate::receiver::state::templates::learner::TemplateLearner;

/// Index of a collector's main address among the recipients.
const MAIN: usize = 0;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectorsFile {
    /// Boot id of the machine. Cookies of sockets are meaningless after a reboot.
    boot: u64,
    collectors: Vec<StoredCollector>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCollector {
    collector: OutputName,
    /// Cookie of its socket, if it is on this machine.
    socket: Option<u64>,
    exporters: Vec<StoredExporter>,
    complete: Vec<StoredDomain>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredExporter {
    sender: String,
    exporter: SocketAddr,
    seen_as: SocketAddr,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredDomain {
    sender: String,
    #[serde(flatten)]
    domain: KeptDomain,
}

fn path_of(state_directory: &Path) -> PathBuf {
    state_directory.join("collectors.json")
}

/// Writes the file.
pub(super) fn write(
    state_directory: &Path,
    collectors: impl Iterator<Item = (OutputName, PassedOn)>,
    learners: &[Arc<TemplateLearner>],
) -> io::Result<()> {
    let collectors = collectors.map(|(collector, passed_on)| {
        let own: Vec<_> = learners.iter().filter(|learner| *learner.collector() == collector).collect();
        stored(collector, passed_on, &own)
    });
    let content = CollectorsFile { boot: boot_clock().boot.0, collectors: collectors.collect() };
    json_file::write(&path_of(state_directory), &content)
}

fn stored(collector: OutputName, passed_on: PassedOn, learners: &[&Arc<TemplateLearner>]) -> StoredCollector {
    let PassedOn { generation, socket, exporters } = passed_on;
    let by_number = |number| learners.iter().find(|learner| learner.number() == number);
    let exporters = exporters.into_iter().filter_map(|(number, exporter, seen_as)| {
        let sender = by_number(number)?.sender().to_string();
        Some(StoredExporter { sender, exporter, seen_as })
    });
    let complete = learners.iter().flat_map(|learner| {
        let domains: Vec<KeptDomain> = learner.memory().complete(MAIN, generation).collect();
        domains.into_iter().map(|domain| StoredDomain { sender: learner.sender().to_string(), domain })
    });
    let is_here = socket.is_some();
    StoredCollector {
        collector,
        socket: socket.map(u64::from_ne_bytes),
        exporters: exporters.collect(),
        complete: complete.filter(|_| is_here).collect(),
    }
}

/// Reads and removes the file. `learner` finds or adds the learner of a sender at a collector.
pub(super) fn read(
    state_directory: &Path,
    mut learner: impl FnMut(&SenderId, &OutputName) -> Arc<TemplateLearner>,
) -> HashMap<OutputName, PassedOn> {
    let path = path_of(state_directory);
    match json_file::take::<CollectorsFile>(&path) {
        Ok(None) => HashMap::new(),
        Ok(Some(content)) => {
            let is_same_boot = content.boot == boot_clock().boot.0 && content.boot != 0;
            let restore = |stored| restored(stored, is_same_boot, &mut learner);
            content.collectors.into_iter().map(restore).collect()
        }
        Err(error) => {
            tracing::warn!(
                %error,
                "cannot recover {}: {error}; templates are repeated once to all collectors",
                path.display()
            );
            HashMap::new()
        }
    }
}

fn restored(
    stored: StoredCollector,
    is_same_boot: bool,
    learner: &mut impl FnMut(&SenderId, &OutputName) -> Arc<TemplateLearner>,
) -> (OutputName, PassedOn) {
    let collector = stored.collector;
    let mut of = |sender: &str| sender.parse().ok().map(|sender: SenderId| learner(&sender, &collector));
    // The number of the socket is higher than the generation, like that of a socket opened in that
    // generation.
    let generation = next_number();
    let recipient = Recipient { place: MAIN, generation, socket: next_number(), has_moved: false };
    let socket = stored.socket.filter(|_| is_same_boot).map(u64::to_ne_bytes);
    for row in stored.complete.iter().filter(|_| socket.is_some()) {
        if let Some(learner) = of(&row.sender) {
            learner.change(|memory| memory.restore_complete(&row.domain, &recipient));
        }
    }
    let exporters = stored.exporters.into_iter().filter_map(|row| {
        let number = of(&row.sender)?.number();
        Some((number, row.exporter, row.seen_as))
    });
    let exporters = exporters.collect();
    (collector, PassedOn { generation, socket, exporters })
}
