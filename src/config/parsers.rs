//! The kinds of values that keys take. Each kind turns a value as found into the thing itself, or says what it
//! expects; the same words serve every key of that kind.

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

use crate::config::HostPort;
use crate::config::value::Value;

/// What a kind makes of a value: the thing, or what it expects instead.
pub(super) type Understood<T> = Result<T, String>;

/// The text of a value that is one text.
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        Value::Words(words) => match words.as_slice() {
            [word] => Some(word),
            _ => None,
        },
        _ => None,
    }
}

/// A text that parses, or `expected` with the parser's reason.
fn parsed<T: FromStr<Err: Display>>(value: &Value, expected: &str) -> Understood<T> {
    let text = text(value).ok_or_else(|| expected.to_owned())?;
    text.parse().map_err(|error| format!("{expected}: {error}"))
}

pub(super) fn socket_address(value: &Value) -> Understood<SocketAddr> {
    let expected = "an address and a port such as \"[::]:2055\" or \"192.0.2.1:2055\"";
    text(value).and_then(|text| text.parse().ok()).ok_or_else(|| expected.to_owned())
}

pub(super) fn host_port(value: &Value) -> Understood<HostPort> {
    parsed(value, "a host and a port such as \"collector.example.net:2055\"")
}

/// A prefix; its host bits are cleared. An address alone stands for itself. Prefixes of IPv4 addresses in the form of IPv6
/// ones (`::ffff:10.0.0.0/104`) become IPv4, as the addresses do that they are compared with.
pub(super) fn prefix(value: &Value) -> Understood<IpNet> {
    let expected = "a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\"";
    let text = text(value).ok_or(expected)?;
    let single = || text.parse().ok().map(|address: IpAddr| address.into());
    let net: IpNet = text.parse().ok().or_else(single).ok_or(expected)?;
    without_v4_mapping(net)
}

/// Bits that all IPv4 addresses in the form of IPv6 ones have in common (RFC 4291, 2.5.5.2).
const V4_MAPPED_BITS: u8 = 96;

fn without_v4_mapping(net: IpNet) -> Understood<IpNet> {
    let IpNet::V6(v6) = net else { return Ok(net.trunc()) };
    let mapped = v6.addr().to_ipv4_mapped();
    if let (Some(v4), Some(bits)) = (mapped, v6.prefix_len().checked_sub(V4_MAPPED_BITS)) {
        let expected = |error| format!("a prefix of IPv4 addresses: {error}");
        return Ok(Ipv4Net::new(v4, bits).map_err(expected)?.trunc().into());
    }
    // "::/0" has all IPv6 addresses. Nobody who writes "::ffff:0:0/90" means those next to the IPv4 ones.
    if mapped.is_some()
        || (v6.prefix_len() > 0 && v6.trunc().contains(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()))
    {
        return Err("IPv4 prefixes in their own form, such as \"10.0.0.0/8\" or \"0.0.0.0/0\": IPv4 addresses in the form of \
                    IPv6 ones are taken as IPv4, so this prefix matches none of them"
            .to_owned());
    }
    Ok(net.trunc())
}

/// A text that is understood elsewhere.
pub(super) fn text_of_any_kind(value: &Value) -> Understood<String> {
    text(value).map(str::to_owned).ok_or_else(|| "a text".to_owned())
}

pub(super) fn sender_id(value: &Value) -> Understood<SenderId> {
    parsed(value, "an id such as \"brno-edge\"")
}

/// A path. In files it is absolute; options and variables may give one relative to the working directory.
pub(super) fn path(value: &Value) -> Understood<PathBuf> {
    let path = match value {
        Value::Words(_) => text(value).and_then(|text| std::path::absolute(text).ok()),
        _ => text(value).map(PathBuf::from).filter(|path| path.is_absolute()),
    };
    path.ok_or_else(|| "an absolute path".to_owned())
}

/// The word that stands for standard input. A key itself never gets here: one on the command line is moved to
/// standard input first, and in files it would be read by too many.
pub(super) fn standard_input(value: &Value) -> Understood<()> {
    match value {
        Value::Words(words) if words.iter().map(String::as_str).eq(["-"]) => Ok(()),
        _ => Err("a key from the command line only; name a file that holds it with key-file".to_owned()),
    }
}

