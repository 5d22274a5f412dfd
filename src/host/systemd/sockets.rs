//! Sockets passed by systemd, or else bound here. All of them are non-blocking and closed on exec.

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use std::net::{TcpListener, UdpSocket};
use std::{env, io};

use bytesize::ByteSize;
use listenfd::ListenFd;
use socket2::{Domain, SockRef, Socket, Type};

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

/// Errors when opening a socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// systemd passed a file descriptor of the wrong kind.
    #[error(
        "file descriptor {fd}{} from systemd is {found}, but {wanted} is needed: \
         correct ListenDatagram= and ListenStream= in the socket unit",
        name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default()
    )]
    WrongKind {
        /// The file descriptor.
        fd: usize,
        /// Its name: `FileDescriptorName=` of the socket unit, or the unit's own.
        name: Option<String>,
        /// The kind of the descriptor.
        found: &'static str,
        /// The kind that is needed.
        wanted: &'static str,
    },
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

/// Returns the UDP sockets that systemd passed, if any. Programs call this once.
pub fn inherited_udp() -> Result<Vec<UdpSocket>, SocketError> {
    let wanted = "a UDP socket";
    inherited(ListenFd::from_env(), wanted, |passed, index| {
        let socket = passed.take_udp_socket(index).ok().flatten()?;
        socket.set_nonblocking(true).ok()?;
        Some(socket)
    })
}

/// Returns the listening TCP sockets that systemd passed, if any. Programs call this once.
pub fn inherited_tcp_listeners() -> Result<Vec<TcpListener>, SocketError> {
    let wanted = "a listening TCP socket";
    inherited(ListenFd::from_env(), wanted, |passed, index| {
        let socket = passed.take_tcp_listener(index).ok().flatten()?;
        socket.set_nonblocking(true).ok()?;
        SockRef::from(&socket).is_listener().is_ok_and(|listens| listens).then_some(socket)
    })
}

fn inherited<S>(
    mut passed: ListenFd,
    wanted: &'static str,
    take: impl Fn(&mut ListenFd, usize) -> Option<S>,
) -> Result<Vec<S>, SocketError> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let name_of = |index| names.split(':').nth(index).filter(|name| !name.is_empty()).map(str::to_owned);
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let socket = take(&mut passed, index).ok_or_else(|| SocketError::WrongKind {
            // SD_LISTEN_FDS_START, sd_listen_fds(3).
            fd: index + 3,
            name: name_of(index),
            found: kind_of(&mut passed, index),
            wanted,
        })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Describes the socket at `index`. If `take` above took it, it was a TCP socket that does not listen.
fn kind_of(passed: &mut ListenFd, index: usize) -> &'static str {
    if matches!(passed.take_tcp_listener(index), Ok(Some(_))) {
        "a TCP socket"
    } else if matches!(passed.take_udp_socket(index), Ok(Some(_))) {
        "a UDP socket"
    } else if passed.take_unix_listener(index).is_ok_and(|socket| socket.is_some())
        || passed.take_unix_datagram(index).is_ok_and(|socket| socket.is_some())
    {
        "a Unix socket"
    } else if passed.take_raw_fd(index).is_ok_and(|fd| fd.is_none()) {
        "a TCP socket that does not listen (Accept=yes?)"
    } else {
        "something else"
    }
}

/// Describes the origin of a socket, for the end of a log line.
pub fn origin(from_systemd: bool) -> &'static str {
    if from_systemd { " (socket passed by systemd)" } else { "" }
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

/// Raises the receive buffer of `socket` to `wanted` bytes, as far as the kernel grants it, and never lowers
/// it. Returns the resulting size in requested bytes: the kernel itself counts twice as many.
pub fn ensure_receive_buffer(socket: &UdpSocket, wanted: usize) -> io::Result<usize> {
    let granted = || SockRef::from(socket).recv_buffer_size().map(|doubled| doubled / 2);
    let before = granted()?;
    if before >= wanted {
        return Ok(before);
    }
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, wanted).is_err() {
        // Without CAP_NET_ADMIN, a request above the permitted size sets the permitted size, even if a socket
        // unit has set a larger one before.
        let allowed = permitted_receive_buffer().min(wanted);
        if allowed > before {
            SockRef::from(socket).set_recv_buffer_size(allowed)?;
        }
    }
    granted()
}

/// Returns the receive buffer in bytes that any process may request; 0 if it is unknown.
fn permitted_receive_buffer() -> usize {
    let text = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Returns a warning if the kernel granted a smaller receive buffer than `wanted` bytes.
pub fn receive_buffer_advice(wanted: usize, granted: usize) -> Option<String> {
    let size = |bytes: usize| ByteSize(u64::try_from(bytes).unwrap_or(u64::MAX));
    (granted < wanted).then(|| {
        format!(
            "the kernel grants a receive buffer of {} for each socket instead of {}, so bursts may be lost: \
             allow more with \"sysctl -w net.core.rmem_max={wanted}\", and in /etc/sysctl.d to keep it",
            size(granted),
            size(wanted),
        )
    })
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

    #[test]
    fn a_sufficient_receive_buffer_is_unchanged() {
        let socket = bind_udp(address("127.0.0.1:0")).unwrap();
        let before = SockRef::from(&socket).recv_buffer_size().unwrap();
        assert_eq!(ensure_receive_buffer(&socket, 4096).unwrap(), before / 2);
        assert_eq!(SockRef::from(&socket).recv_buffer_size().unwrap(), before);
        assert!(ensure_receive_buffer(&socket, 256 * 1024).unwrap() >= before / 2);
    }

    #[test]
    fn a_small_receive_buffer_is_warned_of() {
        assert_eq!(receive_buffer_advice(67_108_864, 67_108_864), None);
        assert_eq!(
            receive_buffer_advice(67_108_864, 212_992).unwrap(),
            "the kernel grants a receive buffer of 208.0 KiB for each socket instead of 64.0 MiB, so bursts \
             may be lost: allow more with \"sysctl -w net.core.rmem_max=67108864\", and in /etc/sysctl.d to \
             keep it"
        );
    }

    #[test]
    fn a_descriptor_of_the_wrong_kind_is_named() {
        let name = Some("netflow".to_owned());
        let wrong = SocketError::WrongKind { fd: 4, name, found: "a TCP socket", wanted: "a UDP socket" };
        assert_eq!(
            wrong.to_string(),
            "file descriptor 4 (netflow) from systemd is a TCP socket, but a UDP socket is needed: correct \
             ListenDatagram= and ListenStream= in the socket unit"
        );
    }
}
