//! Of which tables the rows of a batch's records are, and in which order they follow each other.

use bytes::{Buf, BufMut};

use crate::limits::{PIECES_MAX, TABLES_MAX};

/// Wide cells that a row has at the most: the addresses of two flow records.
pub(super) const WIDE_CELLS_MAX: usize = 4;

/// Bytes of the longest description.
pub(super) const LONGEST: usize = 3 + TABLES_MAX * (3 + 3 * WIDE_CELLS_MAX) + 3 * PIECES_MAX;

/// The table of what is in no other; its rows are of one byte.
pub(super) const REST: u8 = 0;

/// A cell that stays whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WideCell {
    pub(super) offset: u16,
    pub(super) length: u8,
}

impl WideCell {
    pub(super) fn end(self) -> usize {
        usize::from(self.offset) + usize::from(self.length)
    }
}

/// What the rows of a table look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Bytes of a row; `1 <= row_len`.
    pub(super) row_len: u16,
    /// Ascending, not over each other, within the row, none of no length; `wide.len() <= WIDE_CELLS_MAX`.
    pub(super) wide: Vec<WideCell>,
    /// How many rows all pieces of it have together.
    pub(super) rows: usize,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(row_len: u16, wide: Vec<WideCell>) -> Self {
        Self { row_len, wide, rows: 0 }
    }

    /// Whether what is said of the fields holds.
    pub(super) fn is_sound(&self) -> bool {
        let mut end = 0;
        let mut follows = |cell: &WideCell| {
            let sound = usize::from(cell.offset) >= end && cell.length > 0;
            end = cell.end();
            sound
        };
        self.row_len > 0 && self.wide.iter().all(&mut follows) && end <= usize::from(self.row_len)
    }
}

/// Rows of one table that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) table: u8,
    pub(super) rows: u16,
}

/// What the records are put together of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    /// From table 0 on: `1 <= tables.len() <= TABLES_MAX`.
    pub(super) tables: Vec<Table>,
    /// Each of a table that there is; `pieces.len() <= PIECES_MAX`.
    pub(super) pieces: Vec<Piece>,
}

impl Description {
    /// One of no pieces, and no tables but the first.
    pub(super) fn new() -> Self {
        Self { tables: vec![Table::new(1, Vec::new())], pieces: Vec::new() }
    }

    /// The next `rows` rows are of `table`.
    pub(super) fn add(&mut self, table: u8, rows: usize) -> Option<()> {
        let known = self.tables.get_mut(usize::from(table))?;
        known.rows = known.rows.checked_add(rows)?;
        let mut left = rows;
        if let Some(last) = self.pieces.last_mut().filter(|last| last.table == table) {
            let more = left.min(usize::from(u16::MAX - last.rows));
            last.rows += u16::try_from(more).ok()?;
            left -= more;
        }
        while left > 0 && self.pieces.len() < PIECES_MAX {
            let rows = u16::try_from(left).unwrap_or(u16::MAX);
            self.pieces.push(Piece { table, rows });
            left -= usize::from(rows);
        }
        (left == 0).then_some(())
    }

    /// Bytes of the rows of each table.
    pub(super) fn table_lens(&self) -> impl Iterator<Item = usize> {
        self.tables.iter().map(|table| usize::from(table.row_len).saturating_mul(table.rows))
    }

    /// The table of each piece, and the piece's bytes.
    pub(super) fn piece_lens(&self) -> impl Iterator<Item = (usize, usize)> {
        let row_len =
            |piece: &Piece| self.tables.get(usize::from(piece.table)).map_or(0, |table| table.row_len);
        self.pieces.iter().map(move |piece| {
            (usize::from(piece.table), usize::from(row_len(piece)) * usize::from(piece.rows))
        })
    }

    /// Bytes of the records.
    pub(super) fn records_len(&self) -> Option<usize> {
        self.table_lens().try_fold(0_usize, usize::checked_add)
    }

    /// Appends the description's bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let tables = self.tables.get(1..).unwrap_or_default();
        out.put_u8(u8::try_from(tables.len()).unwrap_or(u8::MAX));
        out.put_u16(u16::try_from(self.pieces.len()).unwrap_or(u16::MAX));
        for table in tables {
            out.put_u16(table.row_len);
            out.put_u8(u8::try_from(table.wide.len()).unwrap_or(u8::MAX));
            for cell in &table.wide {
                out.put_u16(cell.offset);
                out.put_u8(cell.length);
            }
        }
        out.extend(self.pieces.iter().map(|piece| piece.table));
        out.extend(self.pieces.iter().map(|piece| piece.rows.to_be_bytes()[0]));
        out.extend(self.pieces.iter().map(|piece| piece.rows.to_be_bytes()[1]));
    }

    /// Takes a description off the front of `form`: that, and what follows it.
    pub(super) fn decode(form: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = form;
        let tables = usize::from(rest.try_get_u8().ok()?);
        let pieces = usize::from(rest.try_get_u16().ok()?);
        if tables >= TABLES_MAX || pieces > PIECES_MAX {
            return None;
        }
        let mut description = Self::new();
        for _ in 0..tables {
            description.tables.push(take_table(&mut rest)?);
        }
        let (of_tables, rest) = rest.split_at_checked(pieces)?;
        let (high, rest) = rest.split_at_checked(pieces)?;
        let (low, rest) = rest.split_at_checked(pieces)?;
        for (table, (high, low)) in of_tables.iter().zip(high.iter().zip(low)) {
            description.take_piece(Piece { table: *table, rows: u16::from_be_bytes([*high, *low]) })?;
        }
        Some((description, rest))
    }

    fn take_piece(&mut self, piece: Piece) -> Option<()> {
        let table = self.tables.get_mut(usize::from(piece.table)).filter(|_| piece.rows > 0)?;
        table.rows = table.rows.checked_add(usize::from(piece.rows))?;
        self.pieces.push(piece);
        Some(())
    }
}

fn take_table(rest: &mut &[u8]) -> Option<Table> {
    let row_len = rest.try_get_u16().ok()?;
    let count = usize::from(rest.try_get_u8().ok()?);
    let mut table = Table::new(row_len, Vec::new());
    for _ in 0..Some(count).filter(|count| *count <= WIDE_CELLS_MAX)? {
        table.wide.push(WideCell { offset: rest.try_get_u16().ok()?, length: rest.try_get_u8().ok()? });
    }
    table.is_sound().then_some(table)
}
