//! The status of nf-sender, as `nf-sender status --json` prints it. Counters run from the start of the
//! process.

use core::net::{IpAddr, SocketAddr, SocketAddrV6};

use serde::{Deserialize, Serialize};

use crate::status::{CertificateStatus, Tally};

/// The whole status of nf-sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderStatus {
    /// Always `nf-sender`.
    pub service: String,
    /// The version of the program.
    pub version: String,
    /// The sender's id.
    pub id: String,
    /// The id of the stream, in hexadecimal.
    pub stream: String,
    /// The id of the stream that this one continues, because the spool was restored from a backup or cloned.
    #[serde(default)]
    pub replaced_stream: Option<String>,
    /// Datagrams that were queued when the stream was replaced. They may have been delivered before, and may
    /// arrive twice.
    #[serde(default)]
    pub possible_repeats: u64,
    /// State of the link.
    pub state: LinkState,
    /// The receiver that is connected, is being tried, or rejected this sender; `None` while there is none.
    pub receiver: Option<String>,
    /// The cipher of the connection; `none` for clear text, `None` without a connection.
    pub cipher: Option<String>,
    /// Limit of TCP segments in bytes, set after full-size segments were lost on the path; `None` if TCP
    /// decides.
    #[serde(default)]
    pub segment_bytes: Option<u16>,
    /// The own certificate; `None` without TLS.
    pub certificate: Option<CertificateStatus>,
    /// Seconds until the next attempt to connect, while waiting for it.
    pub retry_in_s: Option<u64>,
    /// The reason why the link is down, in words.
    pub reason: Option<String>,
    /// Datagrams received from exporters.
    pub received: Tally,
    /// Datagrams recovered from the previous run.
    pub recovered: RecoveredStatus,
    /// Datagrams that the receiver acknowledged.
    pub acknowledged: Tally,
    /// Queued datagrams.
    pub queued: Queued,
    /// State of the receive journal, which holds datagrams until they are in a segment.
    #[serde(default)]
    pub intake: JournalStatus,
    /// Copies of damaged pieces of the spool, in its directory `damaged`.
    #[serde(default)]
    pub damaged: KeptFiles,
    /// Files of a newer version that this one cannot read, in the directory `newer` of the spool.
    #[serde(default)]
    pub newer: KeptFiles,
    /// Lost datagrams, by reason.
    pub dropped: DroppedCounts,
    /// The sockets that receive datagrams.
    #[serde(default)]
    pub sockets: Vec<SocketStatus>,
    /// Exporters whose datagrams are denied, the one with the most datagrams first; at most
    /// `limits::DENIED_SHOWN`.
    #[serde(default)]
    pub denied_exporters: Vec<DeniedStatus>,
    /// Exporters of queued datagrams that were dropped (`spool_full`, `too_old`), the one with the most
    /// first; at most `limits::DROPPED_SHOWN`.
    #[serde(default)]
    pub dropped_exporters: Vec<DroppedStatus>,
    /// Datagrams dropped for the same reasons, of exporters that are no longer listed.
    #[serde(default)]
    pub dropped_of_others: u64,
    /// Datagrams dropped for the same reasons, of exporters that nf-sender does not know.
    #[serde(default)]
    pub dropped_of_unknown: u64,
    /// Program states that must not occur. Each is a bug to report.
    #[serde(default)]
    pub internal_errors: u64,
    /// Warnings for the operator, such as a full spool or a disk error.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The known exporters.
    pub exporters: Vec<ExporterStatus>,
}

/// State of the link to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// A session is established.
    Connected,
    /// An attempt to connect is in progress.
    Connecting,
    /// The next attempt is scheduled, or no receiver is configured.
    Waiting,
    /// The receiver rejected this sender; the next attempt is scheduled.
    Refused,
}

/// Datagrams recovered from the previous run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredStatus {
    /// Number of datagrams.
    pub datagrams: u64,
}

/// Datagrams that are not acknowledged yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// Number of datagrams.
    pub datagrams: u64,
    /// Bytes of all payloads together.
    pub bytes: u64,
    /// Segment files that hold them.
    pub segments: u64,
    /// Age of the oldest datagram in seconds; 0 if the queue is empty.
    pub oldest_s: u64,
    /// Seconds until the spool is full at the present rate; `None` while nothing arrives.
    pub room_s: Option<u64>,
    /// Bytes that the spool can still store before it drops datagrams.
    #[serde(default)]
    pub room_bytes: u64,
    /// Incoming payload bytes per second, averaged over the last ten seconds.
    #[serde(default)]
    pub arriving_bytes_per_s: u64,
}

