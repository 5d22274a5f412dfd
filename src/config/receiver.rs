//! The settings of nf-receiver: every key of its configuration, its default, and what it may be.

use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

use crate::config::reader::Reader;
use crate::config::value::Value;
use crate::config::{HostPort, RECEIVER, Surroundings, kinds};
use crate::limits;

/// What nf-receiver is told to do.
#[derive(Clone, Debug)]
pub struct ReceiverSettings {
    /// TCP addresses to take connections on; `1 <= listen.len() <= LISTENERS_MAX`, no two alike.
    pub listen: Vec<SocketAddr>,
    /// Whether peers on other machines may be spoken to without encryption.
    pub plaintext: bool,
    /// The directory that keeps the position of each stream.
    pub state: PathBuf,
    /// Where to deliver: every one of them; `1 <= collectors.len() <= COLLECTORS_MAX`, no two alike.
    pub collectors: Vec<CollectorSettings>,
    /// Connections at once; `1 <= connections`.
    pub connections: usize,
    /// A connection that is not agreed after this long is given up.
    pub handshake_timeout: Duration,
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
    let plaintext = reader.take("plaintext", false, kinds::boolean);
    let state = reader.take("state", surroundings.state_path(RECEIVER), kinds::path);
    let control = reader.take("control", surroundings.control_path(RECEIVER), kinds::path);
    let collectors =
        reader.tables("collector", "address", "127.0.0.1:9995", 1..=limits::COLLECTORS_MAX, |reader| {
            Some(CollectorSettings { address: reader.required("address", kinds::host_port)? })
        });
    let limits = reader.section("limits", |reader| {
        let connections = reader.take(
            "connections",
            Value::number("10000"),
            kinds::whole_number(1..=limits::CONNECTIONS_MAX),
        );
        let bounds = limits::HANDSHAKE_TIMEOUT_MIN..=limits::HANDSHAKE_TIMEOUT_MAX;
        let handshake_timeout = reader.take("handshake-timeout", "10s", kinds::duration(bounds));
        Some((usize::try_from(connections?).ok()?, handshake_timeout?))
    });
    let (connections, handshake_timeout) = limits?;
    Some(ReceiverSettings {
        listen: listen?,
        plaintext: plaintext?,
        state: state?,
        collectors: collectors?,
        connections,
        handshake_timeout,
        control: control?,
    })
}

impl ReceiverSettings {
    /// Sentences about what is allowed, but probably not meant.
    pub(super) fn warnings(&self) -> Vec<String> {
        if self.plaintext {
            return Vec::new();
        }
        vec!["senders on other machines are refused: start with --plaintext, or set plaintext = true, to let them in"
            .to_owned()]
    }
}
