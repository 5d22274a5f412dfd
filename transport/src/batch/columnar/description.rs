//! The description in front of the columnar form: the shapes of the tables and the order of the sections.

use bytes::{Buf, BufMut};

use crate::limits::{SECTIONS_MAX, TABLES_MAX};

/// Most wide cells in a row: the addresses of two flow records.
pub(super) const WIDE_CELLS_MAX: usize = 4;

/// Length of the longest description in bytes.
pub(super) const DESCRIPTION_LEN_MAX: usize = 3 + TABLES_MAX * (3 + 3 * WIDE_CELLS_MAX) + 3 * SECTIONS_MAX;

/// Table of all bytes that belong to no other table. Its rows are one byte long.
pub(super) const REST_TABLE: u8 = 0;

/// A cell of several bytes, which stays whole in its column.
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

/// Layout and number of the rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableShape {
    /// Length of a row in bytes; `1 <= row_len`.
    pub(super) row_len: u16,
    /// Wide cells in ascending order, without overlap, within the row, none of length 0; at most
    /// `WIDE_CELLS_MAX`.
    pub(super) wide: Vec<WideCell>,
    /// Number of rows in all sections of the table together.
    pub(super) rows: usize,
}

impl TableShape {
    /// Creates a table without rows.
    pub(super) fn new(row_len: u16, wide: Vec<WideCell>) -> Self {
        Self { row_len, wide, rows: 0 }
    }

    /// True if the fields meet the conditions above. Does not check the number of wide cells.
    pub(super) fn is_valid(&self) -> bool {
        let mut end = 0;
        let mut follows = |cell: &WideCell| {
            let is_behind = usize::from(cell.offset) >= end && cell.length > 0;
            end = cell.end();
            is_behind
        };
        self.row_len > 0 && self.wide.iter().all(&mut follows) && end <= usize::from(self.row_len)
    }
}

/// Consecutive rows of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowSection {
    pub(super) table: u8,
    pub(super) rows: u16,
}

/// The tables of the records, and the order in which sections of their rows form the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    /// Tables, beginning with table 0; `1 <= tables.len() <= TABLES_MAX`.
    pub(super) tables: Vec<TableShape>,
    /// Sections, each of an existing table; `sections.len() <= SECTIONS_MAX`.
    pub(super) sections: Vec<RowSection>,
}

impl Description {
    /// Creates a description with table 0 and without sections.
    pub(super) fn new() -> Self {
        Self { tables: vec![TableShape::new(1, Vec::new())], sections: Vec::new() }
    }

    /// Appends `rows` rows of `table`, to the last section if it is of the same table.
    ///
    /// Returns `None` if the table does not exist or there are too many sections.
    pub(super) fn append_rows(&mut self, table: u8, rows: usize) -> Option<()> {
        let known = self.tables.get_mut(usize::from(table))?;
        known.rows = known.rows.checked_add(rows)?;
        let mut left = rows;
        if let Some(last) = self.sections.last_mut().filter(|last| last.table == table) {
            let more = left.min(usize::from(u16::MAX - last.rows));
            last.rows += u16::try_from(more).ok()?;
            left -= more;
        }
        while left > 0 && self.sections.len() < SECTIONS_MAX {
            let rows = u16::try_from(left).unwrap_or(u16::MAX);
            self.sections.push(RowSection { table, rows });
            left -= usize::from(rows);
        }
        (left == 0).then_some(())
    }

    /// Iterates over the lengths of all tables in bytes.
    pub(super) fn table_lens(&self) -> impl Iterator<Item = usize> {
        self.tables.iter().map(|table| usize::from(table.row_len).saturating_mul(table.rows))
    }

    /// Iterates over the sections: number of the table, and length in bytes.
    pub(super) fn section_lens(&self) -> impl Iterator<Item = (usize, usize)> {
        let row_len = |section: &RowSection| {
            self.tables.get(usize::from(section.table)).map_or(0, |table| table.row_len)
        };
        self.sections.iter().map(move |section| {
            (usize::from(section.table), usize::from(row_len(section)) * usize::from(section.rows))
        })
    }

    /// Length of the records in bytes.
    pub(super) fn records_len(&self) -> Option<usize> {
        self.table_lens().try_fold(0_usize, usize::checked_add)
    }

    /// Appends the encoded description to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let tables = self.tables.get(1..).unwrap_or_default();
        out.put_u8(u8::try_from(tables.len()).unwrap_or(u8::MAX));
        out.put_u16(u16::try_from(self.sections.len()).unwrap_or(u16::MAX));
        for table in tables {
            out.put_u16(table.row_len);
            out.put_u8(u8::try_from(table.wide.len()).unwrap_or(u8::MAX));
            for cell in &table.wide {
                out.put_u16(cell.offset);
                out.put_u8(cell.length);
            }
        }
        out.extend(self.sections.iter().map(|section| section.table));
        out.extend(self.sections.iter().map(|section| section.rows.to_be_bytes()[0]));
        out.extend(self.sections.iter().map(|section| section.rows.to_be_bytes()[1]));
    }

    /// Parses the description at the start of `form`. Returns it and the bytes behind it.
    pub(super) fn decode(form: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = form;
        let tables = usize::from(rest.try_get_u8().ok()?);
        let sections = usize::from(rest.try_get_u16().ok()?);
        if tables >= TABLES_MAX || sections > SECTIONS_MAX {
            return None;
        }
        let mut description = Self::new();
        for _ in 0..tables {
            description.tables.push(parse_table(&mut rest)?);
        }
        let (of_tables, rest) = rest.split_at_checked(sections)?;
        let (high, rest) = rest.split_at_checked(sections)?;
        let (low, rest) = rest.split_at_checked(sections)?;
        for (table, (high, low)) in of_tables.iter().zip(high.iter().zip(low)) {
            description
                .push_section(RowSection { table: *table, rows: u16::from_be_bytes([*high, *low]) })?;
        }
        Some((description, rest))
    }

    fn push_section(&mut self, section: RowSection) -> Option<()> {
        let table = self.tables.get_mut(usize::from(section.table)).filter(|_| section.rows > 0)?;
        table.rows = table.rows.checked_add(usize::from(section.rows))?;
        self.sections.push(section);
        Some(())
    }
}

fn parse_table(rest: &mut &[u8]) -> Option<TableShape> {
    let row_len = rest.try_get_u16().ok()?;
    let count = usize::from(rest.try_get_u8().ok()?);
    let mut table = TableShape::new(row_len, Vec::new());
    for _ in 0..Some(count).filter(|count| *count <= WIDE_CELLS_MAX)? {
        table.wide.push(WideCell { offset: rest.try_get_u16().ok()?, length: rest.try_get_u8().ok()? });
    }
    table.is_valid().then_some(table)
}
