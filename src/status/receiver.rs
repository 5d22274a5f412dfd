//! The status of nf-receiver, as `nf-receiver status --json` prints it. Counters run from the start of the
//! process.

use core::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::status::{CertificateStatus, RevocationStatus, Tally};

/// The whole status of nf-receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverStatus {
    /// Always `nf-receiver`.
    pub service: String,
    /// The version of the program.
    pub version: String,
    /// The known senders.
    pub senders: Vec<PeerStatus>,
    /// Counts of all senders together, including those that nf-receiver has forgotten to make room.
    #[serde(default)]
    pub all_senders: SenderTotals,
    /// The configured collectors.
    pub collectors: Vec<CollectorStatus>,
    /// The own certificate; `None` without TLS.
    #[serde(default)]
    pub certificate: Option<CertificateStatus>,
    /// The lists of revoked certificates, in the order of the settings.
    #[serde(default)]
    pub revocation_lists: Vec<RevocationStatus>,
    /// Connections that were rejected before a session began.
    #[serde(default)]
    pub refusals: u64,
    /// Peers whose connections were rejected, latest first; at most `limits::REJECTED_SHOWN`.
    #[serde(default)]
    pub refused: Vec<RefusedStatus>,
    /// Program states that must not occur. Each is a bug to report.
    #[serde(default)]
    pub internal_errors: u64,
    /// Datagrams that match no collector: they were acknowledged and not delivered.
    #[serde(default)]
    pub unmatched: u64,
    /// Their exporters, the one with the most datagrams first; at most `limits::UNMATCHED_SHOWN`.
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
    /// Datagrams of exporters that their sender may not deliver.
    pub denied: u64,
}

impl SenderTotals {
    /// Adds the counts of further senders. Sums saturate.
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
    /// Number of rejected connections.
    pub count: u64,
    /// Seconds since the last time.
    pub last_s: u64,
    /// The reason for the last rejection.
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
    /// State of its connection.
    pub state: PeerState,
    /// The cipher of the connection; `none` for clear text.
    pub cipher: String,
    /// Delivered datagrams and bytes.
    pub delivered: Tally,
    /// Datagrams that arrived again and were not delivered again.
    pub duplicates: u64,
    /// Datagrams that the sender reported as lost, or whose batch was unreadable.
    pub gaps: u64,
    /// The id of the stream that this one continues, because the spool was restored from a backup or cloned.
    #[serde(default)]
    pub replaces: Option<String>,
    /// Address and port of the last connection that a newer one of the same id replaced while it was open.
    /// Two machines with one id replace each other's connections repeatedly.
    #[serde(default)]
    pub superseded: Option<String>,
    /// Address and port of the last connection that was rejected because another sender with the same id was
    /// connected.
    #[serde(default)]
    pub rival: Option<String>,
    /// The reason why the last session ended; `None` during a session.
    #[serde(default)]
    pub ended: Option<String>,
    /// Prefixes of the exporters whose datagrams it may deliver; empty if it may deliver those of all.
    #[serde(default)]
    pub exporters: Vec<String>,
    /// Datagrams of other exporters, which no collector gets.
    #[serde(default)]
    pub denied: u64,
    /// These exporters, the one with the most datagrams first; at most `limits::DENIED_SHOWN`.
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

/// State of the connection of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// A session is established.
    Connected,
    /// There is no session; there was one before.
    Disconnected,
}

/// One collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorStatus {
    /// Host and port.
    pub address: String,
    /// State of its address.
    pub state: CollectorState,
    /// True if its name is resolved. Until then, nothing is delivered there.
    #[serde(default = "resolved")]
    pub resolved: bool,
    /// Delivered datagrams and bytes.
    pub delivered: Tally,
    /// Datagrams skipped while it was down, or too slow for the other collectors.
    pub skipped: u64,
    /// Datagrams dropped because the kernel refused to send them, although it sent others.
    #[serde(default)]
    pub refused: u64,
    /// Seconds for which delivery has been held back; 0 while it is not.
    pub held_s: u64,
    /// Seconds until the next late datagram is due by `catch-up-pace`, at most 60; `None` while none waits
    /// for that.
    #[serde(default)]
    pub paced_s: Option<u64>,
    /// Datagrams that the kernel dropped at the collector's socket while nf-receiver was sending. Known on
    /// this machine only.
    pub socket_drops: u64,
    /// Upper bound of datagrams that were unread in the collector's socket when it closed, and are lost.
    /// Known on this machine only.
    #[serde(default)]
    pub unread: u64,
    /// Datagrams with templates and options data that were repeated for it after a restart.
    #[serde(default)]
    pub templates: u64,
    /// Its address for late datagrams, if it has one.
    #[serde(default)]
    pub late: Option<LateStatus>,
    /// Exporters that it sees under another address, the one seen last first; at most 1,024.
    #[serde(default)]
    pub seen_as: Vec<SeenAs>,
    /// Exporters that it confuses if it identifies them by address alone; at most `limits::CONFUSED_SHOWN`.
    #[serde(default)]
    pub confused: Vec<ConfusedStatus>,
}

impl CollectorStatus {
    /// Returns true unless it is known to be down. A collector on another machine counts as up until the
    /// network reports that it is down.
    pub fn is_up(&self) -> bool {
        self.resolved && self.state != CollectorState::Down
    }
}

/// The default for a status of earlier versions, in which unresolved collectors had the state `unknown`.
fn resolved() -> bool {
    true
}

/// Two exporters that a collector confuses if it identifies them by address alone. They use one observation
/// domain, define a template id differently, and reach the collector from one address.
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
    /// The meaning and the remedy, in words.
    pub meaning: String,
}

/// A collector's address for late datagrams. The figures are those of [`CollectorStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateStatus {
    /// Host and port.
    pub address: String,
    /// State of its address.
    pub state: CollectorState,
    /// Datagrams and bytes delivered there.
    pub delivered: Tally,
    /// Skipped datagrams.
    pub skipped: u64,
    /// Datagrams that the kernel refused to send.
    #[serde(default)]
    pub refused: u64,
    /// Seconds for which delivery has been held back.
    pub held_s: u64,
    /// Datagrams dropped at its socket.
    pub socket_drops: u64,
    /// Upper bound of datagrams that were unread in its socket when it closed.
    pub unread: u64,
}

/// An exporter, and the address under which a collector sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenAs {
    /// The exporter's own address and port.
    pub exporter: SocketAddr,
    /// The address and port that the collector sees.
    pub seen_as: SocketAddr,
}

/// State of a collector's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CollectorState {
    /// A socket is there.
    Up,
    /// No socket is there, the network reports it unreachable, or sending fails.
    Down,
    /// It is on another machine, and no error was reported.
    Unknown,
}
