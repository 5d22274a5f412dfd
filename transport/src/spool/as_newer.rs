//! Makes segments of this version look like those of a newer one, and back, for tests.
#![expect(clippy::indexing_slicing, reason = "a test with another layout fails here")]

use crate::batch::HEADER_LEN;
use crate::spool::SEGMENT_HEADER_LEN;

/// Sets the format version of a segment.
pub fn set_version(segment: &mut [u8], version: u8) {
    segment[13] = version;
    let checksum = crc32c::crc32c(&segment[12..SEGMENT_HEADER_LEN]);
    segment[8..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Changes one byte of the header of the batch at `at` of a segment, and its checksum.
pub fn set_header_byte(segment: &mut [u8], at: usize, byte: usize, value: u8) {
    let stream = crc32c::crc32c(&segment[16..32]);
    let header = &mut segment[at..at + HEADER_LEN];
    header[byte] = value;
    let checksum = crc32c::crc32c_append(stream, &header[8..]);
    header[4..8].copy_from_slice(&checksum.to_be_bytes());
}
