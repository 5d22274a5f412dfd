//! Datagrams of generated exporters: valid NetFlow v5, v9 and IPFIX with templates, counts and sequence
//! numbers.
//!
//! The pattern, the exporter's number and the datagram's number determine every byte. Both numbers can be
//! read back from the flow fields, so a collector can check a datagram without a copy of it.

/// Length of a flow record in bytes. The templates of v9 and IPFIX describe the layout of a v5 record.
const RECORD_LEN: usize = 48;

/// Offset of the datagram's number in its first record: the field `dOctets`, `IN_BYTES`.
const NUMBER_AT: usize = 20;

/// Set id of the records in v9 and IPFIX.
const TEMPLATE: u16 = 256;

/// Type and length of each field of a v5 record, as v9 (RFC 3954) and IPFIX (RFC 7012) name them.
const FIELDS: [(u16, u16); 20] = [
    (8, 4),   // source address
    (12, 4),  // destination address
    (15, 4),  // next hop
    (10, 2),  // input interface
    (14, 2),  // output interface
    (2, 4),   // packets
    (1, 4),   // bytes
    (22, 4),  // first switched
    (21, 4),  // last switched
    (7, 2),   // source port
    (11, 2),  // destination port
    (210, 1), // padding
    (6, 1),   // TCP flags
    (4, 1),   // protocol
    (5, 1),   // type of service
    (16, 2),  // source AS
    (17, 2),  // destination AS
    (9, 1),   // source prefix length
    (13, 1),  // destination prefix length
    (210, 2), // padding
];

/// Format of an exporter. The exporter's number determines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V5,
    V9,
    Ipfix,
}

impl Version {
    pub fn of(exporter: u16) -> Self {
        [Self::V5, Self::V9, Self::Ipfix][usize::from(exporter % 3)]
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "NetFlow v5",
            Self::V9 => "NetFlow v9",
            Self::Ipfix => "IPFIX",
        }
    }

    /// Returns the version in the first two bytes of a datagram.
    fn code(self) -> u16 {
        match self {
            Self::V5 => 5,
            Self::V9 => 9,
            Self::Ipfix => 10,
        }
    }
}

