//! The status of nf-receiver, as `nf-receiver status --json` prints it. Counters run from the start of the process.

use core::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::status::{CertificateStatus, RevocationStatus, Tally};

/// Everything that nf-receiver tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverStatus {
    /// Always `nf-receiver`.
    pub service: String,
    /// The version of the program.
    pub version: String,
    /// The senders heard.
    pub senders: Vec<PeerStatus>,
    /// Counts of all senders together, also of those that nf-receiver has forgotten to make room.
    #[serde(default)]
    pub all_senders: SenderTotals,
    /// The collectors delivered to.
    pub collectors: Vec<CollectorStatus>,
    /// The own certificate, if TLS is spoken.
    #[serde(default)]
    pub certificate: Option<CertificateStatus>,
    /// The lists of revoked certificates, in the order of the settings.
    #[serde(default)]
    pub revocation_lists: Vec<RevocationStatus>,
    /// Connections that were rejected before a session was agreed.
    #[serde(default)]
    pub refusals: u64,
    /// Peers whose connections were rejected, latest first; at most `limits::REJECTED_SHOWN`.
    #[serde(default)]
    pub refused: Vec<RefusedStatus>,
    /// Impossible states that the program met; each is a bug to report.
    #[serde(default)]
    pub internal_errors: u64,
    /// Datagrams that match no collector: they were acknowledged and not delivered.
    #[serde(default)]
    pub unmatched: u64,
    /// Their exporters, those with the most datagrams first; at most `limits::UNMATCHED_SHOWN`.
    #[serde(default)]
    pub unmatched_exporters: Vec<UnmatchedStatus>,
}

/// Counts of all senders together. They never fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderTotals {
    /// Delivered datagrams and bytes.
    pub delivered: Tally,
    /// Datagrams that arrived again and were not delivered again.
    pub duplicates: u64,
    /// Datagrams that senders reported as lost.
    pub gaps: u64,
    /// Datagrams of exporters that their sender may not carry.
    pub denied: u64,
}

impl SenderTotals {
    /// Adds the counts of further senders. Sums stay at the largest number.
    pub fn add(&mut self, more: Self) {
        let add = |sum: &mut u64, count: u64| *sum = sum.saturating_add(count);
        add(&mut self.delivered.datagrams, more.delivered.datagrams);
        add(&mut self.delivered.bytes, more.delivered.bytes);
        add(&mut self.duplicates, more.duplicates);
        add(&mut self.gaps, more.gaps);
        add(&mut self.denied, more.denied);
    }
}

/// An exporter whose datagrams match no collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmatchedStatus {
    /// Its address.
    pub address: IpAddr,
    /// Datagrams that were not delivered.
    pub datagrams: u64,
    /// Seconds since the last one.
    pub last_seen_s: u64,
}

/// A peer whose connections were rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStatus {
    /// Its address.
    pub peer: IpAddr,
    /// How often.
    pub count: u64,
    /// Seconds since the last time.
    pub last_s: u64,
    /// Why, the last time.
    pub reason: String,
}

/// One stream of one sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The sender's id.
    pub id: String,
    /// The id of the stream, in hexadecimal.
    pub stream: String,
    /// Address and port of the connection, or of the last one.
    pub peer: String,
    /// Whether it is connected.
    pub state: PeerState,
    /// What encrypts the connection; `none` for plaintext.
    pub cipher: String,
    /// What was delivered.
    pub delivered: Tally,
    /// Datagrams that came again and were not delivered again.
    pub duplicates: u64,
    /// Datagrams that the sender told to be lost.
    pub gaps: u64,
    /// The id of the stream that this one continues, because the spool was restored from a backup or cloned.
    #[serde(default)]
    pub replaces: Option<String>,
    /// Address and port of the last connection of the same id that a newer one took over from while it was still open.
    /// Two machines with one id take over from each other again and again.
    #[serde(default)]
    pub superseded: Option<String>,
    /// Address and port of the last connection that was refused because another sender with the same id was connected.
    #[serde(default)]
    pub rival: Option<String>,
    /// Why the last session ended; `None` while there is one.
    #[serde(default)]
    pub ended: Option<String>,
    /// Prefixes of the exporters whose datagrams it may deliver; empty if it may deliver those of all.
    #[serde(default)]
    pub exporters: Vec<String>,
    /// Datagrams of other exporters. No collector gets them.
    #[serde(default)]
    pub denied: u64,
    /// These exporters, the one with most datagrams first; at most `limits::DENIED_SHOWN`.
    #[serde(default)]
    pub denied_exporters: Vec<DeniedExporter>,
}

