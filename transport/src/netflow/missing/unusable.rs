//! The reasons why losses cannot be counted.

use core::fmt;

use crate::netflow::export::ExportFormat;

/// A reason why losses of an exporter cannot be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The format has no sequence numbers.
    NoNumbers(ExportFormat),
    /// The number is always the same.
    Constant,
    /// The numbers do not follow each other.
    Erratic,
    /// Data records cannot be counted without templates.
    NoTemplates,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self {
            Self::NoNumbers(ExportFormat::Other) => "neither NetFlow, IPFIX nor sFlow v5",
            Self::NoNumbers(format) => return write!(f, "{format} has no sequence numbers"),
            Self::Constant => "its sequence number never changes",
            Self::Erratic => "its sequence numbers make no sense",
            Self::NoTemplates => "its templates have not arrived yet",
        };
        f.write_str(reason)
    }
}
