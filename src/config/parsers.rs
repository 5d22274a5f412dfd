//! Parsers for the values of keys. Each returns the parsed value, or the description of the values that it
//! expects.

use core::fmt::Display;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::ops::RangeInclusive;
use core::str::FromStr;
use core::time::Duration;
use std::path::PathBuf;

use bytesize::ByteSize;
use ipnet::{IpNet, Ipv4Net};
use nf_transport_core::sequence::SenderId;
use nf_transport_core::spool::MinFree;

use crate::config::host_port::HostPort;
use crate::config::value::Value;

/// A parsed value, or the description of the expected values.
pub(super) type ParseResult<T> = Result<T, String>;

/// Returns the text of a value that is a single text.
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        Value::Arguments(arguments) => match arguments.as_slice() {
            [word] => Some(word),
            _ => None,
        },
        _ => None,
    }
}

/// Parses a text. The error is `expected` with the parser's reason.
fn parsed<T: FromStr<Err: Display>>(value: &Value, expected: &str) -> ParseResult<T> {
    let text = text(value).ok_or_else(|| expected.to_owned())?;
    text.parse().map_err(|error| format!("{expected}: {error}"))
}

pub(super) fn socket_address(value: &Value) -> ParseResult<SocketAddr> {
    let expected = "an address and a port such as \"[::]:2055\" or \"192.0.2.1:2055\"";
    text(value).and_then(|text| text.parse().ok()).ok_or_else(|| expected.to_owned())
}

pub(super) fn host_port(value: &Value) -> ParseResult<HostPort> {
    parsed(value, "a host and a port such as \"collector.example.net:2055\"")
}

/// Parses a prefix and clears its host bits. An address is a prefix of full length. IPv4-mapped prefixes
/// (`::ffff:10.0.0.0/104`) become IPv4, because the addresses that they are compared with do so too.
pub(super) fn prefix(value: &Value) -> ParseResult<IpNet> {
    let expected = "a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\"";
    let text = text(value).ok_or(expected)?;
    let single = || text.parse().ok().map(|address: IpAddr| address.into());
    let net: IpNet = text.parse().ok().or_else(single).ok_or(expected)?;
    without_v4_mapping(net)
}

/// Length of the common prefix of all IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2).
const V4_MAPPED_BITS: u8 = 96;

fn without_v4_mapping(net: IpNet) -> ParseResult<IpNet> {
    let IpNet::V6(v6) = net else { return Ok(net.trunc()) };
    let mapped = v6.addr().to_ipv4_mapped();
    if let (Some(v4), Some(bits)) = (mapped, v6.prefix_len().checked_sub(V4_MAPPED_BITS)) {
        let expected = |error| format!("a prefix of IPv4 addresses: {error}");
        return Ok(Ipv4Net::new(v4, bits).map_err(expected)?.trunc().into());
    }
    // "::/0" covers all IPv6 addresses. "::ffff:0:0/90" is almost certainly a mistake for an IPv4 prefix.
    if mapped.is_some()
        || (v6.prefix_len() > 0 && v6.trunc().contains(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()))
    {
        return Err("IPv4 prefixes in their own form, such as \"10.0.0.0/8\" or \"0.0.0.0/0\": IPv4-mapped \
                    addresses count as IPv4, so this prefix matches none of them"
            .to_owned());
    }
    Ok(net.trunc())
}

/// Accepts any text; the caller validates it.
pub(super) fn any_text(value: &Value) -> ParseResult<String> {
    text(value).map(str::to_owned).ok_or_else(|| "a text".to_owned())
}

pub(super) fn sender_id(value: &Value) -> ParseResult<SenderId> {
    parsed(value, "an id such as \"brno-edge\"")
}

/// Parses a path. In files it must be absolute; in options and variables it may be relative to the working
/// directory.
pub(super) fn path(value: &Value) -> ParseResult<PathBuf> {
    let path = match value {
        Value::Arguments(_) => text(value).and_then(|text| std::path::absolute(text).ok()),
        _ => text(value).map(PathBuf::from).filter(|path| path.is_absolute()),
    };
    path.ok_or_else(|| "an absolute path".to_owned())
}

