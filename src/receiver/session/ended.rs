//! Reasons for the end of a connection.

use std::net::SocketAddr;

use nf_transport_core::framing::RefusalCode;
use nf_transport_core::sequence::{SenderId, StreamId};
use nf_transport_core::session::SessionError;

use crate::host::secure_stream::StreamError;
use crate::limits::WAITING_PER_SENDER;
use crate::receiver::session::senders::Superseded;
use crate::receiver::state::positions::PositionsError;

/// Reason for the end of a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionEnd {
    #[error("the sender closed the connection")]
    Closed,
    #[error("the sender ended the session")]
    Goodbye,
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("{0}")]
    Superseded(#[from] Superseded),
    #[error(
        "the configuration was reloaded, and it is no longer accepted as before: key, name, cipher or certificates changed"
    )]
    AccessRevoked,
    #[error(
        "{0}; nothing came from the sender since the session began, not even a heartbeat: if its host is \
         up, large packets are probably lost on the path (path MTU black hole); let ICMP \"fragmentation \
         needed\" and \"packet too big\" pass, or lower the MTU of the route there"
    )]
    Unheard(Box<Self>),
    #[error(
        "it named the stream {stream}{}, and did not prove that the stream is its own: another machine may \
         use this id, or something changed the connection on the path; nothing was delivered or \
         acknowledged; identify the machine, and give each sender a key of its own (nf-receiver invite NAME)",
        holder_text(*.holder)
    )]
    NotProven {
        stream: StreamId,
        /// Address of the sender that has the stream, if it was connected.
        holder: Option<SocketAddr>,
    },
    #[error("the certificate of nf-receiver has expired: renew it and reload nf-receiver")]
    OwnExpired,
    #[error("the certificate of this sender has expired: renew it and reload nf-sender")]
    Expired,
    #[error("no HELLO in time")]
    NoHello,
    #[error(
        "sender {0} opened more than {WAITING_PER_SENDER} connections without a session: if only one \
         machine uses this id, another one has its key; renew it (nf-receiver invite --renew {0})"
    )]
    Crowded(SenderId),
    #[error("{0}")]
    Storage(#[from] PositionsError),
    #[error("stopping")]
    Stopping,
}

impl ConnectionEnd {
    /// Returns whether something failed, in contrast to a deliberate end by either side.
    pub(super) fn is_failure(&self) -> bool {
        match self {
            Self::Closed
            | Self::Goodbye
            | Self::Superseded(Superseded::Newer(_) | Superseded::KnownLonger(_))
            | Self::AccessRevoked
            | Self::Stopping => false,
            Self::Stream(_)
            | Self::Session(_)
            | Self::OwnExpired
            | Self::Expired
            | Self::Unheard(_)
            | Self::NotProven { .. }
            | Self::Superseded(Superseded::InUse(_))
            | Self::NoHello
            | Self::Crowded(_)
            | Self::Storage(_) => true,
        }
    }
}

pub(super) fn holder_text(holder: Option<SocketAddr>) -> String {
    holder.map_or_else(String::new, |holder| format!(", which is that of the sender at {holder}"))
}

pub(super) fn refusal_code(superseded: Superseded) -> RefusalCode {
    match superseded {
        Superseded::Newer(_) | Superseded::KnownLonger(_) => RefusalCode::Superseded,
        Superseded::InUse(_) => RefusalCode::IdInUse,
    }
}