/// Files of the spool that are not in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFiles {
    /// Number of files.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// State of the receive journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// True if it is in the memory of the process only, so kill -9 would lose its datagrams.
    pub in_memory: bool,
    /// The reason for that.
    pub reason: Option<String>,
}

/// Datagrams lost, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedCounts {
    /// The receive buffer of the socket was full.
    pub kernel: u64,
    /// The exporter is not allowed, or the datagram is too long.
    pub denied: u64,
    /// The spool was full.
    pub spool_full: u64,
    /// Older than `max-age`.
    pub too_old: u64,
    /// Their bytes in the spool were damaged.
    pub corrupt: u64,
}

/// One socket, and the datagrams that were lost there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// The address on which it listens.
    pub address: SocketAddr,
    /// Datagrams that the kernel dropped because the receive buffer was full.
    pub kernel_drops: u64,
    /// Datagrams from exporters that are not allowed, or too long.
    pub denied: u64,
}

/// An exporter whose datagrams are denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedStatus {
    /// Its address.
    pub address: IpAddr,
    /// The index of the interface to which a link-local address belongs; `None` for other addresses.
    #[serde(default)]
    pub interface: Option<u32>,
    /// The socket to which it sends.
    pub socket: SocketAddr,
    /// Denied datagrams.
    pub datagrams: u64,
    /// Seconds since the last one.
    pub last_seen_s: u64,
}

impl DeniedStatus {
    /// Its address, as in `fe80::1%2` if it is link-local.
    pub(super) fn name(&self) -> String {
        let interface = self.interface.map(|index| format!("%{index}")).unwrap_or_default();
        format!("{}{interface}", self.address)
    }
}

/// An exporter of queued datagrams that were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedStatus {
    /// Its address.
    pub address: IpAddr,
    /// Dropped datagrams.
    pub datagrams: u64,
    /// Seconds since the last one was dropped.
    pub last_s: u64,
}

/// One exporter: a source of datagrams, identified by address, port and source id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExporterStatus {
    /// Its address.
    pub address: IpAddr,
    /// The index of the interface to which a link-local address belongs; `None` for other addresses.
    #[serde(default)]
    pub interface: Option<u32>,
    /// The source port of its last datagram.
    pub port: u16,
    /// NetFlow version (1, 5, 7, 8 or 9), or 10 for IPFIX; `None` for other formats, sFlow included.
    pub version: Option<u16>,
    /// The format in words: `NetFlow v9`, `IPFIX`, `sFlow v5`; `None` if it is unknown.
    #[serde(default)]
    pub format: Option<String>,
    /// Source id, observation domain, engine or sub-agent; `None` where the format has none.
    pub source_id: Option<u32>,
    /// sFlow: the agent's address.
    #[serde(default)]
    pub agent: Option<IpAddr>,
    /// Datagrams received, copies included.
    pub datagrams: u64,
    /// Copies among them.
    #[serde(default)]
    pub duplicates: u64,
    /// Amount missing by its sequence numbers, in `missing_unit`; `None` if the numbers are unusable.
    pub missing: Option<u64>,
    /// The unit of `missing`: `flows`, `datagrams`, `data records` or `records`.
    #[serde(default)]
    pub missing_unit: Option<String>,
    /// The reason why `missing` is unknown. It begins with `unusable: `.
    #[serde(default)]
    pub missing_reason: Option<String>,
    /// Seconds since its last datagram.
    pub last_seen_s: u64,
}

impl ExporterStatus {
    /// Address and port, as in `[fe80::1%2]:2055` for a link-local address.
    pub(super) fn socket_address(&self) -> SocketAddr {
        match self.address {
            IpAddr::V4(_) => SocketAddr::new(self.address, self.port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, self.interface.unwrap_or_default()).into(),
        }
    }

    /// The source id, after the sFlow agent as in `192.0.2.77/3` if the agent's address is not that of the
    /// exporter.
    pub(super) fn source(&self) -> Option<String> {
        let id = self.source_id?;
        let agent = self.agent.filter(|agent| *agent != self.address);
        Some(agent.map_or_else(|| id.to_string(), |agent| format!("{agent}/{id}")))
    }

    /// True if its format has sequence numbers.
    pub(super) fn has_numbers(&self) -> bool {
        self.format.is_some() && self.version != Some(1)
    }
}
