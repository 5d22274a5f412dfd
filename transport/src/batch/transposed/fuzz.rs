//! The entry of the fuzzers into this folder.

use crate::batch::transposed::description::Description;
use crate::batch::transposed::restore;
use crate::limits::BATCH_BODY_MAX;

/// Takes `bytes`, whatever they are, for the transposed form of as many bytes of records as follow a description.
///
/// # Panics
///
/// If another number of bytes comes out than was asked for, or something of another number.
pub fn fuzz_transposed(bytes: &[u8]) {
    let cells = Description::decode(bytes).map_or(bytes, |(_, cells)| cells);
    let records_len = cells.len().min(BATCH_BODY_MAX);
    if let Ok(records) = restore(bytes, records_len) {
        assert_eq!(records.len(), records_len, "the records have another length");
    }
    assert!(restore(bytes, records_len + 1).is_err(), "there are more records than cells");
}
