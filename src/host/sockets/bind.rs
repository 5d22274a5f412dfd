//! Binding of the sockets that a daemon listens on. All of them are non-blocking and closed on exec.

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use std::io;
use std::net::{TcpListener, UdpSocket};

use socket2::{Domain, Socket, Type};

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 1024;

/// The transport protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

impl Protocol {
    fn kind(self) -> Type {
        match self {
            Self::Udp => Type::DGRAM,
            Self::Tcp => Type::STREAM,
        }
    }

    /// Returns the option letter of `ss`.
    fn letter(self) -> char {
        match self {
            Self::Udp => 'u',
            Self::Tcp => 't',
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// Errors when binding a socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process uses the port.
    #[error(
        "{protocol} {address} is in use: \"ss -l{}np 'sport = :{}'\" shows the process; stop it, or listen \
         on another port",
        protocol.letter(),
        address.port()
    )]
    InUse {
        /// The protocol.
        protocol: Protocol,
        /// The address.
        address: SocketAddr,
    },
    /// The user may not listen on the port.
    #[error(
        "{protocol} {address} is not permitted: ports below 1024 need root, CAP_NET_BIND_SERVICE, or a \
         socket unit of systemd"
    )]
    Denied {
        /// The protocol.
        protocol: Protocol,
        /// The address.
        address: SocketAddr,
    },
    /// The host does not have the address.
    #[error(
        "{protocol} {address}: this host does not have this address: \"ip address\" shows its addresses; \
         [::] listens on all of them"
    )]
    NotHere {
        /// The protocol.
        protocol: Protocol,
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{protocol} {address} cannot be listened on: {source}")]
    Other {
        /// The protocol.
        protocol: Protocol,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

impl SocketError {
    fn new(protocol: Protocol, address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { protocol, address },
            io::ErrorKind::PermissionDenied => Self::Denied { protocol, address },
            io::ErrorKind::AddrNotAvailable => Self::NotHere { protocol, address },
            _ => Self::Other { protocol, address, source },
        }
    }
}

/// Binds a UDP socket to `address`. `[::]` includes IPv4. If the host has no IPv6, it becomes `0.0.0.0`.
pub fn bind_udp(address: SocketAddr) -> Result<UdpSocket, SocketError> {
    bind(Protocol::Udp, address).map(UdpSocket::from)
}

/// Binds a listening TCP socket to `address`. `[::]` includes IPv4. If the host has no IPv6, it becomes
/// `0.0.0.0`.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, SocketError> {
    bind(Protocol::Tcp, address).map(TcpListener::from)
}

/// Binds the TCP socket for metrics. Requires a tokio runtime.
pub fn bind_metrics(address: SocketAddr) -> Result<tokio::net::TcpListener, SocketError> {
    let failed = |source| SocketError::new(Protocol::Tcp, address, source);
    let listener = tokio::net::TcpListener::from_std(bind_tcp(address)?).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "serving metrics at http://{address}/metrics");
    Ok(listener)
}

fn bind(protocol: Protocol, address: SocketAddr) -> Result<Socket, SocketError> {
    let failed = |source| SocketError::new(protocol, address, source);
    match open(protocol, address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && lacks_ipv6(&error) => {
            let instead = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::warn!(
                %address,
                %instead,
                "this host has no IPv6: listening on {instead} instead of {address}"
            );
            open(protocol, instead).map_err(failed)
        }
        opened => opened.map_err(failed),
    }
}

fn open(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), protocol.kind(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if protocol == Protocol::Tcp {
        // Allows a restart while connections of the previous run are in TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_in_use_names_the_command_to_run() {
        let first = bind_udp(address("127.0.0.1:0")).unwrap();
        let taken = first.local_addr().unwrap();
        assert_eq!(
            bind_udp(taken).unwrap_err().to_string(),
            format!(
                "UDP {taken} is in use: \"ss -lunp 'sport = :{}'\" shows the process; stop it, or listen on \
                 another port",
                taken.port()
            )
        );
        let first = bind_tcp(address("127.0.0.1:0")).unwrap();
        let refused = bind_tcp(first.local_addr().unwrap()).unwrap_err().to_string();
        assert!(refused.contains("\"ss -ltnp 'sport = :"), "{refused}");
    }

    #[test]
    fn an_address_of_another_host_is_rejected() {
        let refused = bind_udp(address("192.0.2.1:2055")).unwrap_err();
        assert!(matches!(refused, SocketError::NotHere { .. }), "{refused}");
    }

    #[test]
    fn a_denied_port_names_the_needed_privilege() {
        let denied =
            SocketError::new(Protocol::Udp, address("[::]:514"), io::ErrorKind::PermissionDenied.into());
        assert_eq!(
            denied.to_string(),
            "UDP [::]:514 is not permitted: ports below 1024 need root, CAP_NET_BIND_SERVICE, or a socket \
             unit of systemd"
        );
    }

    #[test]
    fn the_unspecified_address_accepts_ipv4_and_ipv6() {
        let socket = bind_udp(address("[::]:0")).unwrap();
        socket.set_nonblocking(false).unwrap();
        let port = socket.local_addr().unwrap().port();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"four", ("127.0.0.1", port)).unwrap();
        let mut payload = [0; 8];
        let (length, exporter) = socket.recv_from(&mut payload).unwrap();
        assert_eq!(payload[..length], *b"four");
        assert!(exporter.ip().to_canonical().is_loopback());
    }

    #[test]
    fn sockets_do_not_block() {
        let socket = bind_udp(address("127.0.0.1:0")).unwrap();
        assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let listener = bind_tcp(address("127.0.0.1:0")).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
