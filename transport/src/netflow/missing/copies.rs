//! Recognizes datagrams that arrive twice.
//!
//! A copy has the number and the bytes of an earlier datagram. A datagram with an earlier number and other
//! bytes is no copy: it belongs to another counter, or the exporter has restarted.

use crate::limits::SEQUENCE_WINDOW;

/// Number of compared bytes of a datagram: its header with time and number, and some flows.
const COMPARED: usize = 128;

/// Maximum number of equal datagrams in a row that count as copies. With more, the exporter's header never
/// changes.
const EQUAL_MAX: u32 = 3;

/// Number of datagrams that are compared even if the number is the expected one. A network that duplicates
/// datagrams delivers the copy soon.
const LATEST: usize = 8;

/// Checksums of the last [`SEQUENCE_WINDOW`] datagrams.
#[derive(Clone, Debug, Default)]
pub(in crate::netflow) struct Copies {
    checksums: Vec<u32>,
    /// The place of the oldest checksum once all places are used.
    oldest: usize,
    last: u32,
    /// Number of times that the last datagram arrived in a row.
    equal: u32,
}

impl Copies {
    /// Returns true if `payload` is a copy of an earlier datagram, else remembers it. `is_expected` means
    /// that its number is the next one, so only one of the last few can be its original.
    pub(in crate::netflow) fn find_or_insert(&mut self, payload: &[u8], is_expected: bool) -> bool {
        let checksum = crc32c::crc32c(payload.get(..COMPARED).unwrap_or(payload));
        self.equal = if self.last == checksum { self.equal.saturating_add(1) } else { 1 };
        self.last = checksum;
        if self.has(checksum, is_expected) {
            return self.equal <= EQUAL_MAX;
        }
        self.remember(checksum);
        false
    }

    /// Bytes on the heap.
    pub(in crate::netflow) fn bytes(&self) -> usize {
        self.checksums.capacity() * size_of::<u32>()
    }

    /// Forgets all datagrams.
    pub(in crate::netflow) fn clear(&mut self) {
        *self = Self::default();
    }

    fn has(&self, checksum: u32, only_latest: bool) -> bool {
        if !only_latest {
            return self.checksums.contains(&checksum);
        }
        let (newest, older) = self.checksums.split_at_checked(self.oldest).unwrap_or_default();
        let newest = last_of(newest, LATEST);
        newest.contains(&checksum) || last_of(older, LATEST - newest.len()).contains(&checksum)
    }

    fn remember(&mut self, checksum: u32) {
        if self.checksums.len() < SEQUENCE_WINDOW {
            self.checksums.push(checksum);
        } else if let Some(place) = self.checksums.get_mut(self.oldest) {
            *place = checksum;
            self.oldest = (self.oldest + 1) % SEQUENCE_WINDOW;
        }
    }
}

/// The last `count` checksums, or all if there are fewer.
fn last_of(checksums: &[u32], count: usize) -> &[u32] {
    checksums.get(checksums.len().saturating_sub(count)..).unwrap_or_default()
}
