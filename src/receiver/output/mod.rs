//! Outputs: the paths of datagrams to the collectors.
//!
//! An output delivers datagrams in order. After each step it reports the position up to which its collector
//! has the stream, or the output skipped it. An output buffers nothing: while its collector is set to hold
//! and accepts no more, `deliver` waits. Many streams may deliver to one output at once; they take turns.

mod budget;
mod destination;
mod down_reason;
mod exporter_filter;
mod exporter_sockets;
mod figures;
mod lateness;
mod name;
mod outage_log;
mod pace;
pub(crate) mod passed_on;
mod probe;
mod progress;
mod queue_guard;
mod reachability;
mod refusals;
pub(crate) mod resolved;
mod route;
mod segments;
mod share;
mod slices;
mod socket;
mod source_sockets;
mod system_error;
mod udp;
mod view;
mod watch;

use core::net::{IpAddr, SocketAddr};
use std::collections::HashSet;
use std::sync::Arc;

pub(crate) use budget::SocketBudget;
pub(crate) use exporter_filter::ExporterFilter;
pub(crate) use figures::{CollectorFigures, LateFigures, OutputCounts};
pub(crate) use name::OutputName;
use nf_transport_core::datagram::Datagram;
use nf_transport_core::sequence::SenderId;
pub(crate) use passed_on::PassedOn;
pub(crate) use probe::{ProbeOutcome, probe};
pub(crate) use progress::DeliveryProgress;
pub(crate) use resolved::ResolvedCollector;
pub(crate) use view::{CollectorView, SeenAt};

use crate::config::{CollectorSettings, WhenDown};
use crate::receiver::delivery::LaneMemory;
use crate::receiver::output::resolved::without_duplicates;
use crate::receiver::output::share::Share;
use crate::receiver::output::udp::UdpOutput;
use crate::receiver::state::templates::{TemplateLearner, Templates};

/// The path to one collector.
#[derive(Debug)]
pub(crate) enum Output {
    /// Over UDP.
    Udp(UdpOutput),
}

impl Output {
    /// Returns its name, which is unique among all outputs.
    pub(crate) fn name(&self) -> &OutputName {
        match self {
            Self::Udp(output) => output.name(),
        }
    }

    /// Returns the address on which its collector listens, for the log.
    fn address(&self) -> SocketAddr {
        match self {
            Self::Udp(output) => output.address(),
        }
    }

    /// Returns whether its collector gets datagrams of `sender`.
    fn gets(&self, sender: &SenderId) -> bool {
        let Self::Udp(output) = self;
        output.settings().senders.is_empty() || output.settings().senders.contains(sender)
    }

    /// Returns whether datagrams are held or skipped while its collector is down.
    pub(super) fn when_down(&self) -> WhenDown {
        match self {
            Self::Udp(output) => output.settings().when_down,
        }
    }

