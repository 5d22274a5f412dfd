//! Positions and shapes of flow records in a datagram's payload.
//!
//! [`crate::netflow`] finds the flow records, [`crate::batch`] uses their layout for compression.

/// Consecutive flow records of one template in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRun {
    /// Offset of the first record in the payload, in bytes.
    pub start: usize,
    /// Number of records.
    pub records: usize,
    /// Template id of the records; 0 for formats without templates.
    pub template: u16,
    /// Layout that all records share.
    pub layout: FlowLayout,
}

/// Layout of flow records of one template, as far as compression uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLayout {
    /// Length of each record in bytes.
    pub length: u16,
    /// Location of the two addresses in the record; `None` if it has none.
    pub addresses: Option<FlowAddresses>,
}

/// Location of a flow's source and destination address in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowAddresses {
    /// Offset of the source address in the record, in bytes.
    pub source: u16,
    /// Offset of the destination address, which has the same family.
    pub destination: u16,
    /// Family of both addresses.
    pub family: AddressFamily,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4: addresses of 4 bytes.
    V4,
    /// IPv6: addresses of 16 bytes.
    V6,
}

impl AddressFamily {
    /// Length of an address in bytes.
    pub fn address_len(self) -> u16 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}
