//! Builds the datagrams of NetFlow v5 and IPFIX for these tests.

use std::ops::Range;

/// Returns an IPFIX message (RFC 7011) with one set.
pub(super) fn ipfix(sequence: u32, set: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let mut message = Vec::new();
    for word in [10, 20 + length] {
        message.extend(u16::to_be_bytes(word));
    }
    for word in [1_700_000_000, sequence, 1] {
        message.extend(u32::to_be_bytes(word));
    }
    for word in [set, 4 + length] {
        message.extend(u16::to_be_bytes(word));
    }
    message.extend(content);
    message
}

/// Returns template 256: source, destination, bytes, packets, source port, protocol, type of service.
pub(super) fn template() -> Vec<u8> {
    let fields = [(8, 4), (12, 4), (1, 4), (2, 4), (7, 2), (4, 1), (5, 1)];
    [(256, 7)]
        .into_iter()
        .chain(fields)
        .flat_map(|(a, b)| [u16::to_be_bytes(a), u16::to_be_bytes(b)].concat())
        .collect()
}

pub(super) fn ipfix_record(exporter: u8, flow: u16) -> Vec<u8> {
    let [high, low] = flow.to_be_bytes();
    let bytes = (u32::from(flow) + 100).to_be_bytes();
    [&[10, exporter, high, low, 10, 9, 9, 9], &bytes[..], &[0, 0, 0, 1, high, low, 17, 0]].concat()
}

/// Returns a NetFlow v5 datagram with these flows.
pub(super) fn netflow_5(exporter: u8, flows: Range<u16>) -> Vec<u8> {
    let mut datagram = Vec::new();
    for word in [5, u16::try_from(flows.len()).unwrap()] {
        datagram.extend(u16::to_be_bytes(word));
    }
    for word in [1000, 1_700_000_000, 0, 0, 0] {
        datagram.extend(u32::to_be_bytes(word));
    }
    for flow in flows {
        let [high, low] = flow.to_be_bytes();
        let bytes = (u32::from(flow) + 100).to_be_bytes();
        datagram.extend([10, exporter, high, low, 10, 9, 9, 9, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 1]);
        datagram.extend(bytes);
        datagram.extend([0, 0, 1, 0, 0, 0, 2, 0, high, low, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 24, 24, 0, 0]);
    }
    datagram
}
