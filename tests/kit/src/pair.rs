//! The whole chain: exporters, nf-sender, a link that breaks on request, nf-receiver and a collector.

use std::sync::Arc;
use std::time::Duration;

use crate::chatter::Pattern;
use crate::collector::Collector;
use crate::exporter::Exporters;
use crate::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use crate::link::Link;
use crate::load::{SteadyLoad, Until};
use crate::samples::{assert_conserved, count};

/// Longest time without progress before a test fails.
pub const STALL: Duration = Duration::from_secs(20);

/// One sender, one receiver and one collector. Fields drop in this order, so the daemons end before the
/// collector.
pub struct Pair {
    pub sender: SenderHost,
    pub link: Link,
    pub receiver: ReceiverHost,
    pub collector: Collector,
    exporters: u16,
    pattern: Pattern,
}

/// Starts both daemons and connects them by a link: nf-receiver with these settings and no other collectors,
/// nf-sender with [`QUICK_SENDER`].
pub fn connected_daemons(receiver_toml: &str) -> (SenderHost, Link, ReceiverHost) {
    let mut receiver = ReceiverHost::new(&[], receiver_toml);
    let link = Link::to(receiver.addr());
    let mut sender = SenderHost::new("edge", &link.addr(), QUICK_SENDER);
    receiver.start();
    sender.start();
    sender.wait_state("connected", STALL);
    (sender, link, receiver)
}

impl Pair {
    /// Creates everything without starting a daemon.
    pub fn new(exporters: u16, pattern: Pattern, sender_toml: &str) -> Self {
        Self::around(Collector::start(exporters, pattern), exporters, pattern, sender_toml)
    }

    /// Does the same with this collector.
    pub fn around(collector: Collector, exporters: u16, pattern: Pattern, sender_toml: &str) -> Self {
        let receiver = ReceiverHost::new(&[collector.addr()], "");
        let link = Link::to(receiver.addr());
        let sender = SenderHost::new("edge", &link.addr(), sender_toml);
        Self { sender, link, receiver, collector, exporters, pattern }
    }

    /// Creates everything, starts both daemons and waits until they are connected.
    pub fn connected(exporters: u16, pattern: Pattern, sender_toml: &str) -> Self {
        let mut pair = Self::new(exporters, pattern, sender_toml);
        pair.receiver.start();
        pair.sender.start();
        pair.sender.wait_state("connected", STALL);
        pair
    }

    pub fn exporters(&self) -> Exporters {
        self.sender.exporters(self.exporters, self.pattern)
    }

    /// Starts a load from new exporters.
    pub fn load(&self, rate: Option<u32>, until: Until) -> SteadyLoad {
        SteadyLoad::start(self.exporters(), Arc::clone(self.sender.udp()), rate, until)
    }

    /// Panics unless all sent datagrams arrive in order, and exactly once if `once`. Then nf-sender's queue
    /// must be empty.
    pub fn assert_all_arrive(&self, exporters: &Exporters, once: bool) {
        assert_eq!(
            self.sender.udp().dropped(),
            0,
            "the kernel dropped datagrams at nf-sender's socket despite the pauses"
        );
        let report = self.collector.wait_for_all(exporters.sent(), STALL);
        assert_eq!(report.kernel_drops, 0, "the collector was too slow for its own socket");
        if once {
            report.assert_exact(exporters.sent());
        } else {
            report.assert_complete_and_in_order(exporters.sent());
        }
        assert_conserved(&self.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
    }
}
