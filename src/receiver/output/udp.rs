//! A collector reached over UDP: selection, destination and timing of its datagrams.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};

use nf_transport_core::datagram::Datagram;
use tokio::time::{Instant, sleep_until};

use crate::config::CollectorSettings;
use crate::host::{both_clocks, locked};
use crate::limits::LATE;
use crate::receiver::output::budget::SocketBudget;
use crate::receiver::output::destination::{Destination, ExporterRun};
use crate::receiver::output::figures::{CollectorFigures, LateFigures};
use crate::receiver::output::lateness::went_back;
use crate::receiver::output::name::OutputName;
use crate::receiver::output::passed_on::PassedOn;
use crate::receiver::output::progress::DeliveryProgress;
use crate::receiver::output::queue_guard::RUN_MAX;
use crate::receiver::output::resolved::ResolvedCollector;
use crate::receiver::output::share::Share;
use crate::receiver::output::slices::{front, rest};
use crate::receiver::output::view::CollectorView;

use crate::receiver::state::templates::TemplateLearner;

/// Indexes of a collector's addresses: the main address, and the address for late datagrams.
const MAIN: usize = 0;
const LATE_ADDRESS: usize = 1;

/// A collector counts as paced for this long after a delayed datagram was sent.
const PACED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct UdpOutput {
    name: OutputName,
    resolved: ResolvedCollector,
    share: Share,
    main: Arc<Destination>,
    late: Option<(Duration, Arc<Destination>)>,
    /// Due time of the datagram that `catch-up-pace` delays, or last delayed.
    paced_until: Mutex<Option<Instant>>,
}

impl UdpOutput {
    /// Opens an output to the collector `resolved`, one of `all`, inside a tokio runtime. It keeps the counts
    /// of `before`, the output of the same name, and its sockets unless the settings need others.
    pub(super) fn open(
        resolved: &ResolvedCollector,
        all: &[&CollectorSettings],
        sockets: &Arc<SocketBudget>,
        before: Option<&Self>,
        passed_on: Option<&PassedOn>,
    ) -> Self {
        let settings = &resolved.settings;
        let open = |address, before: Option<&Arc<Destination>>, passed_on: Option<&PassedOn>| {
            if let Some(same) = before.filter(|before| before.matches(address, settings)) {
                return same.clone();
            }
            let mut new = Destination::open(address, settings, sockets, before.map(Arc::as_ref));
            if let Some(passed_on) = passed_on {
                new.resume_from(passed_on);
            }
            Arc::new(new)
        };
        let main = open(resolved.address, before.map(|before| &before.main), passed_on);
        let late_before = before.and_then(|before| before.late.as_ref()).map(|(_, late)| late);
        let late = settings.late.as_ref().zip(resolved.late);
        let late = late.map(|(late, address)| (late.after, open(address, late_before, None)));
        let share = Share::of(settings, all);
        Self {
            name: resolved.name(),
            resolved: resolved.clone(),
            share,
            main,
            late,
            paced_until: Mutex::default(),
        }
    }

    /// Returns whether it fits `resolved`, one of `all`.
    pub(super) fn matches(&self, resolved: &ResolvedCollector, all: &[&CollectorSettings]) -> bool {
        self.resolved == *resolved && self.share == Share::of(&resolved.settings, all)
    }

    pub(super) fn name(&self) -> &OutputName {
        &self.name
    }

