//! A destination: a host, by name or address, and a port.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

/// `host:port` or `[IPv6 address]:port`; the port is not 0. Displayed as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    text: String,
    host: String,
    port: u16,
}

impl HostPort {
    /// Returns the name, or the address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, at least 1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns true for a loopback address and the name `localhost`: certainly this machine.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
    }

    /// Returns true for the unspecified address, to which no other machine can connect.
    pub fn is_unspecified(&self) -> bool {
        self.host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_unspecified())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Syntax errors in a host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// There is no colon with a port.
    #[error("the port is missing, as in \"host:2055\"")]
    NoPort,
    /// The text after the last colon is not a port.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// An IPv6 address lacks brackets.
    #[error("an IPv6 address needs brackets, as in \"[2001:db8::1]:2055\"")]
    NoBrackets,
    /// The text in brackets is not an IPv6 address.
    #[error("only an IPv6 address goes in brackets")]
    NotIpv6,
    /// The text before the colon is not a host name.
    #[error("a host name is 1 to 253 of the characters A-Z a-z 0-9 . _ -")]
    Host,
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError::NoPort)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(address)) if address.parse::<Ipv6Addr>().is_ok() => address,
            Some(None) if text.ends_with(']') => return Err(HostPortError::NoPort),
            Some(_) => return Err(HostPortError::NotIpv6),
            None if host.contains(':') => return Err(HostPortError::NoBrackets),
            None if is_host_name(host) => host,
            None => return Err(HostPortError::Host),
        };
        let all_digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port > 0 && all_digits).ok_or(HostPortError::Port)?;
        Ok(Self { text: text.to_owned(), host: host.to_owned(), port })
    }
}

fn is_host_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=253).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_all_forms_parse_and_display_unchanged() {
        for (text, host, port, loopback) in [
            ("collector.example.net:2055", "collector.example.net", 2055, false),
            ("localhost:1", "localhost", 1, true),
            ("127.0.0.1:65535", "127.0.0.1", 65535, true),
            ("192.0.2.7:2055", "192.0.2.7", 2055, false),
            ("[::1]:2055", "::1", 2055, true),
            ("[::ffff:127.0.0.1]:2055", "::ffff:127.0.0.1", 2055, true),
            ("[2001:DB8::1]:2055", "2001:DB8::1", 2055, false),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!((parsed.host(), parsed.port(), parsed.is_loopback()), (host, port, loopback));
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn invalid_hosts_are_rejected_with_the_reason() {
        for (text, error) in [
            ("collector", HostPortError::NoPort),
            ("", HostPortError::NoPort),
            ("[::1]", HostPortError::NoPort),
            ("collector:", HostPortError::Port),
            ("collector:0", HostPortError::Port),
            ("collector:+1", HostPortError::Port),
            ("collector:65536", HostPortError::Port),
            ("collector:flows", HostPortError::Port),
            ("::1:2055", HostPortError::NoBrackets),
            ("[collector]:2055", HostPortError::NotIpv6),
            ("[127.0.0.1]:2055", HostPortError::NotIpv6),
            ("[::1:2055", HostPortError::NotIpv6),
            (":2055", HostPortError::Host),
            ("two words:2055", HostPortError::Host),
            ("tcp//collector:2055", HostPortError::Host),
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(error), "{text:?}");
        }
    }
}
