//! Lists of address prefixes, for example of the exporters whose datagrams a sender may deliver.

use core::fmt;
use core::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// A list of address prefixes. An empty list contains all addresses. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(Arc<[IpNet]>);

impl Prefixes {
    /// True if the list contains every address.
    pub fn has_all(&self) -> bool {
        self.0.is_empty()
    }

    /// True if the list contains `address`. IPv4-mapped IPv6 addresses count as IPv4 addresses.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.has_all() || self.0.iter().any(|prefix| prefix.contains(&address))
    }

    /// Iterates over the prefixes.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }
}

impl From<Vec<IpNet>> for Prefixes {
    fn from(prefixes: Vec<IpNet>) -> Self {
        Self(prefixes.into())
    }
}

impl fmt::Display for Prefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, prefix) in self.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{prefix}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Prefixes {
        texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>().into()
    }

    #[test]
    fn ipv4_mapped_addresses_match_ipv4_prefixes() {
        let some = prefixes(&["10.0.0.0/8", "2001:db8::/32"]);
        let has = |text: &str| some.has(text.parse().unwrap());
        assert!(has("10.255.0.1") && has("::ffff:10.0.0.1") && has("2001:db8::1"));
        assert!(!has("11.0.0.1") && !has("::ffff:11.0.0.1") && !has("2001:db9::1"));
        assert_eq!(some.to_string(), "10.0.0.0/8, 2001:db8::/32");
    }

    #[test]
    fn an_empty_list_has_every_address() {
        let all = Prefixes::default();
        assert!(all.has_all() && all.has("192.0.2.1".parse().unwrap()) && all.has("::1".parse().unwrap()));
        assert!(!prefixes(&["192.0.2.1/32"]).has_all());
    }
}
