//! What `check` finds out about collectors that are to get datagrams with the exporters' own addresses: whether such
//! datagrams arrive, and if not, what eats them.
//!
//! Collectors on this machine are tried, and the service, if it runs, is looked at. Nothing is done, and nothing said, where
//! no collector is set to this.

mod words;

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::config::{CollectorSettings, HostPort, ReceiverSettings, Report, SourceAddress};
use crate::host::{DaemonError, Privilege};
use crate::receiver::output::{Outcome, probe};
use crate::receiver::source_check::words::Family;
use crate::status::serving_process;

/// The interface at which datagrams to this machine's own addresses arrive, whichever has the address.
const LOOPBACK: &str = "lo";

/// Tries what can be tried for the collectors of `settings`, and tells it in `report`. If datagrams would not arrive, that is
/// an error of the configuration.
pub(crate) fn check(settings: &ReceiverSettings, report: &mut Report) -> Result<(), DaemonError> {
    let wanted = wanted(&settings.collectors);
    if wanted.is_empty() {
        return Ok(());
    }
    let own = Privilege::of_this_process();
    let service = serving_process(&settings.control)
        .and_then(|process| Some((process, Privilege::of_process(process)?)));
    let mut findings = Findings::default();
    match own.as_ref().zip(service.as_ref()) {
        Some((own, (process, service))) if service.has_other_network(own) => {
            findings.warnings.push(words::other_network(*process));
        }
        _ => findings.add_tried(wanted, own.as_ref()),
    }
    match &service {
        Some((process, service)) => findings.errors.extend(of_the_service(*process, service, own.as_ref())),
        None if findings.has_arrived => findings.notes.push(words::not_running()),
        None => {}
    }
    findings.tell(report)
}

/// The addresses that are to get datagrams with the exporters' addresses.
fn wanted(collectors: &[CollectorSettings]) -> Vec<&HostPort> {
    let wanted = collectors.iter().filter(|collector| collector.source == SourceAddress::Exporter);
    let addresses = wanted.flat_map(|collector| {
        let late = collector.late.as_ref().map(|late| &late.address);
        [Some(&collector.address), late]
    });
    addresses.flatten().collect()
}

/// What keeps the running service from it, if anything is seen to do so.
fn of_the_service(process: u32, service: &Privilege, own: Option<&Privilege>) -> Option<String> {
    if !service.has_capability() {
        return Some(words::service_lacks_capability(process));
    }
    let is_apart = own.is_some_and(|own| service.has_other_users(own));
    is_apart.then(|| words::service_is_apart(process))
}

/// What was found out.
#[derive(Debug, Default)]
struct Findings {
    notes: Vec<String>,
    warnings: Vec<String>,
    errors: Vec<String>,
    has_arrived: bool,
}

impl Findings {
    fn add_tried(&mut self, wanted: Vec<&HostPort>, own: Option<&Privilege>) {
        let mut elsewhere = Groups::none();
        let mut not_permitted = false;
        for (address, names) in self.resolve(wanted).0 {
            match probe(address) {
                Outcome::Arrived => {
                    self.has_arrived = true;
                    self.notes.push(words::arrived(&names, Family::of(address)));
                }
                Outcome::Elsewhere => elsewhere.add(Family::of(address), names),
                Outcome::NotPermitted => not_permitted = true,
                Outcome::NotTried(error) => self.warnings.push(words::not_tried(&names, &error)),
                Outcome::Refused(exporter, error) => {
                    self.errors.push(words::refused(&names, exporter, &error));
                }
                Outcome::Lost(exporter) => {
                    self.errors.push(words::lost(&names, exporter, strict_filters(address).as_deref()));
                }
                Outcome::LongLost(exporter, length) => {
                    self.errors.push(words::long_lost(&names, exporter, length));
                }
                Outcome::Rewritten(exporter, seen_as) => {
                    self.errors.push(words::rewritten(&names, exporter, seen_as));
                }
            }
        }
        if not_permitted {
            let has_capability = own.is_some_and(Privilege::has_capability);
            self.warnings.push(words::not_permitted(has_capability));
        }
        self.notes.extend(elsewhere.0.iter().map(|(family, names)| words::elsewhere(names, *family)));
    }

    /// Where the names lead, as the service would find it: those on one IP address together, since one try tells of all.
    fn resolve(&mut self, wanted: Vec<&HostPort>) -> Groups<SocketAddr> {
        let mut groups = Groups::none();
        for name in wanted {
            let found = (name.host(), name.port()).to_socket_addrs().map(|mut found| found.next());
            match found {
                Ok(Some(address)) => groups.add(with_any_port(address), vec![name.to_string()]),
                Ok(None) => self.warnings.push(words::unresolved(name, "it has no address")),
                Err(error) => self.warnings.push(words::unresolved(name, &error.to_string())),
            }
        }
        groups
    }

    fn tell(self, report: &mut Report) -> Result<(), DaemonError> {
        if !self.errors.is_empty() {
            return Err(DaemonError::configuration(self.errors.join("\n")));
        }
        report.note(self.notes);
        report.warn(self.warnings);
        Ok(())
    }
}

/// Names of collectors by something that they have in common.
#[derive(Debug)]
struct Groups<C>(Vec<(C, Vec<String>)>);

impl<C: PartialEq> Groups<C> {
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

/// The filter for reverse paths of what arrives for `address` on this machine, if it is strict.
fn strict_filters(address: SocketAddr) -> Option<String> {
    let setting = |interface: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let [all, own] = ["all", LOOPBACK].map(setting);
    words::strict_filter(all?, LOOPBACK, own?).filter(|_| address.is_ipv4())
}
