//! Where datagrams go: the collectors.
//!
//! An output takes datagrams in order and says after each step up to where it has them for good, or has passed them over.
//! It waits as long as its collector cannot take more and wants them all the same, and holds nothing itself. Many tasks may
//! deliver to it at once: they take turns.

mod budget;
mod destination;
mod exporters;
mod gate;
mod lateness;
mod outage_log;
mod pace;
mod probe;
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
pub(crate) use view::{SeenAt, View};

use crate::config::{CollectorSettings, WhenDown};
use crate::receiver::delivery::LaneMemory;
use crate::receiver::output::lateness::Lateness;
use crate::receiver::output::pace::CatchUp;
use crate::receiver::output::share::Share;
use crate::receiver::output::udp::UdpOutput;
use crate::receiver::state::templates::{TemplateLearner, Templates};
use crate::status::CollectorState;

/// What is known of one collector. Counts run from the start of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CollectorFigures {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Whether it does.
    pub(crate) state: CollectorState,
    /// What it got.
    pub(crate) counts: Counts,
    /// Whole seconds for which datagrams have been waiting for it; 0 if none wait.
    pub(crate) held_s: u64,
    /// Its address for late datagrams, if it has one.
    pub(crate) late: Option<LateFigures>,
    /// Whole seconds until the datagram is due that `catch-up-pace` makes wait; `None` while none waits.
    pub(crate) paced_s: Option<u64>,
    /// Exporters that it sees under another address, and which; the one heard last first.
    pub(crate) seen_as: Vec<(SocketAddr, SocketAddr)>,
}

/// What is known of a collector's address for late datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LateFigures {
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// Whether somebody listens there.
    pub(crate) state: CollectorState,
    /// What went there.
    pub(crate) counts: Counts,
    /// Whole seconds for which datagrams have been waiting for it; 0 if none wait.
    pub(crate) held_s: u64,
}

/// How far one stream has come at one collector.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Everything below is with the collector, or passed over.
    pub(crate) position: Position,
    /// The datagram before this one is the last that the collector was sent.
    pub(crate) sent: Position,
    catch_up: CatchUp,
    lateness: Lateness,
}

impl Progress {
    /// A stream of which the collector has everything below `position`.
    pub(crate) fn at(position: Position) -> Self {
        Self {
            position,
            sent: Position::default(),
            catch_up: CatchUp::default(),
            lateness: Lateness::default(),
        }
    }

    /// The collector is done with `datagrams`, which went to `recipient`, or were skipped.
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

/// A collector as the settings have it, and where its names have led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// What is wanted.
    pub(crate) settings: CollectorSettings,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Where it listens for late datagrams, if it does.
    pub(crate) late: Option<SocketAddr>,
}

/// One collector.
#[derive(Debug)]
pub(crate) enum Output {
    /// Reached by UDP.
    Udp(UdpOutput),
}

