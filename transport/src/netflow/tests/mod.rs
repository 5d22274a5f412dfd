//! Datagrams for the tests, and the tests themselves.

use core::net::SocketAddr;

use crate::datagram::{Datagram, Timestamp};

mod corpus;
mod counting;
mod field_cases;
mod flows;
mod fuzzing;
mod memory;
mod options;
mod ports;
mod repeating;
mod sequences;
mod shared_domain;
mod sharing;
mod templates;

/// Uptime and export time of the datagrams, as far as their formats have them.
const UPTIME: u32 = 0x0102_0304;
const EXPORTED: u32 = 0x6502_0304;

fn exporter(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

fn datagram(port: u16, payload: &[u8]) -> Datagram<'_> {
    Datagram { exporter: exporter(port), local: exporter(2055), arrival: Timestamp(0), payload }
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn v9(source_id: u32, sequence: u32, sets: &[Vec<u8>]) -> Vec<u8> {
    let fields = [UPTIME, EXPORTED, sequence, source_id];
    let fields: Vec<_> = fields.iter().flat_map(|field| field.to_be_bytes()).collect();
    [numbers(&[9, u16::try_from(sets.len()).unwrap()]), fields, sets.concat()].concat()
}

fn ipfix(domain: u32, sequence: u32, sets: &[Vec<u8>]) -> Vec<u8> {
    let fields = [EXPORTED, sequence, domain].iter().flat_map(|field| field.to_be_bytes()).collect();
    let length = u16::try_from(16 + sets.concat().len()).unwrap();
    [numbers(&[10, length]), fields, sets.concat()].concat()
}

fn set(id: u16, body: &[u8]) -> Vec<u8> {
    [numbers(&[id, u16::try_from(4 + body.len()).unwrap()]).as_slice(), body].concat()
}

/// A template of fields of these lengths.
fn template(id: u16, lengths: &[u16]) -> Vec<u8> {
    let fields = lengths.iter().flat_map(|length| [1, *length]);
    let head = [id, u16::try_from(lengths.len()).unwrap()];
    numbers(&head.into_iter().chain(fields).collect::<Vec<_>>())
}

/// A v9 options template of a scope field of 4 bytes and one other field.
fn v9_options(id: u16, length: u16) -> Vec<u8> {
    numbers(&[id, 4, 4, 1, 4, 34, length])
}

/// An IPFIX options template of a scope field of 4 bytes and one other field.
fn ipfix_options(id: u16, length: u16) -> Vec<u8> {
    numbers(&[id, 2, 1, 149, 4, 41, length])
}
