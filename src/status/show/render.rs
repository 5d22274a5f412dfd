//! Status for people: the state as a sentence first, then tables.

use core::time::Duration;

use bytesize::ByteSize;

use crate::status::show::exporters;
use crate::status::show::table::{Align, Table};
use crate::status::{
    CertificateStatus, CollectorState, Kept, LinkState, PeerState, PeerStatus, ReceiverStatus,
    RevocationStatus, SenderStatus, count_of, name_dropped, name_first,
};

/// Exporters that are shown with the address that they are seen as.
const SEEN_AS_ROWS: usize = 20;

/// A status from before, for rates.
#[derive(Debug)]
pub struct Earlier<'s, S> {
    /// What it was.
    pub status: &'s S,
    /// How long ago that was.
    pub ago: Duration,
}

impl<S> Clone for Earlier<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Earlier<'_, S> {}

/// The status of nf-sender; with `earlier`, rates too.
pub fn render_sender(status: &SenderStatus, earlier: Option<Earlier<'_, SenderStatus>>) -> String {
    let mut text = format!("{} {}: {}\n\n", status.service, status.id, link_sentence(status));
    text += &sender_totals(status, earlier);
    text += &kept(status);
    if let Some(reason) = &status.intake.reason {
        text += "\nintake: in memory, kill -9 would lose datagrams: ";
        text += reason;
        text += "\n";
    }
    for warning in &status.warnings {
        text += "\nwarning: ";
        text += warning;
        text += "\n";
    }
    text += &internal_errors(status.internal_errors);
    text += &certificate(status.certificate.as_ref());
    if !status.exporters.is_empty() {
        text += "\n";
        text += &exporters::table(status);
    }
    text
}

/// What is kept in the spool beside the queue, if anything is.
fn kept(status: &SenderStatus) -> String {
    let line = |(directory, kept, meaning): (&str, Kept, &str)| {
        let files = count_of(kept.files, "file");
        (kept.files > 0).then(|| format!("\n{directory}/: {files}, {}: {meaning}\n", size(kept.bytes)))
    };
    let kinds = [
        ("newer", status.newer, "of a newer version, not sent by this one"),
        ("damaged", status.damaged, "copies of damaged pieces"),
    ];
    kinds.into_iter().filter_map(line).collect()
}

fn link_sentence(status: &SenderStatus) -> String {
    let receiver = status.receiver.as_deref().unwrap_or("a receiver");
    let reason = status.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let retry = status.retry_in_s.map(|seconds| format!(", retry in {seconds} s")).unwrap_or_default();
    match status.state {
        LinkState::Connected => {
            let protection = match status.cipher.as_deref() {
                Some("none") | None => " in clear text".to_owned(),
                Some(cipher) => format!(", encrypted by {cipher}"),
            };
            let segments =
                status.segment_bytes.map(|bytes| format!(", TCP segments of at most {bytes} bytes"));
            format!("connected to {receiver}{protection}{}{reason}", segments.unwrap_or_default())
        }
        LinkState::Connecting => format!("connecting to {receiver}{reason}"),
        LinkState::Waiting => format!("waiting{retry}{reason}"),
        LinkState::Refused => format!("refused by {receiver}{retry}{reason}"),
    }
}