impl Output {
    /// Where its collector listens.
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Udp(output) => output.address(),
        }
    }

    /// Whether its collector gets datagrams of `sender`.
    fn gets(&self, sender: &SenderId) -> bool {
        let Self::Udp(output) = self;
        output.settings().senders.is_empty() || output.settings().senders.contains(sender)
    }

    /// What becomes of datagrams while its collector takes none.
    pub(super) fn when_down(&self) -> WhenDown {
        match self {
            Self::Udp(output) => output.settings().when_down,
        }
    }

    /// Delivers the datagrams, of which the first has the position of `progress`, in order, and moves `progress` on with
    /// each one that is handed over for good or passed over. May be dropped at any point and called again with what is
    /// left.
    pub(super) async fn deliver(
        &self,
        datagrams: &[Datagram<'_>],
        progress: &mut Progress,
        learner: &TemplateLearner,
    ) {
        match self {
            Self::Udp(output) => output.deliver(datagrams, progress, learner).await,
        }
    }

    /// Which exporters its collector gets, and at which address it sees them.
    pub(crate) fn view(&self) -> View {
        match self {
            Self::Udp(output) => output.view(),
        }
    }

    /// What a later run has to know to go on as this one.
    pub(crate) fn passed_on(&self) -> PassedOn {
        match self {
            Self::Udp(output) => output.passed_on(),
        }
    }

    /// The exporters whose datagrams went to it, each with the number of its sender.
    pub(crate) fn had(&self) -> HashSet<(u64, IpAddr)> {
        match self {
            Self::Udp(output) => output.had(),
        }
    }

    /// Which exporters its collector gets.
    fn share(&self) -> &Share {
        match self {
            Self::Udp(output) => output.share(),
        }
    }

    /// Closes some of its idle sockets, and says how many are left.
    fn give_up_sockets(&self) -> usize {
        match self {
            Self::Udp(output) => output.give_up_sockets(),
        }
    }

    /// Counts datagrams that its collector will not get.
    pub(super) fn pass_over(&self, datagrams: &[Datagram<'_>]) {
        match self {
            Self::Udp(output) => output.pass_over(datagrams),
        }
    }

    /// Counts so many datagrams that went by while its collector was waited for, and are not waited for any more.
    pub(super) fn count_skipped(&self, count: u64) {
        match self {
            Self::Udp(output) => output.count_skipped(count),
        }
    }

    /// What is known of its collector.
    pub(crate) fn figures(&self) -> CollectorFigures {
        match self {
            Self::Udp(output) => output.figures(),
        }
    }
}

/// Every collector.
#[derive(Debug)]
pub(crate) struct Outputs {
    collectors: Vec<Arc<Output>>,
    sockets: Arc<SocketBudget>,
    templates: Arc<Templates>,
    lane_memory: Arc<LaneMemory>,
}

impl Outputs {
    /// No collector yet. Those that come share these sockets, one for each exporter.
    pub(crate) fn none(sockets: Arc<SocketBudget>, templates: Arc<Templates>) -> Self {
        Self { collectors: Vec::new(), sockets, templates, lane_memory: Arc::default() }
    }

    /// An output for each of the collectors, inside a tokio runtime. Those that are here already as they are wanted stay;
    /// others are opened, and those at a known address go on counting. Never waits for a collector.
    pub(crate) fn changed_to(&self, collectors: &[Resolved]) -> Self {
        let wanted = without_twins(collectors);
        let all: Vec<&CollectorSettings> = wanted.iter().map(|collector| &collector.settings).collect();
        let mut outputs: Vec<Arc<Output>> = Vec::new();
        for resolved in &wanted {
            let before = self.collectors.iter().find(|output| output.address() == resolved.address);
            let Some(Output::Udp(udp)) = before.map(Arc::as_ref) else {
                outputs.push(self.open(resolved, &all, None));
                continue;
            };
            match before.filter(|_| udp.is(resolved, &all)) {
                Some(same) => outputs.push(same.clone()),
                None => outputs.push(self.open(resolved, &all, Some(udp))),
            }
        }
        let (templates, lane_memory) = (self.templates.clone(), self.lane_memory.clone());
        Self { collectors: outputs, sockets: self.sockets.clone(), templates, lane_memory }
    }

    fn open(
        &self,
        resolved: &Resolved,
        all: &[&CollectorSettings],
        before: Option<&UdpOutput>,
    ) -> Arc<Output> {
        let passed_on = before.is_none().then(|| self.templates.take_passed_on(resolved.address)).flatten();
        Arc::new(Output::Udp(UdpOutput::open(resolved, all, &self.sockets, before, passed_on.as_ref())))
    }

    /// Closes some of the idle sockets for exporters, as files have run short, and has no more than are left from now on.
    pub(super) fn give_up_sockets(&self) {
        let left = self.collectors.iter().map(|output| output.give_up_sockets()).sum();
        if let Some(bound) = self.sockets.lower_to(left) {
            tracing::warn!(
                bound,
                "no more files can be opened: closed idle sockets for exporters, and at most {bound} are open from now \
                 on; raise LimitNOFILE= and restart nf-receiver"
            );
        }
    }

    /// What the collectors have seen of templates.
    pub(super) fn templates(&self) -> &Arc<Templates> {
        &self.templates
    }

    /// What the streams on their way to them take.
    pub(super) fn lane_memory(&self) -> &Arc<LaneMemory> {
        &self.lane_memory
    }

    /// The outputs, in the order of their addresses.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Output>> {
        self.collectors.iter()
    }

    /// The outputs that get datagrams of `sender`, in the order of their addresses.
    pub(super) fn of_sender(&self, sender: &SenderId) -> impl Iterator<Item = &Arc<Output>> {
        self.iter().filter(|output| output.gets(sender))
    }

    /// Where the collectors listen.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.collectors.iter().map(|output| output.address())
    }

    /// What is known of every collector, in their order.
    pub(crate) fn figures(&self) -> Vec<CollectorFigures> {
        self.collectors.iter().map(|output| output.figures()).collect()
    }
}

