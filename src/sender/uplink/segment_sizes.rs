//! The TCP segment sizes for receivers on whose path full segments were lost.
//!
//! Does no I/O and never reads the clock.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::limits::{SEGMENT_BYTES, SEGMENT_BYTES_KEPT, SEGMENT_SIZES_MAX};

/// The receivers with reduced segment sizes.
#[derive(Debug, Default)]
pub(crate) struct SegmentSizes {
    reduced: HashMap<SocketAddr, Reduced>,
}

#[derive(Clone, Copy, Debug)]
struct Reduced {
    /// Bytes of a segment: one of [`SEGMENT_BYTES`].
    bytes: u16,
    /// Connections that are made later try full segments again.
    until: Instant,
}

impl SegmentSizes {
    /// Returns the segment size in bytes for a new connection to `receiver`; `None` if TCP decides.
    pub(crate) fn size(&mut self, receiver: SocketAddr, now: Instant) -> Option<u16> {
        self.reduced.retain(|_, reduced| now < reduced.until);
        self.reduced.get(&receiver).map(|reduced| reduced.bytes)
    }

    /// Notes that segments of `tried` bytes, or full ones, were lost on the path to `receiver`. Returns the
    /// size to try next, or `None` for full segments: if the smallest size does not help, size is not the
    /// cause.
    pub(crate) fn reduce(&mut self, receiver: SocketAddr, tried: Option<u16>, now: Instant) -> Option<u16> {
        let next = SEGMENT_BYTES.into_iter().find(|bytes| tried.is_none_or(|tried| *bytes < tried));
        self.reduced.remove(&receiver);
        let bytes = next.filter(|_| self.reduced.len() < SEGMENT_SIZES_MAX)?;
        self.reduced.insert(receiver, Reduced { bytes, until: now + SEGMENT_BYTES_KEPT });
        Some(bytes)
    }

    /// Forgets all reduced sizes.
    pub(crate) fn forget(&mut self) {
        self.reduced.clear();
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn receiver(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 2055))
    }

    #[test]
    fn each_stall_takes_the_next_smaller_size() {
        let (mut sizes, now) = (SegmentSizes::default(), Instant::now());
        assert_eq!(sizes.size(receiver(1), now), None);
        assert_eq!(sizes.reduce(receiver(1), None, now), Some(1200));
        assert_eq!((sizes.size(receiver(1), now), sizes.size(receiver(2), now)), (Some(1200), None));
        assert_eq!(sizes.reduce(receiver(1), Some(1200), now), Some(536));
        assert_eq!(sizes.size(receiver(1), now), Some(536));
    }

    #[test]
    fn sizes_that_do_not_help_are_forgotten() {
        let (mut sizes, now) = (SegmentSizes::default(), Instant::now());
        sizes.reduce(receiver(1), None, now);
        assert_eq!(sizes.reduce(receiver(1), Some(536), now), None);
        assert_eq!(sizes.size(receiver(1), now), None);
    }

    #[test]
    fn full_segments_are_tried_again_after_a_while() {
        let (mut sizes, now) = (SegmentSizes::default(), Instant::now());
        sizes.reduce(receiver(1), None, now);
        let (moment, kept) = (Duration::from_secs(1), SEGMENT_BYTES_KEPT);
        assert_eq!(sizes.size(receiver(1), now + kept.saturating_sub(moment)), Some(1200));
        assert_eq!(sizes.size(receiver(1), now + kept), None);
    }

    #[test]
    fn the_number_of_reduced_sizes_is_bounded() {
        let (mut sizes, now) = (SegmentSizes::default(), Instant::now());
        for number in 0..=u8::MAX {
            sizes.reduce(receiver(number), None, now);
        }
        assert!(sizes.reduced.len() <= SEGMENT_SIZES_MAX);
    }
}
