//! NetFlow v5 datagrams of a plausible router, for measurements of compression.
//!
//! The usual payload is one datagram that is sent again and again, so compression would find each datagram
//! but the first in the one before it. These datagrams differ: clients of one site talk to servers, some of
//! them much more often than others, in flows of all sizes and durations. Most flows have answers.

use std::sync::OnceLock;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::numbers::count;
use crate::payload::{self, LEN};

/// Distinct datagrams. They take 1.5 MB, so no batch holds one twice.
const DATAGRAMS: u32 = 1024;

/// Bytes of the header of NetFlow v5, and of a record.
const HEADER: usize = 24;
const RECORD: usize = 48;

/// Addresses of the site, and of servers.
const CLIENTS: f64 = 4096.0;
const SERVERS: f64 = 20_000.0;

/// Ports of services by share of the flows; all other flows use any port.
const SERVICES: [(u16, f64); 7] =
    [(443, 0.55), (53, 0.2), (80, 0.07), (123, 0.02), (22, 0.02), (993, 0.02), (3389, 0.02)];

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The router exported these datagrams after 40 days.
const UPTIME_MS: u32 = 40 * 86_400_000;

/// Returns datagram `number`, unstamped.
pub(crate) fn datagram(number: u32) -> &'static [u8] {
    static ALL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..DATAGRAMS).map(make).collect());
    &all[crate::numbers::index(number % DATAGRAMS)]
}

/// Returns all distinct datagrams.
pub(crate) fn all() -> Vec<Vec<u8>> {
    (0..DATAGRAMS).map(|number| datagram(number).to_vec()).collect()
}

fn make(number: u32) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(number.into());
    let mut datagram = payload::template();
    let records = std::iter::repeat_with(|| conversation(&mut random, UPTIME_MS + number)).flatten();
    for (place, record) in datagram[HEADER..LEN].chunks_exact_mut(RECORD).zip(records) {
        place.copy_from_slice(&record);
    }
    datagram
}

/// Returns the records of a conversation that ended before `uptime`: a flow, and usually that of the answers.
fn conversation(random: &mut SmallRng, uptime: u32) -> Vec<Vec<u8>> {
    let (client, server) = (client(random), server(random));
    let (port, protocol) = service(random);
    let is_answered = random.random_bool(0.9);
    let is_short = !is_answered || [53, 123].contains(&port);
    let packets = if is_short { 1.0 } else { 2.0_f64.powf(1.0 + 9.0 * random.random::<f64>().powi(2)) };
    let duration = if is_short { 0.0 } else { 2.0_f64.powf(17.0 * random.random::<f64>()) };
    let last = uptime - random.random_range(15_000..17_000);
    let flow = SimulatedFlow {
        ends: [(client, random.random_range(32_768..61_000)), (server, port)],
        protocol,
        flags: match (protocol, is_answered) {
            (TCP, true) => [0x1b, 0x1b, 0x1f, 0x13][random.random_range(0..4)],
            (TCP, false) => 0x02,
            _ => 0,
        },
        packets,
        bytes_per_packet: 2.0_f64.powf(5.4 + 2.0 * random.random::<f64>()),
        first: last - word(duration),
        last,
    };
    let [asks, answers] = flow.ends;
    let answer = SimulatedFlow {
        ends: [answers, asks],
        packets: (packets * (0.6 + random.random::<f64>())).max(1.0),
        bytes_per_packet: 2.0_f64.powf(5.4 + 5.1 * random.random::<f64>()),
        ..flow
    };
    [flow, answer][..if is_answered { 2 } else { 1 }].iter().map(SimulatedFlow::record).collect()
}

/// A flow from the first of its ends, a side and a port, to the second.
#[derive(Clone, Copy)]
struct SimulatedFlow {
    ends: [(FlowEnd, u16); 2],
    protocol: u8,
    flags: u8,
    packets: f64,
    bytes_per_packet: f64,
    first: u32,
    last: u32,
}

impl SimulatedFlow {
    fn record(&self) -> Vec<u8> {
        let [(from, from_port), (to, to_port)] = self.ends;
        let mut record = Vec::with_capacity(RECORD);
        for word in [from.address, to.address, 0xc0a8_6400 + to.interface] {
            record.extend(word.to_be_bytes());
        }
        record.extend(short(from.interface));
        record.extend(short(to.interface));
        let packets = self.packets.floor();
        for word in [word(packets), word(packets * self.bytes_per_packet), self.first, self.last] {
            record.extend(word.to_be_bytes());
        }
        record.extend(from_port.to_be_bytes());
        record.extend(to_port.to_be_bytes());
        record.extend([0, self.flags, self.protocol, 0]);
        record.extend(from.system.to_be_bytes());
        record.extend(to.system.to_be_bytes());
        record.extend([from.prefix, to.prefix, 0, 0]);
        record
    }
}

/// One end of a flow.
#[derive(Clone, Copy)]
struct FlowEnd {
    address: u32,
    interface: u32,
    /// AS number.
    system: u16,
    /// Length of the prefix of its network.
    prefix: u8,
}

fn client(random: &mut SmallRng) -> FlowEnd {
    let number = popular(random, CLIENTS);
    FlowEnd { address: 0x0a14_0000 + number, interface: 8 + number / 256, system: 0, prefix: 24 }
}

fn server(random: &mut SmallRng) -> FlowEnd {
    // The mixed bits of a server's number stand for its address and network.
    let address = popular(random, SERVERS).wrapping_add(1).wrapping_mul(0x9e37_79b1);
    let [_, network, system, _] = address.to_be_bytes();
    FlowEnd {
        address,
        interface: 1 + address % 2,
        system: u16::from_be_bytes([0x0d, system]),
        prefix: 12 + network % 13,
    }
}

/// Returns a number below `most`; small ones more often than large ones.
fn popular(random: &mut SmallRng, most: f64) -> u32 {
    word(most * random.random::<f64>().powi(3))
}

fn service(random: &mut SmallRng) -> (u16, u8) {
    let mut share: f64 = random.random();
    for (port, common) in SERVICES {
        if share < common {
            let is_udp = [53, 123].contains(&port) || (port == 443 && random.random_bool(0.3));
            return (port, if is_udp { UDP } else { TCP });
        }
        share -= common;
    }
    (random.random_range(1024..=u16::MAX), if random.random() { TCP } else { UDP })
}

fn word(number: f64) -> u32 {
    u32::try_from(count(number)).unwrap()
}

fn short(number: u32) -> [u8; 2] {
    u16::try_from(number).unwrap().to_be_bytes()
}
