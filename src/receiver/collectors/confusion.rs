//! Exporters that a collector confuses if it identifies them by address alone: they share an observation
//! domain and an address, and define a template id differently.
//!
//! They are found from the templates stored for each collector, limited to exporters whose datagrams it got.
//! A collector that identifies exporters by address and port is not confused, as each has a port of its own
//! on nf-receiver's machine.

use core::fmt;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nf_transport_core::netflow::{Kept, SharedDomain, shared_domains};

use crate::config::{CollectorSettings, ReceiverSettings};
use crate::host::locked;
use crate::host::systemd::messages::receiver;
use crate::limits::{CONFUSED_LOGGED, CONFUSED_SHOWN};
use crate::receiver::output::{CollectorView, OutputName, Outputs, SeenAt};
use crate::receiver::state::templates::{self, Templates};
use crate::status::{ConfusedStatus, count_of};

/// Shortest interval between two scans of the templates.
const LOOKED_EVERY: Duration = Duration::from_secs(10);

/// Most log lines of one scan. The next scan logs others.
const LINES_AT_ONCE: usize = 8;

/// One exporter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConfusedExporter {
    sender: String,
    address: IpAddr,
    scope: u32,
    /// The exporter's port, if other exporters have the same address.
    port: Option<u16>,
}

impl fmt::Display for ConfusedExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{} ({})", SocketAddr::new(self.address, port), self.sender),
            None => write!(f, "{} ({})", self.address, self.sender),
        }
    }
}

/// Two exporters that a collector confuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConfusedPair {
    exporters: [ConfusedExporter; 2],
    version: u16,
    source_id: u32,
    template_id: u16,
    seen_at: SeenAt,
}

impl ConfusedPair {
    /// Returns a sentence with the consequence for the flows, and the remedy.
    pub(crate) fn sentence(&self, collector: SocketAddr) -> String {
        let Self { exporters: [one, two], version, source_id, template_id, seen_at } = self;
        let id = if *version == 9 { "source id" } else { "observation domain" };
        let (address, remedy) = match seen_at {
            SeenAt::OwnAddress => (
                "an address of this machine".to_owned(),
                "a collector that uses address and port decodes them correctly, one that uses the address \
                 alone (nfcapd, nfacctd) confuses them; give the exporters different ids, or set source = \
                 \"exporter\", which needs CAP_NET_RAW and a network that passes such sources (nf-receiver \
                 check tests it)",
            ),
            SeenAt::Exporter(exporter) if one.sender == two.sender => (
                exporter.to_string(),
                "collectors confuse them, as with direct export; give the exporters different ids",
            ),
            SeenAt::Exporter(exporter) => (
                exporter.to_string(),
                "collectors confuse them, as with direct export; give each sender a collector of its own \
                 (senders)",
            ),
        };
        format!(
            "exporters {one} and {two} both use {id} {source_id} but define template {template_id} \
             differently, and collector {collector} sees both at {address}: {remedy}"
        )
    }

    fn status(&self, collector: SocketAddr) -> ConfusedStatus {
        ConfusedStatus {
            exporters: self.exporters.clone().map(|origin| origin.address),
            senders: self.exporters.clone().map(|origin| origin.sender),
            version: self.version,
            source_id: self.source_id,
            template_id: self.template_id,
            meaning: self.sentence(collector),
        }
    }
}

/// Finds the exporters that the collector of `view` confuses among `rows`: senders, and the templates of
/// their exporters.
pub(crate) fn confused(view: &CollectorView, rows: &[(String, Kept)]) -> Vec<ConfusedPair> {
    let exporter = |(sender, kept): &(String, Kept)| ConfusedExporter {
        sender: sender.clone(),
        address: kept.exporter,
        scope: kept.scope,
        port: kept.port,
    };
    // Sorted, so that a pair is always the same, in any order of the templates.
    let mut exporters: Vec<(ConfusedExporter, &(String, Kept))> =
        rows.iter().map(|row| (exporter(row), row)).collect();
    exporters.sort_by(|(one, _), (two, _)| one.cmp(two));
    let domains = exporters
        .iter()
        .filter_map(|(exporter, (sender, kept))| Some((exporter, view.sees(sender, kept.exporter)?, kept)));
    let of_pair = |shared: SharedDomain<&ConfusedExporter>| {
        let [one, two] = shared.exporters;
        let SharedDomain { version, source_id, template_id, .. } = shared;
        let seen_at = view.sees(&one.sender, one.address)?;
        Some(ConfusedPair { exporters: [one.clone(), two.clone()], version, source_id, template_id, seen_at })
    };
    shared_domains(domains).into_iter().filter_map(of_pair).collect()
}

