//! The records in the body of a batch, one for each datagram.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::ops::RangeBounds;

use bytes::{Buf, BufMut, Bytes};

use crate::batch::{BatchError, BatchHeader, Compression, Sealing, compression};
use crate::datagram::{Datagram, Timestamp, scope_of, with_scope};
use crate::limits::PAYLOAD_MAX;

const EXPORTER_IS_V6: u8 = 1;
const LOCAL_IS_V6: u8 = 2;
const EXPORTER_HAS_SCOPE: u8 = 4;

/// Length in bytes of the exporter's scope id, if it has one.
const SCOPE_LEN: usize = 4;

/// The only byte of the record of a dropped datagram.
const DROPPED: u8 = 0x80;

/// Length in bytes of the record of a dropped datagram.
pub(super) const DROPPED_LEN: usize = 1;

/// Length in bytes of a record without addresses and payload: flags, length, arrival and two ports.
const FIXED_LEN: usize = 1 + 2 + 8 + 2 + 2;

enum Record<'a> {
    Datagram(Datagram<'a>),
    Dropped,
}

/// The datagrams of a batch, decompressed and checked to be well formed.
#[derive(Clone, Debug)]
pub struct Records {
    bytes: Bytes,
    payload_bytes: u32,
    dropped: u16,
}

impl Records {
    pub(super) fn decode(header: &BatchHeader, body: Bytes) -> Result<Self, BatchError> {
        if header.sealing != Sealing::None {
            return Err(BatchError::Sealed);
        }
        let records_len = usize::try_from(header.records_len).map_err(|_| BatchError::Records)?;
        let bytes = match header.compression {
            Compression::None if body.len() == records_len => body,
            Compression::None => return Err(BatchError::Records),
            Compression::Zstd => compression::decompress(&body, records_len)?.into(),
            Compression::Columnar => compression::decompress_columnar(&body, records_len)?.into(),
        };
        let records = Self { bytes, payload_bytes: header.payload_bytes, dropped: header.dropped };
        records.check(header).ok_or(BatchError::Records)?;
        Ok(records)
    }

    fn check(&self, header: &BatchHeader) -> Option<()> {
        let mut rest: &[u8] = &self.bytes;
        let (mut payload_bytes, mut dropped) = (0, 0);
        for _ in 0..header.datagrams {
            match parse_record(&mut rest)? {
                Record::Datagram(datagram) => payload_bytes += datagram.payload.len(),
                Record::Dropped => dropped += 1,
            }
        }
        let is_as_stated =
            u32::try_from(payload_bytes) == Ok(header.payload_bytes) && dropped == u32::from(header.dropped);
        (rest.is_empty() && is_as_stated).then_some(())
    }

    /// Length of all records in bytes.
    #[expect(clippy::len_without_is_empty, reason = "there is at least one datagram")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Payload bytes of all datagrams together.
    pub fn payload_bytes(&self) -> u32 {
        self.payload_bytes
    }

    /// Number of datagrams that the sender dropped.
    pub fn dropped(&self) -> u16 {
        self.dropped
    }

    /// Iterates over the datagrams in order of arrival, without dropped ones.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.by_position().flatten()
    }

    /// Number of dropped datagrams among those at these places, counted from 0.
    pub fn dropped_in(&self, places: impl RangeBounds<usize>) -> u64 {
        if self.dropped == 0 {
            return 0;
        }
        let by_place = (0..).zip(self.by_position());
        let dropped = by_place.filter(|(place, datagram)| datagram.is_none() && places.contains(place));
        u64::try_from(dropped.count()).unwrap_or(u64::MAX)
    }

    /// Iterates over the datagrams of all positions; `None` stands for a dropped one.
    pub fn by_position(&self) -> impl Iterator<Item = Option<Datagram<'_>>> {
        let mut rest: &[u8] = &self.bytes;
        let records = core::iter::from_fn(move || parse_record(&mut rest));
        records.map(|record| match record {
            Record::Datagram(datagram) => Some(datagram),
            Record::Dropped => None,
        })
    }
}

/// Length in bytes of the record of `datagram`.
pub fn encoded_len(datagram: &Datagram<'_>) -> usize {
    let address_len = |address: &SocketAddr| if address.is_ipv6() { 16 } else { 4 };
    let scope_len = if scope_of(datagram.exporter) == 0 { 0 } else { SCOPE_LEN };
    let addresses_len = address_len(&datagram.exporter) + scope_len + address_len(&datagram.local);
    FIXED_LEN + addresses_len + datagram.payload.len()
}

/// Appends the record of `datagram`, whose payload has `length` bytes.
pub(super) fn encode(out: &mut impl BufMut, datagram: &Datagram<'_>, length: u16) {
    let flag = |address: &SocketAddr, bit| if address.is_ipv6() { bit } else { 0 };
    let scope = scope_of(datagram.exporter);
    let has_scope = if scope == 0 { 0 } else { EXPORTER_HAS_SCOPE };
    out.put_u8(flag(&datagram.exporter, EXPORTER_IS_V6) | flag(&datagram.local, LOCAL_IS_V6) | has_scope);
    out.put_u16(length);
    out.put_u64(datagram.arrival.0);
    put_address(out, datagram.exporter);
    if scope != 0 {
        out.put_u32(scope);
    }
    put_address(out, datagram.local);
    out.put_slice(datagram.payload);
}

fn put_address(out: &mut impl BufMut, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u16(address.port());
}

/// Appends the record of a dropped datagram.
pub(super) fn encode_dropped(out: &mut impl BufMut) {
    out.put_u8(DROPPED);
}

/// Parses the record at the start of `rest` and advances `rest` behind it; `None` if no whole record is
/// there.
fn parse_record<'a>(rest: &mut &'a [u8]) -> Option<Record<'a>> {
    let kinds = rest.try_get_u8().ok()?;
    if kinds == DROPPED {
        return Some(Record::Dropped);
    }
    if kinds & !(EXPORTER_IS_V6 | LOCAL_IS_V6 | EXPORTER_HAS_SCOPE) != 0 {
        return None;
    }
    let length = usize::from(rest.try_get_u16().ok()?);
    let arrival = Timestamp(rest.try_get_u64().ok()?);
    let exporter = parse_address(rest, kinds & EXPORTER_IS_V6 != 0)?;
    let exporter = if kinds & EXPORTER_HAS_SCOPE == 0 { exporter } else { parse_scope(rest, exporter)? };
    let local = parse_address(rest, kinds & LOCAL_IS_V6 != 0)?;
    if length > PAYLOAD_MAX {
        return None;
    }
    let (payload, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(Record::Datagram(Datagram { exporter, local, arrival, payload }))
}

/// Parses the scope id that follows `address`; `None` if the scope id is 0 or the address cannot have one.
fn parse_scope(rest: &mut &[u8], address: SocketAddr) -> Option<SocketAddr> {
    let scope = rest.try_get_u32().ok()?;
    Some(with_scope(address, scope)).filter(|address| scope != 0 && scope_of(*address) == scope)
}

fn parse_address(rest: &mut &[u8], is_v6: bool) -> Option<SocketAddr> {
    let ip: IpAddr = if is_v6 {
        Ipv6Addr::from(rest.try_get_u128().ok()?).into()
    } else {
        Ipv4Addr::from(rest.try_get_u32().ok()?).into()
    };
    Some(SocketAddr::new(ip, rest.try_get_u16().ok()?))
}
