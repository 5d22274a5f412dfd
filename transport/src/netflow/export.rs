//! The header fields that count the datagrams of every supported export format. All numbers are big-endian.
//!
//! [`Header`] has the offsets of v5, v9 and IPFIX. The other formats:
//!
//! | | v1 | v7 | v8 | sFlow v5 |
//! |---|---|---|---|---|
//! | version | 0, 2 bytes: 1 | 0, 2 bytes: 7 | 0, 2 bytes: 8 | 0, 4 bytes: 5 |
//! | count | 2, 2 bytes: flows of 52 bytes | 2, 2 bytes: flows of 52 bytes | 2, 2 bytes: flows of at least 28 bytes | none |
//! | sequence | none | 16, 4 bytes: flows before this datagram | 16, 4 bytes: flows before this datagram | after the sub-agent, 4 bytes: datagrams of the sub-agent |
//! | source | none | none | 20, 2 bytes: engine type and id; 22, 1 byte: aggregation | 4, 4 bytes: address type (1: IPv4, 2: IPv6); 8, 4 or 16 bytes: agent address; then 4 bytes: sub-agent |
//! | length | 16 | 24 | 28 | 28 or 40 |
//!
//! Sources: the NetFlow export datagram formats of Cisco's NetFlow Collector, and "sFlow Version 5"
//! (sflow.org, 2004), section 5, `sample_datagram_v5`. sFlow v5 differs from NetFlow by the width of its
//! version field.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Buf;

use crate::netflow::Header;
use crate::netflow::contents::Contents;

/// Bytes of a NetFlow v1 or v7 flow.
const V1_FLOW_LEN: usize = 52;

/// Bytes of a NetFlow v1 header.
const V1_HEADER_LEN: usize = 16;

/// Bytes of a NetFlow v7 header.
const V7_HEADER_LEN: usize = 24;

/// Bytes of a NetFlow v8 header.
const V8_HEADER_LEN: usize = 28;

/// Bytes of the shortest NetFlow v8 flow (by autonomous systems).
const V8_FLOW_LEN_MIN: usize = 28;

/// The highest aggregation scheme of NetFlow v8.
const V8_AGGREGATION_MAX: u8 = 14;

/// The format of an export datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExportFormat {
    /// NetFlow v1, without sequence numbers.
    V1,
    /// NetFlow v5.
    V5,
    /// NetFlow v7.
    V7,
    /// NetFlow v8.
    V8,
    /// NetFlow v9, RFC 3954.
    V9,
    /// IPFIX, RFC 7011.
    Ipfix,
    /// sFlow v5.
    SFlow,
    /// Anything else.
    Other,
}

impl ExportFormat {
    /// The version of NetFlow, 10 for IPFIX; `None` for other formats.
    pub fn netflow_version(self) -> Option<u16> {
        match self {
            Self::V1 => Some(1),
            Self::V5 => Some(5),
            Self::V7 => Some(7),
            Self::V8 => Some(8),
            Self::V9 => Some(9),
            Self::Ipfix => Some(10),
            Self::SFlow | Self::Other => None,
        }
    }

    /// True if its datagrams have sequence numbers.
    pub fn is_numbered(self) -> bool {
        !matches!(self, Self::V1 | Self::Other)
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipfix => f.write_str("IPFIX"),
            Self::SFlow => f.write_str("sFlow v5"),
            Self::Other => f.write_str("unknown"),
            netflow => write!(f, "NetFlow v{}", netflow.netflow_version().unwrap_or_default()),
        }
    }
}

/// The part of an exporter that has its own count, as its datagrams name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The format of the datagrams.
    pub format: ExportFormat,
    /// sFlow: the agent's address; `None` in other formats, or if its type is unknown.
    pub agent: Option<IpAddr>,
    /// v5: engine type * 256 + engine id; v8: the same + aggregation * 65,536; v9: source id; IPFIX:
    /// observation domain id; sFlow: sub-agent id; 0 in other formats.
    pub id: u32,
}