pub(super) fn boolean(value: &Value) -> Understood<bool> {
    if let Value::Boolean(value) = value {
        return Ok(*value);
    }
    let Value::Words(_) = value else { return Err("true or false".to_owned()) };
    match text(value) {
        Some("true" | "yes" | "on" | "1") => Ok(true),
        Some("false" | "no" | "off" | "0") => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// A duration within `bounds`.
pub(super) fn duration(bounds: RangeInclusive<Duration>) -> impl Fn(&Value) -> Understood<Duration> {
    move |value| {
        let (from, to) = (compact(*bounds.start()), compact(*bounds.end()));
        let duration = text(value).and_then(|text| humantime::parse_duration(text).ok());
        duration
            .filter(|duration| bounds.contains(duration))
            .ok_or_else(|| format!("a duration from \"{from}\" to \"{to}\", such as \"5s\" or \"10min\""))
    }
}

/// A duration within `bounds`, or `None` for the word `unlimited`.
pub(super) fn duration_or_unlimited(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&Value) -> Understood<Option<Duration>> {
    let duration = duration(bounds);
    move |value| match text(value) {
        Some("unlimited") => Ok(None),
        _ => duration(value).map(Some).map_err(|expected| format!("\"unlimited\" or {expected}")),
    }
}

/// A duration as one would write it, such as `1day` or `10ms`.
fn compact(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// A number of bytes within `bounds`.
pub(super) fn size(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Understood<u64> {
    move |value| {
        let size = text(value).and_then(|text| text.parse::<ByteSize>().ok()).map(|size| size.as_u64());
        size.filter(|size| bounds.contains(size)).ok_or_else(|| {
            let (from, to) = (ByteSize(*bounds.start()), ByteSize(*bounds.end()));
            format!("a size from \"{from:.0}\" to \"{to:.0}\", such as \"64MiB\" or \"8GiB\"")
        })
    }
}

/// A number of bytes within `bounds` to keep free, or the word `auto`.
pub(super) fn min_free(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Understood<MinFree> {
    let size = size(bounds);
    move |value| match text(value) {
        Some("auto") => Ok(MinFree::Auto),
        _ => size(value).map(MinFree::Bytes).map_err(|expected| format!("\"auto\" or {expected}")),
    }
}

pub(super) fn whole_number(bounds: RangeInclusive<u32>) -> impl Fn(&Value) -> Understood<u32> {
    move |value| {
        let number = if let Value::Number(digits) = value { digits.parse().ok() } else { None };
        number
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| format!("a whole number from {} to {}", bounds.start(), bounds.end()))
    }
}

/// A whole number within `bounds`, or `None` for the word `unlimited`.
pub(super) fn whole_number_or_unlimited(
    bounds: RangeInclusive<u32>,
) -> impl Fn(&Value) -> Understood<Option<u32>> {
    let number = whole_number(bounds);
    move |value| match text(value) {
        Some("unlimited") => Ok(None),
        _ => number(value).map(Some).map_err(|expected| format!("\"unlimited\" or {expected}")),
    }
}

/// The name of a group: 1 to 64 characters.
pub(super) fn group(value: &Value) -> Understood<String> {
    let name = text(value).filter(|name| (1..=64).contains(&name.chars().count()));
    name.map(str::to_owned).ok_or_else(|| "a name of 1 to 64 characters".to_owned())
}

/// A number from 0 to 1.
pub(super) fn share(value: &Value) -> Understood<f64> {
    let number = if let Value::Number(digits) = value { digits.parse().ok() } else { None };
    number.filter(|number| (0.0..=1.0).contains(number)).ok_or_else(|| "a number from 0.0 to 1.0".to_owned())
}

/// One of `choices`, by its word.
pub(super) fn one_of<T: Copy, const N: usize>(
    choices: [(&'static str, T); N],
) -> impl Fn(&Value) -> Understood<T> {
    move |value| {
        let word = text(value);
        let chosen = choices.iter().find(|(name, _)| Some(*name) == word);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
        })
    }
}