/// An exporter whose datagrams a sender may not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedExporter {
    /// Its address, as the sender claims.
    pub address: IpAddr,
    /// Datagrams denied.
    pub datagrams: u64,
    /// Seconds since the last one.
    pub last_seen_s: u64,
}

/// Whether a sender is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// A session is agreed.
    Connected,
    /// It was connected before.
    Disconnected,
}

/// One collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorStatus {
    /// Host and port.
    pub address: String,
    /// Whether somebody listens there.
    pub state: CollectorState,
    /// Whether the name in its address has an address; while it has none, nothing is delivered there.
    #[serde(default = "resolved")]
    pub resolved: bool,
    /// What was delivered.
    pub delivered: Tally,
    /// Datagrams passed over while it was down, or too slow for the others.
    pub skipped: u64,
    /// Datagrams dropped because the kernel refused to send them, though it sent others.
    #[serde(default)]
    pub refused: u64,
    /// Seconds for which delivery has been held back; 0 if it is not.
    pub held_s: u64,
    /// Seconds until the next late datagram is due by `catch-up-pace`, at most 60; `None` while none waits for that.
    #[serde(default)]
    pub paced_s: Option<u64>,
    /// Datagrams that the kernel dropped at the collector's socket while nf-receiver sent, where that can be seen.
    pub socket_drops: u64,
    /// Datagrams, at the most, that lay unread in the collector's socket when it went away, where that can be seen.
    #[serde(default)]
    pub unread: u64,
    /// Datagrams with templates, sent to it again because it had come back.
    #[serde(default)]
    pub templates: u64,
    /// Its address for late datagrams, if it has one.
    #[serde(default)]
    pub late: Option<LateStatus>,
    /// Exporters that it sees under another address, the one heard last first; 1,024 of them at the most.
    #[serde(default)]
    pub seen_as: Vec<SeenAs>,
    /// Exporters that it mixes up if it goes by the address alone; at most `limits::CONFUSED_SHOWN`.
    #[serde(default)]
    pub confused: Vec<ConfusedStatus>,
}

impl CollectorStatus {
    /// Whether it takes datagrams, as far as can be seen: a collector on another machine counts as up until the network
    /// says that it is down.
    pub fn is_up(&self) -> bool {
        self.resolved && self.state != CollectorState::Down
    }
}

/// Collectors of earlier versions that were not resolved had the state `unknown`, too.
fn resolved() -> bool {
    true
}

/// Two exporters that a collector mixes up if it goes by the address alone: they use one observation domain, define a template id
/// differently, and come from one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfusedStatus {
    /// Their own addresses.
    pub exporters: [IpAddr; 2],
    /// The ids of their senders.
    pub senders: [String; 2],
    /// 9, or 10 for IPFIX.
    pub version: u16,
    /// Source id or observation domain id.
    pub source_id: u32,
    /// The template id.
    pub template_id: u16,
    /// What that means, and what to do, in words.
    pub meaning: String,
}

/// A collector's address for late datagrams. The figures are those of [`CollectorStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateStatus {
    /// Host and port.
    pub address: String,
    /// Whether somebody listens there.
    pub state: CollectorState,
    /// What was delivered there.
    pub delivered: Tally,
    /// Datagrams passed over.
    pub skipped: u64,
    /// Datagrams that the kernel refused to send.
    #[serde(default)]
    pub refused: u64,
    /// Seconds for which delivery has been held back.
    pub held_s: u64,
    /// Datagrams dropped at the socket there.
    pub socket_drops: u64,
    /// Datagrams that lay unread in the socket when it went away.
    pub unread: u64,
}

/// An exporter, and the address under which a collector sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenAs {
    /// The exporter's own address and port.
    pub exporter: SocketAddr,
    /// What the collector sees.
    pub seen_as: SocketAddr,
}

/// Whether somebody listens at a collector's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CollectorState {
    /// Yes.
    Up,
    /// No.
    Down,
    /// That cannot be seen from here.
    Unknown,
}
