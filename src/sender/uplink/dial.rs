//! Connects to one address of a receiver and agrees on a secure channel.

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
use crate::host::secure_stream::{HandshakeError, SecureStream, run_handshake};
use crate::host::{KeyReader, TlsFileError, read_sender_tls, resolve_cause};
use crate::limits::DIAL_PATIENCE;

/// The protection of connections to receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChannelMode {
    /// Clear text, to this machine only.
    LoopbackOnly,
    /// Clear text.
    ClearText,
    /// Encrypted under a shared key or passphrase.
    Keyed(Secret, Suite),
    /// Over TLS.
    Tls(SenderTls),
}

impl ChannelMode {
    /// Reads the keys and certificates that `protection` names.
    pub(crate) fn from_protection(
        protection: &SenderProtection,
        keys: &mut KeyReader,
    ) -> Result<Self, TlsFileError> {
        Ok(match protection {
            SenderProtection::LoopbackOnly => Self::LoopbackOnly,
            SenderProtection::Plaintext => Self::ClearText,
            SenderProtection::Key { source, suite } => Self::Keyed(keys.read(source, &[*suite])?, *suite),
            SenderProtection::Tls { files, server_name } => {
                Self::Tls(read_sender_tls(files, server_name.as_deref())?)
            }
        })
    }

    /// The own certificate, with TLS.
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

/// The reason why no channel could be agreed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot resolve {host}: {}", resolve_cause(.error))]
    Resolve { host: String, error: io::Error },
    #[error("cannot resolve {0}: the name has no address")]
    NoAddress(String),
    #[error("{}", connect_cause(.0))]
    Connect(io::Error),
    #[error(
        "no answer to TCP from {0} within {patience} s: host down, or a firewall drops it",
        patience = DIAL_PATIENCE.as_secs()
    )]
    TimedOut(SocketAddr),
    #[error(
        "{0} accepts TCP but does not speak nf-transport within {patience} s: another service, or \
         nf-receiver is stopped or overloaded",
        patience = DIAL_PATIENCE.as_secs()
    )]
    Silent(SocketAddr),
    #[error(
        "no answer within {} s, and TCP retransmits without success: large packets are probably lost on the \
         path (path MTU black hole); trying smaller segments",
        DIAL_PATIENCE.as_secs()
    )]
    SegmentsLost,
    #[error("connection lost before the receiver answered: {0}")]
    Lost(io::Error),
    #[error("{0}")]
    Handshake(#[from] SenderHandshakeError),
    #[error(
        "not sent in clear text to another machine: join the receiver (nf-sender join TOKEN), give both \
         sides a key (--key-file), or set 'plaintext = true' (or --plaintext) if this network may read the \
         flow data"
    )]
    PlaintextNotAllowed,
}

impl DialError {
    /// Returns `true` if the receiver or the settings of this side rejected the connection, so that a retry
    /// alone does not help.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Handshake(error) => error.is_rejection(),
            Self::PlaintextNotAllowed => true,
            _ => false,
        }
    }
}

/// Names the cause of a failed connect, and the remedy for the usual one.
fn connect_cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "connection refused (is nf-receiver.socket active there?)".to_owned()
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("{error}: check the route and the firewall")
        }
        _ => format!("cannot connect: {error}"),
    }
}

/// Connects to `address` with TCP segments of at most `segment_bytes` and agrees on a channel. Sets
/// `connected` to the socket as soon as TCP is connected. Has no time-out of its own.
pub(crate) async fn connect(
    address: SocketAddr,
    segment_bytes: Option<u16>,
    handshake: SenderHandshake,
    connected: &OnceLock<OwnedFd>,
) -> Result<SecureStream, DialError> {
    let mut tcp = open(address, segment_bytes).await.map_err(DialError::Connect)?;
    tcp.set_nodelay(true).map_err(DialError::Connect)?;
    let socket = tcp.as_fd().try_clone_to_owned().map_err(DialError::Connect)?;
    connected.get_or_init(|| socket);
    match run_handshake(&mut tcp, handshake).await {
        Err(HandshakeError::Lost(error)) => Err(DialError::Lost(error)),
        Err(HandshakeError::Failed(error)) => Err(error.into()),
        Ok(channel) => Ok(SecureStream::new(tcp, channel)),
    }
}

async fn open(address: SocketAddr, segment_bytes: Option<u16>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(bytes) = segment_bytes {
        // Set before connecting, so that the peer also sends segments of at most this size.
        SockRef::from(&socket).set_tcp_mss(bytes.into())?;
    }
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unresolved_name_is_in_the_message() {
        let message = |text: &str| {
            let error = io::Error::other(format!("failed to lookup address information: {text}"));
            DialError::Resolve { host: "collector.example.net".to_owned(), error }.to_string()
        };
        let unknown = "cannot resolve collector.example.net: no such host";
        let unanswered = "cannot resolve collector.example.net: name server did not answer";
        assert_eq!(message("Name or service not known"), unknown);
        assert_eq!(message("Temporary failure in name resolution"), unanswered);
    }

    #[test]
    fn a_refused_connection_names_the_socket_unit() {
        let error = DialError::Connect(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(error.to_string(), "connection refused (is nf-receiver.socket active there?)");
    }

    #[test]
    fn silence_of_host_and_of_service_differ() {
        let address: SocketAddr = "10.88.0.1:2055".parse().unwrap();
        let down = DialError::TimedOut(address).to_string();
        assert_eq!(
            down,
            "no answer to TCP from 10.88.0.1:2055 within 10 s: host down, or a firewall drops it"
        );
        let other = DialError::Silent(address).to_string();
        assert!(other.starts_with("10.88.0.1:2055 accepts TCP but does not speak nf-transport"), "{other}");
    }
}
