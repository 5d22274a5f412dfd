//! Status of nf-receiver, and its one-line summary for the service manager.

use std::net::SocketAddr;
use std::sync::Arc;

use nf_transport_core::internal_error::internal_errors;

use crate::config::HostPort;
use crate::host::{boot_clock, wall_clock};
use crate::receiver::output::{LateFigures, OutputCounts, Outputs};
use crate::receiver::reload::Reloader;
use crate::receiver::session::Shared;
use crate::status::{
    CertificateStatus, CollectorState, CollectorStatus, LateStatus, Pace, PeerState, PeerStatus,
    ReceiverStatus, RevocationStatus, SeenAs, SenderTotals, Tally, count_of,
};

/// Returns the status, including collectors that are not resolved.
pub(crate) fn status(
    shared: Option<&Arc<Shared>>,
    missing: &[HostPort],
    reloader: &Reloader,
) -> ReceiverStatus {
    let policy = reloader.policy().borrow().clone();
    let (refusals, refused) = shared.map_or_else(Default::default, |shared| shared.rejected());
    let found = shared.map_or_else(Vec::new, |shared| with_confused(shared));
    ReceiverStatus {
        service: "nf-receiver".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        senders: shared.map_or_else(Vec::new, |shared| shared.senders.status(&policy)),
        all_senders: shared.map_or_else(SenderTotals::default, |shared| shared.senders.totals()),
        collectors: found.into_iter().chain(missing.iter().map(unresolved)).collect(),
        certificate: policy.tls.as_ref().map(|tls| CertificateStatus::of(&tls.certificate, wall_clock())),
        revocation_lists: policy.tls.as_ref().map_or_else(Vec::new, |tls| {
            tls.revoked.iter().map(|list| RevocationStatus::of(list, wall_clock())).collect()
        }),
        refusals,
        refused,
        internal_errors: internal_errors(),
        unmatched: shared.map_or(0, |shared| shared.senders.unmatched().count()),
        unmatched_exporters: shared
            .map_or_else(Vec::new, |shared| shared.senders.unmatched().status(boot_clock())),
    }
}

/// Returns the resolved collectors, with the exporters that they confuse.
fn with_confused(shared: &Shared) -> Vec<CollectorStatus> {
    let outputs = shared.outputs();
    let mut found = collectors(&outputs);
    for (status, output) in found.iter_mut().zip(outputs.iter()) {
        status.confused = shared.confusion.status(output.name());
    }
    found
}

/// Returns the status of a collector that is not resolved.
fn unresolved(name: &HostPort) -> CollectorStatus {
    CollectorStatus {
        address: name.to_string(),
        state: CollectorState::Unknown,
        resolved: false,
        delivered: Tally::default(),
        skipped: 0,
        refused: 0,
        held_s: 0,
        paced_s: None,
        socket_drops: 0,
        unread: 0,
        templates: 0,
        late: None,
        seen_as: Vec::new(),
        confused: Vec::new(),
    }
}

fn collectors(outputs: &Outputs) -> Vec<CollectorStatus> {
    let delivered = |counts: OutputCounts| Tally { datagrams: counts.datagrams, bytes: counts.bytes };
    let seen_as = |(exporter, seen_as): (SocketAddr, SocketAddr)| SeenAs { exporter, seen_as };
    let late = |late: LateFigures| LateStatus {
        address: late.address.to_string(),
        state: late.state,
        delivered: delivered(late.counts),
        skipped: late.counts.skipped,
        refused: late.counts.refused,
        held_s: late.held_s,
        socket_drops: late.counts.socket_drops,
        unread: late.counts.unread,
    };
    outputs
        .figures()
        .into_iter()
        .map(|figures| CollectorStatus {
            address: figures.address.to_string(),
            state: figures.state,
            resolved: true,
            delivered: delivered(figures.counts),
            skipped: figures.counts.skipped,
            refused: figures.counts.refused,
            held_s: figures.held_s,
            paced_s: figures.paced_s,
            socket_drops: figures.counts.socket_drops,
            unread: figures.counts.unread,
            templates: figures.counts.templates,
            late: figures.late.map(late),
            seen_as: figures.seen_as.into_iter().map(seen_as).collect(),
            confused: Vec::new(),
        })
        .collect()
}

/// Returns one line with connections, delivered datagrams, rate and backlog. It also looks at each idle
/// collector's socket, so that datagrams read by then do not count as unread if the socket closes.
pub(crate) fn line(senders: &[PeerStatus], totals: SenderTotals, outputs: &Outputs, pace: &Pace) -> String {
    let connected = senders.iter().filter(|sender| sender.state == PeerState::Connected).count();
    let connected = count_of(u64::try_from(connected).unwrap_or(u64::MAX), "sender");
    let mut parts = vec![
        format!("{connected} connected"),
        format!("{} delivered", count_of(totals.delivered.datagrams, "datagram")),
        format!("{:.0} datagrams/s out", pace.rates().0),
    ];
    let collectors = collectors(outputs);
    let held = collectors.iter().filter(|collector| collector.held_s > 0);
    parts.extend(held.map(|held| format!("waiting for {} for {} s", held.address, held.held_s)));
    let paced = collectors.iter().filter(|collector| collector.paced_s.is_some());
    parts.extend(paced.map(|paced| format!("catching up with {} at catch-up-pace", paced.address)));
    parts.join("; ")
}
