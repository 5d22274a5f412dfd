//! What a running service tells about itself: the figures, the socket on which it tells them, and how they are
//! shown to people.

pub mod control;
mod metrics;
mod receiver;
mod sender;
mod show;

use core::fmt::Display;

pub use control::{ControlError, ControlSocket, Reply, Request, request, serving_process};
pub use metrics::{receiver_metrics, sender_metrics};
use nf_transport_core::datagram::Timestamp;
use nf_transport_core::secure::{Certificate, RevocationList};
pub use receiver::{
    CollectorState, CollectorStatus, ConfusedStatus, DeniedExporter, LateStatus, PeerState, PeerStatus,
    ReceiverStatus, RefusedStatus, SeenAs, SenderTotals, UnmatchedStatus,
};
pub use sender::{
    DeniedStatus, Dropped, DroppedStatus, ExporterStatus, JournalStatus, Kept, LinkState, Queued, Recovered,
    SenderStatus, SocketStatus,
};
use serde::{Deserialize, Serialize};
pub use show::{Manner, show};

pub use crate::status::control::apply::{apply_configuration, reload};
pub use crate::status::metrics::http::serve_metrics;
pub use crate::status::show::pace::{Pace, to_f64};
pub use crate::status::show::render::{Earlier, render_receiver, render_sender, span};

/// A count with its noun, as in "1 sender" and "2 senders".
pub fn count_of(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Keys that a line of text names one by one.
const NAMED: usize = 5;

/// The first of `entries` with their remarks, as in `192.0.2.1 (30), 192.0.2.2 (5) and 2 more`.
pub fn name_first<K: Display, R: Display>(entries: impl IntoIterator<Item = (K, R)>) -> String {
    let mut entries = entries.into_iter();
    let named: Vec<String> =
        entries.by_ref().take(NAMED).map(|(key, remark)| format!("{key} ({remark})")).collect();
    match entries.count() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Exporters of dropped datagrams as [`name_first`] names them, and how many datagrams were of unknown ones.
pub fn name_dropped<K: Display>(entries: impl IntoIterator<Item = (K, u64)>, unknown: u64) -> String {
    let named = name_first(entries);
    match (named.is_empty(), unknown) {
        (_, 0) => named,
        (true, _) => format!("unknown ({unknown})"),
        (false, _) => format!("{named}, unknown ({unknown})"),
    }
}

/// The own certificate, where TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Whose it is, if the name can be a sender's.
    pub name: Option<String>,
    /// When it ends, in seconds since 1970-01-01.
    pub not_after: i64,
    /// Seconds until then; below 0 if it has ended.
    pub expires_s: i64,
}

impl CertificateStatus {
    /// What there is to tell of `certificate` now.
    pub fn of(certificate: &Certificate, now: Timestamp) -> Self {
        Self {
            name: certificate.name.as_ref().map(ToString::to_string),
            not_after: certificate.not_after,
            expires_s: certificate.not_after.saturating_sub(now.seconds()),
        }
    }
}

/// A list of revoked certificates (CRL).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationStatus {
    /// The file that it is in.
    pub file: String,
    /// When its authority issued it, in seconds since 1970-01-01.
    pub this_update: i64,
    /// Seconds since then; below 0 if that is in the future.
    pub age_s: i64,
    /// By when its authority issues the next one, likewise; `None` if it does not say.
    pub next_update: Option<i64>,
    /// Seconds until then; below 0 if it has expired.
    pub expires_s: Option<i64>,
}

impl RevocationStatus {
    /// The status of `list` at `now`.
    pub fn of(list: &RevocationList, now: Timestamp) -> Self {
        Self {
            file: list.path.display().to_string(),
            this_update: list.this_update,
            age_s: now.seconds().saturating_sub(list.this_update),
            next_update: list.next_update,
            expires_s: list.next_update.map(|next| next.saturating_sub(now.seconds())),
        }
    }
}

/// Datagrams, and the bytes of their payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub datagrams: u64,
    /// Bytes of all payloads together.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_list_has_its_age_and_its_end() {
        let list = |next_update| RevocationList { path: "/crl".into(), this_update: 1000, next_update };
        let now = Timestamp::from_unix(core::time::Duration::from_secs(1600));
        let status = RevocationStatus::of(&list(Some(1500)), now);
        assert_eq!((status.age_s, status.next_update, status.expires_s), (600, Some(1500), Some(-100)));
        assert_eq!(RevocationStatus::of(&list(None), now).expires_s, None);
    }

    #[test]
    fn a_line_names_the_first_few() {
        assert_eq!(name_first([("a", 3), ("b", 1)]), "a (3), b (1)");
        assert_eq!(name_dropped([("a", 3)], 5), "a (3), unknown (5)");
        assert_eq!(name_dropped(Vec::<(&str, u64)>::new(), 5), "unknown (5)");
        assert_eq!(name_dropped([("a", 3)], 0), "a (3)");
        assert_eq!(name_first((0..7).map(|key| (key, 1))), "0 (1), 1 (1), 2 (1), 3 (1), 4 (1) and 2 more");
    }
}
