//! Locations of the flow records in the records of a batch, and the tables that result from them.

use crate::batch::columnar::description::{Description, REST_TABLE, TableShape, WideCell};
use crate::flow_layout::{FlowAddresses, FlowLayout, FlowRun};
use crate::limits::TABLES_MAX;

/// Longest run of bytes before the flow records of a datagram that becomes a row of a table.
///
/// It has room for the record's head, the export header and the set's header, but not for a set of templates.
const HEAD_MAX: usize = 96;

/// Locations of flow records in the records of a batch. Reused for the next batch.
#[derive(Debug, Default)]
pub(in crate::batch) struct FlowRows {
    /// Runs in ascending order, without overlap.
    runs: Vec<RowRun>,
    /// Bytes of flow records in all runs; the runs also contain other rows.
    bytes: usize,
}

/// Consecutive rows of one kind.
#[derive(Clone, Copy, Debug)]
struct RowRun {
    start: usize,
    rows: usize,
    kind: RowKind,
}

/// Properties that rows of one table share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RowKind {
    /// Template id of flow records; `None` for the bytes before them.
    template: Option<u16>,
    layout: FlowLayout,
}

/// Tables for one kind of rows.
struct KindTables {
    kind: RowKind,
    single: u8,
    /// Table with two flow records in each row.
    double: Option<u8>,
}

impl FlowRows {
    pub(in crate::batch) fn clear(&mut self) {
        self.runs.clear();
        self.bytes = 0;
    }

    /// Adds the record at `start`, whose payload begins `payload` bytes later and ends at `end`.
    ///
    /// `flows` are the locations of flow records in the payload. Invalid locations are skipped.
    pub(in crate::batch) fn add_record(
        &mut self,
        start: usize,
        payload: usize,
        end: usize,
        flows: &[FlowRun],
    ) {
        let mut at = start + payload;
        let before = flows.first().map_or(0, |first| first.start);
        let lead = payload.saturating_add(before);
        let head = if lead <= HEAD_MAX.min(end.saturating_sub(start)) { lead } else { payload };
        if let Ok(length) = u16::try_from(head) {
            let layout = FlowLayout { length, addresses: None };
            self.runs.push(RowRun { start, rows: 1, kind: RowKind { template: None, layout } });
            at = start + head;
        }
        for flow in flows {
            let run_start = start.saturating_add(payload).saturating_add(flow.start);
            let length = flow.records.saturating_mul(usize::from(flow.layout.length));
            let run_end = run_start.saturating_add(length);
            if run_start >= at && run_end <= end && length > 0 {
                let kind = RowKind { template: Some(flow.template), layout: flow.layout };
                self.runs.push(RowRun { start: run_start, rows: flow.records, kind });
                self.bytes += length;
                at = run_end;
            }
        }
    }

    /// True if at least half of the bytes of `records` are flow records, so that columns are useful.
    pub(in crate::batch) fn are_majority_of(&self, records: &[u8]) -> bool {
        self.bytes >= records.len().div_ceil(2)
    }

    /// Describes `records`; `None` if they need more sections than a description may have.
    pub(super) fn describe(&self, records: &[u8]) -> Option<Description> {
        let mut description = Description::new();
        let mut known: Vec<KindTables> = Vec::new();
        let mut at = 0;
        for run in &self.runs {
            let Some(place) = tables_for(&mut known, &mut description, run.kind) else { continue };
            description.append_rows(REST_TABLE, run.start.checked_sub(at)?)?;
            let length = run.rows.checked_mul(usize::from(run.kind.layout.length))?;
            let end = run.start.checked_add(length)?;
            let rows = records.get(run.start..end)?;
            known.get_mut(place)?.append_rows(&mut description, rows)?;
            at = end;
        }
        description.append_rows(REST_TABLE, records.len().checked_sub(at)?)?;
        Some(description)
    }
}

/// Returns the index in `known` of the tables for rows of `kind`, and creates them if needed.
///
/// Returns `None` if there are too many tables already.
fn tables_for(known: &mut Vec<KindTables>, description: &mut Description, kind: RowKind) -> Option<usize> {
    known.iter().position(|tables| tables.kind == kind).or_else(|| {
        let single = new_table(description, 1, kind.layout)?;
        let double = kind.layout.addresses.and_then(|_| new_table(description, 2, kind.layout));
        known.push(KindTables { kind, single, double });
        known.len().checked_sub(1)
    })
}

/// Adds a table whose rows consist of `times` records each. Returns its number.
fn new_table(description: &mut Description, times: u16, layout: FlowLayout) -> Option<u8> {
    let number =
        u8::try_from(description.tables.len()).ok().filter(|number| usize::from(*number) < TABLES_MAX)?;
    let row_len = layout.length.checked_mul(times)?;
    let mut wide = Vec::new();
    for record in 0..times {
        wide.extend(
            layout.addresses.iter().flat_map(|addresses| wide_cells(*addresses, record * layout.length)),
        );
    }
    if times == 1 {
        join_adjacent(&mut wide);
    }
    let table = TableShape::new(row_len, wide);
    // A reader rejects a batch with wide cells that overlap or exceed the row, so invalid ones are left out.
    let table = if table.is_valid() { table } else { TableShape::new(row_len, Vec::new()) };
    description.tables.push(table);
    Some(number)
}

/// Wide cells for the addresses of a record that starts at offset `start` of its row.
fn wide_cells(addresses: FlowAddresses, start: u16) -> [WideCell; 2] {
    let length = u8::try_from(addresses.family.address_len()).unwrap_or(u8::MAX);
    let mut cells = [addresses.source, addresses.destination]
        .map(|offset| WideCell { offset: start.saturating_add(offset), length });
    cells.sort_unstable();
    cells
}

/// Joins two adjacent addresses to one cell, because the same pair of hosts often has several flows.
fn join_adjacent(wide: &mut Vec<WideCell>) {
    if let [first, second] = wide.as_slice()
        && first.end() == usize::from(second.offset)
        && let Some(length) = first.length.checked_add(second.length)
    {
        *wide = vec![WideCell { offset: first.offset, length }];
    }
}

impl KindTables {
    /// Appends consecutive rows of this kind to the description.
    fn append_rows(&mut self, description: &mut Description, mut rows: &[u8]) -> Option<()> {
        let length = usize::from(self.kind.layout.length);
        let (Some(addresses), Some(double)) = (self.kind.layout.addresses, self.double) else {
            return description.append_rows(self.single, rows.len().checked_div(length)?);
        };
        while let Some((row, after)) = rows.split_at_checked(length).filter(|(row, _)| !row.is_empty()) {
            rows = match after.split_at_checked(length) {
                Some((next, later)) if are_both_directions(addresses, row, next) => {
                    description.append_rows(double, 1)?;
                    later
                }
                _ => {
                    description.append_rows(self.single, 1)?;
                    after
                }
            };
        }
        Some(())
    }
}

/// True if two flow records are the two directions between the same two hosts.
fn are_both_directions(addresses: FlowAddresses, one: &[u8], other: &[u8]) -> bool {
    let address = |record: &'_ [u8], offset: u16| -> Option<u128> {
        let start = usize::from(offset);
        let end = start + usize::from(addresses.family.address_len());
        record
            .get(start..end)
            .map(|bytes| bytes.iter().fold(0, |address, byte| address << 8 | u128::from(*byte)))
    };
    let (source, destination) = (addresses.source, addresses.destination);
    address(one, source) == address(other, destination) && address(one, destination) == address(other, source)
}
