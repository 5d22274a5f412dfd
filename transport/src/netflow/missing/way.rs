//! The ways in which exporters count.
//!
//! Each format lists the way of its standard first. The others occur in the field:
//!
//! - older versions of softflowd count flows in NetFlow v9,
//! - the IPFIX number of softflowd 1.1 includes the records of its own message,
//! - some exporters count template records, or leave options out,
//! - some do not count at all.

use crate::netflow::contents::Contents;
use crate::netflow::export::ExportFormat;

/// Units that an exporter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Datagrams,
    /// Flow records, with those of options or of templates or without.
    Records {
        options: bool,
        templates: bool,
    },
    /// The count field of a NetFlow v9 header, with template records or without.
    Announced {
        templates: bool,
    },
    /// Nothing: the number never changes.
    Nothing,
}

/// One way of counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    unit: Unit,
    /// True if the number of a datagram includes its own contents.
    includes_own: bool,
}

/// A datagram's range in a count, modulo 2^32. One end may be unknown, never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DatagramRange {
    /// The count before the datagram.
    pub(super) start: Option<u32>,
    /// The count after it.
    pub(super) end: Option<u32>,
}

impl DatagramRange {
    /// True if both ends are known.
    pub(super) fn is_known(self) -> bool {
        self.start.is_some() && self.end.is_some()
    }

    /// Distance from `other` to this range, if both have the same length or are open at the same end.
    pub(super) fn offset_from(self, other: Self) -> Option<u32> {
        let offset =
            |own: Option<u32>, other: Option<u32>| own.zip(other).map(|(own, other)| own.wrapping_sub(other));
        let (start, end) = (offset(self.start, other.start), offset(self.end, other.end));
        let is_alike =
            self.start.is_some() == other.start.is_some() && self.end.is_some() == other.end.is_some();
        (is_alike && (start.is_none() || end.is_none() || start == end)).then_some(start.or(end)?)
    }

    /// Units of the datagram; 0 if unknown.
    pub(super) fn len(self) -> u32 {
        self.start.zip(self.end).map_or(0, |(start, end)| end.wrapping_sub(start))
    }
}

const fn before(unit: Unit) -> Way {
    Way { unit, includes_own: false }
}

const fn including(unit: Unit) -> Way {
    Way { unit, includes_own: true }
}

const fn records(options: bool, templates: bool) -> Unit {
    Unit::Records { options, templates }
}

/// NetFlow v5, v7 and v8: flows before the datagram.
const FLOW_WAYS: [Way; 4] = [
    before(records(false, false)),
    including(records(false, false)),
    before(Unit::Datagrams),
    before(Unit::Nothing),
];

/// NetFlow v9: datagrams (RFC 3954, 5.1).
const V9_WAYS: [Way; 10] = [
    before(Unit::Datagrams),
    before(Unit::Announced { templates: true }),
    before(Unit::Announced { templates: false }),
    before(records(true, false)),
    before(records(false, false)),
    including(Unit::Announced { templates: true }),
    including(Unit::Announced { templates: false }),
    including(records(true, false)),
    including(records(false, false)),
    before(Unit::Nothing),
];

/// IPFIX: data records before the message, those of options among them (RFC 7011, 3.1).
const IPFIX_WAYS: [Way; 10] = [
    before(records(true, false)),
    including(records(true, false)),
    before(records(true, true)),
    before(records(false, false)),
    before(records(false, true)),
    including(records(true, true)),
    including(records(false, false)),
    including(records(false, true)),
    before(Unit::Datagrams),
    before(Unit::Nothing),
];

/// sFlow v5: datagrams of the sub-agent.
const SFLOW_WAYS: [Way; 2] = [before(Unit::Datagrams), before(Unit::Nothing)];

impl Way {
    /// The ways of counting of `format`, that of its standard first; empty if the format has no numbers.
    pub(super) fn all(format: ExportFormat) -> &'static [Self] {
        match format {
            ExportFormat::V5 | ExportFormat::V7 | ExportFormat::V8 => &FLOW_WAYS,
            ExportFormat::V9 => &V9_WAYS,
            ExportFormat::Ipfix => &IPFIX_WAYS,
            ExportFormat::SFlow => &SFLOW_WAYS,
            ExportFormat::V1 | ExportFormat::Other => &[],
        }
    }

    /// The range of a datagram with this number.
    pub(super) fn place(self, number: u32, contents: &Contents) -> DatagramRange {
        let adds = self.adds(contents);
        if self.includes_own {
            DatagramRange { start: adds.map(|adds| number.wrapping_sub(adds)), end: Some(number) }
        } else {
            DatagramRange { start: Some(number), end: adds.map(|adds| number.wrapping_add(adds)) }
        }
    }

    /// The amount that a datagram adds to the count; `None` if its contents are unknown.
    fn adds(self, contents: &Contents) -> Option<u32> {
        match self.unit {
            Unit::Datagrams => Some(1),
            Unit::Records { options, templates } => {
                let records = if options { contents.data_records() } else { contents.flows };
                records?.checked_add(if templates { contents.templates } else { 0 })
            }
            Unit::Announced { templates: true } => contents.announced,
            Unit::Announced { templates: false } => {
                contents.announced.map(|announced| announced.saturating_sub(contents.templates))
            }
            Unit::Nothing => Some(0),
        }
    }

    /// True if the number never changes.
    pub(super) fn counts_nothing(self) -> bool {
        self.unit == Unit::Nothing
    }

    /// True if the number of a datagram includes its own contents.
    pub(super) fn includes_own(self) -> bool {
        self.includes_own
    }

    /// The units, in words.
    pub(super) fn unit(self) -> &'static str {
        match self.unit {
            Unit::Datagrams => "datagrams",
            Unit::Records { options: false, templates: false } => "flows",
            Unit::Records { templates: false, .. } => "data records",
            Unit::Records { .. } | Unit::Announced { .. } => "records",
            Unit::Nothing => "nothing",
        }
    }
}
