//! The settings of nf-receiver: every key of its configuration, its default, and what it may be.

use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

use crate::config::reader::Reader;
use crate::config::value::Value;
use crate::config::{HostPort, RECEIVER, ReceiverProtection, Surroundings, kinds, protection, that_differ};
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
    /// A connection that is not agreed after this long is given up.
    pub handshake_timeout: Duration,
    /// Where metrics are given, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Where the control socket is.
    pub control: PathBuf,
}

/// One collector.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectorSettings {
    /// Where it takes UDP.
    pub address: HostPort,
}

pub(super) fn read(reader: &mut Reader<'_>, surroundings: &Surroundings) -> Option<ReceiverSettings> {
    let listen = reader.list("listen", ["[::]:2055"], 1..=limits::LISTENERS_MAX, kinds::socket_address);
    let protection = protection::read_receiver(reader, surroundings);
    let state = reader.take("state", surroundings.state_path(RECEIVER), kinds::path);
    let control = reader.take("control", surroundings.control_path(RECEIVER), kinds::path);
    let collectors =
        reader.tables("collector", "address", ["127.0.0.1:9995"], 1..=limits::COLLECTORS_MAX, |reader| {
            Some(CollectorSettings { address: reader.required("address", kinds::host_port)? })
        });
    let metrics = reader.section("metrics", |reader| reader.optional("listen", kinds::socket_address));
    let limits = reader.section("limits", |reader| {
        let connections = reader.take(
            "connections",
            Value::number("10000"),
            kinds::whole_number(1..=limits::CONNECTIONS_MAX),
        );
        let strangers =
            reader.take("strangers", Value::number("256"), kinds::whole_number(1..=limits::CONNECTIONS_MAX));
        let per_source = reader.take(
            "strangers-per-source",
            Value::number("8"),
            kinds::whole_number(1..=limits::CONNECTIONS_MAX),
        );
        let bounds = limits::HANDSHAKE_TIMEOUT_MIN..=limits::HANDSHAKE_TIMEOUT_MAX;
        let handshake_timeout = reader.take("handshake-timeout", "10s", kinds::duration(bounds));
        let count = |count: u32| usize::try_from(count).ok();
        Some((count(connections?)?, (count(strangers?)?, count(per_source?)?), handshake_timeout?))
    });
    let (connections, strangers, handshake_timeout) = limits?;
    Some(ReceiverSettings {
        listen: listen?,
        protection: protection?,
        state: state?,
        collectors: collectors?,
        connections,
        strangers,
        handshake_timeout,
        metrics: metrics?,
        control: control?,
    })
}

impl ReceiverSettings {
    /// The keys that only a start takes up, and whose values in `other` are not these.
    pub fn differs_at_start(&self, other: &Self) -> Vec<&'static str> {
        let limits = |settings: &Self| (settings.connections, settings.strangers, settings.handshake_timeout);
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
