//! The settings of nf-sender: every key of its configuration, its default and its range.

use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

use ipnet::IpNet;
use nf_transport_core::batch::Compression;
use nf_transport_core::sequence::SenderId;
use nf_transport_core::spool::{Policy, WhenFull};

use crate::config::changed_keys::keys_that_differ;
use crate::config::environment::Environment;
use crate::config::host_port::HostPort;
use crate::config::parsers;
use crate::config::protection::{self, SenderProtection, SpoolEncryption};
use crate::config::reader::Reader;
use crate::config::reconnect::Reconnect;
use crate::config::service_names::SENDER;
use crate::config::value::Value;
use crate::limits;

/// The settings of nf-sender.
#[derive(Clone, Debug)]
pub struct SenderSettings {
    /// UDP addresses to listen on, without duplicates; `1 <= listen.len() <= LISTENERS_MAX`.
    pub listen: Vec<SocketAddr>,
    /// Prefixes of allowed exporters; empty allows all.
    pub allow: Vec<IpNet>,
    /// Receivers: nf-sender connects to the first that answers, in order. Without any, it only spools
    /// datagrams.
    pub receivers: Vec<HostPort>,
    /// Protection of the connection.
    pub protection: SenderProtection,
    /// The name of this sender at the receiver.
    pub id: SenderId,
    /// The longest time without sending anything; `HEARTBEAT_MIN <= heartbeat <= HEARTBEAT_MAX`.
    pub heartbeat: Duration,
    /// The longest time for which nf-sender lets datagrams gather before it sends them; at most
    /// `MAX_DELAY_MAX`. With 0, it sends bursts as they arrive.
    pub max_delay: Duration,
    /// Delays before reconnecting.
    pub reconnect: Reconnect,
    /// The disk queue.
    pub spool: SpoolSettings,
    /// `$RUNTIME_DIRECTORY`, if set: a directory that survives this process, but not a power loss of the
    /// host.
    pub runtime_directory: Option<PathBuf>,
    /// The HTTP address for metrics, if any.
    pub metrics: Option<SocketAddr>,
    /// The path of the control socket.
    pub control: PathBuf,
}

/// Settings of the disk queue.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// The spool's directory.
    pub directory: PathBuf,
    /// Limits of size and age, and the datagrams to drop at these limits.
    pub policy: Policy,
    /// Time after which unacknowledged data is synced to disk.
    pub sync_after: Duration,
    /// Compression of stored and sent batches.
    pub compression: Compression,
    /// Encryption on disk.
    pub encryption: SpoolEncryption,
}

pub(super) fn read(reader: &mut Reader<'_>, environment: &Environment) -> Option<SenderSettings> {
    let listen = reader.list("listen", ["[::]:2055"], 1..=limits::LISTENERS_MAX, parsers::socket_address);
    let allow = reader.list("allow", [], 0..=limits::PREFIXES_MAX, parsers::prefix);
    let receivers = reader.list("receivers", [], 0..=limits::RECEIVERS_MAX, parsers::host_port);
    let protection = protection::read_sender(reader, environment);
    let id = reader.read("id", environment.default_id().as_str(), parsers::sender_id);
    let heartbeat = reader.read(
        "heartbeat",
        "5s",
        parsers::duration(
            nf_transport_core::limits::HEARTBEAT_MIN..=nf_transport_core::limits::HEARTBEAT_MAX,
        ),
    );
    let max_delay =
        reader.read("max-delay", "10ms", parsers::duration(Duration::ZERO..=limits::MAX_DELAY_MAX));
    let control = reader.read("control", environment.control_path(SENDER), parsers::path);
    let metrics = reader.section("metrics", |reader| reader.optional("listen", parsers::socket_address));
    let reconnect = reader.section("reconnect", read_reconnect);
    let spool = reader.section("spool", |reader| read_spool(reader, environment));
    Some(SenderSettings {
        listen: listen?,
        allow: allow?,
        receivers: receivers?,
        protection: protection?,
        id: id?,
        heartbeat: heartbeat?,
        max_delay: max_delay?,
        reconnect: reconnect?,
        spool: spool?,
        runtime_directory: environment.runtime_directory.clone(),
        metrics: metrics?,
        control: control?,
    })
}

