//! The settings of nf-receiver: every key of its configuration, its default, and what it may be.

use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;
use std::path::PathBuf;

use crate::config::reader::Reader;
use crate::config::value::Value;
use crate::config::{
    CollectorSettings, RECEIVER, ReceiverProtection, Surroundings, collector, parsers, protection,
    that_differ,
};
use crate::limits;

/// What nf-receiver is told to do.
#[derive(Clone, Debug)]
pub struct ReceiverSettings {
    /// TCP addresses to take connections on; `1 <= listen.len() <= LISTENERS_MAX`, no two alike.
    pub listen: Vec<SocketAddr>,
    /// Whom it lets in.
    pub protection: ReceiverProtection,
    /// The directory that keeps the position of each stream.
    pub state: PathBuf,
    /// Where to deliver: every one of them; `1 <= collectors.len() <= COLLECTORS_MAX`, no two alike.
    pub collectors: Vec<CollectorSettings>,
    /// Connections at once; `1 <= connections`.
    pub connections: usize,
    /// Connections that have not proven who they are: in all, and from one source; both at least 1.
    pub strangers: (usize, usize),
    /// Sockets of each collector, one for each exporter; at least 1.
    pub exporter_sockets: NonZeroUsize,
    /// A connection that is not agreed after this long is given up.
    pub handshake_timeout: Duration,
    /// Where metrics are given, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Where the control socket is.
    pub control: PathBuf,
}

pub(super) fn read(reader: &mut Reader<'_>, surroundings: &Surroundings) -> Option<ReceiverSettings> {
    let listen = reader.list("listen", ["[::]:2055"], 1..=limits::LISTENERS_MAX, parsers::socket_address);
    let protection = protection::read_receiver(reader, surroundings);
    let state = reader.take("state", surroundings.state_path(RECEIVER), parsers::path);
    let control = reader.take("control", surroundings.control_path(RECEIVER), parsers::path);
    let collectors = collector::read_all(reader);
    let metrics = reader.section("metrics", |reader| reader.optional("listen", parsers::socket_address));
    let limits = reader.section("limits", |reader| {
        let connections = reader.take(
            "connections",
            Value::number("10000"),
            parsers::whole_number(1..=limits::CONNECTIONS_MAX),
        );
        let strangers = reader.take(
            "strangers",
            Value::number("256"),
            parsers::whole_number(1..=limits::CONNECTIONS_MAX),
        );
        let per_source = reader.take(
            "strangers-per-source",
            Value::number("8"),
            parsers::whole_number(1..=limits::CONNECTIONS_MAX),
        );
        let bounds = limits::HANDSHAKE_TIMEOUT_MIN..=limits::HANDSHAKE_TIMEOUT_MAX;
        let handshake_timeout = reader.take("handshake-timeout", "10s", parsers::duration(bounds));
        let exporter_sockets = reader.take(
            "exporter-sockets",
            Value::number("1024"),
            parsers::whole_number(1..=limits::EXPORTER_SOCKETS_MAX),
        );
        let count = |count: u32| usize::try_from(count).ok();
        Some((
            count(connections?)?,
            (count(strangers?)?, count(per_source?)?),
            NonZeroUsize::new(count(exporter_sockets?)?)?,
            handshake_timeout?,
        ))
    });
    let (connections, strangers, exporter_sockets, handshake_timeout) = limits?;
    Some(ReceiverSettings {
        listen: listen?,
        protection: protection?,
        state: state?,
        collectors: collectors?,
        connections,
        strangers,
        exporter_sockets,
        handshake_timeout,
        metrics: metrics?,
        control: control?,
    })
}

impl ReceiverSettings {
    /// The keys that only a start takes up, and whose values in `other` are not these.
    pub fn differs_at_start(&self, other: &Self) -> Vec<&'static str> {
        let limits = |settings: &Self| {
            let Self { connections, strangers, exporter_sockets, handshake_timeout, .. } = settings;
            (*connections, *strangers, *exporter_sockets, *handshake_timeout)
        };
        that_differ([
            ("listen", self.listen != other.listen),
            ("state", self.state != other.state),
            ("control", self.control != other.control),
            ("metrics.listen", self.metrics != other.metrics),
            ("limits", limits(self) != limits(other)),
        ])
    }

    /// Sentences about what is allowed, but probably not meant.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings_of_protection();
        warnings.extend(self.warning_of_exporters());
        warnings.extend(self.protection.takes_unreserved_ids().then(|| {
            "holders of the shared key, or senders in clear text, can take the ids of senders with certificates: name these in \
             'senders' of [tls]"
                .to_owned()
        }));
        warnings.extend(collector::warnings(&self.collectors));
        warnings
    }

    /// Senders that take another id are not restricted.
    fn warning_of_exporters(&self) -> Option<String> {
        let protection = &self.protection;
        let is_restricted = protection.senders.iter().any(|sender| !sender.exporters.has_all());
        let is_open = protection.plaintext || protection.shared.is_some();
        (is_restricted && is_open).then(|| {
            "exporters restricts the senders of these [[sender]] tables only: with the shared key or in clear text a sender can \
             take another id, and deliver datagrams of any exporter"
                .to_owned()
        })
    }

    fn warnings_of_protection(&self) -> Vec<String> {
        match (self.protection.has_proofs(), self.protection.plaintext) {
            (true, true) => vec![
                "senders with a key are let in, and senders in clear text as well: \
                 set plaintext = false once all of them have a key"
                    .to_owned(),
            ],
            (false, false) => vec![
                "there is no key, so senders on other machines are refused: invite them (nf-receiver invite NAME), \
                 give both sides a key (key-file), or let clear text in with plaintext = true (--plaintext)"
                    .to_owned(),
            ],
            (true, false) | (false, true) => Vec::new(),
        }
    }
}
