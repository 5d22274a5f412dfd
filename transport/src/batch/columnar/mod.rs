//! The columnar form of a batch's records, which zstd compresses better than rows.
//!
//! The form is a description and then the bytes of the records, each byte once. The records are cut into
//! consecutive sections. A section is a run of rows of equal length, which belong to one table. Table 0 has
//! rows of one byte and holds, unchanged, all bytes that belong to no other table. Within a table the first
//! cells of all rows come first, then the second cells, and so on. A cell is one byte long, except for up to
//! four wide cells in a row, which stay whole. The reader needs no knowledge of NetFlow. All numbers are
//! big-endian:
//!
//! | width | field | range |
//! |---|---|---|
//! | 1 | t: number of tables in addition to table 0 | 0 to 63 |
//! | 2 | s: number of sections | 0 to 8,192 |
//! | | t table shapes (see below) | |
//! | s | table of each section | 0 to t |
//! | s | number of rows of each section, high bytes | |
//! | s | number of rows of each section, low bytes | at least 1 row |
//! | | bytes of all tables, from table 0 on | as many as the records have |
//!
//! A table shape:
//!
//! | width | field | range |
//! |---|---|---|
//! | 2 | length of a row in bytes | 1 to 65,535 |
//! | 1 | w: number of wide cells | 0 to 4 |
//! | 3 each | w wide cells: offset in the row (2) and length in bytes (1) | length 1 to 255 |
//!
//! Wide cells are in ascending order, do not overlap and end within the row.
//!
//! nf-sender makes one table of flow records for each template, with the addresses as wide cells. It makes
//! further tables of the bytes before the flow records of each datagram: the record's head and the export
//! header. Exporters that see both directions of a flow often export them consecutively. Two such records
//! become one row of a separate table. Most columns of the second half then repeat a column of the first
//! half.
//!
//! The gain was measured with exports by softflowd of some hundred real captures, merged, in full batches.
//! The table shows bytes of batches per byte of payload with zstd at level 1. IPFIX is within 0.001 of v9.
//!
//! | form | v5 | v9 |
//! |---|---|---|
//! | rows, as received | 0.29 | 0.34 |
//! | columns of bytes | 0.30 | 0.34 |
//! | columns of whole fields | 0.25 | 0.29 |
//! | two directions in a row, columns of bytes | 0.22 | 0.26 |
//! | two directions in a row, addresses whole (this form) | 0.20 | 0.23 |
//!
//! Batches of four datagrams reach 0.26 and 0.31, batches of one datagram 0.38 and 0.44. For zstd of rows the
//! latter figures are 0.42 and 0.48. One core of the test machine encodes full batches at 0.6 GB/s of payload
//! (zstd of rows: 0.4) and decodes them at 1.1 GB/s: zstd has less work with columns than with rows.
//! `benches/compression.rs` reproduces these figures.
//!
//! Further steps brought too little:
//!
//! - differences of bytes or fields from row to row (longer);
//! - the difference of a flow's end and its start (1 % shorter);
//! - whole ports (1 % shorter);
//! - a zstd block for each column (longer);
//! - zstd at level 3 (2 % shorter).

mod columns;
mod description;
mod flows;
mod fuzz;

use description::Description;
pub(super) use flows::FlowRows;
pub use fuzz::fuzz_columnar;

use crate::batch::BatchError;

/// Length of the longest columnar form of `records_len` bytes of records.
pub(super) fn max_len(records_len: usize) -> usize {
    description::DESCRIPTION_LEN_MAX.saturating_add(records_len)
}

/// Encodes `records`, which contain the flow records `flows`, to `out`.
///
/// Returns false if the columnar form is useless or impossible. The content of `out` is then undefined.
pub(super) fn encode(records: &[u8], flows: &FlowRows, out: &mut Vec<u8>) -> bool {
    flows.are_majority_of(records) && encode_all(records, flows, out).is_some()
}

fn encode_all(records: &[u8], flows: &FlowRows, out: &mut Vec<u8>) -> Option<()> {
    let description = flows.describe(records)?;
    out.clear();
    description.encode(out);
    let start = out.len();
    out.resize(start.checked_add(records.len())?, 0);
    let mut rows = vec![0; records.len()];
    collect_rows(records, &description, &mut rows)?;
    columns::from_rows(&rows, &description, out.get_mut(start..)?)
}

/// Copies the rows of all tables to `rows`, table by table.
fn collect_rows(mut records: &[u8], description: &Description, rows: &mut [u8]) -> Option<()> {
    let mut rest = rows;
    let mut places = Vec::with_capacity(description.tables.len());
    for length in description.table_lens() {
        let (place, after) = rest.split_at_mut_checked(length)?;
        rest = after;
        places.push(place);
    }
    for (table, length) in description.section_lens() {
        let (section, after) = records.split_at_checked(length)?;
        records = after;
        let place = places.get_mut(table)?;
        let (to, later) = core::mem::take(place).split_at_mut_checked(length)?;
        to.copy_from_slice(section);
        *place = later;
    }
    records.is_empty().then_some(())
}

/// Decodes `form` to exactly `records_len` bytes of records.
pub(super) fn decode(form: &[u8], records_len: usize) -> Result<Vec<u8>, BatchError> {
    decode_all(form, records_len).ok_or(BatchError::Records)
}

fn decode_all(form: &[u8], records_len: usize) -> Option<Vec<u8>> {
    let (description, cells) = Description::decode(form)?;
    if cells.len() != records_len || description.records_len()? != records_len {
        return None;
    }
    let mut rows = vec![0; records_len];
    columns::to_rows(cells, &description, &mut rows)?;
    let mut rest: &[u8] = &rows;
    let mut tables = Vec::with_capacity(description.tables.len());
    for length in description.table_lens() {
        let (table, after) = rest.split_at_checked(length)?;
        rest = after;
        tables.push(table);
    }
    let mut records = Vec::with_capacity(records_len);
    for (table, length) in description.section_lens() {
        let table = tables.get_mut(table)?;
        let (section, later) = table.split_at_checked(length)?;
        *table = later;
        records.extend_from_slice(section);
    }
    Some(records)
}

#[cfg(test)]
mod tests;