/// Returns whether a v9 or IPFIX datagram contains only templates. nf-receiver repeats those to collectors
/// that come back.
pub fn is_templates_only(payload: &[u8]) -> bool {
    let header = match payload {
        [0, 9, ..] => 20,
        [0, 10, ..] => 16,
        _ => return false,
    };
    let mut rest = payload.get(header..).unwrap_or_default();
    let holds_something = !rest.is_empty();
    while let [id_high, id_low, length_high, length_low, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        if u16::from_be_bytes([id_high, id_low]) > 3 || length < 4 {
            return false;
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    holds_something
}

/// Flow records per datagram, repeated in this order: 1 to 28, so that each datagram fits an Ethernet frame.
/// The first datagram of each round carries the template.
pub type Mix = &'static [u8];

/// Datagrams of all sizes, 72 to 1,468 bytes.
pub const MIXED: Mix = &[1, 4, 28, 13, 28, 2, 28, 20];

/// Datagrams of 200 to 1,468 bytes.
pub const MEDIUM: Mix = &[4, 28, 9, 20, 13, 28, 6, 24];

/// Nearly all datagrams of about 1,400 bytes.
pub const LARGE: Mix = &[27, 28, 28, 28];

/// Parameters that determine every byte of every datagram.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    pub mix: Mix,
    pub seed: u64,
}

impl Pattern {
    pub fn new(mix: Mix) -> Self {
        Self { mix, seed: 1 }
    }

    /// Returns the length in bytes of the shortest datagram of any exporter.
    pub fn shortest(self) -> usize {
        16 + 4 + RECORD_LEN * usize::from(*self.mix.iter().min().unwrap())
    }

    /// Replaces the contents of `out` with datagram `number` of `exporter`.
    pub fn datagram(self, exporter: u16, number: u32, out: &mut Vec<u8>) {
        out.clear();
        match Version::of(exporter) {
            Version::V5 => self.v5(exporter, number, out),
            Version::V9 => self.v9(exporter, number, out),
            Version::Ipfix => self.ipfix(exporter, number, out),
        }
    }

    /// NetFlow v5: a header of 24 bytes, then records.
    fn v5(self, exporter: u16, number: u32, out: &mut Vec<u8>) {
        put16(out, Version::V5.code());
        put16(out, self.records(number));
        put32(out, number); // uptime in ms
        put32(out, export_time(number));
        put32(out, 0);
        put32(out, self.records_before(number));
        put16(out, exporter); // engine
        put16(out, 0);
        self.put_records(exporter, number, out);
    }

    /// NetFlow v9, RFC 3954: a header of 20 bytes, then sets.
    fn v9(self, exporter: u16, number: u32, out: &mut Vec<u8>) {
        put16(out, Version::V9.code());
        put16(out, self.records(number) + u16::from(self.has_template(number)));
        put32(out, number); // uptime in ms
        put32(out, export_time(number));
        put32(out, number); // v9 counts datagrams
        put32(out, u32::from(exporter));
        self.put_sets(exporter, number, 0, out);
    }

    /// IPFIX, RFC 7011: a header of 16 bytes, then sets.
    fn ipfix(self, exporter: u16, number: u32, out: &mut Vec<u8>) {
        put16(out, Version::Ipfix.code());
        put16(out, 0);
        put32(out, export_time(number));
        put32(out, self.records_before(number)); // IPFIX counts records
        put32(out, u32::from(exporter));
        self.put_sets(exporter, number, 2, out);
        let length = u16::try_from(out.len()).unwrap();
        out[2..4].copy_from_slice(&length.to_be_bytes());
    }

    fn put_sets(self, exporter: u16, number: u32, template_set: u16, out: &mut Vec<u8>) {
        if self.has_template(number) {
            put16(out, template_set);
            put16(out, 8 + 4 * 20);
            put16(out, TEMPLATE);
            put16(out, 20);
            for (kind, length) in FIELDS {
                put16(out, kind);
                put16(out, length);
            }
        }
        put16(out, TEMPLATE);
        put16(out, 4 + 48 * self.records(number));
        self.put_records(exporter, number, out);
    }

    fn put_records(self, exporter: u16, number: u32, out: &mut Vec<u8>) {
        let mut noise = Noise(self.seed ^ u64::from(exporter) << 40 ^ u64::from(number) << 5);
        let first = out.len();
        for _ in 0..self.records(number) {
            let at = out.len();
            for _ in 0..RECORD_LEN / 8 {
                out.extend_from_slice(&noise.next().to_be_bytes());
            }
            let record = &mut out[at..];
            let [high, low] = exporter.to_be_bytes();
            record[..3].copy_from_slice(&[10, high, low]);
            record[36] = 0;
            record[38] = [6, 17, 1, 47][usize::from(record[38] % 4)];
            record[44] %= 33;
            record[45] %= 33;
            record[46..].fill(0);
        }
        out[first + NUMBER_AT..first + NUMBER_AT + 4].copy_from_slice(&number.to_be_bytes());
    }

    fn has_template(self, number: u32) -> bool {
        self.round(number).1 == 0
    }

    fn records(self, number: u32) -> u16 {
        u16::from(self.mix[self.round(number).1])
    }

    /// Returns the number of records in all earlier datagrams, as a sequence number.
    fn records_before(self, number: u32) -> u32 {
        let sum = |part: &[u8]| part.iter().map(|records| u32::from(*records)).sum::<u32>();
        let (rounds, place) = self.round(number);
        rounds.wrapping_mul(sum(self.mix)).wrapping_add(sum(&self.mix[..place]))
    }

    /// Returns the round of the mix for this datagram, and its index in the round.
    fn round(self, number: u32) -> (u32, usize) {
        let length = u32::try_from(self.mix.len()).unwrap();
        (number / length, usize::try_from(number % length).unwrap())
    }
}

/// Reads the exporter's number and the datagram's number from a payload.
pub fn identify(payload: &[u8]) -> Option<(u16, u32)> {
    let record = match u16_at(payload, 0)? {
        5 => 24,
        9 => first_record(payload, 20, 0)?,
        10 => first_record(payload, 16, 2)?,
        _ => return None,
    };
    let number = payload.get(record + NUMBER_AT..)?.first_chunk()?;
    Some((u16_at(payload, record + 1)?, u32::from_be_bytes(*number)))
}

fn first_record(payload: &[u8], sets: usize, template_set: u16) -> Option<usize> {
    let template = u16_at(payload, sets)? == template_set;
    let skipped = if template { usize::from(u16_at(payload, sets + 2)?) } else { 0 };
    Some(sets + skipped + 4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Seconds since 1970-01-01.
fn export_time(number: u32) -> u32 {
    1_700_000_000 + number / 1000
}

/// Steele, Lea, Flood: splitmix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
