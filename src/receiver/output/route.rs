//! The kernel's route to a collector: source address, and whether datagrams leave this machine.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::io;
use std::net::UdpSocket;

/// Returns the unspecified address with port 0, in the family of `address`.
pub(super) fn any_port(address: SocketAddr) -> SocketAddr {
    if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}

/// Returns the source address of datagrams to `address`; `None` if there is no route. Connecting a UDP socket
/// looks up the route and sends nothing.
pub(super) fn source_to(address: SocketAddr) -> io::Result<Option<IpAddr>> {
    let socket = UdpSocket::bind(any_port(address))?;
    match socket.connect(address) {
        Ok(()) => Ok(Some(socket.local_addr()?.ip())),
        Err(error) if is_unreachable(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
}

/// Returns whether datagrams from `source` to `address` stay on this machine. To an address of its own, the
/// kernel sends from that same address.
pub(super) fn is_own(address: SocketAddr, source: IpAddr) -> bool {
    let ip = address.ip().to_canonical();
    ip.is_loopback() || source.to_canonical() == ip
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_local(address: SocketAddr) -> bool {
        source_to(address).unwrap().is_some_and(|source| is_own(address, source))
    }

    #[test]
    fn loopback_is_local_test_networks_are_not() {
        for (address, expected) in [
            ("127.0.0.1:9995", true),
            ("127.9.9.9:9995", true),
            ("[::1]:9995", true),
            ("192.0.2.77:9995", false),
            ("[2001:db8::77]:9995", false),
        ] {
            assert_eq!(is_local(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn the_source_address_is_local() {
        if let Some(own) = source_to("192.0.2.77:9".parse().unwrap()).unwrap() {
            assert!(is_local(SocketAddr::new(own, 9995)), "{own}");
        }
    }
}
