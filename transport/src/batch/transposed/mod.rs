//! The records of a batch, put in columns: what zstd makes more of than of rows.
//!
//! The transposed form is a description and then the records' bytes, each of them once. What follows each other in
//! the records is cut into pieces: rows of one length, which belong to a table. Table 0 has rows of one byte: it holds
//! what is in no other, as it was. In every table the first cells of all rows come first, then the second ones, and
//! so on. All cells are of one byte, but for the wide ones, up to four in a row, which stay whole. The reader needs
//! to know nothing of NetFlow. All numbers are big-endian:
//!
//! | width | field | range |
//! |---|---|---|
//! | 1 | t: tables beside table 0 | 0 to 63 |
//! | 2 | p: pieces | 0 to 8,192 |
//! | | t times: | |
//! | 2 | - bytes of a row | 1 to 65,535 |
//! | 1 | - w: wide cells | 0 to 4 |
//! | | - w times, ascending: 2 offset in the row; 1 bytes of the cell | within the row, not over each other; 1 to 255 |
//! | p | the tables of the pieces | 0 to t |
//! | p | how many rows the pieces have: the high bytes | |
//! | p | the low bytes | 1 row at least |
//! | | the tables' bytes, from table 0 on | as many as the records have |
//!
//! nf-sender makes tables of flow records, one for each template, with the addresses as wide cells, and of what leads
//! up to them in each datagram: the record's head and the export header. Exporters that see both directions of a flow
//! tell of them one after the other: such two records are one row, of a table of its own. Then most columns of the
//! second half repeat one of the first, byte for byte.
//!
//! What that gains was tried on exports by softflowd of some hundred real captures, merged, in full batches. Bytes of
//! batches to bytes of payloads, for v5 and v9 (IPFIX is within 0.001 of v9), with zstd at level 1:
//!
//! | | v5 | v9 |
//! |---|---|---|
//! | rows, as they come | 0.29 | 0.34 |
//! | columns of bytes | 0.30 | 0.34 |
//! | columns of whole fields | 0.25 | 0.29 |
//! | two directions in a row, columns of bytes | 0.22 | 0.26 |
//! | the same, addresses whole | 0.20 | 0.23 |
//!
//! In batches of four datagrams it is 0.26 and 0.31, of one 0.38 and 0.44 (zstd of rows: 0.42 and 0.48). On one core
//! of the machine that this was tried on, full batches are encoded at 0.6 GB/s of payload (zstd of rows: 0.4) and
//! decoded at 1.1: columns are less work for zstd than rows. `benches/compression.rs` shows all of this.
//!
//! Not worth their while were, on top of that: differences from row to row of bytes or fields (longer), of the end of
//! a flow to its beginning (1 % shorter), ports whole (1 %), a zstd block for each column (longer), level 3 (2 %).

mod columns;
mod description;
mod flows;
mod fuzz;

use description::Description;
pub(super) use flows::Flows;
pub use fuzz::fuzz_transposed;

use crate::batch::BatchError;

/// Bytes of the longest transposed form of `records_len` bytes.
pub(super) fn longest(records_len: usize) -> usize {
    description::LONGEST.saturating_add(records_len)
}

/// Replaces `out` by the transposed form of `records`, in which `flows` lie. False if that is of no use: then `out`
/// holds nothing of worth.
pub(super) fn transpose(records: &[u8], flows: &Flows, out: &mut Vec<u8>) -> bool {
    flows.are_most_of(records) && transpose_all(records, flows, out).is_some()
}

fn transpose_all(records: &[u8], flows: &Flows, out: &mut Vec<u8>) -> Option<()> {
    let description = flows.describe(records)?;
    out.clear();
    description.encode(out);
    let start = out.len();
    out.resize(start.checked_add(records.len())?, 0);
    let mut rows = vec![0; records.len()];
    gather(records, &description, &mut rows)?;
    columns::of_rows(&rows, &description, out.get_mut(start..)?)
}

/// Puts the rows of each table behind each other.
fn gather(mut records: &[u8], description: &Description, rows: &mut [u8]) -> Option<()> {
    let mut rest = rows;
    let mut places = Vec::with_capacity(description.tables.len());
    for length in description.table_lens() {
        let (place, after) = rest.split_at_mut_checked(length)?;
        rest = after;
        places.push(place);
    }
    for (table, length) in description.piece_lens() {
        let (piece, after) = records.split_at_checked(length)?;
        records = after;
        let place = places.get_mut(table)?;
        let (to, later) = core::mem::take(place).split_at_mut_checked(length)?;
        to.copy_from_slice(piece);
        *place = later;
    }
    records.is_empty().then_some(())
}

/// The `records_len` bytes of records whose transposed form is `form`.
pub(super) fn restore(form: &[u8], records_len: usize) -> Result<Vec<u8>, BatchError> {
    restore_all(form, records_len).ok_or(BatchError::Records)
}

fn restore_all(form: &[u8], records_len: usize) -> Option<Vec<u8>> {
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
    for (table, length) in description.piece_lens() {
        let table = tables.get_mut(table)?;
        let (piece, later) = table.split_at_checked(length)?;
        *table = later;
        records.extend_from_slice(piece);
    }
    Some(records)
}

#[cfg(test)]
mod tests;
