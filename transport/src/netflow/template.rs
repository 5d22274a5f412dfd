//! Template records of NetFlow v9 (RFC 3954, 5.2 and 6.1) and IPFIX (RFC 7011, 3.4), and withdrawals (RFC
//! 7011, 8.1).
//!
//! All numbers are big-endian. A record contains its id and its fields:
//!
//! | | v9 | IPFIX |
//! |---|---|---|
//! | template | 2 template id; 2 number of fields | 2 template id; 2 number of fields |
//! | options template | 2 template id; 2 bytes of scope fields' specifiers; 2 bytes of the others' | 2 template id; 2 number of fields; 2 number of scope fields among them |
//! | field | 2 type; 2 length | 2 type; 2 length; 4 enterprise number if the type's highest bit is set |
//! | withdrawal | none | 2 template id, or the set's own id for all of its kind; 2 zero |
//!
//! Only the shape and the places of the two addresses are read. Collectors interpret and check all other
//! fields. The walk over a set's records ends at the first bytes that are no record: padding, or damage.

use bytes::Buf;

use crate::flow_layout::{AddressFamily, FlowAddresses};
use crate::netflow::option_values::is_value;
use crate::netflow::sets::{DATA_MIN, Format, Set};

/// Bytes of a withdrawal, and of a template without its fields.
const TEMPLATE_HEAD_LEN: usize = 4;

/// Bytes of an options template without its fields.
const OPTIONS_TEMPLATE_HEAD_LEN: usize = 6;

/// Bytes of a field specifier without enterprise number.
const FIELD_LEN: u16 = 4;

/// Set in the type of a field that an enterprise has defined, in IPFIX.
const ENTERPRISE_BIT: u16 = 0x8000;

/// The length that marks variable-length fields of IPFIX. Their records contain the length (RFC 7011, 7).
pub(super) const VARIABLE_LENGTH: u16 = 65_535;

/// A variable-length field of at least this length has its length in two further bytes (RFC 7011, 7).
const LONG_FIELD: u8 = 255;

/// The types of source and destination address (RFC 3954, 8; RFC 7012), alike in v9 and IPFIX.
const ADDRESS_TYPES: [(AddressFamily, u16, u16); 2] =
    [(AddressFamily::V4, 8, 12), (AddressFamily::V6, 27, 28)];

/// One template or options template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Template<'a> {
    format: Format,
    pub(super) id: u16,
    pub(super) is_options: bool,
    /// The record, byte for byte.
    pub(super) definition: &'a [u8],
    /// The field specifiers: the end of `definition`.
    fields: &'a [u8],
    /// Number of scope fields of an options template.
    scope_fields: usize,
}

impl<'a> Template<'a> {
    /// The template at the start of `bytes`.
    pub(super) fn parse(format: Format, is_options: bool, bytes: &'a [u8]) -> Option<Self> {
        let mut after = bytes;
        let id = after.try_get_u16().ok().filter(|id| *id >= DATA_MIN)?;
        let first = after.try_get_u16().ok()?;
        let second = if is_options { after.try_get_u16().ok()? } else { 0 };
        let count = match format {
            Format::V9 if is_options => v9_options_fields(first, second)?,
            Format::V9 | Format::Ipfix => usize::from(first),
        };
        for _ in 0..count {
            next_field(format, &mut after)?;
        }
        let head_len = if is_options { OPTIONS_TEMPLATE_HEAD_LEN } else { TEMPLATE_HEAD_LEN };
        let definition = bytes.get(..bytes.len().saturating_sub(after.len()))?;
        let fields = definition.get(head_len..).filter(|fields| !fields.is_empty())?;
        let scope_fields = match format {
            Format::V9 if is_options => usize::from(first / FIELD_LEN),
            Format::V9 | Format::Ipfix => usize::from(second),
        };
        Some(Self { format, id, is_options, definition, fields, scope_fields })
    }

