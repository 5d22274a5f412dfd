//! Outputs: the paths of datagrams to the collectors.
//!
//! An output delivers datagrams in order. After each step it reports the position up to which its collector
//! has the stream, or the output skipped it. An output buffers nothing: while its collector is set to hold
//! and accepts no more, `deliver` waits. Many streams may deliver to one output at once; they take turns.

mod budget;
mod destination;
mod exporters;
mod lateness;
mod outage_log;
mod pace;
mod probe;
mod queue_guard;
mod reachability;
mod refusals;
mod route;
mod share;
mod socket;
mod source_sockets;
mod udp;
mod view;
mod watch;

use core::net::{IpAddr, SocketAddr};
use std::collections::HashSet;
use std::sync::Arc;

pub(crate) use budget::SocketBudget;
pub(crate) use destination::{Counts, PassedOn};
use nf_transport_core::datagram::Datagram;
use nf_transport_core::netflow::Recipient;
use nf_transport_core::sequence::{Position, SenderId};
pub(crate) use probe::{Outcome, probe};
pub(crate) use view::{CollectorView, SeenAt};

use crate::config::{CollectorSettings, WhenDown};
use crate::receiver::delivery::LaneMemory;
use crate::receiver::output::lateness::Lateness;
use crate::receiver::output::pace::CatchUp;
use crate::receiver::output::share::Share;
use crate::receiver::output::udp::UdpOutput;
use crate::receiver::state::templates::{TemplateLearner, Templates};
use crate::status::CollectorState;

/// Figures of one collector. Counts run from the start of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CollectorFigures {
    /// Address on which the collector listens.
    pub(crate) address: SocketAddr,
    /// State of the collector's socket or path.
    pub(crate) state: CollectorState,
    /// Counts of its main address.
    pub(crate) counts: Counts,
    /// Whole seconds for which datagrams have been held for it; 0 if none are held.
    pub(crate) held_s: u64,
    /// Figures of its address for late datagrams, if it has one.
    pub(crate) late: Option<LateFigures>,
    /// Whole seconds until `catch-up-pace` releases the next datagram; `None` while it delays none.
    pub(crate) paced_s: Option<u64>,
    /// Pairs of an exporter's address and the address under which the collector sees it, most recently used
    /// first.
    pub(crate) seen_as: Vec<(SocketAddr, SocketAddr)>,
}

/// Figures of a collector's address for late datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LateFigures {
    pub(crate) address: SocketAddr,
    /// State of the socket or path there.
    pub(crate) state: CollectorState,
    /// Counts of this address.
    pub(crate) counts: Counts,
    /// Whole seconds for which datagrams have been held for it; 0 if none are held.
    pub(crate) held_s: u64,
}

/// Progress of one stream at one collector.
#[derive(Clone, Debug)]
pub(crate) struct DeliveryProgress {
    /// The collector has all datagrams below this position, or they were skipped for it.
    pub(crate) position: Position,
    /// Position after the last datagram that was sent to the collector.
    pub(crate) sent: Position,
    catch_up: CatchUp,
    lateness: Lateness,
}

impl DeliveryProgress {
    /// Progress of a stream of which the collector has all datagrams below `position`.
    pub(crate) fn at(position: Position) -> Self {
        Self {
            position,
            sent: Position::default(),
            catch_up: CatchUp::default(),
            lateness: Lateness::default(),
        }
    }

    /// Advances past `datagrams`, which were sent to `recipient`, or skipped if that is `None`.
    fn advance(
        &mut self,
        datagrams: &[Datagram<'_>],
        learner: &TemplateLearner,
        recipient: Option<&Recipient>,
    ) {
        learner.learn(datagrams, recipient);
        self.position = self.position.plus(u64::try_from(datagrams.len()).unwrap_or(u64::MAX));
    }
}

/// A collector of the settings, with the addresses to which its names resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedCollector {
    pub(crate) settings: CollectorSettings,
    /// Address on which the collector listens.
    pub(crate) address: SocketAddr,
    /// Address for late datagrams, if the collector has one.
    pub(crate) late: Option<SocketAddr>,
}

/// The path to one collector.
#[derive(Debug)]
pub(crate) enum Output {
    /// Over UDP.
    Udp(UdpOutput),
}