impl Resolved {
    /// Whether both listen at one address.
    pub(super) fn leads_where(&self, other: &Self) -> bool {
        without_v4_mapping(self.address) == without_v4_mapping(other.address)
    }

    fn without_v4_mapping(&self) -> Self {
        let (address, late) = (without_v4_mapping(self.address), self.late.map(without_v4_mapping));
        Self { settings: self.settings.clone(), address, late }
    }
}

/// Of those at one address the first only: the others get nothing, and so have no share of their groups.
fn without_twins(collectors: &[Resolved]) -> Vec<Resolved> {
    let mut first = Vec::<Resolved>::new();
    for collector in collectors.iter().map(Resolved::without_v4_mapping) {
        if !first.iter().any(|before| before.address == collector.address) {
            first.push(collector);
        }
    }
    first
}

/// An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) as what it is.
fn without_v4_mapping(address: SocketAddr) -> SocketAddr {
    let canonical = address.ip().to_canonical();
    if canonical == address.ip() { address } else { SocketAddr::new(canonical, address.port()) }
}

/// The exporters whose datagrams some collectors get.
#[derive(Debug)]
pub(crate) enum Exporters {
    All,
    OfAny(Vec<Arc<Output>>),
}

impl Exporters {
    /// Those of the collectors of `outputs`.
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
        let all: Vec<Resolved> = addresses.iter().map(Resolved::at).collect();
        Self::none(SocketBudget::of_sixteen(), Arc::default()).changed_to(&all)
    }
}

