//! Datagrams that repeat what an exporter has defined, made so that they stand right before one of its own.
//!
//! They hold templates only: a repeat of data would report the same flows twice. Version, source id or
//! observation domain, uptime and export time are those of the datagram that follows, so that they are no older
//! than it.
//!
//! Their sequence numbers are such that there is no gap between them and the datagram. Collectors (nfcapd for
//! one) compare each number with the one before and what that had added, and count a failure where they differ;
//! they drop nothing for it. So what can fail is the first repeat alone, as with an exporter that starts again:
//!
//! - v9 counts datagrams (RFC 3954, 5.1): before a datagram of number s, n repeats bear s - n to s - 1, modulo 2^32.
//! - IPFIX counts data records (RFC 7011, 3.1), and templates are none: each repeat bears s, and nothing fails.
//!
//! Each template has a set of its own, since some collectors read but one options template of a set.

use crate::limits::REPEAT_TARGET;
use crate::netflow::Header;
use crate::netflow::definitions::Definition;
use crate::netflow::sets::{Format, SET_HEADER_LEN};

/// To a multiple of this many bytes v9 pads its sets (RFC 3954, 5.2).
const V9_ALIGNMENT: usize = 4;

/// What follows the header of one repeat.
#[derive(Default)]
struct Body {
    /// How many templates it defines.
    templates: u16,
    sets: Vec<u8>,
}

/// The payloads that define `definitions` right before `payload`; `None` if that is neither v9 nor IPFIX.
pub(super) fn repeats<'a>(
    payload: &[u8],
    definitions: impl Iterator<Item = &'a Definition>,
) -> Option<Vec<Vec<u8>>> {
    let header = Header::parse(payload)?;
    let format = Format::of(header.version)?;
    let bodies = bodies(format, definitions);
    let adds = u32::from(format == Format::V9);
    let added = adds.wrapping_mul(u32::try_from(bodies.len()).ok()?);
    let first = header.sequence.number.wrapping_sub(added);
    let numbers = (0_u32..).map(|place| first.wrapping_add(adds.wrapping_mul(place)));
    bodies.into_iter().zip(numbers).map(|(body, number)| whole(format, payload, number, &body)).collect()
}

/// The definitions in pieces of a datagram each.
fn bodies<'a>(format: Format, definitions: impl Iterator<Item = &'a Definition>) -> Vec<Body> {
    let mut bodies: Vec<Body> = Vec::new();
    for definition in definitions {
        let set = set(format, definition);
        let fits = |body: &&mut Body| format.header_len() + body.sets.len() + set.len() <= REPEAT_TARGET;
        if let Some(body) = bodies.last_mut().filter(fits) {
            body.templates += 1;
            body.sets.extend(set);
        } else {
            bodies.push(Body { templates: 1, sets: set });
        }
    }
    bodies
}

/// The set that defines `definition` alone.
fn set(format: Format, definition: &Definition) -> Vec<u8> {
    let length = SET_HEADER_LEN + definition.bytes.len();
    let padded = if format == Format::V9 { length.next_multiple_of(V9_ALIGNMENT) } else { length };
    let mut set = Vec::with_capacity(padded);
    set.extend(format.template_set(definition.is_options).to_be_bytes());
    set.extend(u16::try_from(padded).unwrap_or(u16::MAX).to_be_bytes());
    set.extend(&definition.bytes);
    set.resize(padded, 0);
    set
}

/// A header for `body` that bears `number`, else as that of `payload`, and `body`.
fn whole(format: Format, payload: &[u8], number: u32, body: &Body) -> Option<Vec<u8>> {
    let length = format.header_len() + body.sets.len();
    let (how_much, times, source) = match format {
        Format::V9 => (body.templates, payload.get(4..12)?, payload.get(16..20)?),
        Format::Ipfix => (u16::try_from(length).ok()?, payload.get(4..8)?, payload.get(12..16)?),
    };
    let version = format.version().to_be_bytes();
    Some([&version, &how_much.to_be_bytes(), times, &number.to_be_bytes(), source, &body.sets].concat())
}
