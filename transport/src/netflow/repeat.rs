//! Datagrams that repeat the definitions of an exporter, directly before one of its own datagrams.
//!
//! They contain templates, then options data. They never contain flows, which would be counted twice.
//! Version, source id or observation domain, uptime and export time are those of the datagram that follows,
//! so they are no older than it.
//!
//! Their sequence numbers leave no gap before the datagram. Collectors such as nfcapd compare each number
//! with the previous one plus the amount that it added. They count a failure if the two differ, but drop
//! nothing. So only the first repeat can fail, as after a restart of the exporter:
//!
//! - v9 counts datagrams (RFC 3954, 5.1): before a datagram of number s, n repeats have s - n to s - 1,
//!   modulo 2^32.
//! - IPFIX counts data records (RFC 7011, 3.1): each repeat has s minus the options data records in it and
//!   after it. Templates do not count: without options data, nothing fails.
//!
//! Each template and each record has its own set, because some collectors read only the first one of a set.

use crate::limits::REPEAT_TARGET;
use crate::netflow::Header;
use crate::netflow::definitions::Definition;
use crate::netflow::sets::{Format, SET_HEADER_LEN};

/// Sets of v9 are padded to a multiple of this many bytes (RFC 3954, 5.2).
const V9_ALIGNMENT: usize = 4;

/// The bytes after the header of one repeat.
#[derive(Default)]
struct Body {
    /// Templates and records.
    entries: u16,
    /// Records only.
    records: u32,
    sets: Vec<u8>,
}

impl Body {
    fn add(&mut self, other: Self) {
        self.entries = self.entries.saturating_add(other.entries);
        self.records = self.records.saturating_add(other.records);
        self.sets.extend(other.sets);
    }

    /// The amount by which it increases the sequence number.
    fn adds(&self, format: Format) -> u32 {
        match format {
            Format::V9 => 1,
            Format::Ipfix => self.records,
        }
    }
}

/// The payloads that repeat `definitions` and then `records`, each with the id of its template, directly
/// before `payload`; `None` if that is neither v9 nor IPFIX.
pub(super) fn repeats<'a>(
    payload: &[u8],
    definitions: impl Iterator<Item = &'a Definition>,
    records: impl Iterator<Item = (u16, &'a [u8])>,
) -> Option<Vec<Vec<u8>>> {
    let header = Header::parse(payload)?;
    let format = Format::from_version(header.version)?;
    let templates = definitions.map(|definition| {
        let id = format.template_set(definition.is_options);
        Body { entries: 1, records: 0, sets: set(format, id, &definition.bytes) }
    });
    let records = records.map(|(id, record)| Body { entries: 1, records: 1, sets: set(format, id, record) });
    let bodies = packed(format, templates.chain(records));
    let added = bodies.iter().fold(0_u32, |sum, body| sum.wrapping_add(body.adds(format)));
    let mut number = header.sequence.number.wrapping_sub(added);
    let whole = |body: &Body| {
        let whole = whole(format, payload, number, body);
        number = number.wrapping_add(body.adds(format));
        whole
    };
    bodies.iter().map(whole).collect()
}

/// Joins consecutive parts as long as they fit into one datagram.
fn packed(format: Format, parts: impl Iterator<Item = Body>) -> Vec<Body> {
    let mut bodies: Vec<Body> = Vec::new();
    for part in parts {
        let fits =
            |body: &&mut Body| format.header_len() + body.sets.len() + part.sets.len() <= REPEAT_TARGET;
        match bodies.last_mut().filter(fits) {
            Some(body) => body.add(part),
            None => bodies.push(part),
        }
    }
    bodies
}

/// A set with only this template or record. In v9 it is padded, unless the padding would look like another
/// record.
fn set(format: Format, id: u16, content: &[u8]) -> Vec<u8> {
    let length = SET_HEADER_LEN + content.len();
    let aligned = if format == Format::V9 { length.next_multiple_of(V9_ALIGNMENT) } else { length };
    let padded = if aligned - length < content.len() { aligned } else { length };
    let mut set = Vec::with_capacity(padded);
    set.extend(id.to_be_bytes());
    set.extend(u16::try_from(padded).unwrap_or(u16::MAX).to_be_bytes());
    set.extend(content);
    set.resize(padded, 0);
    set
}

/// The whole datagram: the header of `payload` with `number`, and `body`.
fn whole(format: Format, payload: &[u8], number: u32, body: &Body) -> Option<Vec<u8>> {
    let length = format.header_len() + body.sets.len();
    let (amount, times, source) = match format {
        Format::V9 => (body.entries, payload.get(4..12)?, payload.get(16..20)?),
        Format::Ipfix => (u16::try_from(length).ok()?, payload.get(4..8)?, payload.get(12..16)?),
    };
    let version = format.version().to_be_bytes();
    Some([&version, &amount.to_be_bytes(), times, &number.to_be_bytes(), source, &body.sets].concat())
}
