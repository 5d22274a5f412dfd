//! Prefixes of addresses, such as those of the exporters that a sender may deliver.

use core::fmt;
use core::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// A list of prefixes; an empty one has all addresses. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(Arc<[IpNet]>);

impl Prefixes {
    /// Returns whether every address is in it.
    pub fn has_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `address`, in whichever form it is written, is in it.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.has_all() || self.0.iter().any(|prefix| prefix.contains(&address))
    }

    /// The prefixes.
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
    fn prefixes_have_addresses_in_either_form() {
        let some = prefixes(&["10.0.0.0/8", "2001:db8::/32"]);
        let has = |text: &str| some.has(text.parse().unwrap());
        assert!(has("10.255.0.1") && has("::ffff:10.0.0.1") && has("2001:db8::1"));
        assert!(!has("11.0.0.1") && !has("::ffff:11.0.0.1") && !has("2001:db9::1"));
        assert_eq!(some.to_string(), "10.0.0.0/8, 2001:db8::/32");
    }

    #[test]
    fn no_prefixes_have_every_address() {
        let all = Prefixes::default();
        assert!(all.has_all() && all.has("192.0.2.1".parse().unwrap()) && all.has("::1".parse().unwrap()));
        assert!(!prefixes(&["192.0.2.1/32"]).has_all());
    }
}
