//! The templates that one exporter has defined and not withdrawn, in the order in which it did.
//!
//! Templates and options templates share their ids; the latest definition of an id is the one that is in force.
//! Holds at most [`TEMPLATES_PER_EXPORTER`] and [`TEMPLATE_BYTES_PER_EXPORTER`]: the oldest make room. What is
//! repeated without a change stays where it is, and costs no allocation.

use crate::limits::{TEMPLATE_BYTES_PER_EXPORTER, TEMPLATE_OVERHEAD, TEMPLATES_PER_EXPORTER};
use crate::netflow::template::{Change, Template};

/// One template or options template.
#[derive(PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) template_id: u16,
    pub(super) is_options: bool,
    /// The template record, byte for byte.
    pub(super) bytes: Box<[u8]>,
}

impl Definition {
    fn is(&self, template: &Template<'_>) -> bool {
        self.is_options == template.is_options && *self.bytes == *template.definition
    }

    /// Bytes that it takes.
    fn cost(&self) -> usize {
        cost(&self.bytes)
    }
}

/// Bytes that a definition takes.
fn cost(definition: &[u8]) -> usize {
    definition.len().saturating_add(TEMPLATE_OVERHEAD)
}

/// The templates of one exporter.
#[derive(Default)]
pub(super) struct Definitions {
    /// From the one defined first to the one defined last; no two of an id.
    list: Vec<Definition>,
    /// What they take together.
    bytes: usize,
}

impl Definitions {
    /// Follows `change`; true if anything is different from before.
    pub(super) fn apply(&mut self, change: &Change<'_>) -> bool {
        match change {
            Change::Defined(template) => self.define(template),
            Change::Withdrawn(id) => self.forget(|definition| definition.template_id == *id),
            Change::AllWithdrawn { is_options } => {
                self.forget(|definition| definition.is_options == *is_options)
            }
        }
    }

    /// Bytes that all of them take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// From the one defined first to the one defined last.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.list.iter()
    }

    fn define(&mut self, template: &Template<'_>) -> bool {
        let known = self.list.iter().find(|definition| definition.template_id == template.id);
        if known.is_some_and(|known| known.is(template)) {
            return false;
        }
        let forgotten = known.is_some() && self.forget(|definition| definition.template_id == template.id);
        if cost(template.definition) > TEMPLATE_BYTES_PER_EXPORTER {
            return forgotten;
        }
        let definition = Definition {
            template_id: template.id,
            is_options: template.is_options,
            bytes: template.definition.into(),
        };
        self.bytes += definition.cost();
        self.list.push(definition);
        self.make_room();
        true
    }

    fn forget(&mut self, gone: impl Fn(&Definition) -> bool) -> bool {
        let before = self.list.len();
        self.list.retain(|definition| !gone(definition));
        self.bytes = self.list.iter().map(Definition::cost).sum();
        self.list.len() != before
    }

    /// Drops what was defined first, as far as there is too much.
    fn make_room(&mut self) {
        let mut surplus = 0;
        let mut left = self.list.len();
        for oldest in &self.list {
            if left <= TEMPLATES_PER_EXPORTER && self.bytes <= TEMPLATE_BYTES_PER_EXPORTER {
                break;
            }
            self.bytes -= oldest.cost();
            left -= 1;
            surplus += 1;
        }
        self.list.drain(..surplus);
    }
}
