//! The settings of nf-sender: every key of its configuration, its default, and what it may be.

use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

use ipnet::IpNet;
use nf_transport_core::batch::Compression;
use nf_transport_core::sequence::SenderId;
use nf_transport_core::spool::{Policy, WhenFull};

use crate::config::reader::Reader;
use crate::config::value::Value;
use crate::config::{
    HostPort, Reconnect, SENDER, SenderProtection, SpoolEncryption, Surroundings, parsers, protection,
    that_differ,
};
use crate::limits;

/// What nf-sender is told to do.
#[derive(Clone, Debug)]
pub struct SenderSettings {
    /// UDP addresses to take datagrams on; `1 <= listen.len() <= LISTENERS_MAX`, no two alike.
    pub listen: Vec<SocketAddr>,
    /// Exporters outside of these prefixes are denied; empty allows all.
    pub allow: Vec<IpNet>,
    /// Where to connect: the first that answers, in order. Empty: datagrams are spooled only.
    pub receivers: Vec<HostPort>,
    /// How what is sent is protected.
    pub protection: SenderProtection,
    /// The name by which the receiver knows this sender.
    pub id: SenderId,
    /// Something is sent at least this often; `HEARTBEAT_MIN <= heartbeat <= HEARTBEAT_MAX`.
    pub heartbeat: Duration,
    /// When to try again after the link was lost.
    pub reconnect: Reconnect,
    /// Where and how datagrams wait for the link.
    pub spool: SpoolSettings,
    /// A directory that outlives this process but not the host's power: `$RUNTIME_DIRECTORY`, if there is one.
    pub runtime_directory: Option<PathBuf>,
    /// Where metrics are given, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Where the control socket is.
    pub control: PathBuf,
}

/// Where and how datagrams wait for the link.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// The spool's directory.
    pub directory: PathBuf,
    /// How much it holds, for how long, and what gives way.
    pub policy: Policy,
    /// What stays unacknowledged longer is forced to disk.
    pub sync_after: Duration,
    /// How batches are stored and sent.
    pub compression: Compression,
    /// Whether they are encrypted on disk, and how.
    pub encryption: SpoolEncryption,
}

pub(super) fn read(reader: &mut Reader<'_>, surroundings: &Surroundings) -> Option<SenderSettings> {
    let listen = reader.list("listen", ["[::]:2055"], 1..=limits::LISTENERS_MAX, parsers::socket_address);
    let allow = reader.list("allow", [], 0..=limits::PREFIXES_MAX, parsers::prefix);
    let receivers = reader.list("receivers", [], 0..=limits::RECEIVERS_MAX, parsers::host_port);
    let protection = protection::read_sender(reader, surroundings);
    let id = reader.take("id", surroundings.default_id().as_str(), parsers::sender_id);
    let heartbeat = reader.take(
        "heartbeat",
        "5s",
        parsers::duration(
            nf_transport_core::limits::HEARTBEAT_MIN..=nf_transport_core::limits::HEARTBEAT_MAX,
        ),
    );
    let control = reader.take("control", surroundings.control_path(SENDER), parsers::path);
    let metrics = reader.section("metrics", |reader| reader.optional("listen", parsers::socket_address));
    let reconnect = reader.section("reconnect", read_reconnect);
    let spool = reader.section("spool", |reader| read_spool(reader, surroundings));
    Some(SenderSettings {
        listen: listen?,
        allow: allow?,
        receivers: receivers?,
        protection: protection?,
        id: id?,
        heartbeat: heartbeat?,
        reconnect: reconnect?,
        spool: spool?,
        runtime_directory: surroundings.runtime_directory.clone(),
        metrics: metrics?,
        control: control?,
    })
}

fn read_reconnect(reader: &mut Reader<'_>) -> Option<Reconnect> {
    let delay = || parsers::duration(limits::RECONNECT_MIN..=limits::RECONNECT_MAX);
    let first = reader.take("first", "1s", delay());
    let factor = reader.take("factor", Value::number("3"), parsers::whole_number(1..=1000));
    let longest = reader.take("longest", "243s", delay());
    let jitter = reader.take("jitter", Value::number("0.0"), parsers::share);
    let (first, longest) = (first?, longest?);
    if first > longest {
        reader.refuse_order("first", "longest");
    }
    Some(Reconnect { first, factor: factor?, longest, jitter: jitter? })
}

fn read_spool(reader: &mut Reader<'_>, surroundings: &Surroundings) -> Option<SpoolSettings> {
    let directory = reader.take("directory", surroundings.state_path(SENDER), parsers::path);
    let policy = read_policy(reader);
    let sync_after =
        reader.take("sync-after", "1s", parsers::duration(Duration::ZERO..=limits::SYNC_AFTER_MAX));
    let compressions = parsers::one_of([("none", Compression::None), ("zstd", Compression::Zstd)]);
    let compression = reader.take("compression", "none", compressions);
    let encryption = protection::read_spool(reader, surroundings);
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
    let rotate_every = reader.take("rotate-every", "5min", parsers::duration(age.clone()));
    let rotate_size = reader.take("rotate-size", "64MiB", size());
    let max_size = reader.take("max-size", "8GiB", size());
    let max_age = reader.take("max-age", "unlimited", parsers::duration_or_unlimited(age));
    let min_free = reader.take("min-free", "auto", parsers::min_free(0..=limits::SPOOL_MAX));
    let choices =
        parsers::one_of([("drop-oldest", WhenFull::DropOldest), ("drop-newest", WhenFull::DropNewest)]);
    let when_full = reader.take("when-full", "drop-oldest", choices);
    let (rotate_size, max_size) = (rotate_size?, max_size?);
    if rotate_size > max_size {
        reader.refuse_order("rotate-size", "max-size");
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
    /// The keys that only a start takes up, and whose values in `other` are not these.
    pub fn differs_at_start(&self, other: &Self) -> Vec<&'static str> {
        that_differ([
            ("listen", self.listen != other.listen),
            ("control", self.control != other.control),
            ("metrics.listen", self.metrics != other.metrics),
            ("spool.directory", self.spool.directory != other.spool.directory),
            ("the encryption of the spool", self.spool.encryption != other.spool.encryption),
        ])
    }

    /// Sentences about what is allowed, but probably not meant.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.receivers.is_empty() {
            warnings.push("no receiver is configured: datagrams will be spooled only".to_owned());
        }
        let is_bare = self.protection == SenderProtection::LoopbackOnly;
        for receiver in self.receivers.iter().filter(|receiver| is_bare && !receiver.is_loopback()) {
            warnings.push(format!(
                "{receiver} may be another machine, to which nothing goes without a key: join it (nf-sender join TOKEN), \
                 give both sides a key (key-file), or set plaintext = true (--plaintext)"
            ));
        }
        warnings
    }
}
