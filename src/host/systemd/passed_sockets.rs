//! Sockets passed by systemd (`sd_listen_fds(3)`). All of them are non-blocking and closed on exec.

use std::env;
use std::net::{TcpListener, UdpSocket};

use listenfd::ListenFd;
use socket2::SockRef;

/// The error of a file descriptor of the wrong kind.
#[derive(Debug, thiserror::Error)]
#[error(
    "file descriptor {fd}{} from systemd is {found}, but {wanted} is needed: \
     correct ListenDatagram= and ListenStream= in the socket unit",
    name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default()
)]
pub struct WrongSocket {
    /// The file descriptor.
    pub fd: usize,
    /// Its name: `FileDescriptorName=` of the socket unit, or the unit's own.
    pub name: Option<String>,
    /// The kind of the descriptor.
    pub found: &'static str,
    /// The kind that is needed.
    pub wanted: &'static str,
}

/// Returns the UDP sockets that systemd passed, if any. Programs call this once.
pub fn udp() -> Result<Vec<UdpSocket>, WrongSocket> {
    let wanted = "a UDP socket";
    take_all(ListenFd::from_env(), wanted, |passed, index| {
        let socket = passed.take_udp_socket(index).ok().flatten()?;
        socket.set_nonblocking(true).ok()?;
        Some(socket)
    })
}

/// Returns the listening TCP sockets that systemd passed, if any. Programs call this once.
pub fn tcp_listeners() -> Result<Vec<TcpListener>, WrongSocket> {
    let wanted = "a listening TCP socket";
    take_all(ListenFd::from_env(), wanted, |passed, index| {
        let socket = passed.take_tcp_listener(index).ok().flatten()?;
        socket.set_nonblocking(true).ok()?;
        SockRef::from(&socket).is_listener().is_ok_and(|listens| listens).then_some(socket)
    })
}

fn take_all<S>(
    mut passed: ListenFd,
    wanted: &'static str,
    take: impl Fn(&mut ListenFd, usize) -> Option<S>,
) -> Result<Vec<S>, WrongSocket> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let name_of = |index| names.split(':').nth(index).filter(|name| !name.is_empty()).map(str::to_owned);
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let socket = take(&mut passed, index).ok_or_else(|| WrongSocket {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_the_wrong_kind_is_named() {
        let name = Some("netflow".to_owned());
        let wrong = WrongSocket { fd: 4, name, found: "a TCP socket", wanted: "a UDP socket" };
        assert_eq!(
            wrong.to_string(),
            "file descriptor 4 (netflow) from systemd is a TCP socket, but a UDP socket is needed: correct \
             ListenDatagram= and ListenStream= in the socket unit"
        );
    }
}
