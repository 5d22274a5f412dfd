//! The definitions of one observation domain of an exporter, and the progress of each recipient.

use core::net::{IpAddr, SocketAddr};

use crate::datagram::scope_of;
use crate::limits::TEMPLATE_EXPORTER_OVERHEAD;
use crate::netflow::Header;
use crate::netflow::definitions::Definitions;
use crate::netflow::recipient::{RECIPIENTS, RecipientProgress};

/// Identifies one set of templates (RFC 3954, 7; RFC 7011, 8): the exporter's address and the source id or
/// observation domain, with the port only if two exporters share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DomainKey {
    pub(super) exporter: IpAddr,
    /// The interface of a link-local address; 0 for others.
    pub(super) scope: u32,
    /// `None` for all ports.
    pub(super) port: Option<u16>,
    pub(super) version: u16,
    pub(super) source_id: u32,
}

impl DomainKey {
    /// The key of datagrams with `header` from `exporter`, for all ports.
    pub(super) fn of_address(exporter: SocketAddr, header: &Header) -> Self {
        let Header { version, source_id, .. } = *header;
        Self { exporter: exporter.ip(), scope: scope_of(exporter), port: None, version, source_id }
    }

    /// The key of this port alone.
    pub(super) fn of_port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }
}

/// The state of one domain.
#[derive(Clone, Default)]
pub(super) struct Domain {
    pub(super) definitions: Definitions,
    /// Counts the changes of templates and of options data.
    pub(super) revision: u64,
    pub(super) progress: [RecipientProgress; RECIPIENTS],
    /// The ports that have their own domains. If there are any, this one has no definitions.
    pub(super) ports: Vec<u16>,
}

impl Domain {
    /// True if each port has its own domain.
    pub(super) fn is_split(&self) -> bool {
        !self.ports.is_empty()
    }

    /// True if nothing is known about it.
    pub(super) fn is_empty(&self) -> bool {
        self.definitions.is_empty() && self.ports.is_empty()
    }

    /// Bytes of memory, without options data.
    pub(super) fn cost(&self) -> usize {
        let ports = self.ports.len().saturating_mul(size_of::<u16>());
        self.definitions.bytes().saturating_add(TEMPLATE_EXPORTER_OVERHEAD).saturating_add(ports)
    }
}
