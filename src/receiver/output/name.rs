//! Names of outputs.

use core::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::HostPort;

/// Name of an output, by which reloads, restarts and state files identify it.
///
/// A collector reached over UDP is named by its address as the settings write it, so it stays the same
/// collector when its host name resolves to another address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(crate) struct OutputName(Arc<str>);

impl From<&HostPort> for OutputName {
    fn from(address: &HostPort) -> Self {
        address.to_string().into()
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
impl From<core::net::SocketAddr> for OutputName {
    fn from(address: core::net::SocketAddr) -> Self {
        address.to_string().into()
    }
}