fn sender_totals(status: &SenderStatus, earlier: Option<Earlier<'_, SenderStatus>>) -> String {
    let left = ("", Align::Left);
    let mut table =
        Table::new([left, ("datagrams", Align::Right), ("bytes", Align::Right), ("", Align::Left)]);
    let rate = |count: fn(&SenderStatus) -> u64| {
        earlier
            .map(|earlier| per_second(count(status), count(earlier.status), earlier.ago))
            .unwrap_or_default()
    };
    let mut row = |name: &str, datagrams: u64, bytes: Option<u64>, remark: String| {
        table.row([name.to_owned(), grouped(datagrams), bytes.map(size).unwrap_or_default(), remark]);
    };
    let (received, acknowledged) = (status.received, status.acknowledged);
    row("received", received.datagrams, Some(received.bytes), rate(|status| status.received.datagrams));
    row("recovered", status.recovered.datagrams, None, String::new());
    row(
        "acknowledged",
        acknowledged.datagrams,
        Some(acknowledged.bytes),
        rate(|status| status.acknowledged.datagrams),
    );
    row("queued", status.queued.datagrams, Some(status.queued.bytes), queue_remark(status));
    let dropped = status.dropped;
    let too_old_remark = if dropped.spool_full == 0 { dropped_remark(status) } else { String::new() };
    for (reason, count, remark) in [
        ("dropped: kernel", dropped.kernel, kernel_remark(status)),
        ("dropped: denied", dropped.denied, denied_remark(status)),
        ("dropped: spool full", dropped.spool_full, dropped_remark(status)),
        ("dropped: too old", dropped.too_old, too_old_remark),
        ("dropped: corrupt", dropped.corrupt, String::new()),
    ] {
        if count > 0 {
            row(reason, count, None, remark);
        }
    }
    if status.possible_repeats > 0 {
        row("may arrive twice", status.possible_repeats, None, String::new());
    }
    let replaced = status.replaced_stream.as_ref().map(|replaced| {
        format!("\nstream {}\ncontinues {replaced}: the spool was restored or cloned\n", status.stream)
    });
    table.render() + &replaced.unwrap_or_default()
}

/// At which sockets the kernel dropped datagrams.
fn kernel_remark(status: &SenderStatus) -> String {
    let sockets = status.sockets.iter().filter(|socket| socket.kernel_drops > 0);
    let named = name_first(sockets.map(|socket| (socket.address, socket.kernel_drops)));
    if named.is_empty() { named } else { format!("at {named}") }
}

/// The exporters of queued datagrams that were dropped.
fn dropped_remark(status: &SenderStatus) -> String {
    let rows = status.dropped_exporters.iter().map(|row| (row.address, row.datagrams));
    let named = name_dropped(rows, status.dropped_of_unknown);
    if named.is_empty() { named } else { format!("of {named}") }
}

/// Whose datagrams were denied.
fn denied_remark(status: &SenderStatus) -> String {
    let named = name_first(status.denied_exporters.iter().map(|denied| (denied.name(), denied.datagrams)));
    if named.is_empty() { named } else { format!("from {named}") }
}

fn queue_remark(status: &SenderStatus) -> String {
    let queued = status.queued;
    let mut parts = Vec::new();
    if queued.segments > 0 {
        let files = if queued.segments == 1 { "file" } else { "files" };
        parts.push(format!("in {} {files}", grouped(queued.segments)));
    }
    if queued.datagrams > 0 {
        parts.push(format!("oldest {}", span(queued.oldest_s)));
    }
    if let Some(room) = queued.room_s {
        parts.push(format!("room for {}", span(room)));
    }
    parts.join(", ")
}