    /// Takes one options data record off the front of `rest`. Sets `about` to the fields that identify the
    /// record: its scope, and all fields that are no values. `None` if no whole record is left, or records
    /// have no length.
    pub(super) fn take_record<'b>(&self, rest: &mut &'b [u8], about: &mut Vec<u8>) -> Option<&'b [u8]> {
        about.clear();
        let (before, mut fields, mut place) = (*rest, self.fields, 0);
        let mut after = before;
        while let Some((kind, length)) = next_field(self.format, &mut fields) {
            let field = take_field(length, &mut after)?;
            let is_enterprise = self.format == Format::Ipfix && kind & ENTERPRISE_BIT != 0;
            if place < self.scope_fields || is_enterprise || !is_value(kind) {
                about.extend_from_slice(field);
            }
            place += 1;
        }
        let length = before.len().checked_sub(after.len()).filter(|length| *length > 0)?;
        *rest = after;
        before.get(..length)
    }

    /// The length of its records: the bytes of fixed-length fields before each variable-length one, and after
    /// the last. It is one number if all records have the same length. 65,535 means that or more: no datagram
    /// holds such a record.
    pub(super) fn runs(self) -> impl Iterator<Item = u16> {
        let mut fields = Some(self.fields);
        core::iter::from_fn(move || {
            let rest = fields.as_mut()?;
            let mut run = 0_u16;
            while let Some((_, length)) = next_field(self.format, rest) {
                if length == VARIABLE_LENGTH {
                    return Some(run);
                }
                run = run.saturating_add(length);
            }
            fields = None;
            Some(run)
        })
    }

    /// The places of the addresses in records of one length, for the first family that has both.
    pub(super) fn addresses(self) -> Option<FlowAddresses> {
        ADDRESS_TYPES.into_iter().find_map(|(family, source, destination)| {
            let offset = |kind| self.offset(kind, family.address_len());
            Some(FlowAddresses { source: offset(source)?, destination: offset(destination)?, family })
        })
    }

    /// The offset of the first field of this type, if it has this length.
    fn offset(self, kind: u16, length: u16) -> Option<u16> {
        let mut fields = self.fields;
        let mut offset = 0_u16;
        while let Some(field) = next_field(self.format, &mut fields) {
            if field.0 == kind {
                return (field.1 == length).then_some(offset);
            }
            offset = offset.checked_add(field.1)?;
        }
        None
    }
}

/// The number of fields of a v9 options template.
fn v9_options_fields(scope_bytes: u16, option_bytes: u16) -> Option<usize> {
    let whole = scope_bytes.is_multiple_of(FIELD_LEN) && option_bytes.is_multiple_of(FIELD_LEN);
    whole.then_some(usize::from(scope_bytes / FIELD_LEN) + usize::from(option_bytes / FIELD_LEN))
}

/// Takes one field specifier: the field's type, and its length in a record.
fn next_field(format: Format, rest: &mut &[u8]) -> Option<(u16, u16)> {
    let kind = rest.try_get_u16().ok()?;
    let length = rest.try_get_u16().ok()?;
    if format == Format::Ipfix && kind & ENTERPRISE_BIT != 0 {
        rest.try_get_u32().ok()?;
    }
    Some((kind, length))
}

/// Takes one field of this length. A variable-length field includes the bytes of its length.
pub(super) fn take_field<'a>(length: u16, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut after_length = *rest;
    let length = match length {
        VARIABLE_LENGTH => {
            let own = match after_length.try_get_u8().ok()? {
                LONG_FIELD => usize::from(after_length.try_get_u16().ok()?),
                own => usize::from(own),
            };
            rest.len().checked_sub(after_length.len())?.checked_add(own)?
        }
        length => usize::from(length),
    };
    let (field, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(field)
}

/// One record of a template set: a definition or a withdrawal.
#[derive(Clone, Copy, Debug)]
pub(super) enum TemplateChange<'a> {
    /// This template describes the records of its id from now on.
    Defined(Template<'a>),
    /// The template of this id is withdrawn.
    Withdrawn(u16),
    /// All templates, or all options templates, are withdrawn.
    AllWithdrawn {
        /// True for options templates.
        is_options: bool,
    },
}

/// The records of one template set; empty for other sets.
#[derive(Clone, Debug)]
pub(super) struct TemplateChanges<'a> {
    format: Format,
    is_options: bool,
    rest: &'a [u8],
}

impl<'a> TemplateChanges<'a> {
    /// The records of `set`.
    pub(super) fn of(set: &Set<'a>) -> Self {
        let kind = set.template_kind();
        let rest = if kind.is_some() { set.body } else { &[] };
        Self { format: set.format, is_options: kind.unwrap_or_default(), rest }
    }

    fn withdrawal(&self) -> Option<TemplateChange<'a>> {
        let mut record = self.rest;
        let id = record.try_get_u16().ok()?;
        let fields = record.try_get_u16().ok()?;
        let all = id == self.format.template_set(self.is_options);
        match (self.format, fields) {
            (Format::Ipfix, 0) if all => Some(TemplateChange::AllWithdrawn { is_options: self.is_options }),
            (Format::Ipfix, 0) if id >= DATA_MIN => Some(TemplateChange::Withdrawn(id)),
            _ => None,
        }
    }
}

impl<'a> Iterator for TemplateChanges<'a> {
    type Item = TemplateChange<'a>;

