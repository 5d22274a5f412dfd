//! Whether an address is this machine's own, by the route that the kernel takes to it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::io;
use std::net::UdpSocket;

/// Whether datagrams to `address` stay on this machine: to an address of its own the kernel sends from that same
/// address. Connecting a UDP socket looks up the route and sends nothing.
pub(super) fn is_local(address: SocketAddr) -> io::Result<bool> {
    let any: IpAddr =
        if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    match socket.connect(address) {
        Ok(()) => {}
        // No route there: surely not here.
        Err(error) if is_unreachable(&error) => return Ok(false),
        Err(error) => return Err(error),
    }
    let ip = address.ip().to_canonical();
    Ok(ip.is_loopback() || socket.local_addr()?.ip().to_canonical() == ip)
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_documentation_addresses_are_not() {
        for (address, expected) in [
            ("127.0.0.1:9995", true),
            ("127.9.9.9:9995", true),
            ("[::1]:9995", true),
            ("192.0.2.77:9995", false),
            ("[2001:db8::77]:9995", false),
        ] {
            assert_eq!(is_local(address.parse().unwrap()).unwrap(), expected, "{address}");
        }
    }

    #[test]
    fn the_address_that_this_machine_sends_from_is_local() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.77:9").is_ok() {
            let own = SocketAddr::new(socket.local_addr().unwrap().ip(), 9995);
            assert!(is_local(own).unwrap(), "{own}");
        }
    }
}
