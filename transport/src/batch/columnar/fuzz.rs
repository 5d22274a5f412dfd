//! Fuzzing entry for the columnar form.

use crate::batch::columnar::decode;
use crate::batch::columnar::description::Description;
use crate::limits::BATCH_BODY_MAX;

/// Decodes arbitrary `bytes` as a columnar form.
///
/// The expected length of the records is the number of bytes behind the description.
///
/// # Panics
///
/// If the decoder returns another number of bytes, or accepts a length that differs from the number of cells.
pub fn fuzz_columnar(bytes: &[u8]) {
    let cells = Description::decode(bytes).map_or(bytes, |(_, cells)| cells);
    let records_len = cells.len().min(BATCH_BODY_MAX);
    if let Ok(records) = decode(bytes, records_len) {
        assert_eq!(records.len(), records_len, "the records have another length");
    }
    assert!(decode(bytes, records_len + 1).is_err(), "there are more records than cells");
}
