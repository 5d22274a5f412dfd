//! Conversion of rows to columns and back.
//!
//! Within its table, the column of a cell starts at the cell's offset times the number of rows. Cells of one
//! byte are moved in blocks of eight rows and eight columns where possible.

use crate::batch::columnar::description::{Description, TableShape};

/// Number of rows, and of columns, of a block.
const BLOCK: usize = 8;

/// Direction of the conversion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToColumns,
    ToRows,
}

/// Converts the `rows` of all tables to `columns`, a buffer of the same length.
pub(super) fn from_rows(rows: &[u8], description: &Description, columns: &mut [u8]) -> Option<()> {
    move_tables(Direction::ToColumns, rows, description, columns)
}

/// Converts the `columns` of all tables to `rows`, a buffer of the same length.
pub(super) fn to_rows(columns: &[u8], description: &Description, rows: &mut [u8]) -> Option<()> {
    move_tables(Direction::ToRows, columns, description, rows)
}

fn move_tables(way: Direction, mut from: &[u8], description: &Description, mut to: &mut [u8]) -> Option<()> {
    for (table, length) in description.tables.iter().zip(description.table_lens()) {
        let (table_from, later_from) = from.split_at_checked(length)?;
        let (table_to, later_to) = to.split_at_mut_checked(length)?;
        move_table(way, table, table_from, table_to)?;
        (from, to) = (later_from, later_to);
    }
    Some(())
}

fn move_table(way: Direction, table: &TableShape, from: &[u8], to: &mut [u8]) -> Option<()> {
    let row_len = usize::from(table.row_len);
    if row_len == 1 || table.rows == 1 {
        to.copy_from_slice(from);
        return Some(());
    }
    let mut at = 0;
    for cell in &table.wide {
        let offset = usize::from(cell.offset);
        move_bytes(way, table, at..offset, from, to)?;
        move_wide(way, table, offset, usize::from(cell.length), from, to)?;
        at = cell.end();
    }
    move_bytes(way, table, at..row_len, from, to)
}

/// Moves the one-byte cells at these offsets of the row.
fn move_bytes(
    way: Direction,
    table: &TableShape,
    offsets: core::ops::Range<usize>,
    from: &[u8],
    to: &mut [u8],
) -> Option<()> {
    let mut offset = offsets.start;
    while offset + BLOCK <= offsets.end {
        move_block_columns(way, table, offset, from, to)?;
        offset += BLOCK;
    }
    (offset..offsets.end).try_for_each(|offset| move_wide(way, table, offset, 1, from, to))
}

/// Moves a column of cells of `length` bytes.
fn move_wide(
    way: Direction,
    table: &TableShape,
    offset: usize,
    length: usize,
    from: &[u8],
    to: &mut [u8],
) -> Option<()> {
    let row_len = usize::from(table.row_len);
    let column = offset * table.rows..(offset + length) * table.rows;
    match way {
        Direction::ToColumns => {
            let cells = to.get_mut(column)?.chunks_exact_mut(length);
            for (cell, row) in cells.zip(from.chunks_exact(row_len)) {
                cell.copy_from_slice(row.get(offset..offset + length)?);
            }
        }
        Direction::ToRows => {
            let cells = from.get(column)?.chunks_exact(length);
            for (cell, row) in cells.zip(to.chunks_exact_mut(row_len)) {
                row.get_mut(offset..offset + length)?.copy_from_slice(cell);
            }
        }
    }
    Some(())
}

/// Moves eight columns of one byte each.
fn move_block_columns(
    way: Direction,
    table: &TableShape,
    offset: usize,
    from: &[u8],
    to: &mut [u8],
) -> Option<()> {
    let row_len = usize::from(table.row_len);
    let in_columns = |row: usize| (offset * table.rows + row, table.rows);
    let in_rows = |row: usize| (row * row_len + offset, row_len);
    let mut row = 0;
    while row + BLOCK <= table.rows {
        let (source, target) = match way {
            Direction::ToColumns => (in_rows(row), in_columns(row)),
            Direction::ToRows => (in_columns(row), in_rows(row)),
        };
        store(transpose_block(load(from, source)?), target, to)?;
        row += BLOCK;
    }
    for row in row..table.rows {
        for column in offset..offset + BLOCK {
            let (in_rows, in_columns) = (row * row_len + column, column * table.rows + row);
            let (source, target) =
                if way == Direction::ToColumns { (in_rows, in_columns) } else { (in_columns, in_rows) };
            *to.get_mut(target)? = *from.get(source)?;
        }
    }
    Some(())
}

/// Loads eight words of eight bytes. The first one starts at `start`, each next one `stride` bytes later.
fn load(from: &[u8], (start, stride): (usize, usize)) -> Option<[u64; BLOCK]> {
    let mut block = [0; BLOCK];
    for (number, word) in block.iter_mut().enumerate() {
        *word = u64::from_le_bytes(*from.get(start + number * stride..)?.first_chunk()?);
    }
    Some(block)
}

fn store(block: [u64; BLOCK], (start, stride): (usize, usize), to: &mut [u8]) -> Option<()> {
    for (number, word) in block.into_iter().enumerate() {
        *to.get_mut(start + number * stride..)?.first_chunk_mut()? = word.to_le_bytes();
    }
    Some(())
}

/// Transposes a block: byte i of word j becomes byte j of word i.
///
/// It first swaps within squares of two by two bytes, then of four by four, then of eight by eight.
fn transpose_block(mut block: [u64; BLOCK]) -> [u64; BLOCK] {
    for (half, low) in [(1, 0x00FF_00FF_00FF_00FF), (2, 0x0000_FFFF_0000_FFFF), (4, 0x0000_0000_FFFF_FFFF)] {
        for square in block.chunks_exact_mut(2 * half) {
            let (ones, others) = square.split_at_mut(half);
            for (one, other) in ones.iter_mut().zip(others) {
                (*one, *other) = swap_parts(*one, *other, 8 * half, low);
            }
        }
    }
    block
}

/// Swaps the high parts of `one` with the low parts of `other`. `low` is the mask of the low parts.
fn swap_parts(one: u64, other: u64, bits: usize, low: u64) -> (u64, u64) {
    ((one & low) | ((other & low) << bits), ((one >> bits) & low) | (other & !low))
}