    /// Delivers the datagrams in order; the first has the position of `progress`. Advances `progress` past
    /// each datagram that the kernel accepted or that was skipped. Cancel safe: the future may be dropped at
    /// any point, and the call repeated with the remaining datagrams.
    pub(super) async fn deliver(
        &self,
        datagrams: &[Datagram<'_>],
        progress: &mut DeliveryProgress,
        learner: &TemplateLearner,
    ) {
        match self {
            Self::Udp(output) => output.deliver(datagrams, progress, learner).await,
        }
    }

    /// Returns the exporters that its collector gets, and the addresses under which it sees them.
    pub(crate) fn view(&self) -> CollectorView {
        match self {
            Self::Udp(output) => output.view(),
        }
    }

    /// Returns the state that the next run needs to continue without repeats.
    pub(crate) fn passed_on(&self) -> PassedOn {
        match self {
            Self::Udp(output) => output.passed_on(),
        }
    }

    /// Returns the exporters of datagrams sent to its main address, each with the number of its sender.
    pub(crate) fn served(&self) -> HashSet<(u64, IpAddr)> {
        match self {
            Self::Udp(output) => output.served(),
        }
    }

    /// Returns the exporters that its collector gets.
    fn share(&self) -> &Share {
        match self {
            Self::Udp(output) => output.share(),
        }
    }

    /// Closes some of its idle sockets. Returns the number that is left.
    fn close_idle_sockets(&self) -> usize {
        match self {
            Self::Udp(output) => output.close_idle_sockets(),
        }
    }

    /// Counts those of `datagrams` that its collector should get as skipped.
    pub(super) fn skip(&self, datagrams: &[Datagram<'_>]) {
        match self {
            Self::Udp(output) => output.skip(datagrams),
        }
    }

    /// Counts positions as skipped that went by while the stream waited for the collector, and that it will
    /// not get.
    pub(super) fn count_skipped(&self, count: u64) {
        match self {
            Self::Udp(output) => output.count_skipped(count),
        }
    }

    /// Returns the figures of its collector.
    pub(crate) fn figures(&self) -> CollectorFigures {
        match self {
            Self::Udp(output) => output.figures(),
        }
    }
}

/// The outputs to all collectors.
#[derive(Debug)]
pub(crate) struct Outputs {
    collectors: Vec<Arc<Output>>,
    sockets: Arc<SocketBudget>,
    templates: Arc<Templates>,
    lane_memory: Arc<LaneMemory>,
}

impl Outputs {
    /// Returns outputs to no collector. Outputs added later share `sockets`, one for each exporter.
    pub(crate) fn none(sockets: Arc<SocketBudget>, templates: Arc<Templates>) -> Self {
        Self { collectors: Vec::new(), sockets, templates, lane_memory: Arc::default() }
    }

    /// Returns outputs to `collectors`; call it inside a tokio runtime. Outputs whose settings are unchanged
    /// are kept. Others are opened; those with a known name keep its counts. Never waits for a collector.
    pub(crate) fn changed_to(&self, collectors: &[ResolvedCollector]) -> Self {
        let wanted = without_duplicates(collectors);
        let all: Vec<&CollectorSettings> = wanted.iter().map(|collector| &collector.settings).collect();
        let mut outputs: Vec<Arc<Output>> = Vec::new();
        for resolved in &wanted {
            let before = self.collectors.iter().find(|output| *output.name() == resolved.name());
            let Some(Output::Udp(udp)) = before.map(Arc::as_ref) else {
                outputs.push(self.open(resolved, &all, None));
                continue;
            };
            match before.filter(|_| udp.matches(resolved, &all)) {
                Some(same) => outputs.push(same.clone()),
                None => outputs.push(self.open(resolved, &all, Some(udp))),
            }
        }
        let (templates, lane_memory) = (self.templates.clone(), self.lane_memory.clone());
        Self { collectors: outputs, sockets: self.sockets.clone(), templates, lane_memory }
    }

    fn open(
        &self,
        resolved: &ResolvedCollector,
        all: &[&CollectorSettings],
        before: Option<&UdpOutput>,
    ) -> Arc<Output> {
        let passed_on = before.is_none().then(|| self.templates.take_passed_on(&resolved.name())).flatten();
        Arc::new(Output::Udp(UdpOutput::open(resolved, all, &self.sockets, before, passed_on.as_ref())))
    }

    /// Closes some idle exporter sockets when file descriptors run out, and lowers the bound to the number
    /// that is left.
    pub(super) fn shed_sockets(&self) {
        let left = self.collectors.iter().map(|output| output.close_idle_sockets()).sum();
        if let Some(bound) = self.sockets.lower_to(left) {
            tracing::warn!(
                bound,
                "out of file descriptors: closed idle exporter sockets, and at most {bound} stay open from \
                 now on; raise LimitNOFILE= and restart nf-receiver"
            );
        }
    }

    /// Returns the templates that each collector has seen.
    pub(super) fn templates(&self) -> &Arc<Templates> {
        &self.templates
    }

    /// Returns the account of memory that the lanes of all streams use.
    pub(super) fn lane_memory(&self) -> &Arc<LaneMemory> {
        &self.lane_memory
    }

    /// Iterates over the outputs in the order of the configuration.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Output>> {
        self.collectors.iter()
    }

    /// Iterates over the outputs that get datagrams of `sender`, in the order of the configuration.
    pub(super) fn of_sender(&self, sender: &SenderId) -> impl Iterator<Item = &Arc<Output>> {
        self.iter().filter(|output| output.gets(sender))
    }

    /// Iterates over the addresses of the collectors.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.collectors.iter().map(|output| output.address())
    }

    /// Iterates over the collectors and the state of each that the next run needs.
    pub(crate) fn passed_on(&self) -> impl Iterator<Item = (OutputName, PassedOn)> {
        self.collectors.iter().map(|output| (output.name().clone(), output.passed_on()))
    }

    /// Returns the figures of all collectors, in the order of the configuration.
    pub(crate) fn figures(&self) -> Vec<CollectorFigures> {
        self.collectors.iter().map(|output| output.figures()).collect()
    }
}

#[cfg(test)]
impl Outputs {
    /// Outputs to collectors at these addresses with default settings.
    pub(crate) fn to(addresses: &[SocketAddr]) -> Self {
        let all: Vec<ResolvedCollector> = addresses.iter().map(ResolvedCollector::at).collect();
        Self::none(SocketBudget::of_sixteen(), Arc::default()).changed_to(&all)
    }
}

#[cfg(test)]
mod tests;
