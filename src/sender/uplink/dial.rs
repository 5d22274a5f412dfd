//! Connects to one address of a receiver, and agrees on a channel with it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use nf_transport_core::secure::{
    Certificate, Secret, SenderHandshake, SenderHandshakeError, SenderTls, Suite,
};
use nf_transport_core::sequence::SenderId;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use crate::config::SenderProtection;
use crate::host::secure_stream::{ShakeError, Stream, shake};
use crate::host::{KeyReader, TlsTrouble, read_sender_tls};
use crate::limits::DIAL_PATIENCE;

/// How a sender speaks to receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChannelMode {
    /// In clear text, and to this machine only.
    LoopbackOnly,
    /// In clear text.
    ClearText,
    /// Encrypted under a shared key or passphrase.
    Keyed(Secret, Suite),
    /// Over TLS.
    Tls(SenderTls),
}

impl ChannelMode {
    /// What `protection` asks for, with the key that it tells of.
    pub(crate) fn from_protection(
        protection: &SenderProtection,
        keys: &mut KeyReader,
    ) -> Result<Self, TlsTrouble> {
        Ok(match protection {
            SenderProtection::LoopbackOnly => Self::LoopbackOnly,
            SenderProtection::Plaintext => Self::ClearText,
            SenderProtection::Key { source, suite } => Self::Keyed(keys.read(source, &[*suite])?, *suite),
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

    pub(crate) fn handshake(
        &self,
        id: &SenderId,
        host: &str,
    ) -> Result<SenderHandshake, SenderHandshakeError> {
        Ok(match self {
            Self::LoopbackOnly | Self::ClearText => SenderHandshake::plain(id),
            Self::Keyed(Secret::Key(key), suite) => SenderHandshake::keyed(id, key, *suite),
            Self::Keyed(Secret::Passphrase(passphrase), suite) => {
                SenderHandshake::with_passphrase(id, passphrase, *suite)
            }
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
    #[error("no answer within {} s", DIAL_PATIENCE.as_secs())]
    TimedOut,
    #[error(
        "the connection was accepted, but there was no answer within {} s: the receiver is stopped, overloaded or not a \
         receiver",
        DIAL_PATIENCE.as_secs()
    )]
    Silent,
    #[error(
        "no answer within {} s, and TCP repeats segments in vain: large packets are probably lost on the way (path MTU \
         black hole); trying smaller ones",
        DIAL_PATIENCE.as_secs()
    )]
    SegmentsLost,
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

/// Connects to `address`, in TCP segments of at most as many bytes, and agrees on a channel. Puts the socket into `connected` as
/// soon as TCP is connected. Waits for as long as TCP does.
pub(crate) async fn connect(
    address: SocketAddr,
    segment_bytes: Option<u16>,
    handshake: SenderHandshake,
    connected: &OnceLock<OwnedFd>,
) -> Result<Stream, DialError> {
    let mut tcp = open(address, segment_bytes).await.map_err(DialError::Connect)?;
    tcp.set_nodelay(true).map_err(DialError::Connect)?;
    let socket = tcp.as_fd().try_clone_to_owned().map_err(DialError::Connect)?;
    connected.get_or_init(|| socket);
    match shake(&mut tcp, handshake).await {
        Err(ShakeError::Lost(error)) => Err(DialError::Lost(error)),
        Err(ShakeError::Failed(error)) => Err(error.into()),
        Ok(channel) => Ok(Stream::new(tcp, channel)),
    }
}

async fn open(address: SocketAddr, segment_bytes: Option<u16>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(bytes) = segment_bytes {
        // Set before connecting, it holds for the other direction, too.
        SockRef::from(&socket).set_tcp_mss(bytes.into())?;
    }
    socket.connect(address).await
}
