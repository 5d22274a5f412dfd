//! Whether a collector on another machine takes datagrams, as far as the network tells.
//!
//! When ICMP says that it does not, it is down. From then on one datagram at a time is sent to it, the next that waits, as a
//! probe: if ICMP says nothing for a while, the collector is back and has that datagram.

use core::net::SocketAddr;
use core::time::Duration;

use nf_transport_core::datagram::{Datagram, Timestamp};
use tokio::time::Instant;

/// How long after a probe that failed the next one goes: routers and hosts send about one ICMP message a second.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long a probe waits for what ICMP says: longer than any way there and back, and than the 3 s after which the kernel
/// gives up looking for a neighbour on the own link (`mcast_solicit` in arp(7)).
pub(super) const PROBE_WAIT: Duration = Duration::from_secs(4);

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Reach {
    trouble: Option<Trouble>,
    /// The probe that has arrived, until the datagram that it was is asked for: others may be asked for before it.
    arrived: Option<Probe>,
    /// How often something did not arrive.
    failures: u64,
}

#[derive(Debug)]
struct Trouble {
    reason: String,
    probe_at: Instant,
    /// What was sent, unless its datagram was given up, and when it is known to have arrived.
    probe: Option<(Option<Probe>, Instant)>,
}

/// What tells the datagram that serves as a probe from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe(SocketAddr, Timestamp, usize);

impl Probe {
    fn of(datagram: &Datagram<'_>) -> Self {
        Self(datagram.exporter, datagram.arrival, datagram.payload.len())
    }
}

/// What may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Everything.
    Free,
    /// One datagram, as a probe: then [`Reach::probed`] is to be called.
    Probe,
    /// The datagram has arrived, as a probe: it is not to be sent again.
    Arrived,
    /// Nothing, for this reason.
    None(String),
}

impl Reach {
    /// What may be sent of what begins with `datagram`.
    pub(super) fn ask(&mut self, datagram: &Datagram<'_>, now: Instant) -> Leave {
        if let Some(trouble) = &self.trouble
            && let Some((probe, until)) = trouble.probe
            && until <= now
        {
            self.arrived = probe;
            self.trouble = None;
        }
        if self.arrived.take_if(|arrived| *arrived == Probe::of(datagram)).is_some() {
            return Leave::Arrived;
        }
        match &self.trouble {
            None => Leave::Free,
            Some(trouble) if trouble.probe.is_none() && trouble.probe_at <= now => Leave::Probe,
            Some(trouble) => Leave::None(trouble.reason.clone()),
        }
    }

    /// `datagram` was sent as a probe; if it `waits`, it is asked for again. Nothing else may go, for the reason that is
    /// given, until it is known what came of it.
    pub(super) fn probed(&mut self, datagram: &Datagram<'_>, waits: bool, now: Instant) -> String {
        let Some(trouble) = &mut self.trouble else { return String::new() };
        trouble.probe = Some((waits.then(|| Probe::of(datagram)), now + PROBE_WAIT));
        trouble.reason.clone()
    }

    /// What was sent did not arrive.
    pub(super) fn failed(&mut self, reason: String, now: Instant) {
        self.failures += 1;
        self.trouble = Some(Trouble { reason, probe_at: now + PROBE_EVERY, probe: None });
    }

    /// Whether the collector is down.
    pub(super) fn is_down(&self) -> bool {
        self.trouble.is_some()
    }

    /// How often something did not arrive: after each time the collector may be another one, or one that lost what it knew.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(number: u64) -> Datagram<'static> {
        let address = "192.0.2.1:2055".parse().unwrap();
        Datagram { exporter: address, local: address, arrival: Timestamp(number), payload: b"x" }
    }

    const REASON: &str = "refused";

    #[tokio::test(start_paused = true)]
    async fn a_collector_is_probed_each_second_until_a_probe_is_not_refused() {
        let (one, two) = (datagram(1), datagram(2));
        let mut reach = Reach::default();
        assert_eq!(reach.ask(&one, Instant::now()), Leave::Free);
        reach.failed(REASON.to_owned(), Instant::now());
        assert_eq!(reach.ask(&one, Instant::now()), Leave::None(REASON.to_owned()));
        tokio::time::advance(PROBE_EVERY).await;
        assert_eq!(reach.ask(&one, Instant::now()), Leave::Probe);
        reach.probed(&one, true, Instant::now());
        tokio::time::advance(PROBE_WAIT / 2).await;
        assert_eq!(reach.ask(&one, Instant::now()), Leave::None(REASON.to_owned()));
        reach.failed(REASON.to_owned(), Instant::now());
        tokio::time::advance(PROBE_EVERY).await;
        assert_eq!(reach.ask(&one, Instant::now()), Leave::Probe);
        reach.probed(&one, true, Instant::now());
        tokio::time::advance(PROBE_WAIT).await;
        assert!(reach.is_down());
        assert_eq!(reach.ask(&one, Instant::now()), Leave::Arrived);
        assert!(!reach.is_down());
        assert_eq!(reach.ask(&two, Instant::now()), Leave::Free);
        assert_eq!(reach.failures(), 2);
    }

    /// What is known once a probe with `datagram` has arrived.
    async fn probed_with(datagram: &Datagram<'_>, waits: bool) -> Reach {
        let mut reach = Reach::default();
        reach.failed(REASON.to_owned(), Instant::now());
        tokio::time::advance(PROBE_EVERY).await;
        reach.probed(datagram, waits, Instant::now());
        tokio::time::advance(PROBE_WAIT).await;
        reach
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_of_another_stream_clears_the_way_for_all_and_is_not_sent_again() {
        let (probe, other) = (datagram(1), datagram(2));
        let mut reach = probed_with(&probe, true).await;
        let answers = [&other, &other, &probe, &probe].map(|asked| reach.ask(asked, Instant::now()));
        assert_eq!(answers, [Leave::Free, Leave::Free, Leave::Arrived, Leave::Free]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_arrived_has_arrived_whatever_comes_then() {
        let (probe, other) = (datagram(1), datagram(2));
        let mut reach = probed_with(&probe, true).await;
        assert_eq!(reach.ask(&other, Instant::now()), Leave::Free);
        reach.failed(REASON.to_owned(), Instant::now());
        assert_eq!(reach.ask(&probe, Instant::now()), Leave::Arrived);
        assert_eq!(reach.ask(&other, Instant::now()), Leave::None(REASON.to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_was_passed_over_is_no_other_datagram_that_looks_like_it() {
        let probe = datagram(1);
        let mut reach = probed_with(&probe, false).await;
        assert_eq!(reach.ask(&probe, Instant::now()), Leave::Free);
    }
}
