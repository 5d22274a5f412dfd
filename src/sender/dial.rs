//! Finds a receiver that answers, and comes to a channel with it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::config::{HostPort, SenderProtection};
use crate::secure::{Certificate, Key, SenderHandshake, SenderHandshakeError, SenderTls, Suite};
use crate::sequence::SenderId;
use crate::service::stream::{ShakeError, Stream, shake};
use crate::service::{KeyReader, TlsTrouble, read_sender_tls};

/// How long one address has to take a connection, and again to come to a channel.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a sender speaks to receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// In clear text, and to this machine only.
    LoopbackOnly,
    /// In clear text.
    ClearText,
    /// Encrypted by a shared key.
    Keyed(Key, Suite),
    /// Over TLS.
    Tls(SenderTls),
}

impl Speech {
    /// What `protection` asks for, with the key that it tells of.
    pub(crate) fn prepare(protection: &SenderProtection, keys: &mut KeyReader) -> Result<Self, TlsTrouble> {
        Ok(match protection {
            SenderProtection::LoopbackOnly => Self::LoopbackOnly,
            SenderProtection::Plaintext => Self::ClearText,
            SenderProtection::Key { source, suite } => Self::Keyed(keys.read(source)?, *suite),
            SenderProtection::Tls { files, server_name } => {
                Self::Tls(read_sender_tls(files, server_name.as_deref())?)
            }
        })
    }

    /// The own certificate, where TLS is spoken.
    pub(crate) fn certificate(&self) -> Option<&Certificate> {
        match self {
            Self::Tls(tls) => Some(&tls.certificate),
            Self::LoopbackOnly | Self::ClearText | Self::Keyed(..) => None,
        }
    }

    fn handshake(&self, id: &SenderId, host: &str) -> Result<SenderHandshake, SenderHandshakeError> {
        Ok(match self {
            Self::LoopbackOnly | Self::ClearText => SenderHandshake::plain(id),
            Self::Keyed(key, suite) => SenderHandshake::keyed(id, key, *suite),
            Self::Tls(tls) => SenderHandshake::tls(tls, host)?,
        })
    }
}

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
    #[error("{0}")]
    Handshake(#[from] SenderHandshakeError),
    #[error(
        "not sent in clear text to another machine: join the receiver (nf-sender join TOKEN), give both sides a key \
         (--key-file), or set 'plaintext = true' (or --plaintext) if this network may read the flow data"
    )]
    PlaintextNotAllowed,
}

impl DialError {
    /// Whether the receiver, or this side's own settings, said no.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Handshake(error) => error.is_refusal(),
            Self::PlaintextNotAllowed => true,
            _ => false,
        }
    }
}

/// Connects to the first address of `receiver` that answers as a receiver does.
pub(crate) async fn dial(
    receiver: &HostPort,
    id: &SenderId,
    speech: &Speech,
) -> Result<(Stream, SocketAddr), DialError> {
    let addresses = lookup_host((receiver.host(), receiver.port())).await.map_err(DialError::Resolve)?;
    let mut outcome = Err(DialError::NoAddress);
    for address in addresses {
        let handshake = speech.handshake(id, receiver.host())?;
        outcome = dial_address(address, speech, handshake).await.map(|stream| (stream, address));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn dial_address(
    address: SocketAddr,
    speech: &Speech,
    handshake: SenderHandshake,
) -> Result<Stream, DialError> {
    if *speech == Speech::LoopbackOnly && !address.ip().to_canonical().is_loopback() {
        return Err(DialError::PlaintextNotAllowed);
    }
    let connecting = timeout(PATIENCE, TcpStream::connect(address));
    let mut tcp = connecting.await.map_err(|_| DialError::TimedOut)?.map_err(DialError::Connect)?;
    tcp.set_nodelay(true).map_err(DialError::Connect)?;
    match timeout(PATIENCE, shake(&mut tcp, handshake)).await {
        Err(_) => Err(DialError::TimedOut),
        Ok(Err(ShakeError::Lost(error))) => Err(DialError::Lost(error)),
        Ok(Err(ShakeError::Failed(error))) => Err(error.into()),
        Ok(Ok(channel)) => Ok(Stream::new(tcp, channel)),
    }
}