/// The fields of one datagram that matter for counting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Export {
    pub(super) source: Source,
    /// The sequence number, as it is in the header.
    pub(super) number: u32,
    /// The contents according to the header alone.
    pub(super) contents: Contents,
}

impl Export {
    /// Reads the header of `payload`. An unknown format and a truncated datagram are [`ExportFormat::Other`].
    pub(super) fn parse(payload: &[u8], header: Option<&Header>) -> Self {
        let known = match header {
            Some(header) => Some(Self::with_header(payload, header)),
            None => parse_v1(payload)
                .or_else(|| parse_v7(payload))
                .or_else(|| parse_v8(payload))
                .or_else(|| parse_sflow(payload)),
        };
        known.unwrap_or_else(|| Self::new(ExportFormat::Other, 0, 0, Contents::default()))
    }

    fn with_header(payload: &[u8], header: &Header) -> Self {
        let (format, contents) = match header.version {
            5 => (ExportFormat::V5, Contents::flows(header.sequence.adds.unwrap_or_default())),
            9 => (ExportFormat::V9, Contents::announced(count(payload).unwrap_or_default())),
            _ => (ExportFormat::Ipfix, Contents::default()),
        };
        Self::new(format, header.source_id, header.sequence.number, contents)
    }

    fn new(format: ExportFormat, id: u32, number: u32, contents: Contents) -> Self {
        Self { source: Source { format, agent: None, id }, number, contents }
    }
}

/// The field after the version of NetFlow.
fn count(payload: &[u8]) -> Option<u16> {
    payload.get(2..)?.try_get_u16().ok()
}

/// The number of flows, if `payload` has this version and is long enough for them.
fn flows(payload: &[u8], version: u16, header_len: usize, flow_len: usize) -> Option<u16> {
    let mut fields = payload;
    let is_version = fields.try_get_u16().ok()? == version;
    let flows = fields.try_get_u16().ok()?;
    let whole = payload.len() >= header_len + flow_len * usize::from(flows);
    (is_version && whole).then_some(flows)
}

fn parse_v1(payload: &[u8]) -> Option<Export> {
    let flows = flows(payload, 1, V1_HEADER_LEN, V1_FLOW_LEN)?;
    Some(Export::new(ExportFormat::V1, 0, 0, Contents::flows(u32::from(flows))))
}

fn parse_v7(payload: &[u8]) -> Option<Export> {
    let flows = flows(payload, 7, V7_HEADER_LEN, V1_FLOW_LEN)?;
    let number = payload.get(16..)?.try_get_u32().ok()?;
    Some(Export::new(ExportFormat::V7, 0, number, Contents::flows(u32::from(flows))))
}

fn parse_v8(payload: &[u8]) -> Option<Export> {
    let flows = flows(payload, 8, V8_HEADER_LEN, V8_FLOW_LEN_MIN)?;
    let mut fields = payload.get(16..)?;
    let number = fields.try_get_u32().ok()?;
    let engine = fields.try_get_u16().ok()?;
    let aggregation = fields.try_get_u8().ok().filter(|scheme| (1..=V8_AGGREGATION_MAX).contains(scheme))?;
    let id = u32::from(aggregation) << 16 | u32::from(engine);
    Some(Export::new(ExportFormat::V8, id, number, Contents::flows(u32::from(flows))))
}