    fn next(&mut self) -> Option<TemplateChange<'a>> {
        let (change, length) = if let Some(withdrawal) = self.withdrawal() {
            (withdrawal, TEMPLATE_HEAD_LEN)
        } else {
            let template = Template::parse(self.format, self.is_options, self.rest)?;
            (TemplateChange::Defined(template), template.definition.len())
        };
        self.rest = self.rest.get(length..)?;
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(numbers: &[u16]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// The records of a set with `body` in words, with the runs of the templates.
    fn described(format: Format, is_options: bool, body: &[u8]) -> Vec<String> {
        let set = Set { format, id: format.template_set(is_options), body };
        let words = |change| match change {
            TemplateChange::Defined(template) => {
                let runs: Vec<_> = template.runs().collect();
                format!("{} {} {runs:?}", template.id, template.definition.len())
            }
            TemplateChange::Withdrawn(id) => format!("{id} withdrawn"),
            TemplateChange::AllWithdrawn { is_options } => format!("all withdrawn, options: {is_options}"),
        };
        TemplateChanges::of(&set).map(words).collect()
    }

    #[test]
    fn v9_templates_end_at_the_padding() {
        let body = bytes(&[256, 2, 8, 4, 12, 4, 300, 1, 1, 3, 0]);
        assert_eq!(described(Format::V9, false, &body), ["256 12 [8]", "300 8 [3]"]);
        assert_eq!(described(Format::V9, false, &bytes(&[256, 1, 1, 4, 0, 0, 0, 0])), ["256 8 [4]"]);
    }

    #[test]
    fn v9_options_templates_count_bytes_of_fields() {
        let body = bytes(&[257, 4, 8, 1, 4, 34, 2, 35, 1, 0]);
        assert_eq!(described(Format::V9, true, &body), ["257 18 [7]"]);
        assert_eq!(described(Format::V9, true, &bytes(&[257, 3, 8, 1, 4, 34, 2, 35, 1])), [""; 0]);
    }

    #[test]
    fn ipfix_enterprise_fields_have_their_number() {
        let body = bytes(&[256, 2, 0x8001, 4, 0, 9, 2, 8, 258, 1, 0x8003, 2, 0, 9]);
        assert_eq!(described(Format::Ipfix, false, &body), ["256 16 [12]", "258 12 [2]"]);
    }

    #[test]
    fn v9_types_have_no_enterprise_bit() {
        assert_eq!(described(Format::V9, false, &bytes(&[256, 2, 0x8001, 4, 0, 9])), ["256 12 [13]"]);
    }

    #[test]
    fn variable_fields_divide_a_record_into_runs() {
        let body = bytes(&[256, 5, 1, 4, 2, 65_535, 3, 8, 4, 2, 0x8005, 65_535, 0, 7]);
        assert_eq!(described(Format::Ipfix, false, &body), ["256 28 [4, 10, 0]"]);
    }

    #[test]
    fn the_length_of_huge_records_saturates() {
        assert_eq!(described(Format::V9, false, &bytes(&[256, 2, 1, 65_000, 2, 65_000])), ["256 12 [65535]"]);
    }

    #[test]
    fn ipfix_options_fields_include_the_scope() {
        let body = bytes(&[259, 3, 1, 149, 4, 41, 8, 42, 8, 0]);
        assert_eq!(described(Format::Ipfix, true, &body), ["259 18 [20]"]);
    }

    #[test]
    fn only_ipfix_templates_are_withdrawn() {
        let body = bytes(&[256, 0, 300, 1, 1, 4, 257, 0, 2, 0]);
        let expected = ["256 withdrawn", "300 8 [4]", "257 withdrawn", "all withdrawn, options: false"];
        assert_eq!(described(Format::Ipfix, false, &body), expected);
        let body = bytes(&[258, 0, 3, 0, 2, 0]);
        assert_eq!(described(Format::Ipfix, true, &body), ["258 withdrawn", "all withdrawn, options: true"]);
        assert_eq!(described(Format::V9, false, &bytes(&[256, 0, 257, 1, 1, 4])), [""; 0]);
    }

    #[test]
    fn a_truncated_template_is_rejected() {
        let body = bytes(&[256, 2, 0x8001, 4, 0, 9, 2, 8]);
        for cut in 0..body.len() {
            assert_eq!(described(Format::Ipfix, false, &body[..cut]), [""; 0], "{cut} bytes");
        }
    }

    #[test]
    fn data_sets_define_nothing() {
        let body = bytes(&[256, 1, 1, 4]);
        assert_eq!(TemplateChanges::of(&Set { format: Format::V9, id: 256, body: &body }).count(), 0);
    }
}
