//! Which of a batch's bytes are flow records, and what tables that makes.

use crate::batch::transposed::description::{Description, REST, Table, WideCell};
use crate::datagram::{FlowAddresses, FlowLayout, FlowRun};
use crate::limits::TABLES_MAX;

/// What leads up to the flow records of a datagram is a row of a table if it is no longer than this: the record's
/// head, the export header and the set's header, but no set of templates.
const HEAD_MAX: usize = 96;

/// Where flow records lie in the records of a batch. Reused for one batch after the other.
#[derive(Debug, Default)]
pub(in crate::batch) struct Flows {
    /// Ascending, not over each other.
    runs: Vec<Run>,
    /// Bytes of flow records: `bytes` is no more than all runs have.
    bytes: usize,
}

/// Rows of one kind that follow each other.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: usize,
    rows: usize,
    kind: Kind,
}

/// What tells rows of one kind from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// The template of flow records; none of what leads up to these.
    template: Option<u16>,
    layout: FlowLayout,
}

/// The tables of one kind of rows.
struct Tables {
    kind: Kind,
    single: u8,
    /// Two flow records in a row.
    double: Option<u8>,
}

impl Flows {
    pub(in crate::batch) fn clear(&mut self) {
        self.runs.clear();
        self.bytes = 0;
    }

    /// Takes up the record that lies at `start`, whose payload begins `payload` bytes later and ends at `end`, and
    /// where flow records lie in the payload.
    pub(in crate::batch) fn note(&mut self, start: usize, payload: usize, end: usize, flows: &[FlowRun]) {
        let mut at = start + payload;
        let before = flows.first().map_or(0, |first| first.start);
        let lead = payload.saturating_add(before);
        let head = if lead <= HEAD_MAX.min(end.saturating_sub(start)) { lead } else { payload };
        if let Ok(length) = u16::try_from(head) {
            let layout = FlowLayout { length, addresses: None };
            self.runs.push(Run { start, rows: 1, kind: Kind { template: None, layout } });
            at = start + head;
        }
        for flow in flows {
            let run_start = start.saturating_add(payload).saturating_add(flow.start);
            let length = flow.records.saturating_mul(usize::from(flow.layout.length));
            let run_end = run_start.saturating_add(length);
            if run_start >= at && run_end <= end && length > 0 {
                let kind = Kind { template: Some(flow.template), layout: flow.layout };
                self.runs.push(Run { start: run_start, rows: flow.records, kind });
                self.bytes += length;
                at = run_end;
            }
        }
    }

    /// Whether columns are worth their while: at least half of `records` is flow records.
    pub(in crate::batch) fn are_most_of(&self, records: &[u8]) -> bool {
        self.bytes >= records.len().div_ceil(2)
    }

    /// What `records` are put together of. `None` if there is more in them than a description can say.
    pub(super) fn describe(&self, records: &[u8]) -> Option<Description> {
        let mut description = Description::new();
        let mut known: Vec<Tables> = Vec::new();
        let mut at = 0;
        for run in &self.runs {
            let Some(place) = place(&mut known, &mut description, run.kind) else { continue };
            description.add(REST, run.start.checked_sub(at)?)?;
            let length = run.rows.checked_mul(usize::from(run.kind.layout.length))?;
            let end = run.start.checked_add(length)?;
            let rows = records.get(run.start..end)?;
            known.get_mut(place)?.add(&mut description, rows)?;
            at = end;
        }
        description.add(REST, records.len().checked_sub(at)?)?;
        Some(description)
    }
}

/// Where in `known` the tables for rows of `kind` are; `None` if there are too many tables already.
fn place(known: &mut Vec<Tables>, description: &mut Description, kind: Kind) -> Option<usize> {
    known.iter().position(|tables| tables.kind == kind).or_else(|| {
        let single = new_table(description, 1, kind.layout)?;
        let double = kind.layout.addresses.and_then(|_| new_table(description, 2, kind.layout));
        known.push(Tables { kind, single, double });
        known.len().checked_sub(1)
    })
}

/// Makes a table whose rows are `times` records each.
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
        join(&mut wide);
    }
    let table = Table::new(row_len, wide);
    // Whoever reads the batch refuses it for addresses that lie beyond their record or over each other.
    let table = if table.is_sound() { table } else { Table::new(row_len, Vec::new()) };
    description.tables.push(table);
    Some(number)
}

/// The addresses of a record that lies at `start` in its row.
fn wide_cells(addresses: FlowAddresses, start: u16) -> [WideCell; 2] {
    let length = u8::try_from(addresses.family.address_len()).unwrap_or(u8::MAX);
    let mut cells = [addresses.source, addresses.destination]
        .map(|offset| WideCell { offset: start.saturating_add(offset), length });
    cells.sort_unstable();
    cells
}

/// Two addresses that stand side by side are one cell: hosts that talk to each other do so more than once.
fn join(wide: &mut Vec<WideCell>) {
    if let [first, second] = wide.as_slice()
        && first.end() == usize::from(second.offset)
        && let Some(length) = first.length.checked_add(second.length)
    {
        *wide = vec![WideCell { offset: first.offset, length }];
    }
}

impl Tables {
    /// Describes rows of this kind that follow each other.
    fn add(&mut self, description: &mut Description, mut rows: &[u8]) -> Option<()> {
        let length = usize::from(self.kind.layout.length);
        let (Some(addresses), Some(double)) = (self.kind.layout.addresses, self.double) else {
            return description.add(self.single, rows.len().checked_div(length)?);
        };
        while let Some((row, after)) = rows.split_at_checked(length).filter(|(row, _)| !row.is_empty()) {
            rows = match after.split_at_checked(length) {
                Some((next, later)) if are_two_ways(addresses, row, next) => {
                    description.add(double, 1)?;
                    later
                }
                _ => {
                    description.add(self.single, 1)?;
                    after
                }
            };
        }
        Some(())
    }
}

/// Whether two flow records are of the same two hosts, one each way.
fn are_two_ways(addresses: FlowAddresses, one: &[u8], other: &[u8]) -> bool {
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
