//! The templates in force in one observation domain of an exporter, in the order of their definition.
//!
//! Templates and options templates share their ids; the latest definition of an id is in force. Holds at most
//! [`TEMPLATES_PER_EXPORTER`] and [`TEMPLATE_BYTES_PER_EXPORTER`]: the oldest make room. A template that is
//! repeated unchanged stays in its place, and costs no allocation.
//!
//! Exporters may send from many ports, so a port alone does not identify an exporter. Two exporters behind
//! one address are recognized by a conflict: one defines an id again as before, after the other defined it
//! differently from another port.

use crate::limits::{
    DEFINERS_PER_TEMPLATE, TEMPLATE_BYTES_PER_EXPORTER, TEMPLATE_OVERHEAD, TEMPLATES_PER_EXPORTER,
};
use crate::netflow::sets::Format;
use crate::netflow::template::{Template, TemplateChange};

/// One template or options template.
#[derive(Clone)]
pub(super) struct Definition {
    pub(super) template_id: u16,
    pub(super) is_options: bool,
    /// The template record, byte for byte.
    pub(super) bytes: Box<[u8]>,
    /// The revision of the domain that defined it.
    pub(super) revision: u64,
    /// The source port of its last definition.
    pub(super) port: u16,
    /// Ports that defined this id differently, and the checksum of their last definition; the oldest first.
    others: Vec<(u16, u32)>,
}

impl Definition {
    fn is(&self, template: &Template<'_>) -> bool {
        self.is_options == template.is_options && *self.bytes == *template.definition
    }

    /// True if `port` defined this id as `template` before another port defined it as it is now.
    fn was_defined_as(&self, template: &Template<'_>, port: u16) -> bool {
        self.port != port && self.others.contains(&(port, crc32c::crc32c(template.definition)))
    }

    /// The definitions of this id by other ports, once `port` has defined it differently.
    fn others_than(&self, port: u16) -> Vec<(u16, u32)> {
        let own = (self.port, crc32c::crc32c(&self.bytes));
        let mut others: Vec<_> =
            self.others.iter().copied().filter(|(other, _)| *other != self.port).collect();
        others.push(own);
        others.retain(|(other, _)| *other != port);
        let surplus = others.len().saturating_sub(DEFINERS_PER_TEMPLATE);
        others.drain(..surplus);
        others
    }

    /// Bytes of memory.
    fn cost(&self) -> usize {
        cost(&self.bytes)
    }

    /// The template that it defines.
    pub(super) fn template(&self, format: Format) -> Option<Template<'_>> {
        Template::parse(format, self.is_options, &self.bytes)
    }
}

/// Bytes of memory of a definition.
fn cost(definition: &[u8]) -> usize {
    definition.len().saturating_add(TEMPLATE_OVERHEAD)
}

/// The result of following a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// Nothing has changed.
    Unchanged,
    /// A definition has changed.
    Changed,
    /// Rejected: this port and another one belong to two exporters.
    Conflict,
}

impl Followed {
    fn changed_if(changed: bool) -> Self {
        if changed { Self::Changed } else { Self::Unchanged }
    }
}

/// The templates of one domain.
#[derive(Clone, Default)]
pub(super) struct Definitions {
    /// In the order of definition; one for each id.
    list: Vec<Definition>,
    /// Bytes of all of them.
    bytes: usize,
    /// Number of options templates among them.
    options: usize,
}

impl Definitions {
    /// Applies a change from `port` of the exporter. New definitions get this revision.
    pub(super) fn follow(&mut self, change: &TemplateChange<'_>, port: u16, revision: u64) -> Followed {
        match change {
            TemplateChange::Defined(template) => self.define(template, port, revision),
            TemplateChange::Withdrawn(id) => {
                Followed::changed_if(self.forget(|definition| definition.template_id == *id))
            }
            TemplateChange::AllWithdrawn { is_options } => {
                Followed::changed_if(self.forget(|definition| definition.is_options == *is_options))
            }
        }
    }

    /// Adds a definition of another list.
    pub(super) fn add(&mut self, definition: Definition) {
        self.bytes += definition.cost();
        self.options += usize::from(definition.is_options);
        self.list.push(definition);
    }

    /// Bytes of memory of all definitions.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True if any of them is an options template.
    pub(super) fn has_options(&self) -> bool {
        self.options > 0
    }

    /// The options template with this id.
    pub(super) fn options_template(&self, id: u16) -> Option<&Definition> {
        self.list.iter().find(|definition| definition.is_options && definition.template_id == id)
    }

    /// The definitions in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.list.iter()
    }

    fn define(&mut self, template: &Template<'_>, port: u16, revision: u64) -> Followed {
        let known = self.list.iter_mut().find(|definition| definition.template_id == template.id);
        let others = match known {
            Some(known) if known.is(template) => {
                if known.port != port {
                    known.port = port;
                    known.others.retain(|(other, _)| *other != port);
                }
                return Followed::Unchanged;
            }
            Some(known) if known.was_defined_as(template, port) => return Followed::Conflict,
            Some(known) => known.others_than(port),
            None => Vec::new(),
        };
        let forgotten = self.forget(|definition| definition.template_id == template.id);
        if cost(template.definition) > TEMPLATE_BYTES_PER_EXPORTER {
            return Followed::changed_if(forgotten);
        }
        self.add(Definition {
            template_id: template.id,
            is_options: template.is_options,
            bytes: template.definition.into(),
            revision,
            port,
            others,
        });
        self.make_room();
        Followed::Changed
    }

    fn forget(&mut self, gone: impl Fn(&Definition) -> bool) -> bool {
        let before = self.list.len();
        self.list.retain(|definition| !gone(definition));
        self.recount();
        self.list.len() != before
    }

    fn recount(&mut self) {
        self.bytes = self.list.iter().map(Definition::cost).sum();
        self.options = self.list.iter().filter(|definition| definition.is_options).count();
    }

    /// Drops the oldest definitions until the rest fits.
    fn make_room(&mut self) {
        let (mut surplus, mut left, mut bytes) = (0, self.list.len(), self.bytes);
        for oldest in &self.list {
            if left <= TEMPLATES_PER_EXPORTER && bytes <= TEMPLATE_BYTES_PER_EXPORTER {
                break;
            }
            bytes -= oldest.cost();
            left -= 1;
            surplus += 1;
        }
        if surplus > 0 {
            self.list.drain(..surplus);
            self.recount();
        }
    }
}
