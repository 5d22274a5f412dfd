//! The exporters whose datagrams at least one collector gets.

use core::net::IpAddr;
use std::sync::Arc;

use crate::receiver::output::Output;

/// The exporters whose datagrams at least one of several collectors gets.
#[derive(Debug)]
pub(crate) enum ExporterFilter {
    All,
    OfAny(Vec<Arc<Output>>),
}

impl ExporterFilter {
    /// Returns the exporters of the collectors of `outputs`.
    pub(crate) fn of<'a>(outputs: impl Iterator<Item = &'a Arc<Output>> + Clone) -> Self {
        if outputs.clone().any(|output| output.share().is_any()) {
            return Self::All;
        }
        Self::OfAny(outputs.cloned().collect())
    }

    pub(crate) fn has(&self, exporter: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::OfAny(outputs) => outputs.iter().any(|output| output.share().admits(exporter)),
        }
    }
}
