//! The datagram of all measurements: NetFlow v5 with 30 records, 1,464 bytes. It is made once and stamped for
//! each send. Measurements of compression use other flow records (module `flow_records`).
//!
//! The stamp determines every byte, so the sink can check a datagram without a copy of it.

use nf_transport_kit::chatter::Pattern;

use crate::flow_records;

/// Bytes of each datagram.
pub(crate) const LEN: usize = 24 + 30 * 48;

/// Records per datagram. NetFlow v5 counts records in its sequence numbers.
const RECORDS: u32 = 30;

/// Contents of the datagrams of a run, apart from the stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The same in all datagrams, so that preparing them costs the generator least.
    Same,
    /// Flow records of a router, which differ between datagrams.
    FlowRecords,
}

impl Content {
    /// Writes the content of this number into a datagram that has that of another number.
    pub(crate) fn write(self, number: u32, datagram: &mut [u8]) {
        if self == Self::FlowRecords {
            datagram.copy_from_slice(flow_records::datagram(number));
        }
    }
}

/// Fields that differ between datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Number of the run.
    pub(crate) run: u32,
    /// Number of the datagram in the run.
    pub(crate) number: u32,
    pub(crate) exporter: u16,
    /// Number of datagrams that the exporter sent before.
    pub(crate) sequence: u32,
}

impl Stamp {
    /// Writes the stamp into a datagram.
    pub(crate) fn write(self, datagram: &mut [u8]) {
        datagram[4..8].copy_from_slice(&self.number.to_be_bytes()); // uptime in ms
        datagram[12..16].copy_from_slice(&self.run.to_be_bytes()); // nanoseconds of the export time
        datagram[16..20].copy_from_slice(&self.sequence.wrapping_mul(RECORDS).to_be_bytes());
        datagram[20..22].copy_from_slice(&self.exporter.to_be_bytes()); // engine
        datagram[25..27].copy_from_slice(&self.exporter.to_be_bytes()); // source address of the first record
    }

    /// Reads the stamp of a datagram.
    pub(crate) fn read(datagram: &[u8]) -> Option<Self> {
        let word = |at: usize| datagram.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word));
        let exporter = u16::from_be_bytes(*datagram.get(20..)?.first_chunk()?);
        Some(Self { run: word(12)?, number: word(4)?, exporter, sequence: word(16)? / RECORDS })
    }
}

/// Returns an unstamped datagram of the kit's exporters.
pub(crate) fn template() -> Vec<u8> {
    let mut datagram = Vec::new();
    Pattern::new(&[30]).datagram(0, 0, &mut datagram);
    assert_eq!(datagram.len(), LEN);
    datagram
}
