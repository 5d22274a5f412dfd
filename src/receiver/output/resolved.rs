//! Collectors with resolved addresses.

use core::net::SocketAddr;

use crate::config::CollectorSettings;
use crate::receiver::output::name::OutputName;

/// A collector of the settings, with the addresses to which its names resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedCollector {
    pub(crate) settings: CollectorSettings,
    /// Address on which the collector listens.
    pub(crate) address: SocketAddr,
    /// Address for late datagrams, if the collector has one.
    pub(crate) late: Option<SocketAddr>,
}

impl ResolvedCollector {
    /// Returns the name of the output to it.
    pub(crate) fn name(&self) -> OutputName {
        (&self.settings.address).into()
    }

    /// Returns whether both have the same main address.
    pub(in crate::receiver) fn has_same_address(&self, other: &Self) -> bool {
        without_v4_mapping(self.address) == without_v4_mapping(other.address)
    }

    fn without_v4_mapping(&self) -> Self {
        let (address, late) = (without_v4_mapping(self.address), self.late.map(without_v4_mapping));
        Self { settings: self.settings.clone(), address, late }
    }
}

/// Keeps only the first collector at each address. The others get nothing, so they have no share of their
/// groups.
pub(super) fn without_duplicates(collectors: &[ResolvedCollector]) -> Vec<ResolvedCollector> {
    let mut first = Vec::<ResolvedCollector>::new();
    for collector in collectors.iter().map(ResolvedCollector::without_v4_mapping) {
        if !first.iter().any(|before| before.address == collector.address) {
            first.push(collector);
        }
    }
    first
}

/// Converts an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) to the IPv4 address.
pub(super) fn without_v4_mapping(address: SocketAddr) -> SocketAddr {
    let canonical = address.ip().to_canonical();
    if canonical == address.ip() { address } else { SocketAddr::new(canonical, address.port()) }
}

#[cfg(test)]
impl ResolvedCollector {
    /// A collector at this address with default settings.
    pub(crate) fn at(address: &SocketAddr) -> Self {
        Self { settings: CollectorSettings::at(address), address: *address, late: None }
    }
}
