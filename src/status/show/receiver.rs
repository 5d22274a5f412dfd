//! The status of nf-receiver for people: its senders, its collectors, and rejected connections.

use crate::status::show::certificates::{certificate, internal_errors, revocation_lists};
use crate::status::show::collectors;
use crate::status::show::pace::{Earlier, per_second};
use crate::status::show::table::{Align, Table};
use crate::status::show::units::{grouped, render_legend, size, span};
use crate::status::{PeerState, PeerStatus, ReceiverStatus, count_of, name_first};

/// Renders the status of nf-receiver. Rates need an `earlier` status.
pub fn render_receiver(status: &ReceiverStatus, earlier: Option<Earlier<'_, ReceiverStatus>>) -> String {
    let connected = status.senders.iter().filter(|sender| sender.state == PeerState::Connected).count();
    let connected = count_of(u64::try_from(connected).unwrap_or(u64::MAX), "sender");
    let mut text = format!("{}: {connected} connected\n", status.service);
    if !status.senders.is_empty() {
        text += "\n";
        text += &senders(status, earlier);
    }
    text += "\n";
    text += &collectors::render(status, earlier);
    text += &unmatched(status);
    text += &internal_errors(status.internal_errors);
    text += &certificate(status.certificate.as_ref());
    text += &revocation_lists(&status.revocation_lists);
    if !status.refused.is_empty() {
        text += "\n";
        text += &refused(status);
    }
    text
}

/// The line about datagrams that match no collector, with their exporters; empty if there are none.
fn unmatched(status: &ReceiverStatus) -> String {
    if status.unmatched == 0 {
        return String::new();
    }
    let exporters = status.unmatched_exporters.iter().map(|row| (row.address, row.datagrams));
    let datagrams = count_of(status.unmatched, "datagram");
    format!("\nunmatched: {datagrams} for which no collector is configured, from {}\n", name_first(exporters))
}

/// The table of peers whose connections were rejected.
fn refused(status: &ReceiverStatus) -> String {
    let mut table = Table::new([
        ("rejected peer", Align::Left),
        ("times", Align::Right),
        ("last", Align::Right),
        ("reason", Align::Left),
    ]);
    for refused in &status.refused {
        table.row([
            refused.peer.to_string(),
            grouped(refused.count),
            format!("{} ago", span(refused.last_s)),
            refused.reason.clone(),
        ]);
    }
    table.render()
}

/// The table of senders.
fn senders(status: &ReceiverStatus, earlier: Option<Earlier<'_, ReceiverStatus>>) -> String {
    let mut table = Table::new([
        ("sender", Align::Left),
        ("state", Align::Left),
        ("peer", Align::Left),
        ("cipher", Align::Left),
        ("datagrams", Align::Right),
        ("bytes", Align::Right),
        ("duplicate", Align::Right),
        ("lost", Align::Right),
        ("", Align::Right),
    ]);
    for sender in &status.senders {
        let before = |status: &ReceiverStatus| {
            let same = status.senders.iter().find(|other| other.id == sender.id);
            same.map_or(0, |same| same.delivered.datagrams)
        };
        table.row([
            sender.id.clone(),
            match sender.state {
                PeerState::Connected => "connected".to_owned(),
                PeerState::Disconnected => "disconnected".to_owned(),
            },
            sender.peer.clone(),
            sender.cipher.clone(),
            grouped(sender.delivered.datagrams),
            size(sender.delivered.bytes),
            grouped(sender.duplicates),
            grouped(sender.gaps),
            earlier
                .map(|earlier| per_second(sender.delivered.datagrams, before(earlier.status), earlier.ago))
                .unwrap_or_default(),
        ]);
    }
    table.render() + &legend(status) + &sender_events(status)
}

/// The meaning of the columns `duplicate` and `lost`, for those with a count.
fn legend(status: &ReceiverStatus) -> String {
    let any = |count: fn(&PeerStatus) -> u64| status.senders.iter().any(|sender| count(sender) > 0);
    render_legend([
        (
            any(|sender| sender.duplicates),
            "duplicate",
            "received again after a reconnect, not delivered again",
        ),
        (any(|sender| sender.gaps), "lost", "reported as lost by the sender, or in an unreadable batch"),
    ])
}

/// Lines about single senders: a restored or cloned spool, a second connection with the same id, the end of
/// the last session, and denied datagrams.
fn sender_events(status: &ReceiverStatus) -> String {
    let sentences = status.senders.iter().flat_map(
        |PeerStatus { id, stream, replaces, superseded, rival, ended, denied, denied_exporters, .. }| {
            let replaced = replaces.as_ref().map(|replaced| {
                format!("{id}: stream {stream}\n  continues {replaced}: its spool was restored or cloned\n")
            });
            let replaced_connection = superseded
                .as_ref()
                .map(|peer| format!("{id}: the connection from {peer} was open and has been replaced\n"));
            let rival = rival
                .as_ref()
                .map(|peer| format!("{id}: rejected {peer}: another sender with this id was connected\n"));
            let ended = ended.as_ref().map(|reason| format!("{id}: disconnected: {reason}\n"));
            let denied = (*denied > 0).then(|| {
                let named = name_first(denied_exporters.iter().map(|row| (row.address, row.datagrams)));
                let count = count_of(*denied, "datagram");
                format!("{id}: {count} denied, from {named}: not in 'exporters' of its table\n")
            });
            [replaced, replaced_connection, rival, ended, denied].into_iter().flatten()
        },
    );
    let text: String = sentences.collect();
    if text.is_empty() { text } else { format!("\n{text}") }
}

#[cfg(test)]
mod tests;