fn parse_sflow(payload: &[u8]) -> Option<Export> {
    let mut fields = payload;
    if fields.try_get_u32().ok()? != 5 {
        return None;
    }
    let agent = match fields.try_get_u32().ok()? {
        1 => IpAddr::V4(Ipv4Addr::from(fields.try_get_u32().ok()?)),
        2 => IpAddr::V6(Ipv6Addr::from(fields.try_get_u128().ok()?)),
        _ => return None,
    };
    let sub_agent = fields.try_get_u32().ok()?;
    let number = fields.try_get_u32().ok()?;
    // Uptime and the number of samples must follow.
    fields.try_get_u64().ok()?;
    let source = Source { format: ExportFormat::SFlow, agent: Some(agent), id: sub_agent };
    Some(Export { source, number, contents: Contents::default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(payload: &[u8]) -> Export {
        Export::parse(payload, Header::parse(payload).as_ref())
    }

    /// A header of `length` bytes with a number at 16 and these at 20, and `body` bytes after it.
    fn netflow(version: u16, flows: u16, length: usize, at_20: &[u8], body: usize) -> Vec<u8> {
        let mut payload = [version.to_be_bytes(), flows.to_be_bytes()].concat();
        payload.resize(16, 9);
        payload.extend(77_u32.to_be_bytes());
        payload.extend(at_20);
        payload.resize(length, 0);
        payload.resize(length + body, 1);
        payload
    }

    fn sflow(kind: u32, agent: &[u8], rest: &[u32]) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
        [words(&[5, kind]), agent.to_vec(), words(rest)].concat()
    }

    #[test]
    fn v1_has_flows_and_no_number() {
        let payload = netflow(1, 2, 20, &[], 100);
        assert_eq!(payload.len(), 16 + 2 * 52);
        let export = parse(&payload);
        assert_eq!(export.source, Source { format: ExportFormat::V1, agent: None, id: 0 });
        assert!(!export.source.format.is_numbered());
        assert_eq!(parse(&payload[..payload.len() - 1]).source.format, ExportFormat::Other);
    }

    #[test]
    fn v7_has_a_flow_sequence_and_no_engine() {
        let payload = netflow(7, 3, 24, &[], 156);
        let export = parse(&payload);
        assert_eq!(export.source, Source { format: ExportFormat::V7, agent: None, id: 0 });
        assert_eq!((export.number, export.contents.flows), (77, Some(3)));
        assert_eq!(parse(&payload[..payload.len() - 1]).source.format, ExportFormat::Other);
    }

    #[test]
    fn v8_is_identified_by_engine_and_aggregation() {
        let payload = netflow(8, 2, 28, &[1, 2, 5], 64);
        let export = parse(&payload);
        assert_eq!(export.source, Source { format: ExportFormat::V8, agent: None, id: 0x0005_0102 });
        assert_eq!((export.number, export.contents.flows), (77, Some(2)));
        let strange = netflow(8, 2, 28, &[1, 2, 15], 64);
        assert_eq!(parse(&strange).source.format, ExportFormat::Other);
    }

    #[test]
    fn sflow_names_agent_sub_agent_and_number() {
        let payload = sflow(1, &[192, 0, 2, 7], &[3, 41, 1000, 0]);
        let export = parse(&payload);
        let agent = Some("192.0.2.7".parse().unwrap());
        assert_eq!(export.source, Source { format: ExportFormat::SFlow, agent, id: 3 });
        assert_eq!(export.number, 41);
        let v6: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let export = parse(&sflow(2, &v6.octets(), &[4, 42, 1000, 0]));
        assert_eq!((export.source.agent, export.source.id, export.number), (Some(v6.into()), 4, 42));
        for cut in 0..payload.len() {
            assert_eq!(parse(&payload[..cut]).source.format, ExportFormat::Other, "{cut} bytes");
        }
        assert_eq!(parse(&sflow(3, &[0; 4], &[3, 41, 1000, 0])).source.format, ExportFormat::Other);
    }

    #[test]
    fn v9_keeps_the_count_of_its_header() {
        let payload = [[0, 9, 0, 12].as_slice(), &[0; 16]].concat();
        assert_eq!(parse(&payload).contents.announced, Some(12));
        assert_eq!(parse(&payload).source.format, ExportFormat::V9);
    }

    #[test]
    fn formats_have_names() {
        let formats = [ExportFormat::V5, ExportFormat::Ipfix, ExportFormat::SFlow, ExportFormat::Other];
        let names = formats.map(|format| format.to_string());
        assert_eq!(names, ["NetFlow v5", "IPFIX", "sFlow v5", "unknown"]);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(
            version in prop_oneof![Just(0_u16), Just(1), Just(5), Just(7), Just(8), Just(9), Just(10)],
            rest in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let payload = [version.to_be_bytes().as_slice(), &rest].concat();
            let format = parse(&payload).source.format;
            prop_assert!(format.netflow_version().is_none_or(|parsed| parsed == version));
        }
    }
}
