//! The sets of a NetFlow v9 or IPFIX datagram. The walk reads their headers only.
//!
//! All numbers are big-endian. Sets follow the datagram's header one after the other (RFC 3954, 5.1 and 5.2;
//! RFC 7011, 3.3.2). Those of IPFIX end at the length in the message's header, those of v9 at the end of the
//! datagram:
//!
//! | offset | width | field | range |
//! |---|---|---|---|
//! | 0 | 2 | set id | v9: 0 templates, 1 options templates; IPFIX: 2 templates, 3 options templates; both: from 256 on data |
//! | 2 | 2 | length in bytes, including this header | 4 to the bytes left |
//! | 4 | length - 4 | records, then padding | |
//!
//! The walk ends at the first set that does not fit: zero padding, or damage.

use bytes::Buf;

/// Bytes of a set's header.
pub(super) const SET_HEADER_LEN: usize = 4;

/// The lowest set id that means data, and the lowest id of a template.
pub(super) const DATA_MIN: u16 = 256;

/// The two formats that describe their records by templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// NetFlow v9, RFC 3954.
    V9,
    /// IPFIX, RFC 7011.
    Ipfix,
}

impl Format {
    /// The format of datagrams that begin with `version`; `None` if they have no templates.
    pub(super) fn from_version(version: u16) -> Option<Self> {
        match version {
            9 => Some(Self::V9),
            10 => Some(Self::Ipfix),
            _ => None,
        }
    }

    /// The version number at the start of datagrams.
    pub(super) fn version(self) -> u16 {
        match self {
            Self::V9 => 9,
            Self::Ipfix => 10,
        }
    }

    /// Bytes of a datagram's header.
    pub(super) fn header_len(self) -> usize {
        match self {
            Self::V9 => 20,
            Self::Ipfix => 16,
        }
    }

    /// The id of sets that hold templates, or options templates.
    pub(super) fn template_set(self, is_options: bool) -> u16 {
        match self {
            Self::V9 => u16::from(is_options),
            Self::Ipfix => 2 + u16::from(is_options),
        }
    }
}

/// One set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set<'a> {
    pub(super) format: Format,
    pub(super) id: u16,
    /// The bytes after the set's header: records and padding.
    pub(super) body: &'a [u8],
}

impl Set<'_> {
    /// True for a set of options templates, false for a set of templates; `None` for other sets.
    pub(super) fn template_kind(&self) -> Option<bool> {
        [false, true].into_iter().find(|is_options| self.format.template_set(*is_options) == self.id)
    }
}

/// The sets of one datagram.
#[derive(Clone, Debug)]
pub(super) struct Sets<'a> {
    format: Format,
    rest: &'a [u8],
    /// The offset of `rest` in the payload.
    at: usize,
}

impl<'a> Sets<'a> {
    /// The sets of `payload`; `None` if it is neither NetFlow v9 nor IPFIX, or its header is cut short.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut fields = payload;
        let format = Format::from_version(fields.try_get_u16().ok()?)?;
        let length = usize::from(fields.try_get_u16().ok()?);
        let end = if format == Format::Ipfix { length } else { payload.len() };
        let rest = payload.get(format.header_len()..end)?;
        Some(Self { format, rest, at: format.header_len() })
    }

    /// The offset in the payload of the body of the next set, if there is one.
    pub(super) fn next_body(&self) -> usize {
        self.at + SET_HEADER_LEN
    }

    /// The bytes that the walk has not read. After its end, they are no set.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Sets<'a> {
    type Item = Set<'a>;

    fn next(&mut self) -> Option<Set<'a>> {
        let mut fields = self.rest;
        let id = fields.try_get_u16().ok()?;
        let length = usize::from(fields.try_get_u16().ok()?);
        let body = self.rest.get(SET_HEADER_LEN..length)?;
        self.rest = self.rest.get(length..)?;
        self.at += length;
        Some(Set { format: self.format, id, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Bodies<'a> = Vec<(u16, &'a [u8])>;

    /// The ids and bodies of the sets of `payload`, and the rest.
    fn walked(payload: &[u8]) -> Option<(Bodies<'_>, &[u8])> {
        let mut sets = Sets::parse(payload)?;
        let seen = sets.by_ref().map(|set| (set.id, set.body)).collect();
        Some((seen, sets.rest()))
    }

    fn v9(sets: &[u8]) -> Vec<u8> {
        [[0, 9, 0, 1].as_slice(), &[0; 16], sets].concat()
    }

    #[test]
    fn v9_sets_end_with_the_datagram() {
        let payload = v9(&[0, 0, 0, 6, 7, 8, 1, 0, 0, 4]);
        assert_eq!(walked(&payload), Some((vec![(0, [7, 8].as_slice()), (256, &[])], [].as_slice())));
    }

    #[test]
    fn ipfix_sets_end_at_the_length_of_the_message() {
        let payload = [[0, 10, 0, 21].as_slice(), &[0; 12], &[1, 0, 0, 5, 9, 1, 1, 0, 4]].concat();
        assert_eq!(walked(&payload), Some((vec![(256, [9].as_slice())], [].as_slice())));
        assert_eq!(walked(&payload[..20]), None);
        assert_eq!(walked(&[[0, 10, 0, 15].as_slice(), &[0; 12]].concat()), None);
    }

    #[test]
    fn the_walk_ends_at_a_set_that_does_not_fit() {
        let left = [[0; 8].as_slice(), &[1, 0, 0, 3], &[1, 0, 0, 9, 1, 2, 3, 4], &[1, 0, 0], &[]];
        for left in left {
            let payload = v9(&[[1, 1, 0, 5, 9].as_slice(), left].concat());
            assert_eq!(walked(&payload), Some((vec![(257, [9].as_slice())], left)), "{left:?}");
        }
    }

    #[test]
    fn template_set_ids_depend_on_the_format() {
        let kind = |format, id| Set { format, id, body: &[] }.template_kind();
        assert_eq!(
            [0, 1, 2, 3, 256].map(|id| kind(Format::V9, id)),
            [Some(false), Some(true), None, None, None]
        );
        let kinds = [0, 1, 2, 3, 256].map(|id| kind(Format::Ipfix, id));
        assert_eq!(kinds, [None, None, Some(false), Some(true), None]);
    }

    #[test]
    fn formats_without_templates_have_no_sets() {
        assert!(walked(&[[0, 5].as_slice(), &[0; 22]].concat()).is_none());
        assert!(walked(&[0, 9, 0]).is_none());
        assert!(walked(&[]).is_none());
    }
}
