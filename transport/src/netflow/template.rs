//! Template records of NetFlow v9 (RFC 3954, 5.2 and 6.1) and IPFIX (RFC 7011, 3.4), and withdrawals (RFC 7011,
//! 8.1).
//!
//! All numbers are big-endian. A record tells its id and its fields:
//!
//! | | v9 | IPFIX |
//! |---|---|---|
//! | template | 2 template id; 2 number of fields | 2 template id; 2 number of fields |
//! | options template | 2 template id; 2 bytes of scope fields' specifiers; 2 bytes of the others' | 2 template id; 2 number of fields; 2 how many of them are scope |
//! | field | 2 type; 2 length | 2 type; 2 length; 4 enterprise number if the type's highest bit is set |
//! | withdrawal | none | 2 template id, or the set's own id for all of its kind; 2 zero |
//!
//! Only the shape is looked at, and where the two addresses are: what else fields mean, and whether a collector
//! likes them, is the collector's business. The walk over a set's records ends at the first that is none: padding, or damage.

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

/// The length of fields that tell their length themselves, in IPFIX (RFC 7011, 7).
pub(super) const VARIABLE_LENGTH: u16 = 65_535;

/// A variable-length field of at least this length has it in two further bytes (RFC 7011, 7).
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
    /// How many of the fields are the scope of an options template.
    scope_fields: usize,
}

impl<'a> Template<'a> {
    /// The template that `bytes` begin with.
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

    /// Takes one options data record off the front of `rest`. `about` becomes the fields that tell it from other records:
    /// its scope, and all that is no value. `None` if no whole record is left, or records have no length.
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

    /// The length of its records: how many bytes of fixed-length fields are before each variable-length one,
    /// and how many are after the last, so one number if the records are all of a length. 65,535 means that or
    /// more: no datagram holds such a record.
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

    /// Where the addresses are in records of one length: those of the first family that has both.
    pub(super) fn addresses(self) -> Option<FlowAddresses> {
        ADDRESS_TYPES.into_iter().find_map(|(family, source, destination)| {
            let offset = |kind| self.offset(kind, family.address_len());
            Some(FlowAddresses { source: offset(source)?, destination: offset(destination)?, family })
        })
    }

    /// Where the first field of this type is, if it has this length.
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

/// How many fields a v9 options template has.
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

/// Takes one field of this length, with the length that it may tell itself.
pub(super) fn take_field<'a>(length: u16, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut told = *rest;
    let length = match length {
        VARIABLE_LENGTH => {
            let own = match told.try_get_u8().ok()? {
                LONG_FIELD => usize::from(told.try_get_u16().ok()?),
                own => usize::from(own),
            };
            rest.len().checked_sub(told.len())?.checked_add(own)?
        }
        length => usize::from(length),
    };
    let (field, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(field)
}

/// What one record of a template set says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    /// From now on this template describes the records of its id.
    Defined(Template<'a>),
    /// The template of this id is no more.
    Withdrawn(u16),
    /// No template is any more; or no options template.
    AllWithdrawn {
        /// Which of the two.
        is_options: bool,
    },
}

/// The records of one template set; nothing if the set is another.
#[derive(Clone, Debug)]
pub(super) struct Changes<'a> {
    format: Format,
    is_options: bool,
    rest: &'a [u8],
}

impl<'a> Changes<'a> {
    /// The records of `set`.
    pub(super) fn of(set: &Set<'a>) -> Self {
        let kind = set.template_kind();
        let rest = if kind.is_some() { set.body } else { &[] };
        Self { format: set.format, is_options: kind.unwrap_or_default(), rest }
    }

