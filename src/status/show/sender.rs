//! The status of nf-sender for people: the state of the link as a sentence, then tables.

use crate::status::show::certificates::{certificate, internal_errors};
use crate::status::show::exporters;
use crate::status::show::pace::{Earlier, per_second};
use crate::status::show::table::{Align, Table};
use crate::status::show::units::{grouped, size, span};
use crate::status::{KeptFiles, LinkState, SenderStatus, count_of, name_dropped, name_first};

/// Renders the status of nf-sender. Rates need an `earlier` status.
pub fn render_sender(status: &SenderStatus, earlier: Option<Earlier<'_, SenderStatus>>) -> String {
    let mut text = format!("{} {}: {}\n\n", status.service, status.id, link_sentence(status));
    text += &sender_totals(status, earlier);
    text += &kept(status);
    if let Some(reason) = &status.intake.reason {
        text += "\nreceive journal: in memory only, so kill -9 would lose datagrams: ";
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

/// The lines about files of the spool that are not in the queue; empty if there are none.
fn kept(status: &SenderStatus) -> String {
    let line = |(directory, kept, meaning): (&str, KeptFiles, &str)| {
        let files = count_of(kept.files, "file");
        (kept.files > 0).then(|| format!("\n{directory}/: {files}, {}: {meaning}\n", size(kept.bytes)))
    };
    let kinds: [(&str, KeptFiles, &str); 2] = [
        ("newer", status.newer, "written by a newer version, not sent by this one"),
        ("damaged", status.damaged, "copies of damaged pieces of the spool"),
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
        LinkState::Waiting if status.receiver.is_some() => {
            format!("not connected to {receiver}{retry}{reason}")
        }
        LinkState::Waiting => format!("waiting{retry}{reason}"),
        LinkState::Refused => format!("rejected by {receiver}{retry}{reason}"),
    }
}

fn sender_totals(status: &SenderStatus, earlier: Option<Earlier<'_, SenderStatus>>) -> String {
    let mut table = Table::new([
        ("", Align::Left),
        ("datagrams", Align::Right),
        ("bytes", Align::Right),
        ("", Align::Left),
    ]);
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

/// The sockets at which the kernel dropped datagrams.
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

/// The exporters whose datagrams were denied.
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

#[cfg(test)]
mod tests;