#[cfg(test)]
impl Resolved {
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
    fn a_v4_address_in_v6_clothes_is_taken_as_v4() {
        for (given, expected) in [
            ("[::ffff:127.0.0.1]:9995", "127.0.0.1:9995"),
            ("[fe80::1%3]:9995", "[fe80::1%3]:9995"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(without_v4_mapping(given.parse().unwrap()), expected.parse().unwrap());
        }
    }

    #[tokio::test]
    async fn other_collectors_leave_those_that_stay_as_they_were() {
        let [first, second, third] =
            ["127.0.0.1:4001", "127.0.0.1:4002", "[::1]:4003"].map(|text| text.parse().unwrap());
        let before = Outputs::to(&[first, second]);
        let after = before.changed_to(&[third, second, second].map(|address| Resolved::at(&address)));
        assert_eq!(after.addresses().collect::<Vec<_>>(), [third, second]);
        assert!(Arc::ptr_eq(&before.collectors[1], &after.collectors[1]));
    }

    /// A member of a group that is written as `name` and found at `address`.
    fn member(name: &str, address: &str) -> Resolved {
        let settings =
            CollectorSettings { group: Some("g".to_owned()), ..CollectorSettings::at(&name.to_owned()) };
        Resolved { settings, ..Resolved::at(&address.parse().unwrap()) }
    }

    #[tokio::test]
    async fn each_exporter_of_a_group_goes_to_one_of_the_addresses_that_two_names_may_share() {
        let members = [
            member("one.example.net:4001", "127.0.0.1:4001"),
            member("two.example.net:4001", "[::ffff:127.0.0.1]:4001"),
            member("three.example.net:4002", "127.0.0.1:4002"),
        ];
        let outputs = Outputs::to(&[]).changed_to(&members);
        for number in 0..100 {
            let datagram = of_exporter(number, b"x");
            outputs.iter().for_each(|output| output.pass_over(&[datagram]));
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
            output.deliver(datagrams, &mut Progress::at(Position(0)), &learner).await;
        }
    }

    /// What the listener got, and where from.
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
    async fn what_a_member_keeps_of_its_share_comes_from_where_it_came_before() {
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

    /// Datagrams that arrived at these times, as seconds since 1970.
    fn arrived_at<'a>(seconds: &[u64], payload: &'a [u8]) -> Vec<Datagram<'a>> {
        let arrived = |second: &u64| Datagram {
            arrival: nf_transport_core::datagram::Timestamp(second * 1_000_000_000),
            ..of_exporter(1, payload)
        };
        seconds.iter().map(arrived).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_begun_in_1970_is_delivered_in_a_minute() {
        let (listener, address) = listener();
        let mut paced = Resolved::at(&address.parse().unwrap());
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
        // A second from 0 to 4, the longest wait there is, and another second; the one in the future goes at once.
        assert_eq!(begun.elapsed().as_secs(), 62);
        tokio::time::advance(core::time::Duration::from_secs(2)).await;
        assert_eq!(outputs.figures()[0].paced_s, None);
    }

    #[tokio::test]
    async fn an_exporter_that_comes_back_to_a_share_brings_what_it_has_redefined() {
        let (listener, address) = listener();
        let all = [Resolved::at(&address.parse().unwrap())];
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
    async fn a_collector_whose_settings_change_goes_on_counting() {
        let address: SocketAddr = "127.0.0.1:4001".parse().unwrap();
        let before = Outputs::to(&[address]);
        let Output::Udp(output) = before.collectors[0].as_ref();
        let datagram = Datagram {
            exporter: address,
            local: address,
            arrival: nf_transport_core::datagram::Timestamp(0),
            payload: b"x",
        };
        output.pass_over(&[datagram, datagram]);
        let mut other = Resolved::at(&address);
        other.settings.when_down = WhenDown::Skip;
        let after = before.changed_to(&[other]);
        assert!(!Arc::ptr_eq(&before.collectors[0], &after.collectors[0]));
        assert_eq!(after.figures()[0].counts.skipped, 2);
    }

    /// A run with this state directory, which delivers to one collector.
    struct Run {
        templates: Arc<Templates>,
        outputs: Outputs,
    }

    impl Run {
        fn begun(state: &std::path::Path, collector: &str) -> Self {
            let templates = Templates::recovered(state);
            let none = Outputs::none(SocketBudget::of_sixteen(), templates.clone());
            Self { templates, outputs: none.changed_to(&[Resolved::at(&collector.parse().unwrap())]) }
        }

        fn end_in_good_order(self, state: &std::path::Path) {
            self.templates.pass_on(state, &self.outputs).unwrap();
            self.templates.keep(state).unwrap();
        }
    }

    /// A state directory with which exporter 1 is seen at a port that the kernel gives to no other process.
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
        run.end_in_good_order(state.path());

        let run = Run::begun(state.path(), &address);
        deliver(&run.outputs, &[of_exporter(1, &flows)]).await;
        assert_eq!(received(&collector), [(flows.clone(), port)]);
        run.end_in_good_order(state.path());

        // A killed run passes nothing on.
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
        run.end_in_good_order(state.path());

        drop(collector);
        let restarted = UdpSocket::bind(&address).unwrap();
        let run = Run::begun(state.path(), &address);
        deliver(&run.outputs, &[of_exporter(1, &flows)]).await;
        let ports: Vec<_> = received(&restarted).into_iter().map(|(_, port)| port).collect();
        assert_eq!(ports, [port; 2]);
    }
}
