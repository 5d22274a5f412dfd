//! Whether an address is this machine's own, by the kernel's routes (rtnetlink(7)).

use core::net::{IpAddr, SocketAddr};
use std::io;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

/// Bytes of a netlink header (netlink(7)): length 4, type 2, flags 2, sequence 4, port 4.
const HEADER_LEN: usize = 16;

/// Where the message type stands in a reply.
const MESSAGE_TYPE: core::ops::Range<usize> = 4..6;

/// Where `rtm_type`, the kind of route, stands in a reply: byte 7 of struct rtmsg.
const ROUTE_TYPE: usize = HEADER_LEN + 7;

/// `NLM_F_REQUEST`: a question to the kernel.
const IS_REQUEST: u16 = 1;

/// Whether datagrams to `address` stay on this machine.
pub(super) fn is_local(address: SocketAddr) -> io::Result<bool> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.send(&request(address), 0)?;
    let mut reply = Vec::with_capacity(4096);
    socket.recv(&mut reply, libc::MSG_DONTWAIT)?;
    let is_route = reply.get(MESSAGE_TYPE) == Some(libc::RTM_NEWROUTE.to_ne_bytes().as_slice());
    Ok(is_route && reply.get(ROUTE_TYPE) == Some(&libc::RTN_LOCAL))
}

/// `RTM_GETROUTE` for `address`: the header, struct rtmsg (12 bytes) and the attributes.
fn request(address: SocketAddr) -> Vec<u8> {
    let (family, octets) = match address.ip() {
        IpAddr::V4(ip) => ([AF_INET, 32], ip.octets().to_vec()),
        IpAddr::V6(ip) => ([AF_INET6, 128], ip.octets().to_vec()),
    };
    let mut body = Vec::new();
    body.extend(family);
    // Source length, type of service, table, protocol, scope, type and flags: any.
    body.extend([0; 10]);
    body.extend(attribute(libc::RTA_DST, &octets));
    if let SocketAddr::V6(v6) = address
        && v6.scope_id() != 0
    {
        body.extend(attribute(libc::RTA_OIF, &v6.scope_id().to_ne_bytes()));
    }
    let mut message = Vec::new();
    message.extend(u32::try_from(HEADER_LEN + body.len()).unwrap_or_default().to_ne_bytes());
    message.extend(libc::RTM_GETROUTE.to_ne_bytes());
    message.extend(IS_REQUEST.to_ne_bytes());
    // Sequence and port: any.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// A netlink attribute whose value is a multiple of 4 bytes long.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    [length.to_ne_bytes().as_slice(), kind.to_ne_bytes().as_slice(), value].concat()
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
}