/// Returns warnings for `check`, from the templates that the last run stored.
pub(crate) fn of_last_run(settings: &ReceiverSettings) -> Vec<String> {
    let kept = templates::kept_in(&settings.state);
    let all: Vec<&CollectorSettings> = settings.collectors.iter().collect();
    let mut sentences = Vec::new();
    for collector in &settings.collectors {
        let host = (collector.address.host(), collector.address.port());
        // A name that does not resolve is reported elsewhere.
        let Some(address) = host.to_socket_addrs().into_iter().flatten().next() else { continue };
        let name = OutputName::from(&collector.address);
        let seen = kept.iter().filter(|(_, collectors, _)| collectors.contains(&name));
        let rows: Vec<(String, Kept)> =
            seen.map(|(sender, _, kept)| (sender.clone(), kept.clone())).collect();
        let found = confused(&CollectorView::of(collector, &all, address), &rows);
        sentences.extend(found.first().map(|first| {
            let pairs = count_of(u64::try_from(found.len()).unwrap_or(u64::MAX), "pair");
            format!("in the templates of the last run, {pairs} of exporters: {}", first.sentence(address))
        }));
    }
    sentences
}

/// The exporters that collectors confuse.
#[derive(Debug, Default)]
pub(crate) struct Confusion(Mutex<ConfusionState>);

#[derive(Debug, Default)]
struct ConfusionState {
    looked: Option<Instant>,
    /// The address and the pairs of each collector.
    found: HashMap<OutputName, (SocketAddr, Vec<ConfusedPair>)>,
    /// The collectors and pairs that are logged, with version and source id.
    logged: HashSet<(OutputName, [ConfusedExporter; 2], u16, u32)>,
}

impl Confusion {
    fn state(&self) -> MutexGuard<'_, ConfusionState> {
        locked(&self.0)
    }

    /// Returns whether the last scan was long enough ago for another one.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.state().looked.is_none_or(|looked| now.duration_since(looked) >= LOOKED_EVERY)
    }

    /// Scans the templates, unless that was done recently, and logs new pairs. Blocks; call it repeatedly
    /// where that is allowed.
    pub(crate) fn look(&self, templates: &Templates, outputs: &Arc<Outputs>, now: Instant) {
        if !self.is_due(now) {
            return;
        }
        self.state().looked = Some(now);
        let mut found = HashMap::new();
        for output in outputs.iter() {
            let (view, had) = (output.view(), output.served());
            let rows = templates.delivered(output.name(), &had);
            let mut confused = confused(&view, &rows);
            confused.truncate(CONFUSED_SHOWN);
            found.insert(output.name().clone(), (view.address(), confused));
        }
        let mut state = self.state();
        state.found = found;
        state.log();
    }

    /// Returns the pairs of this collector, for the status.
    pub(crate) fn status(&self, collector: &OutputName) -> Vec<ConfusedStatus> {
        let state = self.state();
        let Some((address, confused)) = state.found.get(collector) else { return Vec::new() };
        confused.iter().map(|confused| confused.status(*address)).collect()
    }
}

