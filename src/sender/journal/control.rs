//! The control messages that the kernel attaches to a datagram (recvmsg(2), cmsg(3)).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use bytes::Buf;
use nf_transport_core::datagram::Timestamp;

/// The bytes before the content of a control message: its length (including the content), level and type.
const HEADER_LEN: usize = 16;

/// The control messages of one datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AncillaryData {
    /// The time at which the kernel received it.
    pub(super) arrival: Option<Timestamp>,
    /// The destination address.
    pub(super) local: Option<IpAddr>,
    /// The drop counter of the socket at that time.
    pub(super) dropped: Option<u32>,
}

impl AncillaryData {
    /// Parses control messages up to the first malformed one.
    pub(super) fn parse(mut control: &[u8]) -> Self {
        let mut details = Self::default();
        while let Some((level, kind, content, rest)) = split(control) {
            details.apply(level, kind, content);
            control = rest;
        }
        details
    }

    fn apply(&mut self, level: i32, kind: i32, mut content: &[u8]) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                if let (Ok(seconds), Ok(nanos)) = (content.try_get_i64_ne(), content.try_get_i64_ne())
                    && let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos))
                {
                    self.arrival = Some(Timestamp::from_unix(Duration::new(seconds, nanos)));
                }
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => self.dropped = content.try_get_u32_ne().ok(),
            // struct in_pktinfo: interface index, local address, destination address of the header.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                self.local = content
                    .get(8..12)
                    .and_then(|octets| Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()));
            }
            // struct in6_pktinfo: address, interface index.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                self.local = content.get(..16).and_then(|octets| {
                    Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical())
                });
            }
            _ => {}
        }
    }
}

/// Splits off the first message: level, type, content, and the remaining messages.
fn split(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let mut header = control;
    let length = usize::try_from(header.try_get_u64_ne().ok()?).ok()?;
    let level = header.try_get_i32_ne().ok()?;
    let kind = header.try_get_i32_ne().ok()?;
    let content = control.get(HEADER_LEN..length)?;
    let rest = control.get(length.next_multiple_of(8)..).unwrap_or_default();
    Some((level, kind, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, content: &[u8]) -> Vec<u8> {
        let length = u64::try_from(HEADER_LEN + content.len()).unwrap();
        let mut bytes =
            [&length.to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn all_control_messages_are_read() {
        let time = [7_i64.to_ne_bytes(), 9_i64.to_ne_bytes()].concat();
        let info = [&[0; 4][..], &[10, 0, 0, 1], &[192, 0, 2, 1]].concat();
        let control = [
            message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &time),
            message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &5_u32.to_ne_bytes()),
            message(libc::IPPROTO_IP, libc::IP_PKTINFO, &info),
        ]
        .concat();
        let details = AncillaryData {
            arrival: Some(Timestamp(7_000_000_009)),
            local: Some("192.0.2.1".parse().unwrap()),
            dropped: Some(5),
        };
        assert_eq!(AncillaryData::parse(&control), details);
        for cut in 0..control.len() {
            AncillaryData::parse(&control[..cut]);
        }
    }

    #[test]
    fn a_mapped_ipv4_destination_becomes_ipv4() {
        let info = [&"::ffff:192.0.2.9".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 4]].concat();
        let details = AncillaryData::parse(&message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info));
        assert_eq!(details.local, Some("192.0.2.9".parse().unwrap()));
    }

    #[test]
    fn an_impossible_length_ends_parsing() {
        for length in [0_u64, 15, 17, u64::MAX, u64::MAX - 8] {
            let mut control = message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &5_u32.to_ne_bytes());
            control[..8].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(AncillaryData::parse(&control).arrival, None);
        }
    }
}