/// Accepts `-`, which stands for standard input. A key itself is never a value here: `conceal_key` moves one
/// on the command line to standard input first, and in a configuration file too many users could read it.
pub(super) fn standard_input(value: &Value) -> ParseResult<()> {
    match value {
        Value::Arguments(arguments) if arguments.iter().map(String::as_str).eq(["-"]) => Ok(()),
        _ => Err("a key from the command line only; name a file that holds it with key-file".to_owned()),
    }
}

pub(super) fn boolean(value: &Value) -> ParseResult<bool> {
    if let Value::Boolean(value) = value {
        return Ok(*value);
    }
    let Value::Arguments(_) = value else { return Err("true or false".to_owned()) };
    match text(value) {
        Some("true" | "yes" | "on" | "1") => Ok(true),
        Some("false" | "no" | "off" | "0") => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// Parses a duration within `bounds`.
pub(super) fn duration(bounds: RangeInclusive<Duration>) -> impl Fn(&Value) -> ParseResult<Duration> {
    move |value| {
        let (from, to) = (compact(*bounds.start()), compact(*bounds.end()));
        let duration = text(value).and_then(|text| humantime::parse_duration(text).ok());
        duration
            .filter(|duration| bounds.contains(duration))
            .ok_or_else(|| format!("a duration from \"{from}\" to \"{to}\", such as \"5s\" or \"10min\""))
    }
}

/// Parses a duration within `bounds`, or `unlimited` as `None`.
pub(super) fn duration_or_unlimited(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&Value) -> ParseResult<Option<Duration>> {
    let duration = duration(bounds);
    move |value| match text(value) {
        Some("unlimited") => Ok(None),
        _ => duration(value).map(Some).map_err(|expected| format!("\"unlimited\" or {expected}")),
    }
}

/// Formats a duration as in a configuration file, such as `1day` or `10ms`.
fn compact(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// Parses a number of bytes within `bounds`.
pub(super) fn size(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> ParseResult<u64> {
    move |value| {
        let size = text(value).and_then(|text| text.parse::<ByteSize>().ok()).map(|size| size.as_u64());
        size.filter(|size| bounds.contains(size)).ok_or_else(|| {
            let (from, to) = (ByteSize(*bounds.start()), ByteSize(*bounds.end()));
            format!("a size from \"{from:.0}\" to \"{to:.0}\", such as \"64MiB\" or \"8GiB\"")
        })
    }
}

/// Parses a number of bytes to keep free within `bounds`, or `auto`.
pub(super) fn min_free(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> ParseResult<MinFree> {
    let size = size(bounds);
    move |value| match text(value) {
        Some("auto") => Ok(MinFree::Auto),
        _ => size(value).map(MinFree::Bytes).map_err(|expected| format!("\"auto\" or {expected}")),
    }
}

pub(super) fn whole_number(bounds: RangeInclusive<u32>) -> impl Fn(&Value) -> ParseResult<u32> {
    move |value| {
        let number = if let Value::Number(digits) = value { digits.parse().ok() } else { None };
        number
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| format!("a whole number from {} to {}", bounds.start(), bounds.end()))
    }
}

/// Parses a whole number within `bounds`, or `unlimited` as `None`.
pub(super) fn whole_number_or_unlimited(
    bounds: RangeInclusive<u32>,
) -> impl Fn(&Value) -> ParseResult<Option<u32>> {
    let number = whole_number(bounds);
    move |value| match text(value) {
        Some("unlimited") => Ok(None),
        _ => number(value).map(Some).map_err(|expected| format!("\"unlimited\" or {expected}")),
    }
}

/// Parses the name of a group: 1 to 64 characters.
pub(super) fn group(value: &Value) -> ParseResult<String> {
    let name = text(value).filter(|name| (1..=64).contains(&name.chars().count()));
    name.map(str::to_owned).ok_or_else(|| "a name of 1 to 64 characters".to_owned())
}

/// Parses a number from 0 to 1.
pub(super) fn share(value: &Value) -> ParseResult<f64> {
    let number = if let Value::Number(digits) = value { digits.parse().ok() } else { None };
    number.filter(|number| (0.0..=1.0).contains(number)).ok_or_else(|| "a number from 0.0 to 1.0".to_owned())
}

/// Parses one of `choices` by its name.
pub(super) fn one_of<T: Copy, const N: usize>(
    choices: [(&'static str, T); N],
) -> impl Fn(&Value) -> ParseResult<T> {
    move |value| {
        let word = text(value);
        let chosen = choices.iter().find(|(name, _)| Some(*name) == word);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
        })
    }
}