/// The status of nf-receiver; with `earlier`, rates too.
pub fn render_receiver(status: &ReceiverStatus, earlier: Option<Earlier<'_, ReceiverStatus>>) -> String {
    let connected = status.senders.iter().filter(|sender| sender.state == PeerState::Connected).count();
    let connected = count_of(u64::try_from(connected).unwrap_or(u64::MAX), "sender");
    let mut text = format!("{}: {connected} connected\n", status.service);
    if !status.senders.is_empty() {
        text += "\n";
        text += &senders(status, earlier);
    }
    text += "\n";
    text += &collectors(status, earlier);
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

/// How many datagrams match no collector, and whose, if there are any.
fn unmatched(status: &ReceiverStatus) -> String {
    if status.unmatched == 0 {
        return String::new();
    }
    let exporters = status.unmatched_exporters.iter().map(|row| (row.address, row.datagrams));
    let datagrams = count_of(status.unmatched, "datagram");
    format!("\nunmatched: {datagrams} of no collector, from {}\n", name_first(exporters))
}

/// The line on internal errors, if there were any.
fn internal_errors(count: u64) -> String {
    if count == 0 {
        return String::new();
    }
    format!("\ninternal errors: {}, see the journal and report them\n", grouped(count))
}

/// When the own certificate ends, if there is one.
fn certificate(certificate: Option<&CertificateStatus>) -> String {
    let Some(certificate) = certificate else { return String::new() };
    match u64::try_from(certificate.expires_s) {
        Ok(left) => format!("\ncertificate: expires in {}\n", span(left)),
        Err(_) => "\ncertificate: EXPIRED, nothing is delivered; renew it and reload\n".to_owned(),
    }
}

/// The age and the end of each list of revoked certificates.
fn revocation_lists(lists: &[RevocationStatus]) -> String {
    let line = |list: &RevocationStatus| {
        let age = span(u64::try_from(list.age_s).unwrap_or_default());
        let end = match list.expires_s.map(u64::try_from) {
            None => String::new(),
            Some(Ok(left)) => format!(", expires in {}", span(left)),
            Some(Err(_)) => {
                ", EXPIRED: certificates revoked since are accepted; put the next list there and reload"
                    .to_owned()
            }
        };
        format!("revoked certificates {}: issued {age} ago{end}\n", list.file)
    };
    let lines: String = lists.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn refused(status: &ReceiverStatus) -> String {
    let mut table = Table::new([
        ("rejected", Align::Left),
        ("times", Align::Right),
        ("last", Align::Right),
        ("why", Align::Left),
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

fn senders(status: &ReceiverStatus, earlier: Option<Earlier<'_, ReceiverStatus>>) -> String {
    let mut table = Table::new([
        ("sender", Align::Left),
        ("state", Align::Left),
        ("peer", Align::Left),
        ("cipher", Align::Left),
        ("datagrams", Align::Right),
        ("bytes", Align::Right),
        ("repeated", Align::Right),
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
    table.render() + &lives(status)
}

/// Senders whose spool has lived twice, whose connections take over from each other, or whose datagrams were denied, and
/// why sessions ended.
fn lives(status: &ReceiverStatus) -> String {
    let sentences = status.senders.iter().flat_map(
        |PeerStatus { id, stream, replaces, superseded, rival, ended, denied, denied_exporters, .. }| {
            let replaced = replaces.as_ref().map(|replaced| {
                format!("{id}: stream {stream}\n  continues {replaced}: its spool was restored or cloned\n")
            });
            let took_over = superseded
                .as_ref()
                .map(|peer| format!("{id}: took over from an open connection of {peer}\n"));
            let rival = rival
                .as_ref()
                .map(|peer| format!("{id}: refused {peer}: another sender with this id was connected\n"));
            let ended = ended.as_ref().map(|reason| format!("{id}: disconnected: {reason}\n"));
            let denied = (*denied > 0).then(|| {
                let named = name_first(denied_exporters.iter().map(|row| (row.address, row.datagrams)));
                let count = count_of(*denied, "datagram");
                format!("{id}: {count} denied, from {named}: not in 'exporters' of its table\n")
            });
            [replaced, took_over, rival, ended, denied].into_iter().flatten()
        },
    );
    let text: String = sentences.collect();
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn collectors(status: &ReceiverStatus, earlier: Option<Earlier<'_, ReceiverStatus>>) -> String {
    let mut table = Table::new([
        ("collector", Align::Left),
        ("state", Align::Left),
        ("datagrams", Align::Right),
        ("bytes", Align::Right),
        ("skipped", Align::Right),
        ("its drops", Align::Right),
        ("unread", Align::Right),
        ("", Align::Right),
    ]);
    for collector in &status.collectors {
        let before = |status: &ReceiverStatus| {
            let same = status.collectors.iter().find(|other| other.address == collector.address);
            same.map_or(0, |same| same.delivered.datagrams)
        };
        table.row([
            collector.address.clone(),
            if collector.resolved {
                state(collector.state, collector.held_s) + &pacing(collector.paced_s)
            } else {
                "name not resolved".to_owned()
            },
            grouped(collector.delivered.datagrams),
            size(collector.delivered.bytes),
            grouped(collector.skipped),
            grouped(collector.socket_drops),
            grouped(collector.unread),
            earlier
                .map(|earlier| per_second(collector.delivered.datagrams, before(earlier.status), earlier.ago))
                .unwrap_or_default(),
        ]);
        if let Some(late) = &collector.late {
            table.row([
                format!("  late: {}", late.address),
                state(late.state, late.held_s),
                grouped(late.delivered.datagrams),
                size(late.delivered.bytes),
                grouped(late.skipped),
                grouped(late.socket_drops),
                grouped(late.unread),
                String::new(),
            ]);
        }
    }
    table.render() + &refused_by_kernel(status) + &confused(status) + &seen_as(status)
}

/// Exporters that collectors mix up: the first of each collector, in words.
fn confused(status: &ReceiverStatus) -> String {
    let sentences = status.collectors.iter().filter_map(|collector| {
        let first = collector.confused.first()?;
        let more = match collector.confused.len() {
            1 => String::new(),
            pairs => format!(" ({} more: status --json lists them)", pairs - 1),
        };
        Some(format!("\nwarning: {}{more}\n", first.meaning))
    });
    sentences.collect()
}

/// Datagrams that the kernel refused to send.
fn refused_by_kernel(status: &ReceiverStatus) -> String {
    let addresses = status.collectors.iter().flat_map(|collector| {
        let late = collector.late.iter().map(|late| (&late.address, late.refused));
        core::iter::once((&collector.address, collector.refused)).chain(late)
    });
    let sentences = addresses.filter(|(_, refused)| *refused > 0).map(|(address, refused)| {
        format!("{address}: {} dropped: the kernel refused to send them\n", count_of(refused, "datagram"))
    });
    let text: String = sentences.collect();
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn state(state: CollectorState, held_s: u64) -> String {
    let state = match state {
        CollectorState::Up => "up",
        CollectorState::Down => "down",
        CollectorState::Unknown => "unknown",
    };
    if held_s == 0 { state.to_owned() } else { format!("{state}, held for {}", span(held_s)) }
}

/// Whether late datagrams wait for `catch-up-pace`.
fn pacing(paced_s: Option<u64>) -> String {
    match paced_s {
        None => String::new(),
        Some(0 | 1) => ", pacing".to_owned(),
        Some(seconds) => format!(", pacing: next in {}", span(seconds)),
    }
}

/// Which exporter is which for collectors that do not see it as itself; no more rows than a screen takes.
fn seen_as(status: &ReceiverStatus) -> String {
    let rows = status.collectors.iter().flat_map(|collector| {
        collector
            .seen_as
            .iter()
            .map(|row| [row.exporter.to_string(), row.seen_as.to_string(), collector.address.clone()])
    });
    let (total, mut table) =
        (rows.clone().count(), Table::new(["exporter", "is seen as", "by"].map(|head| (head, Align::Left))));
    if total == 0 {
        return String::new();
    }
    rows.take(SEEN_AS_ROWS).for_each(|row| table.row(row));
    format!("\n{}{}", table.render(), more(total.saturating_sub(SEEN_AS_ROWS)))
}

/// A line about rows that are not shown, if there are any.
pub(crate) fn more(rows: usize) -> String {
    if rows == 0 { String::new() } else { format!("and {rows} more: status --json lists them\n") }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// How fast a counter went from `before` to `now`; 0 if the service was restarted in between.
fn per_second(now: u64, before: u64, ago: Duration) -> String {
    let milliseconds = ago.as_millis().max(1);
    let rate = u128::from(now.saturating_sub(before)) * 1000 / milliseconds;
    format!("{}/s", grouped(u64::try_from(rate).unwrap_or(u64::MAX)))
}

/// A number with a comma between each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A time span in its two largest units, such as `1h 2m`.
pub fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d {}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h {}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
pub(in crate::status) mod tests;
