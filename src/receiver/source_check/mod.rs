//! The part of `check` about collectors that get datagrams with the exporters' own addresses: whether such
//! datagrams arrive, and the reason if not.
//!
//! It tests collectors on this machine, and inspects the running service. Without such collectors it does and
//! prints nothing.

mod texts;

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::config::{CollectorSettings, HostPort, ReceiverSettings, Report, SourceAddress};
use crate::host::{DaemonError, Privilege, resolve_cause};
use crate::receiver::output::{ProbeOutcome, probe};
use crate::receiver::source_check::texts::IpFamily;
use crate::status::serving_process;

/// The interface on which datagrams to this machine's own addresses arrive.
const LOOPBACK: &str = "lo";

/// Tests the collectors of `settings`, and adds the results to `report`. If datagrams would not arrive, it
/// fails with an error of the configuration.
pub(crate) fn check(settings: &ReceiverSettings, report: &mut Report) -> Result<(), DaemonError> {
    let wanted = wanted(&settings.collectors);
    if wanted.is_empty() {
        return Ok(());
    }
    let own = Privilege::of_this_process();
    let service = serving_process(&settings.control)
        .and_then(|process| Some((process, Privilege::of_process(process)?)));
    let mut findings = CheckFindings::default();
    match own.as_ref().zip(service.as_ref()) {
        Some((own, (process, service))) if service.has_other_network(own) => {
            findings.warnings.push(texts::other_network(*process));
        }
        _ => findings.add_tried(wanted, own.as_ref()),
    }
    match &service {
        Some((process, service)) => findings.errors.extend(of_the_service(*process, service, own.as_ref())),
        None if findings.has_arrived => findings.notes.push(texts::not_running()),
        None => {}
    }
    findings.report_to(report)
}

/// Returns the addresses that get datagrams with the exporters' addresses.
fn wanted(collectors: &[CollectorSettings]) -> Vec<&HostPort> {
    let wanted = collectors.iter().filter(|collector| collector.source == SourceAddress::Exporter);
    let addresses = wanted.flat_map(|collector| {
        let late = collector.late.as_ref().map(|late| &late.address);
        [Some(&collector.address), late]
    });
    addresses.flatten().collect()
}

/// Returns an obstacle of the running service, if one is visible.
fn of_the_service(process: u32, service: &Privilege, own: Option<&Privilege>) -> Option<String> {
    if !service.has_capability() {
        return Some(texts::service_lacks_capability(process));
    }
    let is_apart = own.is_some_and(|own| service.has_other_users(own));
    is_apart.then(|| texts::service_is_apart(process))
}

/// Results of the check.
#[derive(Debug, Default)]
struct CheckFindings {
    notes: Vec<String>,
    warnings: Vec<String>,
    errors: Vec<String>,
    has_arrived: bool,
}

impl CheckFindings {
    fn add_tried(&mut self, wanted: Vec<&HostPort>, own: Option<&Privilege>) {
        let mut elsewhere = NameGroups::none();
        let mut not_permitted = false;
        for (address, names) in self.resolve(wanted).0 {
            match probe(address) {
                ProbeOutcome::Arrived => {
                    self.has_arrived = true;
                    self.notes.push(texts::arrived(&names, IpFamily::of(address)));
                }
                ProbeOutcome::Elsewhere => elsewhere.add(IpFamily::of(address), names),
                ProbeOutcome::NotPermitted => not_permitted = true,
                ProbeOutcome::NotTried(error) => self.warnings.push(texts::not_tried(&names, &error)),
                ProbeOutcome::Refused(exporter, error) => {
                    self.errors.push(texts::refused(&names, exporter, &error));
                }
                ProbeOutcome::Lost(exporter) => {
                    self.errors.push(texts::lost(&names, exporter, strict_filters(address).as_deref()));
                }
                ProbeOutcome::LongLost(exporter, length) => {
                    self.errors.push(texts::long_lost(&names, exporter, length));
                }
                ProbeOutcome::Rewritten(exporter, seen_as) => {
                    self.errors.push(texts::rewritten(&names, exporter, seen_as));
                }
            }
        }
        if not_permitted {
            let has_capability = own.is_some_and(Privilege::has_capability);
            self.warnings.push(texts::not_permitted(has_capability));
        }
        self.notes.extend(elsewhere.0.iter().map(|(family, names)| texts::elsewhere(names, *family)));
    }

    /// Resolves the names as the service would. Names with one IP address are grouped, because one test
    /// covers all of them.
    fn resolve(&mut self, wanted: Vec<&HostPort>) -> NameGroups<SocketAddr> {
        let mut groups = NameGroups::none();
        for name in wanted {
            let found = (name.host(), name.port()).to_socket_addrs().map(|mut found| found.next());
            match found {
                Ok(Some(address)) => groups.add(with_any_port(address), vec![name.to_string()]),
                Ok(None) => self.warnings.push(texts::unresolved(name, "the name has no address")),
                Err(error) => self.warnings.push(texts::unresolved(name, &resolve_cause(&error))),
            }
        }
        groups
    }

    fn report_to(self, report: &mut Report) -> Result<(), DaemonError> {
        if !self.errors.is_empty() {
            return Err(DaemonError::configuration(self.errors.join("\n")));
        }
        report.add_notes(self.notes);
        report.warn(self.warnings);
        Ok(())
    }
}

/// Names of collectors, grouped by a common property.
#[derive(Debug)]
struct NameGroups<C>(Vec<(C, Vec<String>)>);

impl<C: PartialEq> NameGroups<C> {
    fn none() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, common: C, names: Vec<String>) {
        match self.0.iter_mut().find(|(known, _)| *known == common) {
            Some((_, known)) => known.extend(names),
            None => self.0.push((common, names)),
        }
    }
}

fn with_any_port(mut address: SocketAddr) -> SocketAddr {
    address.set_ip(address.ip().to_canonical());
    address.set_port(0);
    address
}

/// Returns the setting that makes the reverse path filter strict for datagrams to `address` on this machine,
/// if one does.
fn strict_filters(address: SocketAddr) -> Option<String> {
    let setting = |interface: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let [all, own] = ["all", LOOPBACK].map(setting);
    texts::strict_filter(all?, LOOPBACK, own?).filter(|_| address.is_ipv4())
}
