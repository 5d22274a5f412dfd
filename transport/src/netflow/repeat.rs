//! Datagrams that repeat what an exporter has defined, made so that they stand right before one of its own.
//!
//! They hold templates, then options data; never flows, which would be counted twice. Version, source id or observation
//! domain, uptime and export time are those of the datagram that follows, so that they are no older than it.
//!
//! Their sequence numbers are such that there is no gap between them and the datagram. Collectors (nfcapd for
//! one) compare each number with the one before and what that had added, and count a failure where they differ;
//! they drop nothing for it. So what can fail is the first repeat alone, as with an exporter that starts again:
//!
//! - v9 counts datagrams (RFC 3954, 5.1): before a datagram of number s, n repeats bear s - n to s - 1, modulo 2^32.
//! - IPFIX counts data records (RFC 7011, 3.1): each repeat bears s less the options data records in it and behind it.
//!   Templates do not count: where there are no options data, nothing fails.
//!
//! Each template and each record has a set of its own, since some collectors read but the first one of a set.

use crate::limits::REPEAT_TARGET;
use crate::netflow::Header;
use crate::netflow::definitions::Definition;
use crate::netflow::sets::{Format, SET_HEADER_LEN};

/// To a multiple of this many bytes v9 pads its sets (RFC 3954, 5.2).
const V9_ALIGNMENT: usize = 4;

/// What follows the header of one repeat.
#[derive(Default)]
struct Body {
    /// Templates and records.
    entries: u16,
    /// Records alone.
    records: u32,
    sets: Vec<u8>,
}

impl Body {
    fn add(&mut self, other: Self) {
        self.entries = self.entries.saturating_add(other.entries);
        self.records = self.records.saturating_add(other.records);
        self.sets.extend(other.sets);
    }

    /// By how much it takes the sequence number on.
    fn adds(&self, format: Format) -> u32 {
        match format {
            Format::V9 => 1,
            Format::Ipfix => self.records,
        }
    }
}

/// The payloads that define `definitions`, and then have the `records`, each with the id of its template, right before
/// `payload`; `None` if that is neither v9 nor IPFIX.
pub(super) fn repeats<'a>(
    payload: &[u8],
    definitions: impl Iterator<Item = &'a Definition>,
    records: impl Iterator<Item = (u16, &'a [u8])>,
) -> Option<Vec<Vec<u8>>> {
    let header = Header::parse(payload)?;
    let format = Format::of(header.version)?;
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

/// Puts what follows each other together in pieces of a datagram each.
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

/// A set of this template or record alone. In v9 it is padded, unless the padding would look like another record.
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

/// A header for `body` that bears `number`, else as that of `payload`, and `body`.
fn whole(format: Format, payload: &[u8], number: u32, body: &Body) -> Option<Vec<u8>> {
    let length = format.header_len() + body.sets.len();
    let (how_much, times, source) = match format {
        Format::V9 => (body.entries, payload.get(4..12)?, payload.get(16..20)?),
        Format::Ipfix => (u16::try_from(length).ok()?, payload.get(4..8)?, payload.get(12..16)?),
    };
    let version = format.version().to_be_bytes();
    Some([&version, &how_much.to_be_bytes(), times, &number.to_be_bytes(), source, &body.sets].concat())
}