    fn withdrawal(&self) -> Option<Change<'a>> {
        let mut record = self.rest;
        let id = record.try_get_u16().ok()?;
        let fields = record.try_get_u16().ok()?;
        let all = id == self.format.template_set(self.is_options);
        match (self.format, fields) {
            (Format::Ipfix, 0) if all => Some(Change::AllWithdrawn { is_options: self.is_options }),
            (Format::Ipfix, 0) if id >= DATA_MIN => Some(Change::Withdrawn(id)),
            _ => None,
        }
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        let (change, length) = if let Some(withdrawal) = self.withdrawal() {
            (withdrawal, TEMPLATE_HEAD_LEN)
        } else {
            let template = Template::parse(self.format, self.is_options, self.rest)?;
            (Change::Defined(template), template.definition.len())
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

    /// What the records of a set with `body` say, and the runs of the templates.
    fn told(format: Format, is_options: bool, body: &[u8]) -> Vec<String> {
        let set = Set { format, id: format.template_set(is_options), body };
        let words = |change| match change {
            Change::Defined(template) => {
                let runs: Vec<_> = template.runs().collect();
                format!("{} {} {runs:?}", template.id, template.definition.len())
            }
            Change::Withdrawn(id) => format!("{id} withdrawn"),
            Change::AllWithdrawn { is_options } => format!("all withdrawn, options: {is_options}"),
        };
        Changes::of(&set).map(words).collect()
    }

    #[test]
    fn v9_templates_follow_each_other_up_to_the_padding() {
        let body = bytes(&[256, 2, 8, 4, 12, 4, 300, 1, 1, 3, 0]);
        assert_eq!(told(Format::V9, false, &body), ["256 12 [8]", "300 8 [3]"]);
        assert_eq!(told(Format::V9, false, &bytes(&[256, 1, 1, 4, 0, 0, 0, 0])), ["256 8 [4]"]);
    }

    #[test]
    fn a_v9_options_template_tells_the_bytes_of_its_fields() {
        let body = bytes(&[257, 4, 8, 1, 4, 34, 2, 35, 1, 0]);
        assert_eq!(told(Format::V9, true, &body), ["257 18 [7]"]);
        assert_eq!(told(Format::V9, true, &bytes(&[257, 3, 8, 1, 4, 34, 2, 35, 1])), [""; 0]);
    }

    #[test]
    fn ipfix_fields_of_enterprises_bear_their_number() {
        let body = bytes(&[256, 2, 0x8001, 4, 0, 9, 2, 8, 258, 1, 0x8003, 2, 0, 9]);
        assert_eq!(told(Format::Ipfix, false, &body), ["256 16 [12]", "258 12 [2]"]);
    }

    #[test]
    fn in_v9_the_highest_bit_of_a_type_means_nothing() {
        assert_eq!(told(Format::V9, false, &bytes(&[256, 2, 0x8001, 4, 0, 9])), ["256 12 [13]"]);
    }

    #[test]
    fn variable_length_fields_divide_a_record_into_runs() {
        let body = bytes(&[256, 5, 1, 4, 2, 65_535, 3, 8, 4, 2, 0x8005, 65_535, 0, 7]);
        assert_eq!(told(Format::Ipfix, false, &body), ["256 28 [4, 10, 0]"]);
    }

    #[test]
    fn records_that_no_datagram_holds_are_as_long_as_can_be_told() {
        assert_eq!(told(Format::V9, false, &bytes(&[256, 2, 1, 65_000, 2, 65_000])), ["256 12 [65535]"]);
    }

    #[test]
    fn an_ipfix_options_template_counts_its_scope_among_its_fields() {
        let body = bytes(&[259, 3, 1, 149, 4, 41, 8, 42, 8, 0]);
        assert_eq!(told(Format::Ipfix, true, &body), ["259 18 [20]"]);
    }

    #[test]
    fn withdrawals_are_templates_without_fields_and_ipfix_only() {
        let body = bytes(&[256, 0, 300, 1, 1, 4, 257, 0, 2, 0]);
        let expected = ["256 withdrawn", "300 8 [4]", "257 withdrawn", "all withdrawn, options: false"];
        assert_eq!(told(Format::Ipfix, false, &body), expected);
        let body = bytes(&[258, 0, 3, 0, 2, 0]);
        assert_eq!(told(Format::Ipfix, true, &body), ["258 withdrawn", "all withdrawn, options: true"]);
        assert_eq!(told(Format::V9, false, &bytes(&[256, 0, 257, 1, 1, 4])), [""; 0]);
    }

    #[test]
    fn what_is_cut_short_is_no_template() {
        let body = bytes(&[256, 2, 0x8001, 4, 0, 9, 2, 8]);
        for cut in 0..body.len() {
            assert_eq!(told(Format::Ipfix, false, &body[..cut]), [""; 0], "{cut} bytes");
        }
    }

    #[test]
    fn data_sets_define_nothing() {
        let body = bytes(&[256, 1, 1, 4]);
        assert_eq!(Changes::of(&Set { format: Format::V9, id: 256, body: &body }).count(), 0);
    }
}
