//! Which exporters a collector gets, and at which address it sees them.

use core::net::{IpAddr, SocketAddr};

use nf_transport_core::sequence::SenderId;

use crate::config::{CollectorSettings, SourceAddress};
use crate::receiver::output::share::Share;
use crate::receiver::output::source_sockets::can_bear;

/// A collector as the settings have it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    address: SocketAddr,
    source: SourceAddress,
    senders: Vec<SenderId>,
    share: Share,
}

/// The address at which a collector sees an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SeenAt {
    /// That of nf-receiver's machine.
    OwnAddress,
    /// The exporter's.
    Exporter(IpAddr),
}

impl View {
    /// That of the collector with these `settings`, one of `all`, at this address.
    pub(crate) fn of(settings: &CollectorSettings, all: &[&CollectorSettings], address: SocketAddr) -> Self {
        Self::new(address, settings, Share::of(settings, all))
    }

    /// That of the collector at this address with these `settings`, which gets this share.
    pub(super) fn new(address: SocketAddr, settings: &CollectorSettings, share: Share) -> Self {
        Self { address, source: settings.source, senders: settings.senders.clone(), share }
    }

    /// Where the collector listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// At which address the collector sees an exporter of `sender`; `None` if it gets nothing of it.
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