fn read_reconnect(reader: &mut Reader<'_>) -> Option<Reconnect> {
    let delay = || parsers::duration(limits::RECONNECT_MIN..=limits::RECONNECT_MAX);
    let first = reader.read("first", "1s", delay());
    let factor = reader.read("factor", Value::number("3"), parsers::whole_number(1..=1000));
    let longest = reader.read("longest", "243s", delay());
    let jitter = reader.read("jitter", Value::number("0.0"), parsers::share);
    let (first, longest) = (first?, longest?);
    if first > longest {
        reader.reject_order("first", "longest");
    }
    Some(Reconnect { first, factor: factor?, longest, jitter: jitter? })
}

fn read_spool(reader: &mut Reader<'_>, environment: &Environment) -> Option<SpoolSettings> {
    let directory = reader.read("directory", environment.state_path(SENDER), parsers::path);
    let policy = read_policy(reader);
    let sync_after =
        reader.read("sync-after", "1s", parsers::duration(Duration::ZERO..=limits::SYNC_AFTER_MAX));
    let compressions = parsers::one_of([("none", Compression::None), ("zstd", Compression::Zstd)]);
    let compression = reader.read("compression", "none", compressions);
    let encryption = protection::read_spool(reader, environment);
    Some(SpoolSettings {
        directory: directory?,
        policy: policy?,
        sync_after: sync_after?,
        compression: compression?,
        encryption: encryption?,
    })
}

fn read_policy(reader: &mut Reader<'_>) -> Option<Policy> {
    let age = limits::ROTATE_EVERY_MIN..=limits::MAX_AGE_MAX;
    let size = || parsers::size(limits::SEGMENT_MIN..=limits::SPOOL_MAX);
    let rotate_every = reader.read("rotate-every", "5min", parsers::duration(age.clone()));
    let rotate_size = reader.read("rotate-size", "64MiB", size());
    let max_size = reader.read("max-size", "8GiB", size());
    let max_age = reader.read("max-age", "unlimited", parsers::duration_or_unlimited(age));
    let min_free = reader.read("min-free", "auto", parsers::min_free(0..=limits::SPOOL_MAX));
    let choices =
        parsers::one_of([("drop-oldest", WhenFull::DropOldest), ("drop-newest", WhenFull::DropNewest)]);
    let when_full = reader.read("when-full", "drop-oldest", choices);
    let (rotate_size, max_size) = (rotate_size?, max_size?);
    if rotate_size > max_size {
        reader.reject_order("rotate-size", "max-size");
    }
    Some(Policy {
        rotate_every: rotate_every?,
        rotate_size,
        max_size,
        max_age: max_age?,
        min_free: min_free?,
        when_full: when_full?,
    })
}

impl SenderSettings {
    /// Returns the keys that differ in `other` and that take effect only at a start.
    pub fn changes_needing_restart(&self, other: &Self) -> Vec<&'static str> {
        keys_that_differ([
            ("listen", self.listen != other.listen),
            ("control", self.control != other.control),
            ("metrics.listen", self.metrics != other.metrics),
            ("spool.directory", self.spool.directory != other.spool.directory),
            ("spool.encrypt, spool.key-file", self.spool.encryption != other.spool.encryption),
        ])
    }

    /// Returns warnings about settings that are valid, but probably unintended.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.receivers.is_empty() {
            warnings.push("no receiver is configured: datagrams will be spooled only".to_owned());
        }
        let is_bare = self.protection == SenderProtection::LoopbackOnly;
        for receiver in self.receivers.iter().filter(|receiver| is_bare && !receiver.is_loopback()) {
            warnings.push(format!(
                "{receiver} may be another machine, and without a key nothing is sent there: join it \
                 (nf-sender join TOKEN), give both sides a key (key-file), or set plaintext = true \
                 (--plaintext)"
            ));
        }
        warnings
    }
}
