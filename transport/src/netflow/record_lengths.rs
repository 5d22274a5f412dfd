//! The number and the places of data records in a NetFlow v9 datagram or IPFIX message, by the templates of
//! its exporter.
//!
//! The sequence number of IPFIX counts data records, including those of options, but no template records (RFC
//! 7011, 3.1). Only the template defines the length of a record. Of each template, only that length and the
//! places of the addresses are kept. Once they are known, a message costs no allocation.
//!
//! When there is no more room, all templates are forgotten. Exporters repeat their templates over UDP. Until
//! then the count is unknown, not wrong.

use crate::flow_layout::{FlowLayout, FlowRun};
use crate::limits::{RECORD_LENGTH_OVERHEAD, RECORD_LENGTHS_PER_EXPORTER};
use crate::netflow::contents::Contents;
use crate::netflow::sets::{DATA_MIN, Set, Sets};
use crate::netflow::template::{Template, TemplateChange, TemplateChanges, VARIABLE_LENGTH, take_field};

/// The length of the records of one template.
#[derive(Debug, PartialEq, Eq)]
enum RecordLength {
    /// All are of the same length.
    Fixed(FlowLayout),
    /// Bytes of fixed-length fields before each variable-length one, and after the last.
    Variable(Box<[u16]>),
}

impl RecordLength {
    fn of(template: Template<'_>) -> Self {
        let mut runs = template.runs();
        match (runs.next(), runs.next()) {
            (Some(length), None) => Self::Fixed(FlowLayout { length, addresses: template.addresses() }),
            _ => Self::Variable(template.runs().collect()),
        }
    }

    fn runs(&self) -> &[u16] {
        match self {
            Self::Fixed(layout) => core::slice::from_ref(&layout.length),
            Self::Variable(runs) => runs,
        }
    }

    fn layout(&self) -> Option<&FlowLayout> {
        if let Self::Fixed(layout) = self { Some(layout) } else { None }
    }

    /// Bytes of the shortest record: each variable-length field takes at least one byte.
    fn shortest(&self) -> usize {
        let runs = self.runs();
        runs.iter().map(|run| usize::from(*run)).sum::<usize>() + runs.len().saturating_sub(1)
    }

    /// The number of records in `body`. A rest that is too short for a record is padding (RFC 7011, 3.3.1).
    /// `None` if records have no length, or do not fit.
    fn records(&self, body: &[u8]) -> Option<u32> {
        match self {
            Self::Fixed(layout) => u32::try_from(body.len().checked_div(usize::from(layout.length))?).ok(),
            Self::Variable(runs) => {
                let shortest = self.shortest();
                let mut rest = body;
                let mut records = 0;
                while rest.len() >= shortest {
                    skip_record(runs, &mut rest)?;
                    records += 1;
                }
                Some(records)
            }
        }
    }
}

/// Skips one record with variable-length fields.
fn skip_record(runs: &[u16], rest: &mut &[u8]) -> Option<()> {
    let (last, before) = runs.split_last()?;
    for run in before {
        *rest = rest.get(usize::from(*run)..)?;
        take_field(VARIABLE_LENGTH, rest)?;
    }
    *rest = rest.get(usize::from(*last)..)?;
    Some(())
}

/// The kept part of one template.
#[derive(Debug)]
struct KnownTemplate {
    template_id: u16,
    is_options: bool,
    length: RecordLength,
}

impl KnownTemplate {
    fn new(template: Template<'_>) -> Self {
        let length = RecordLength::of(template);
        Self { template_id: template.id, is_options: template.is_options, length }
    }

    fn is(&self, template: Template<'_>) -> bool {
        self.is_options == template.is_options
            && self.length.runs().iter().copied().eq(template.runs())
            && self.length.layout().is_none_or(|layout| layout.addresses == template.addresses())
    }

    /// Bytes of memory.
    fn cost(&self) -> usize {
        let runs = if let RecordLength::Variable(runs) = &self.length { runs.len() } else { 0 };
        RECORD_LENGTH_OVERHEAD + size_of::<u16>() * runs
    }
}

/// The lengths of the records of one exporter.
#[derive(Debug, Default)]
pub(super) struct RecordLengths {
    /// By template id, ascending.
    templates: Vec<KnownTemplate>,
    /// Bytes of all of them: `bytes <= RECORD_LENGTHS_PER_EXPORTER`.
    bytes: usize,
}

impl RecordLengths {
    /// Bytes of memory of all of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts the records of the message `payload`, and learns its templates as far as all templates take at
    /// most `room` bytes. The number of data records is unknown if any set cannot be counted.
    pub(super) fn count(&mut self, payload: &[u8], room: usize) -> Contents {
        self.find(payload, room, |_| ())
    }

    /// Counts like [`Self::count`], and reports the place of each data set whose records have one length.
    pub(super) fn find(&mut self, payload: &[u8], room: usize, mut found: impl FnMut(FlowRun)) -> Contents {
        let room = room.min(RECORD_LENGTHS_PER_EXPORTER);
        let mut contents = Contents::flows(0);
        let Some(mut sets) = Sets::parse(payload) else { return Contents::default() };
        loop {
            let start = sets.next_body();
            let Some(set) = sets.next() else { break };
            if set.id >= DATA_MIN {
                contents.add_data(self.records(&set), self.is_options(&set));
            } else {
                contents.add_templates(self.learn(&set, room));
            }
            if let Some(run) = self.run(&set, start) {
                found(run);
            }
        }
        if sets.rest().iter().any(|byte| *byte != 0) {
            contents.add_data(None, false);
        }
        contents
    }

