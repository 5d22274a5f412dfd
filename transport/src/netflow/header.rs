//! The header fields of NetFlow v5, NetFlow v9 and IPFIX. All numbers are big-endian.
//!
//! | | v5 | v9 (RFC 3954, 5.1) | IPFIX (RFC 7011, 3.1) |
//! |---|---|---|---|
//! | version | 0, 2 bytes: 5 | 0, 2 bytes: 9 | 0, 2 bytes: 10 |
//! | amount | 2, 2 bytes: flows, of 48 bytes each | 2, 2 bytes: records | 2, 2 bytes: length of the message |
//! | sequence | 16, 4 bytes: flows before this datagram | 12, 4 bytes: datagrams before this one | 8, 4 bytes: data records before this message |
//! | source | 20, 2 bytes: engine type and id | 16, 4 bytes: source id | 12, 4 bytes: observation domain |
//! | length | 24 | 20 | 16 |

use bytes::Buf;

use crate::flow_layout::{AddressFamily, FlowAddresses, FlowLayout, FlowRun};

/// Bytes of a NetFlow v5 header.
const V5_HEADER_LEN: usize = 24;

/// Bytes of each flow in a NetFlow v5 datagram.
const V5_FLOW_LEN: usize = 48;

/// The layout of each flow in a NetFlow v5 datagram.
const V5_FLOW: FlowLayout = FlowLayout {
    length: 48,
    addresses: Some(FlowAddresses { source: 0, destination: 4, family: AddressFamily::V4 }),
};

/// Bytes of an IPFIX message header.
const IPFIX_HEADER_LEN: usize = 16;

/// The fields that identify and count the datagrams of one exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// 5, 9, or 10 for IPFIX.
    pub version: u16,
    /// v5: engine type * 256 + engine id; v9: source id; IPFIX: observation domain id.
    pub source_id: u32,
    /// The datagram's place in its exporter's count.
    pub sequence: Sequence,
}

/// A datagram's place in the count of its exporter, modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The amount that the exporter had sent before this datagram.
    pub number: u32,
    /// The amount that this datagram adds: v5: its flows; v9: 1; IPFIX: its data records. `None` if unknown:
    /// the header of an IPFIX message does not contain it, and the templates that define it may not have
    /// arrived.
    pub adds: Option<u32>,
}

impl Header {
    /// Reads the header of `payload`; `None` if it is neither NetFlow v5, v9 nor IPFIX, or is cut short.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut rest = payload;
        match rest.try_get_u16().ok()? {
            5 => Self::parse_v5(payload.len(), rest),
            9 => Self::parse_v9(rest),
            10 => Self::parse_ipfix(payload.len(), rest),
            _ => None,
        }
    }

    fn parse_v5(length: usize, mut rest: &[u8]) -> Option<Self> {
        let flows = rest.try_get_u16().ok()?;
        let mut rest = rest.get(12..)?;
        let number = rest.try_get_u32().ok()?;
        let engine = rest.try_get_u16().ok()?;
        let whole = length >= V5_HEADER_LEN + V5_FLOW_LEN * usize::from(flows);
        let sequence = Sequence { number, adds: Some(u32::from(flows)) };
        whole.then_some(Self { version: 5, source_id: u32::from(engine), sequence })
    }

    /// The place of the flows of a v5 datagram with this header; `None` for other versions, or without flows.
    pub(super) fn v5_flows(&self) -> Option<FlowRun> {
        let flows = self.sequence.adds.filter(|flows| self.version == 5 && *flows > 0)?;
        let records = usize::try_from(flows).ok()?;
        Some(FlowRun { start: V5_HEADER_LEN, records, template: 0, layout: V5_FLOW })
    }

    fn parse_v9(rest: &[u8]) -> Option<Self> {
        let mut rest = rest.get(10..)?;
        let number = rest.try_get_u32().ok()?;
        let source_id = rest.try_get_u32().ok()?;
        Some(Self { version: 9, source_id, sequence: Sequence { number, adds: Some(1) } })
    }

    fn parse_ipfix(length: usize, mut rest: &[u8]) -> Option<Self> {
        let stated = usize::from(rest.try_get_u16().ok()?);
        let mut rest = rest.get(4..)?;
        let number = rest.try_get_u32().ok()?;
        let source_id = rest.try_get_u32().ok()?;
        let whole = (IPFIX_HEADER_LEN..=length).contains(&stated);
        whole.then_some(Self { version: 10, source_id, sequence: Sequence { number, adds: None } })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A v5 datagram of `flows` empty flows.
    fn v5(flows: u16, sequence: u32, engine: u16) -> Vec<u8> {
        let mut payload = [5u16.to_be_bytes(), flows.to_be_bytes()].concat();
        payload.extend([1; 12]);
        payload.extend(sequence.to_be_bytes());
        payload.extend(engine.to_be_bytes());
        payload.extend([0; 2]);
        payload.extend(vec![0; usize::from(flows) * V5_FLOW_LEN]);
        payload
    }

    #[test]
    fn a_v5_header_has_engine_and_flows() {
        let sequence = Sequence { number: 1000, adds: Some(30) };
        let expected = Header { version: 5, source_id: 0x0102, sequence };
        assert_eq!(Header::parse(&v5(30, 1000, 0x0102)), Some(expected));
    }

    #[test]
    fn a_v9_header_has_source_and_datagrams() {
        let mut payload = [9u16.to_be_bytes(), 4u16.to_be_bytes()].concat();
        payload.extend([1; 8]);
        payload.extend(77u32.to_be_bytes());
        payload.extend(0x0A0B_0C0Du32.to_be_bytes());
        let sequence = Sequence { number: 77, adds: Some(1) };
        assert_eq!(Header::parse(&payload), Some(Header { version: 9, source_id: 0x0A0B_0C0D, sequence }));
    }

    #[test]
    fn an_ipfix_header_has_a_domain_and_no_records() {
        let mut payload = [10u16.to_be_bytes(), 16u16.to_be_bytes()].concat();
        payload.extend([1; 4]);
        payload.extend(7u32.to_be_bytes());
        payload.extend(5u32.to_be_bytes());
        let sequence = Sequence { number: 7, adds: None };
        assert_eq!(Header::parse(&payload), Some(Header { version: 10, source_id: 5, sequence }));
    }

    #[test]
    fn a_truncated_header_is_rejected() {
        let whole = v5(2, 0, 0);
        for cut in 0..whole.len() {
            assert_eq!(Header::parse(&whole[..cut]), None, "{cut} bytes");
        }
        assert_eq!(Header::parse(&[[0, 9].as_slice(), &[0; 17]].concat()), None);
        assert_eq!(Header::parse(&[[0, 10, 0, 17].as_slice(), &[0; 12]].concat()), None);
        assert_eq!(Header::parse(&[0, 1, 2, 3]), None);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(
            version in prop_oneof![Just(5u16), Just(9), Just(10), any::<u16>()],
            rest in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let payload = [version.to_be_bytes().as_slice(), &rest].concat();
            let header = Header::parse(&payload);
            prop_assert!(header.is_none_or(|header| header.version == version));
        }
    }
}
