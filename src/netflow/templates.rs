//! The templates of the exporters heard so far: what a collector that comes back has to be told before it can
//! decode.
//!
//! Keeps the definitions alone, never a datagram and never data. Never holds more than [`TEMPLATE_MEMORY`]: the
//! exporter that has defined nothing for longest makes room. A datagram without templates costs a walk over the
//! headers of its sets, and one that repeats what is known a look-up and a comparison.

use core::fmt;
use std::collections::HashSet;

use crate::datagram::Datagram;
use crate::limits::{TEMPLATE_EXPORTER_OVERHEAD, TEMPLATE_MEMORY};
use crate::netflow::definitions::{Definition, Definitions};
use crate::netflow::recent::{Keyed, Recent};
use crate::netflow::repeat::repeats;
use crate::netflow::sets::Sets;
use crate::netflow::template::{Change, Changes};
use crate::netflow::{ExporterKey, Header, Kept};

/// What exporters have defined and not withdrawn.
///
/// What tells one set of templates from another is an [`ExporterKey`]: the exporter's address and port, the
/// version, and the source id or observation domain.
#[derive(Default)]
pub struct TemplateMemory {
    exporters: Recent<Templates>,
    /// What all of it takes: `bytes <= TEMPLATE_MEMORY`.
    bytes: usize,
}

/// The templates of one exporter: at least one.
struct Templates {
    key: ExporterKey,
    definitions: Definitions,
}

impl Templates {
    /// Bytes that they take.
    fn cost(&self) -> usize {
        TEMPLATE_EXPORTER_OVERHEAD + self.definitions.bytes()
    }
}

impl Keyed for Templates {
    fn key(&self) -> ExporterKey {
        self.key
    }
}

impl TemplateMemory {
    /// Learns the templates and options templates that `datagram` defines, and forgets those that it withdraws.
    /// True if that changed anything.
    pub fn note(&mut self, datagram: &Datagram<'_>) -> bool {
        if !changes_templates(datagram.payload) {
            return false;
        }
        let Some(header) = Header::parse(datagram.payload) else { return false };
        self.apply(ExporterKey::new(datagram.exporter, &header), changes(datagram.payload))
    }

    /// The payloads that make a collector which knows nothing decode `datagram`, in the order in which they are
    /// to be delivered before it: all templates known of its exporter but those that `datagram` itself defines,
    /// in the order in which they were defined. Empty if there are none, or if it is neither NetFlow v9 nor
    /// IPFIX.
    ///
    /// Each payload is at most [`REPEAT_TARGET`](crate::limits::REPEAT_TARGET) bytes long, or holds one
    /// template.
    pub fn before(&self, datagram: &Datagram<'_>) -> Vec<Vec<u8>> {
        let Some(header) = Header::parse(datagram.payload) else { return Vec::new() };
        let key = ExporterKey::new(datagram.exporter, &header);
        let Some(known) = self.exporters.get(&key) else { return Vec::new() };
        let own: HashSet<u16> = changes(datagram.payload).filter_map(defined).collect();
        let other = |definition: &&Definition| !own.contains(&definition.template_id);
        repeats(datagram.payload, known.definitions.iter().filter(other)).unwrap_or_default()
    }

    /// All that is known, to keep it over a restart: exporter by exporter, the one that has defined nothing for
    /// longest first.
    pub fn kept(&self) -> impl Iterator<Item = Kept> {
        self.exporters.iter().map(|known| Kept::new(known.key, &known.definitions))
    }

    /// Learns what was kept, in the order of [`Self::kept`]; what is malformed is ignored. For the start: a
    /// template that is known already is defined anew.
    #[expect(clippy::needless_pass_by_value, reason = "what was read from a file is of no further use")]
    pub fn restore(&mut self, kept: Kept) {
        self.apply(kept.key(), kept.changes());
    }

    /// Exporters with templates; each source id or observation domain counts as one.
    pub fn len(&self) -> usize {
        self.exporters.len()
    }

    /// Whether no template is known.
    pub fn is_empty(&self) -> bool {
        self.exporters.len() == 0
    }

    /// Bytes that the memory takes by its own account.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Follows `changes` of the exporter `key`; true if anything is different from before.
    fn apply<'a>(&mut self, key: ExporterKey, changes: impl Iterator<Item = Change<'a>>) -> bool {
        if self.exporters.touch(&key) {
            self.bytes -= self.exporters.newest_mut().map_or(0, |known| known.cost());
        } else {
            self.exporters.add(Templates { key, definitions: Definitions::default() });
        }
        let Some(known) = self.exporters.newest_mut() else { return false };
        let effective = changes.filter(|change| known.definitions.apply(change)).count();
        if known.definitions.is_empty() {
            self.exporters.remove_newest();
        } else {
            self.bytes += known.cost();
        }
        self.make_room();
        effective > 0
    }

    /// Forgets exporters as long as there is too much.
    fn make_room(&mut self) {
        while self.bytes > TEMPLATE_MEMORY {
            let Some(forgotten) = self.exporters.remove_oldest() else { return };
            self.bytes -= forgotten.cost();
        }
    }
}

impl fmt::Debug for TemplateMemory {
    /// Shows how much is known, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TemplateMemory")
            .field("exporters", &self.exporters.len())
            .field("bytes", &self.bytes)
            .finish()
    }
}

/// Whether `payload` defines or withdraws templates.
pub(crate) fn changes_templates(payload: &[u8]) -> bool {
    changes(payload).next().is_some()
}

/// What the template sets of `payload` say, in their order.
fn changes(payload: &[u8]) -> impl Iterator<Item = Change<'_>> {
    Sets::of(payload).into_iter().flatten().flat_map(|set| Changes::of(&set))
}

/// The id that `change` defines.
fn defined(change: Change<'_>) -> Option<u16> {
    match change {
        Change::Defined(template) => Some(template.id),
        Change::Withdrawn(_) | Change::AllWithdrawn { .. } => None,
    }
}
