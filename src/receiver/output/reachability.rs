//! Reachability of a collector on another machine, as reported by ICMP.
//!
//! An ICMP error marks the collector as down. From then on one datagram at a time is sent to it as a probe:
//! the next in order. If no ICMP error follows within [`PROBE_WAIT`], the collector is up again and has that
//! datagram.

use core::net::SocketAddr;
use core::time::Duration;

use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::internal_error::note_internal_error;
use tokio::time::Instant;

use crate::receiver::output::system_error::SystemError;

/// Interval between a failed probe and the next one. Routers and hosts limit ICMP to about one message a
/// second.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Time for which a probe waits for an ICMP error. It is longer than any round trip, and than the 3 s after
/// which the kernel stops looking for a neighbour on its own link (`mcast_solicit` in arp(7)).
pub(super) const PROBE_WAIT: Duration = Duration::from_secs(4);

/// Reachability state of one collector.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    outage: Option<Outage>,
    /// The probe that arrived, until its datagram is asked for. Other datagrams may be asked for first.
    arrived: Option<Probe>,
    /// Number of failures, for `failures`.
    failures: u64,
}

#[derive(Debug)]
struct Outage {
    reason: SystemError,
    probe_at: Instant,
    /// The probe that was sent and the time at which it counts as arrived. The probe is `None` if its
    /// datagram was skipped.
    probe: Option<(Option<Probe>, Instant)>,
}

/// Identifies the datagram that serves as a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe(SocketAddr, Timestamp, usize);

impl Probe {
    fn of(datagram: &Datagram<'_>) -> Self {
        Self(datagram.exporter, datagram.arrival, datagram.payload.len())
    }
}

/// Permission to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendPermit {
    /// Everything may be sent.
    All,
    /// One datagram may be sent as a probe of a collector that is down for this reason. The caller then
    /// calls [`Reachability::note_probe`].
    OneProbe(SystemError),
    /// The datagram has arrived as a probe and must not be sent again.
    ProbeArrived,
    /// Nothing may be sent, for this reason.
    Blocked(SystemError),
}

impl Reachability {
    /// Returns the permission for datagrams of which `datagram` is the first.
    pub(super) fn permit(&mut self, datagram: &Datagram<'_>, now: Instant) -> SendPermit {
        if let Some(outage) = &self.outage
            && let Some((probe, until)) = outage.probe
            && until <= now
        {
            self.arrived = probe;
            self.outage = None;
        }
        if self.arrived.take_if(|arrived| *arrived == Probe::of(datagram)).is_some() {
            return SendPermit::ProbeArrived;
        }
        match &self.outage {
            None => SendPermit::All,
            Some(outage) if outage.probe.is_none() && outage.probe_at <= now => {
                SendPermit::OneProbe(outage.reason)
            }
            Some(outage) => SendPermit::Blocked(outage.reason),
        }
    }

    /// Notes that `datagram` was sent as a probe. If it `waits`, the caller asks for it again.
    pub(super) fn note_probe(&mut self, datagram: &Datagram<'_>, waits: bool, now: Instant) {
        match &mut self.outage {
            Some(outage) => outage.probe = Some((waits.then(|| Probe::of(datagram)), now + PROBE_WAIT)),
            None => note_internal_error("a probe was sent to a collector that is not down"),
        }
    }

    /// Notes that a sent datagram did not arrive.
    pub(super) fn note_failure(&mut self, reason: SystemError, now: Instant) {
        self.failures += 1;
        self.outage = Some(Outage { reason, probe_at: now + PROBE_EVERY, probe: None });
    }

    /// Returns whether the collector is down.
    pub(super) fn is_down(&self) -> bool {
        self.outage.is_some()
    }

    /// Returns the number of failures. After each one the collector may be another process, or have lost its
    /// templates.
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

    const REASON: SystemError = SystemError::Number(rustix::io::Errno::CONNREFUSED);

    #[tokio::test(start_paused = true)]
    async fn a_down_collector_is_probed_each_second() {
        let (one, two) = (datagram(1), datagram(2));
        let mut reach = Reachability::default();
        assert_eq!(reach.permit(&one, Instant::now()), SendPermit::All);
        reach.note_failure(REASON, Instant::now());
        assert_eq!(reach.permit(&one, Instant::now()), SendPermit::Blocked(REASON));
        tokio::time::advance(PROBE_EVERY).await;
        assert_eq!(reach.permit(&one, Instant::now()), SendPermit::OneProbe(REASON));
        reach.note_probe(&one, true, Instant::now());
        tokio::time::advance(PROBE_WAIT / 2).await;
        assert_eq!(reach.permit(&one, Instant::now()), SendPermit::Blocked(REASON));
        reach.note_failure(REASON, Instant::now());
        tokio::time::advance(PROBE_EVERY).await;
        assert_eq!(reach.permit(&one, Instant::now()), SendPermit::OneProbe(REASON));
        reach.note_probe(&one, true, Instant::now());
        tokio::time::advance(PROBE_WAIT).await;
        assert!(reach.is_down());
        assert_eq!(reach.permit(&one, Instant::now()), SendPermit::ProbeArrived);
        assert!(!reach.is_down());
        assert_eq!(reach.permit(&two, Instant::now()), SendPermit::All);
        assert_eq!(reach.failures(), 2);
    }

    /// The state after a probe with `datagram` has arrived.
    async fn probed_with(datagram: &Datagram<'_>, waits: bool) -> Reachability {
        let mut reach = Reachability::default();
        reach.note_failure(REASON, Instant::now());
        tokio::time::advance(PROBE_EVERY).await;
        reach.note_probe(datagram, waits, Instant::now());
        tokio::time::advance(PROBE_WAIT).await;
        reach
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_serves_all_streams_and_is_sent_once() {
        let (probe, other) = (datagram(1), datagram(2));
        let mut reach = probed_with(&probe, true).await;
        let answers = [&other, &other, &probe, &probe].map(|asked| reach.permit(asked, Instant::now()));
        assert_eq!(answers, [SendPermit::All, SendPermit::All, SendPermit::ProbeArrived, SendPermit::All]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_arrived_probe_survives_a_later_failure() {
        let (probe, other) = (datagram(1), datagram(2));
        let mut reach = probed_with(&probe, true).await;
        assert_eq!(reach.permit(&other, Instant::now()), SendPermit::All);
        reach.note_failure(REASON, Instant::now());
        assert_eq!(reach.permit(&probe, Instant::now()), SendPermit::ProbeArrived);
        assert_eq!(reach.permit(&other, Instant::now()), SendPermit::Blocked(REASON));
    }

    #[tokio::test(start_paused = true)]
    async fn a_skipped_probe_matches_no_other_datagram() {
        let probe = datagram(1);
        let mut reach = probed_with(&probe, false).await;
        assert_eq!(reach.permit(&probe, Instant::now()), SendPermit::All);
    }
}