    /// The records of a data set.
    pub(super) fn records(&self, set: &Set<'_>) -> Option<u32> {
        self.known(set)?.length.records(set.body)
    }

    fn known(&self, set: &Set<'_>) -> Option<&KnownTemplate> {
        self.templates.get(self.place(set.id).ok()?)
    }

    /// True if a data set holds options.
    fn is_options(&self, set: &Set<'_>) -> bool {
        self.known(set).is_some_and(|known| known.is_options)
    }

    /// The records of a data set whose body starts at `start`, if all are of one length.
    fn run(&self, set: &Set<'_>, start: usize) -> Option<FlowRun> {
        let layout = *self.known(set)?.length.layout()?;
        let records = set.body.len().checked_div(usize::from(layout.length))?;
        (records > 0).then_some(FlowRun { start, records, template: set.id, layout })
    }

    /// True if the length of the records of a template is known.
    #[cfg(test)]
    pub(super) fn knows(&self, template_id: u16) -> bool {
        self.place(template_id).is_ok()
    }

    /// Follows a template set. Returns the number of its records; `None` if it is no template set.
    fn learn(&mut self, set: &Set<'_>, room: usize) -> Option<u32> {
        set.template_kind()?;
        let mut records = 0;
        for change in TemplateChanges::of(set) {
            records += 1;
            match change {
                TemplateChange::Defined(template) => self.define(template, room),
                TemplateChange::Withdrawn(id) => self.forget(|known| known.template_id == id),
                TemplateChange::AllWithdrawn { is_options } => {
                    self.forget(|known| known.is_options == is_options);
                }
            }
        }
        Some(records)
    }

    fn define(&mut self, template: Template<'_>, room: usize) {
        let before = self.place(template.id).ok().and_then(|place| self.templates.get(place));
        if before.is_some_and(|before| before.is(template)) {
            return;
        }
        self.forget(|known| known.template_id == template.id);
        let known = KnownTemplate::new(template);
        if self.bytes + known.cost() > room {
            *self = Self::default();
        }
        if known.cost() <= room {
            self.bytes += known.cost();
            let place = self.place(template.id).unwrap_or_else(|place| place);
            self.templates.insert(place, known);
        }
    }

    fn forget(&mut self, gone: impl Fn(&KnownTemplate) -> bool) {
        self.templates.retain(|known| !gone(known));
        self.bytes = self.templates.iter().map(KnownTemplate::cost).sum();
    }

    /// The place of the template `id`, or the place at which to insert it.
    fn place(&self, id: u16) -> Result<usize, usize> {
        self.templates.binary_search_by_key(&id, |known| known.template_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netflow::sets::Format;

    fn bytes(numbers: &[u16]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// The records that `body` holds by an IPFIX template of fields of `lengths`.
    fn records(lengths: &[u16], body: &[u8]) -> Option<u32> {
        let count = u16::try_from(lengths.len()).unwrap();
        let fields = lengths.iter().flat_map(|length| [1, *length]);
        let record = bytes(&[256, count].into_iter().chain(fields).collect::<Vec<_>>());
        RecordLength::of(Template::parse(Format::Ipfix, false, &record).unwrap()).records(body)
    }

    #[test]
    fn fixed_records_divide_their_set() {
        assert_eq!(records(&[4, 1], &[9; 15]), Some(3));
        assert_eq!(records(&[4, 1], &[9; 19]), Some(3));
        assert_eq!(records(&[4, 1], &[9; 4]), Some(0));
        assert_eq!(records(&[40_000, 40_000], &vec![9; 60_000]), Some(0));
    }

    #[test]
    fn the_cost_of_a_template_covers_its_entry() {
        assert!(2 * size_of::<KnownTemplate>() <= RECORD_LENGTH_OVERHEAD);
    }

    #[test]
    fn records_without_length_cannot_be_counted() {
        assert_eq!(records(&[0], &[9; 4]), None);
        assert_eq!(records(&[0, 0], &[]), None);
    }

    #[test]
    fn records_of_variable_length_are_counted() {
        let first = [1, 1, 3, 7, 7, 7, 2, 0];
        let second = [1, 1, 0, 2, 1, 5];
        let lengths = [2, 65_535, 1, 65_535];
        assert_eq!(records(&lengths, &[first.as_slice(), &second].concat()), Some(2));
        assert_eq!(records(&lengths, &[first.as_slice(), &second, &[0; 4]].concat()), Some(2));
        assert_eq!(records(&lengths, &[]), Some(0));
        assert_eq!(records(&lengths, &first[..7]), None, "a truncated record");
    }

    #[test]
    fn long_fields_have_two_more_length_bytes() {
        let long = [[255, 1, 44].as_slice(), &[7; 300], &[1, 1]].concat();
        assert_eq!(records(&[65_535, 2], &[long.as_slice(), &[0, 1, 1]].concat()), Some(2));
        assert_eq!(records(&[65_535, 2], &long[..304]), None);
        assert_eq!(records(&[65_535, 2], &[255, 1, 44]), None);
    }
}