impl ConfusionState {
    /// Logs each pair once.
    fn log(&mut self) {
        let all = self.found.iter().flat_map(|(name, (address, confused))| {
            confused.iter().map(move |confused| {
                let ConfusedPair { exporters, version, source_id, .. } = confused.clone();
                ((name.clone(), exporters, version, source_id), *address, confused.clone())
            })
        });
        let new: Vec<_> = all.filter(|(key, ..)| !self.logged.contains(key)).take(LINES_AT_ONCE).collect();
        for (key, collector, confused) in new {
            if self.logged.len() >= CONFUSED_LOGGED {
                return;
            }
            self.logged.insert(key);
            if self.logged.len() == CONFUSED_LOGGED {
                tracing::warn!(
                    "{CONFUSED_LOGGED} pairs of exporters that collectors confuse are logged; further pairs \
                     are only in nf-receiver status"
                );
                return;
            }
            let [exporter, other] = confused.exporters.clone().map(|origin| origin.address);
            tracing::warn!(
                message_id = receiver::EXPORTERS_CONFUSED,
                %collector,
                %exporter,
                %other,
                source_id = confused.source_id,
                "{}",
                confused.sentence(collector)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use nf_transport_core::netflow::KeptTemplate;

    use super::*;
    use crate::config::SourceAddress;

    fn row(sender: &str, exporter: &str, definition: &[u8]) -> (String, Kept) {
        let definition = definition.to_vec();
        let templates = vec![KeptTemplate { template_id: 256, is_options: false, port: 0, definition }];
        let exporter = exporter.parse().unwrap();
        let kept =
            Kept { exporter, scope: 0, port: None, version: 9, source_id: 0, templates, options: Vec::new() };
        (sender.to_owned(), kept)
    }

    fn found(settings: &CollectorSettings, rows: &[(String, Kept)]) -> Vec<[String; 2]> {
        let view = CollectorView::of(settings, &[settings], "127.0.0.1:9995".parse().unwrap());
        let names = |confused: ConfusedPair| {
            confused.exporters.map(|origin| format!("{}@{}", origin.address, origin.sender))
        };
        confused(&view, rows).into_iter().map(names).collect()
    }

    #[test]
    fn exporters_behind_one_address_differ_by_port() {
        let settings = CollectorSettings::at(&"127.0.0.1:9995");
        let [mut one, mut two] = [row("a", "192.0.2.1", b"one"), row("a", "192.0.2.1", b"two")];
        (one.1.port, two.1.port) = (Some(2000), Some(2001));
        let view = CollectorView::of(&settings, &[&settings], "127.0.0.1:9995".parse().unwrap());
        let found = confused(&view, &[one, two]);
        assert_eq!(found.len(), 1);
        let sentence = found[0].sentence("127.0.0.1:9995".parse().unwrap());
        assert!(
            sentence.starts_with("exporters 192.0.2.1:2000 (a) and 192.0.2.1:2001 (a) both"),
            "{sentence}"
        );
    }

    #[test]
    fn a_pair_is_independent_of_the_order() {
        let settings = CollectorSettings::at(&"127.0.0.1:9995");
        let [one, two] = [row("a", "192.0.2.1", b"one"), row("a", "192.0.2.2", b"two")];
        let view = CollectorView::of(&settings, &[&settings], "127.0.0.1:9995".parse().unwrap());
        let found = confused(&view, &[one.clone(), two.clone()]);
        assert_eq!((found.len(), &found), (1, &confused(&view, &[two, one])));
    }

    #[test]
    fn own_addresses_confuse_equal_source_ids() {
        let rows = [row("edge", "192.0.2.1", b"one"), row("edge", "192.0.2.2", b"two")];
        let own = CollectorSettings::at(&"127.0.0.1:9995");
        assert_eq!(found(&own, &rows), [["192.0.2.1@edge".to_owned(), "192.0.2.2@edge".to_owned()]]);
        let exporter = CollectorSettings { source: SourceAddress::Exporter, ..own.clone() };
        assert_eq!(found(&exporter, &rows), Vec::<[String; 2]>::new());
        let one = CollectorSettings { exporters: vec!["192.0.2.1/32".parse().unwrap()], ..own };
        assert_eq!(found(&one, &rows), Vec::<[String; 2]>::new());
    }

    #[test]
    fn exporter_addresses_confuse_equal_sites() {
        let rows = [row("east", "10.0.0.1", b"one"), row("west", "10.0.0.1", b"two")];
        let own = CollectorSettings::at(&"127.0.0.1:9995");
        let exporter = CollectorSettings { source: SourceAddress::Exporter, ..own };
        assert_eq!(found(&exporter, &rows), [["10.0.0.1@east".to_owned(), "10.0.0.1@west".to_owned()]]);
        let east = CollectorSettings { senders: vec!["east".parse().unwrap()], ..exporter };
        assert_eq!(found(&east, &rows), Vec::<[String; 2]>::new());
    }

    #[test]
    fn the_sentence_names_the_remedy() {
        let rows = [row("east", "10.0.0.1", b"one"), row("west", "10.0.0.1", b"two")];
        let own = CollectorSettings::at(&"127.0.0.1:9995");
        let exporter = CollectorSettings { source: SourceAddress::Exporter, ..own.clone() };
        for (settings, remedy) in
            [(own, "source = \"exporter\", which needs CAP_NET_RAW"), (exporter, "(senders)")]
        {
            let collector = "127.0.0.1:9995".parse().unwrap();
            let view = CollectorView::of(&settings, &[&settings], collector);
            let sentence = confused(&view, &rows)[0].sentence(collector);
            assert!(sentence.contains(remedy) && sentence.contains("source id 0"), "{sentence}");
        }
    }
}
