//! Names of outputs.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::HostPort;

/// Name of an output, by which reloads, restarts and state files identify it.
///
/// A collector reached over UDP is named by its configured address, however that is spelled. It stays the
/// same collector when its host name resolves to another address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(crate) struct OutputName(Arc<str>);

impl From<&HostPort> for OutputName {
    fn from(address: &HostPort) -> Self {
        match address.host().parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip.to_canonical(), address.port()).to_string().into(),
            Err(_) => format!("{}:{}", address.host().to_ascii_lowercase(), address.port()).into(),
        }
    }
}

impl From<String> for OutputName {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<OutputName> for String {
    fn from(name: OutputName) -> Self {
        name.0.as_ref().into()
    }
}

impl fmt::Display for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
impl From<SocketAddr> for OutputName {
    fn from(address: SocketAddr) -> Self {
        address.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_of_an_address_are_one_name() {
        for (one, other) in [
            ("[2001:DB8::1]:9995", "[2001:db8:0::1]:9995"),
            ("[::ffff:192.0.2.4]:9995", "192.0.2.4:9995"),
            ("Flows.Example:9995", "flows.example:9995"),
            ("192.0.2.4:09995", "192.0.2.4:9995"),
        ] {
            let [one, other] = [one, other].map(|text| OutputName::from(&text.parse::<HostPort>().unwrap()));
            assert_eq!(one, other);
        }
    }
}
