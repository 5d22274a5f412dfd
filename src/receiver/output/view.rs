//! The exporters that a collector gets, and the addresses under which it sees them.

use core::net::{IpAddr, SocketAddr};

use nf_transport_core::sequence::SenderId;

use crate::config::{CollectorSettings, SourceAddress};
use crate::receiver::output::share::Share;
use crate::receiver::output::source_sockets::can_bear;

/// A collector as the settings describe it.
#[derive(Clone, Debug)]
pub(crate) struct CollectorView {
    address: SocketAddr,
    source: SourceAddress,
    senders: Vec<SenderId>,
    share: Share,
}

/// The address under which a collector sees an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SeenAt {
    /// An address of nf-receiver's machine.
    OwnAddress,
    /// The exporter's own address.
    Exporter(IpAddr),
}

impl CollectorView {
    /// Returns the view of the collector with these `settings`, one of `all`, at this address.
    pub(crate) fn of(settings: &CollectorSettings, all: &[&CollectorSettings], address: SocketAddr) -> Self {
        Self::new(address, settings, Share::of(settings, all))
    }

    /// Returns the view of the collector at this address with these `settings`, which gets `share`.
    pub(super) fn new(address: SocketAddr, settings: &CollectorSettings, share: Share) -> Self {
        Self { address, source: settings.source, senders: settings.senders.clone(), share }
    }

    /// Returns the address on which the collector listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address under which the collector sees an exporter of `sender`; `None` if it gets none of
    /// its datagrams.
    pub(crate) fn sees(&self, sender: &str, exporter: IpAddr) -> Option<SeenAt> {
        let gets_sender = self.senders.is_empty() || self.senders.iter().any(|id| id.as_str() == sender);
        if !gets_sender || !self.share.admits(exporter) {
            return None;
        }
        // Any port but 0 gives the same answer.
        let bears =
            self.source == SourceAddress::Exporter && can_bear(self.address, SocketAddr::new(exporter, 1));
        Some(if bears { SeenAt::Exporter(exporter) } else { SeenAt::OwnAddress })
    }
}