    /// Returns the address on which the collector listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.main.address()
    }

    /// Returns the exporters that its collector gets, and the addresses under which it sees them.
    pub(super) fn view(&self) -> CollectorView {
        let settings = self.settings();
        CollectorView::new(self.address(), settings, self.share.clone())
    }

    /// Returns the state of its main address that the next run needs to continue without repeats.
    pub(super) fn passed_on(&self) -> PassedOn {
        self.main.passed_on()
    }

    /// Returns the exporters of datagrams sent to its main address, each with the number of its sender.
    pub(super) fn served(&self) -> HashSet<(u64, IpAddr)> {
        self.main.served()
    }

    pub(super) fn settings(&self) -> &CollectorSettings {
        &self.resolved.settings
    }

    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    /// See [`Output::deliver`](super::Output::deliver).
    pub(super) async fn deliver(
        &self,
        datagrams: &[Datagram<'_>],
        progress: &mut DeliveryProgress,
        learner: &TemplateLearner,
    ) {
        let begin = progress.position;
        loop {
            let done = usize::try_from(progress.position.since(begin)).unwrap_or(usize::MAX);
            let waiting = rest(datagrams, done);
            let Some(first) = waiting.first() else { return };
            if !self.share.admits(first.exporter.ip()) {
                progress.advance(front(waiting, same_exporter(first, waiting)), learner, None);
                continue;
            }
            let age = progress.lateness.age(first, both_clocks());
            let is_late = age >= LATE;
            let mut count = same_exporter(first, waiting);
            if let Some(pace) = self.settings().catch_up_pace {
                if is_late {
                    if let Some(due) = progress.catch_up.due(pace, first.arrival, Instant::now()) {
                        self.note_paced(due);
                        sleep_until(due).await;
                        continue;
                    }
                    // Datagrams that are not due yet are handled in the next iteration.
                    count = 1;
                } else {
                    progress.catch_up.is_over();
                }
            }
            let datagrams = front(waiting, count);
            let late = self.late.as_ref().filter(|(after, _)| age >= *after).map(|(_, late)| late);
            let (destination, place) = late.map_or((&self.main, MAIN), |late| (late, LATE_ADDRESS));
            let taken = destination.deliver(&ExporterRun { first, datagrams, is_late, place, learner }).await;
            let taken_datagrams = front(datagrams, taken.count);
            taken_datagrams.last().and_then(|last| progress.lateness.note_delivered(last));
            progress.advance(taken_datagrams, learner, taken.recipient.as_ref());
            if taken.recipient.is_some() {
                progress.sent = progress.position;
            }
        }
    }

    /// Counts those of `datagrams` as skipped that its collector should get.
    pub(super) fn skip(&self, datagrams: &[Datagram<'_>]) {
        let own = datagrams.iter().filter(|datagram| self.share.admits(datagram.exporter.ip()));
        self.count_skipped(u64::try_from(own.count()).unwrap_or(u64::MAX));
    }

    /// See [`Output::count_skipped`](super::Output::count_skipped).
    pub(super) fn count_skipped(&self, count: u64) {
        self.main.count_skipped(count);
    }

    fn paced_until(&self) -> MutexGuard<'_, Option<Instant>> {
        locked(&self.paced_until)
    }

    /// Notes that `catch-up-pace` delays a datagram until `due`.
    fn note_paced(&self, due: Instant) {
        let mut until = self.paced_until();
        *until = (*until).max(Some(due));
    }

    /// Returns whole seconds, rounded up, until the datagram that `catch-up-pace` delays is due. It is 0
    /// between two such datagrams, and `None` once none was delayed for [`PACED`].
    fn paced_s(&self) -> Option<u64> {
        let (until, now) = ((*self.paced_until())?, Instant::now());
        let left = until.saturating_duration_since(now).as_millis().div_ceil(1000);
        (now < until + PACED).then(|| u64::try_from(left).unwrap_or(u64::MAX))
    }

    pub(super) fn close_idle_sockets(&self) -> usize {
        let late = self.late.as_ref().map(|(_, late)| late);
        [Some(&self.main), late]
            .into_iter()
            .flatten()
            .map(|destination| destination.close_idle_sockets())
            .sum()
    }

    pub(super) fn figures(&self) -> CollectorFigures {
        let (state, counts, held_s) = self.main.refreshed_figures();
        let late = self.late.as_ref().map(|(_, late)| {
            let (state, counts, held_s) = late.refreshed_figures();
            LateFigures { address: late.address(), state, counts, held_s }
        });
        CollectorFigures {
            address: self.main.address(),
            state,
            counts,
            held_s,
            late,
            paced_s: self.paced_s(),
            seen_as: self.main.seen_as(),
        }
    }
}

/// Returns the length of the run at the front of `waiting`, which begins with `first`; at most [`RUN_MAX`]:
/// datagrams of one exporter, with no step of the sender's clock between them.
fn same_exporter(first: &Datagram<'_>, waiting: &[Datagram<'_>]) -> usize {
    let mut last = first.arrival;
    let same = |datagram: &&Datagram<'_>| {
        let before = core::mem::replace(&mut last, datagram.arrival);
        datagram.exporter == first.exporter && !went_back(before, datagram.arrival)
    };
    waiting.iter().take(RUN_MAX).take_while(same).count()
}
