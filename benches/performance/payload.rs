//! The datagram of all measurements: NetFlow v5 with 30 records, 1,464 bytes, made once and stamped for each.
//!
//! Every byte follows from the stamp, so the sink needs no memory of what was sent to tell whether it got exactly that.

use nf_transport_kit::chatter::Pattern;

/// Bytes of each datagram.
pub(crate) const LEN: usize = 24 + 30 * 48;

/// Records of each datagram, by which NetFlow v5 counts.
const RECORDS: u32 = 30;

/// What differs between datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The run that it belongs to.
    pub(crate) run: u32,
    /// Its number among all datagrams of the run.
    pub(crate) number: u32,
    pub(crate) exporter: u16,
    /// How many datagrams its exporter has sent before.
    pub(crate) sequence: u32,
}

impl Stamp {
    /// Writes it into a datagram.
    pub(crate) fn write(self, datagram: &mut [u8]) {
        datagram[4..8].copy_from_slice(&self.number.to_be_bytes()); // uptime in ms
        datagram[12..16].copy_from_slice(&self.run.to_be_bytes()); // nanoseconds beside the time in seconds
        datagram[16..20].copy_from_slice(&self.sequence.wrapping_mul(RECORDS).to_be_bytes());
        datagram[20..22].copy_from_slice(&self.exporter.to_be_bytes()); // engine
        datagram[25..27].copy_from_slice(&self.exporter.to_be_bytes()); // source address of the first record
    }

    /// Reads back what a datagram claims to be.
    pub(crate) fn read(datagram: &[u8]) -> Option<Self> {
        let word = |at: usize| datagram.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word));
        let exporter = u16::from_be_bytes(*datagram.get(20..)?.first_chunk()?);
        Some(Self { run: word(12)?, number: word(4)?, exporter, sequence: word(16)? / RECORDS })
    }
}

/// A datagram as the made-up exporters of the tests send it, not stamped yet.
pub(crate) fn template() -> Vec<u8> {
    let mut datagram = Vec::new();
    Pattern::new(&[30]).datagram(0, 0, &mut datagram);
    assert_eq!(datagram.len(), LEN);
    datagram
}
