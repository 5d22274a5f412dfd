//! The settings of nf-receiver: every key of its configuration, its default and its range.

use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;
use std::path::PathBuf;

use crate::config::changed_keys::keys_that_differ;
use crate::config::collector::{self, CollectorSettings};
use crate::config::environment::Environment;
use crate::config::parsers;
use crate::config::protection::{self, ReceiverProtection};
use crate::config::reader::Reader;
use crate::config::service_names::RECEIVER;
use crate::config::value::Value;
use crate::limits;

/// The settings of nf-receiver.
#[derive(Clone, Debug)]
pub struct ReceiverSettings {
    /// TCP addresses to listen on, without duplicates; `1 <= listen.len() <= LISTENERS_MAX`.
    pub listen: Vec<SocketAddr>,
    /// Accepted credentials.
    pub protection: ReceiverProtection,
    /// The directory with the position of each stream.
    pub state: PathBuf,
    /// Collectors, without duplicates; `1 <= collectors.len() <= COLLECTORS_MAX`.
    pub collectors: Vec<CollectorSettings>,
    /// Connections at the same time; `1 <= connections`.
    pub connections: usize,
    /// Unauthenticated connections: in total, and from one source; both at least 1.
    pub unauthenticated: (usize, usize),
    /// Sockets of each collector, one for each exporter; at least 1.
    pub exporter_sockets: NonZeroUsize,
    /// Time after which a connection without a session is closed.
    pub handshake_timeout: Duration,
    /// The HTTP address for metrics, if any.
    pub metrics: Option<SocketAddr>,
    /// The path of the control socket.
    pub control: PathBuf,
}

pub(super) fn read(reader: &mut Reader<'_>, environment: &Environment) -> Option<ReceiverSettings> {
    let listen = reader.list("listen", ["[::]:2055"], 1..=limits::LISTENERS_MAX, parsers::socket_address);
    let protection = protection::read_receiver(reader, environment);
    let state = reader.read("state", environment.state_path(RECEIVER), parsers::path);
    let control = reader.read("control", environment.control_path(RECEIVER), parsers::path);
    let collectors = collector::read_all(reader);
    let metrics = reader.section("metrics", |reader| reader.optional("listen", parsers::socket_address));
    let limits = reader.section("limits", |reader| {
        let connections = reader.read(
            "connections",
            Value::number("10000"),
            parsers::whole_number(1..=limits::CONNECTIONS_MAX),
        );
        let unauthenticated = reader.read(
            "unauthenticated",
            Value::number("256"),
            parsers::whole_number(1..=limits::CONNECTIONS_MAX),
        );
        let per_source = reader.read(
            "unauthenticated-per-source",
            Value::number("8"),
            parsers::whole_number(1..=limits::CONNECTIONS_MAX),
        );
        let bounds = limits::HANDSHAKE_TIMEOUT_MIN..=limits::HANDSHAKE_TIMEOUT_MAX;
        let handshake_timeout = reader.read("handshake-timeout", "10s", parsers::duration(bounds));
        let exporter_sockets = reader.read(
            "exporter-sockets",
            Value::number("1024"),
            parsers::whole_number(1..=limits::EXPORTER_SOCKETS_MAX),
        );
        let count = |count: u32| usize::try_from(count).ok();
        Some((
            count(connections?)?,
            (count(unauthenticated?)?, count(per_source?)?),
            NonZeroUsize::new(count(exporter_sockets?)?)?,
            handshake_timeout?,
        ))
    });
    let (connections, unauthenticated, exporter_sockets, handshake_timeout) = limits?;
    Some(ReceiverSettings {
        listen: listen?,
        protection: protection?,
        state: state?,
        collectors: collectors?,
        connections,
        unauthenticated,
        exporter_sockets,
        handshake_timeout,
        metrics: metrics?,
        control: control?,
    })
}

impl ReceiverSettings {
    /// Returns the keys that differ in `other` and that take effect only at a start.
    pub fn changes_needing_restart(&self, other: &Self) -> Vec<&'static str> {
        let limits = |settings: &Self| {
            let Self { connections, unauthenticated, exporter_sockets, handshake_timeout, .. } = settings;
            (*connections, *unauthenticated, *exporter_sockets, *handshake_timeout)
        };
        keys_that_differ([
            ("listen", self.listen != other.listen),
            ("state", self.state != other.state),
            ("control", self.control != other.control),
            ("metrics.listen", self.metrics != other.metrics),
            ("limits", limits(self) != limits(other)),
        ])
    }

    /// Returns warnings about settings that are valid, but probably unintended.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings_of_protection();
        warnings.extend(self.warning_of_exporters());
        warnings.extend(self.protection.leaves_certificate_ids_open().then(|| {
            "holders of the shared key, or senders in clear text, can use the ids of senders with certificates: \
             list these ids in 'senders' of [tls]"
                .to_owned()
        }));
        warnings.extend(collector::warnings(&self.collectors));
        warnings
    }

    /// Warns that a sender can evade `exporters` with another id.
    fn warning_of_exporters(&self) -> Option<String> {
        let protection = &self.protection;
        let is_restricted = protection.senders.iter().any(|sender| !sender.exporters.has_all());
        let is_open = protection.plaintext || protection.shared.is_some();
        (is_restricted && is_open).then(|| {
            "exporters restricts only the senders of these [[sender]] tables: with the shared key or in \
             clear text, a sender can use another id and deliver datagrams of any exporter"
                .to_owned()
        })
    }

    fn warnings_of_protection(&self) -> Vec<String> {
        match (self.protection.can_authenticate(), self.protection.plaintext) {
            (true, true) => vec![
                "senders in clear text are accepted in addition to senders with a key: \
                 set plaintext = false once all senders have a key"
                    .to_owned(),
            ],
            (false, false) => vec![
                "no key is configured, so senders on other machines are rejected: invite them (nf-receiver \
                 invite NAME), give both sides a key (key-file), or accept clear text with plaintext = true \
                 (--plaintext)"
                    .to_owned(),
            ],
            (true, false) | (false, true) => Vec::new(),
        }
    }
}
