//! The status of nf-sender, as `nf-sender status --json` prints it. Counters run from the start of the process.

use core::net::{IpAddr, SocketAddr, SocketAddrV6};

use serde::{Deserialize, Serialize};

use crate::status::{CertificateStatus, Tally};

/// Everything that nf-sender tells about itself.
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
    /// Datagrams that were queued when the stream was replaced and may have been delivered before, so that they may
    /// arrive twice.
    #[serde(default)]
    pub possible_repeats: u64,
    /// How the link is.
    pub state: LinkState,
    /// The receiver that is connected, or being tried, or that refused; `None` while there is none.
    pub receiver: Option<String>,
    /// What encrypts the connection, while there is one; `none` for clear text.
    pub cipher: Option<String>,
    /// The most bytes of a TCP segment of the connection, where full ones were lost on the way; `None` if TCP decides.
    #[serde(default)]
    pub segment_bytes: Option<u16>,
    /// The own certificate, if TLS is spoken.
    pub certificate: Option<CertificateStatus>,
    /// Seconds until the next attempt to connect, while waiting for it.
    pub retry_in_s: Option<u64>,
    /// Why the link is not there, in words.
    pub reason: Option<String>,
    /// What was taken from the sockets.
    pub received: Tally,
    /// What the spool held at the start.
    pub recovered: Recovered,
    /// What the receiver acknowledged.
    pub acknowledged: Tally,
    /// What waits.
    pub queued: Queued,
    /// Where datagrams are that were received and are in no segment yet.
    #[serde(default)]
    pub intake: JournalStatus,
    /// Copies of damaged pieces of the spool, in its directory `damaged`.
    #[serde(default)]
    pub damaged: Kept,
    /// What a newer version left and this one cannot read: files in the directory `newer` of the spool.
    #[serde(default)]
    pub newer: Kept,
    /// What is lost, by reason.
    pub dropped: Dropped,
    /// The sockets that datagrams come to.
    #[serde(default)]
    pub sockets: Vec<SocketStatus>,
    /// Exporters whose datagrams are denied, those with the most datagrams first; at most `limits::DENIED_SHOWN`.
    #[serde(default)]
    pub denied_exporters: Vec<DeniedStatus>,
    /// Exporters of queued datagrams that were dropped (`spool_full`, `too_old`), those with the most first; at most
    /// `limits::DROPPED_SHOWN`.
    #[serde(default)]
    pub dropped_exporters: Vec<DroppedStatus>,
    /// Datagrams that were dropped for the same reasons, of exporters that are not listed any more.
    #[serde(default)]
    pub dropped_of_others: u64,
    /// Datagrams that were dropped for the same reasons, and of which nf-sender does not know the exporters.
    #[serde(default)]
    pub dropped_of_unknown: u64,
    /// Impossible states that the program met; each is a bug to report.
    #[serde(default)]
    pub internal_errors: u64,
    /// Sentences about what an operator should look at: no room, a disk that refuses.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The exporters heard.
    pub exporters: Vec<ExporterStatus>,
}

/// How the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// A session is agreed.
    Connected,
    /// An attempt is under way.
    Connecting,
    /// The next attempt has its time, or there is nothing to connect to.
    Waiting,
    /// The receiver refused; the next attempt has its time.
    Refused,
}

/// What the spool held at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// How many datagrams.
    pub datagrams: u64,
}

/// What waits for the link or for its acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// How many datagrams.
    pub datagrams: u64,
    /// Bytes of all payloads together.
    pub bytes: u64,
    /// Files that hold them.
    pub segments: u64,
    /// Age of the oldest in seconds; 0 if there is none.
    pub oldest_s: u64,
    /// Seconds until the spool is full at the present rate; `None` while nothing arrives.
    pub room_s: Option<u64>,
    /// Bytes that the spool still takes before something must be dropped.
    #[serde(default)]
    pub room_bytes: u64,
    /// Payload bytes that arrive in a second, over the last ten seconds.
    #[serde(default)]
    pub arriving_bytes_per_s: u64,
}

/// Files that are kept beside the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// How many.
    pub files: u64,
    /// Bytes of all together.
    pub bytes: u64,
}

/// Where the intake is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Whether it is in the memory of the process, so that kill -9 would lose what it holds.
    pub in_memory: bool,
    /// Why.
    pub reason: Option<String>,
}

/// Datagrams lost, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The kernel had no room in the receive buffer.
    pub kernel: u64,
    /// The exporter is not allowed.
    pub denied: u64,
    /// The spool was full.
    pub spool_full: u64,
    /// Older than `max-age`.
    pub too_old: u64,
    /// The spool's bytes were damaged.
    pub corrupt: u64,
}

/// One socket, and what it lost before the datagrams were received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Datagrams that the kernel had no room for.
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
    /// The socket that it sends to.
    pub socket: SocketAddr,
    /// Datagrams denied.
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
    /// Datagrams dropped.
    pub datagrams: u64,
    /// Seconds since the last one was dropped.
    pub last_s: u64,
}

/// One exporter: a source of datagrams, by address, port and the number it gives itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExporterStatus {
    /// Its address.
    pub address: IpAddr,
    /// The index of the interface to which a link-local address belongs; `None` for other addresses.
    #[serde(default)]
    pub interface: Option<u32>,
    /// The port from which it was heard last.
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
    /// Copies of datagrams received before.
    #[serde(default)]
    pub duplicates: u64,
    /// Amount missing by its sequence numbers, in `missing_unit`; `None` if they cannot be used.
    pub missing: Option<u64>,
    /// The unit that it counts: `flows`, `datagrams`, `data records` or `records`.
    #[serde(default)]
    pub missing_unit: Option<String>,
    /// The reason why `missing` is not known, beginning with `unusable: `.
    #[serde(default)]
    pub missing_reason: Option<String>,
    /// Seconds since it was heard.
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

    /// The source id. It has the agent of sFlow before it, as in `192.0.2.77/3`, unless the agent has the exporter's address.
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
