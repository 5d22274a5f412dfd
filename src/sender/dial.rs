//! Finds a receiver that answers, and agrees with it on how to speak.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::config::HostPort;
use crate::secure::preface::{Parsed, Preface, PrefaceError, REPLY_LEN, Status};
use crate::sequence::SenderId;

/// How long one address has to take a connection, and again to answer the preface.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a receiver could not be spoken to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot resolve the name: {0}")]
    Resolve(io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TimedOut,
    #[error("connection lost before the receiver answered: {0}")]
    Lost(io::Error),
    #[error("what answers is no nf-receiver: {0}")]
    Foreign(#[from] PrefaceError),
    #[error("{0}")]
    Refused(Status),
    #[error(
        "not sent in plain text to another machine: \
         set 'plaintext = true' (or --plaintext) if this network may read the flow data"
    )]
    PlaintextNotAllowed,
}

impl DialError {
    /// Whether the receiver, or this side's own settings, said no.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::PlaintextNotAllowed)
    }
}

/// Connects to the first address of `receiver` that answers as a receiver does.
pub(crate) async fn dial(
    receiver: &HostPort,
    id: &SenderId,
    plaintext: bool,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let addresses = lookup_host((receiver.host(), receiver.port())).await.map_err(DialError::Resolve)?;
    let mut outcome = Err(DialError::NoAddress);
    for address in addresses {
        outcome = dial_address(address, id, plaintext).await.map(|stream| (stream, address));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn dial_address(address: SocketAddr, id: &SenderId, plaintext: bool) -> Result<TcpStream, DialError> {
    if !plaintext && !address.ip().to_canonical().is_loopback() {
        return Err(DialError::PlaintextNotAllowed);
    }
    let connecting = timeout(PATIENCE, TcpStream::connect(address));
    let mut stream = connecting.await.map_err(|_| DialError::TimedOut)?.map_err(DialError::Connect)?;
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    timeout(PATIENCE, exchange_prefaces(&mut stream, id)).await.map_err(|_| DialError::TimedOut)??;
    Ok(stream)
}

async fn exchange_prefaces(stream: &mut TcpStream, id: &SenderId) -> Result<(), DialError> {
    stream.write_all(&Preface::encode_plain(id)).await.map_err(DialError::Lost)?;
    let mut reply = Vec::with_capacity(REPLY_LEN);
    loop {
        match Status::parse_reply(&reply)? {
            Parsed::Here(Status::Accepted) => return Ok(()),
            Parsed::Here(status) => return Err(DialError::Refused(status)),
            Parsed::NeedMore(total) => {
                let missing = u64::try_from(total.saturating_sub(reply.len())).unwrap_or(0);
                if (&mut *stream).take(missing).read_buf(&mut reply).await.map_err(DialError::Lost)? == 0 {
                    return Err(DialError::Lost(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }
}