impl Output {
    /// Returns the address on which its collector listens.
    pub(super) fn address(&self) -> SocketAddr {
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
    /// are kept. Others are opened; those at a known address keep its counts. Never waits for a collector.
    pub(crate) fn changed_to(&self, collectors: &[ResolvedCollector]) -> Self {
        let wanted = without_duplicates(collectors);
        let all: Vec<&CollectorSettings> = wanted.iter().map(|collector| &collector.settings).collect();
        let mut outputs: Vec<Arc<Output>> = Vec::new();
        for resolved in &wanted {
            let before = self.collectors.iter().find(|output| output.address() == resolved.address);
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
        let passed_on = before.is_none().then(|| self.templates.take_passed_on(resolved.address)).flatten();
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

    /// Returns the figures of all collectors, in the order of the configuration.
    pub(crate) fn figures(&self) -> Vec<CollectorFigures> {
        self.collectors.iter().map(|output| output.figures()).collect()
    }
}

impl ResolvedCollector {
    /// Returns whether both have the same main address.
    pub(super) fn has_same_address(&self, other: &Self) -> bool {
        without_v4_mapping(self.address) == without_v4_mapping(other.address)
    }

    fn without_v4_mapping(&self) -> Self {
        let (address, late) = (without_v4_mapping(self.address), self.late.map(without_v4_mapping));
        Self { settings: self.settings.clone(), address, late }
    }
}

/// Keeps only the first collector at each address. The others get nothing, so they have no share of their
/// groups.
fn without_duplicates(collectors: &[ResolvedCollector]) -> Vec<ResolvedCollector> {
    let mut first = Vec::<ResolvedCollector>::new();
    for collector in collectors.iter().map(ResolvedCollector::without_v4_mapping) {
        if !first.iter().any(|before| before.address == collector.address) {
            first.push(collector);
        }
    }
    first
}

/// Converts an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) to the IPv4 address.
fn without_v4_mapping(address: SocketAddr) -> SocketAddr {
    let canonical = address.ip().to_canonical();
    if canonical == address.ip() { address } else { SocketAddr::new(canonical, address.port()) }
}

/// The exporters whose datagrams at least one of several collectors gets.
#[derive(Debug)]
pub(crate) enum ExporterFilter {
    All,
    OfAny(Vec<Arc<Output>>),
}

impl ExporterFilter {
    /// Returns the exporters of the collectors of `outputs`.
    pub(crate) fn of<'a>(outputs: impl Iterator<Item = &'a Arc<Output>> + Clone) -> Self {
        if outputs.clone().any(|output| output.share().is_any()) {
            return Self::All;
        }
        Self::OfAny(outputs.cloned().collect())
    }

    pub(crate) fn has(&self, exporter: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::OfAny(outputs) => outputs.iter().any(|output| output.share().admits(exporter)),
        }
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
impl ResolvedCollector {
    /// A collector at this address with default settings.
    pub(crate) fn at(address: &SocketAddr) -> Self {
        Self { settings: CollectorSettings::at(address), address: *address, late: None }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::receiver::state::templates::{netflow_9, test_sender};

    #[test]
    fn v4_mapped_addresses_become_v4() {
        for (given, expected) in [
            ("[::ffff:127.0.0.1]:9995", "127.0.0.1:9995"),
            ("[fe80::1%3]:9995", "[fe80::1%3]:9995"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(without_v4_mapping(given.parse().unwrap()), expected.parse().unwrap());
        }
    }

    #[tokio::test]
    async fn a_change_keeps_unchanged_collectors() {
        let [first, second, third] =
            ["127.0.0.1:4001", "127.0.0.1:4002", "[::1]:4003"].map(|text| text.parse().unwrap());
        let before = Outputs::to(&[first, second]);
        let after =
            before.changed_to(&[third, second, second].map(|address| ResolvedCollector::at(&address)));
        assert_eq!(after.addresses().collect::<Vec<_>>(), [third, second]);
        assert!(Arc::ptr_eq(&before.collectors[1], &after.collectors[1]));
    }

    /// A member of a group with this `name` in the settings, which resolved to `address`.
    fn member(name: &str, address: &str) -> ResolvedCollector {
        let settings =
            CollectorSettings { group: Some("g".to_owned()), ..CollectorSettings::at(&name.to_owned()) };
        ResolvedCollector { settings, ..ResolvedCollector::at(&address.parse().unwrap()) }
    }

    #[tokio::test]
    async fn a_group_member_at_a_shared_address_counts_once() {
        let members = [
            member("one.example.net:4001", "127.0.0.1:4001"),
            member("two.example.net:4001", "[::ffff:127.0.0.1]:4001"),
            member("three.example.net:4002", "127.0.0.1:4002"),
        ];
        let outputs = Outputs::to(&[]).changed_to(&members);
        for number in 0..100 {
            let datagram = of_exporter(number, b"x");
            outputs.iter().for_each(|output| output.skip(&[datagram]));
            let gone_by: u64 = outputs.figures().iter().map(|figures| figures.counts.skipped).sum();
            assert_eq!(gone_by, u64::from(number) + 1, "exporter {number} has one taker");
        }
    }

    fn of_exporter(number: u8, payload: &[u8]) -> Datagram<'_> {
        let exporter = SocketAddr::from(([192, 0, 2, number], 2055));
        Datagram { exporter, local: exporter, arrival: crate::host::wall_clock(), payload }
    }

    async fn deliver(outputs: &Outputs, datagrams: &[Datagram<'_>]) {
        let learners = outputs.templates().of_sender(&test_sender(), outputs.addresses(), None);
        for (output, learner) in outputs.iter().zip(learners) {
            output.deliver(datagrams, &mut DeliveryProgress::at(Position(0)), &learner).await;
        }
    }

    /// The datagrams that the listener received, each with its source address.
    fn received(listener: &UdpSocket) -> Vec<(Vec<u8>, SocketAddr)> {
        listener.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        let next = || listener.recv_from(&mut buffer).ok().map(|(len, from)| (buffer[..len].to_vec(), from));
        core::iter::from_fn(next).collect()
    }

    fn listener() -> (UdpSocket, String) {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    #[tokio::test]
    async fn kept_exporters_keep_their_source_ports() {
        let ((first, first_address), (_second, second_address)) = (listener(), listener());
        let alone = [member("one.example.net:4001", &first_address)];
        let both = [alone[0].clone(), member("two.example.net:4001", &second_address)];
        let numbers: Vec<[u8; 1]> = (0..10).map(|number| [number]).collect();
        let datagrams: Vec<_> = numbers.iter().map(|payload| of_exporter(payload[0], payload)).collect();
        let outputs = Outputs::to(&[]).changed_to(&alone);
        deliver(&outputs, &datagrams).await;
        let before = received(&first);
        let outputs = outputs.changed_to(&both);
        deliver(&outputs, &datagrams).await;
        let after = received(&first);
        assert!((1..10).contains(&after.len()), "{after:?}");
        assert!(after.iter().all(|datagram| before.contains(datagram)), "{before:?} {after:?}");
        assert_eq!(outputs.figures()[0].counts.datagrams, u64::try_from(10 + after.len()).unwrap());
    }

    /// Datagrams that arrived at these times, in seconds since 1970.
    fn arrived_at<'a>(seconds: &[u64], payload: &'a [u8]) -> Vec<Datagram<'a>> {
        let arrived = |second: &u64| Datagram {
            arrival: nf_transport_core::datagram::Timestamp(second * 1_000_000_000),
            ..of_exporter(1, payload)
        };
        seconds.iter().map(arrived).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_from_1970_takes_one_minute() {
        let (listener, address) = listener();
        let mut paced = ResolvedCollector::at(&address.parse().unwrap());
        paced.settings.catch_up_pace = core::num::NonZeroU32::new(4);
        let outputs = Outputs::to(&[]).changed_to(&[paced]);
        let now = u64::try_from(crate::host::wall_clock().seconds()).unwrap();
        let datagrams = arrived_at(&[0, 4, now - 3600, now - 3596, now + 3600], b"x");
        let begun = tokio::time::Instant::now();
        let delivery = deliver(&outputs, &datagrams);
        tokio::pin!(delivery);
        tokio::time::timeout(core::time::Duration::from_secs(31), &mut delivery).await.unwrap_err();
        assert_eq!(outputs.figures()[0].paced_s, Some(30));
        delivery.await;
        assert_eq!(received(&listener).len(), datagrams.len());
        // One second each for 0 to 4, the longest possible wait, and one second more; the datagram from the
        // future is sent at once.
        assert_eq!(begun.elapsed().as_secs(), 62);
        tokio::time::advance(core::time::Duration::from_secs(2)).await;
        assert_eq!(outputs.figures()[0].paced_s, None);
    }

    #[tokio::test]
    async fn a_returning_exporter_repeats_new_templates() {
        let (listener, address) = listener();
        let all = [ResolvedCollector::at(&address.parse().unwrap())];
        let mut none_of_it = all.clone();
        none_of_it[0].settings.exporters = vec!["198.51.100.0/24".parse().unwrap()];
        let (defining, data) = (netflow_9(true), netflow_9(false));
        let mut redefining = defining.clone();
        *redefining.last_mut().unwrap() = 8;
        let mut outputs = Outputs::to(&[]).changed_to(&all);
        deliver(&outputs, &[of_exporter(1, &defining), of_exporter(1, &data)]).await;
        assert_eq!(received(&listener).len(), 2);
        for (meanwhile, expected) in [(&data, 1), (&defining, 1), (&redefining, 2)] {
            outputs = outputs.changed_to(&none_of_it);
            deliver(&outputs, &[of_exporter(1, meanwhile)]).await;
            assert!(received(&listener).is_empty());
            outputs = outputs.changed_to(&all);
            deliver(&outputs, &[of_exporter(1, &data)]).await;
            assert_eq!(received(&listener).len(), expected);
        }
    }

    #[tokio::test]
    async fn counts_continue_after_new_settings() {
        let address: SocketAddr = "127.0.0.1:4001".parse().unwrap();
        let before = Outputs::to(&[address]);
        let Output::Udp(output) = before.collectors[0].as_ref();
        let datagram = Datagram {
            exporter: address,
            local: address,
            arrival: nf_transport_core::datagram::Timestamp(0),
            payload: b"x",
        };
        output.skip(&[datagram, datagram]);
        let mut other = ResolvedCollector::at(&address);
        other.settings.when_down = WhenDown::Skip;
        let after = before.changed_to(&[other]);
        assert!(!Arc::ptr_eq(&before.collectors[0], &after.collectors[0]));
        assert_eq!(after.figures()[0].counts.skipped, 2);
    }

    /// One run with a state directory, which delivers to one collector.
    struct Run {
        templates: Arc<Templates>,
        outputs: Outputs,
    }

    impl Run {
        fn begun(state: &std::path::Path, collector: &str) -> Self {
            let templates = Templates::recovered(state);
            let none = Outputs::none(SocketBudget::of_sixteen(), templates.clone());
            Self {
                templates,
                outputs: none.changed_to(&[ResolvedCollector::at(&collector.parse().unwrap())]),
            }
        }

        fn stop_orderly(self, state: &std::path::Path) {
            self.templates.pass_on(state, &self.outputs).unwrap();
            self.templates.keep(state).unwrap();
        }
    }

    /// A state directory that records exporter 1 as seen at a port outside the kernel's ephemeral range.
    fn state(collector: &str) -> (tempfile::TempDir, SocketAddr) {
        let state = tempfile::tempdir().unwrap();
        let first = 10_000 + u16::try_from(std::process::id() % 5_000).unwrap();
        let is_free = |port: &u16| UdpSocket::bind(("127.0.0.1", *port)).is_ok();
        let port = SocketAddr::from(([127, 0, 0, 1], (first..20_000).find(is_free).unwrap()));
        let stored = format!(
            "{{\"boot\": 0, \"collectors\": [{{\"collector\": \"{collector}\", \"socket\": null, \"complete\": [], \
             \"exporters\": [{{\"sender\": \"edge\", \"exporter\": \"192.0.2.1:2055\", \"seen_as\": \"{port}\"}}]}}]}}"
        );
        std::fs::write(state.path().join("collectors.json"), stored).unwrap();
        (state, port)
    }

    #[tokio::test]
    async fn an_orderly_restart_repeats_nothing() {
        let (collector, address) = listener();
        let (state, port) = state(&address);
        let [template, flows] = [true, false].map(netflow_9);
        let run = Run::begun(state.path(), &address);
        deliver(&run.outputs, &[of_exporter(1, &template)]).await;
        assert_eq!(received(&collector), [(template, port)]);
        run.stop_orderly(state.path());

        let run = Run::begun(state.path(), &address);
        deliver(&run.outputs, &[of_exporter(1, &flows)]).await;
        assert_eq!(received(&collector), [(flows.clone(), port)]);
        run.stop_orderly(state.path());

        // A killed run hands nothing over.
        drop(Run::begun(state.path(), &address));
        let run = Run::begun(state.path(), &address);
        deliver(&run.outputs, &[of_exporter(1, &flows)]).await;
        assert_eq!(received(&collector).len(), 2);
        assert_eq!(run.outputs.figures()[0].counts.templates, 1);
    }

    #[tokio::test]
    async fn a_collector_at_another_socket_gets_repeats() {
        let (collector, address) = listener();
        let (state, port) = state(&address);
        let [template, flows] = [true, false].map(netflow_9);
        let run = Run::begun(state.path(), &address);
        deliver(&run.outputs, &[of_exporter(1, &template)]).await;
        assert_eq!(received(&collector).len(), 1);
        run.stop_orderly(state.path());

        drop(collector);
        let restarted = UdpSocket::bind(&address).unwrap();
        let run = Run::begun(state.path(), &address);
        deliver(&run.outputs, &[of_exporter(1, &flows)]).await;
        let ports: Vec<_> = received(&restarted).into_iter().map(|(_, port)| port).collect();
        assert_eq!(ports, [port; 2]);
    }
}
