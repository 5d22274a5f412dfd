//! Exporters that use one source id or observation domain with different templates.
//!
//! A collector identifies templates by the exporter's address and the domain (RFC 3954, 7; RFC 7011, 8). If
//! several exporters reach it from one address, the templates of each overwrite those of the others.

use std::collections::HashMap;
use std::hash::Hash;

use crate::netflow::{Kept, KeptTemplate};

/// Two exporters with one domain that define a template id differently.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedDomain<E> {
    /// The exporters, in the order of the search.
    pub exporters: [E; 2],
    /// 9, or 10 for IPFIX.
    pub version: u16,
    /// Source id or observation domain id.
    pub source_id: u32,
    /// The template id.
    pub template_id: u16,
}

/// The first definition of a template id, and the first one that differs from it, each with its exporter.
#[derive(Debug)]
struct Definers<'k, E> {
    first: (E, &'k KeptTemplate),
    other: Option<(E, &'k KeptTemplate)>,
}

impl<'k, E: Copy + PartialEq> Definers<'k, E> {
    /// Adds a definition. Returns another exporter that defines the id differently.
    fn add(&mut self, exporter: E, template: &'k KeptTemplate) -> Option<E> {
        let differs = |(definer, known): &(E, &KeptTemplate)| {
            *definer != exporter
                && (known.is_options, &known.definition) != (template.is_options, &template.definition)
        };
        if differs(&self.first) {
            self.other.get_or_insert((exporter, template));
            return Some(self.first.0);
        }
        self.other.as_ref().filter(|other| differs(other)).map(|(definer, _)| *definer)
    }
}

/// Finds exporters among `domains` that a collector confuses. Each domain has its exporter, the address at
/// which the collector sees it (any value that is equal for equal addresses), and its templates. Returns each
/// exporter at most once per domain, with one exporter with which it is confused.
pub fn shared_domains<'k, E: Copy + PartialEq, A: Eq + Hash>(
    domains: impl IntoIterator<Item = (E, A, &'k Kept)>,
) -> Vec<SharedDomain<E>> {
    let mut known: HashMap<(A, u16, u32), HashMap<u16, Definers<'k, E>>> = HashMap::new();
    let mut found = Vec::new();
    for (exporter, address, kept) in domains {
        let (version, source_id) = (kept.version, kept.source_id);
        let of_domain = known.entry((address, version, source_id)).or_default();
        let mut shared = None;
        for template in &kept.templates {
            let definers = of_domain
                .entry(template.template_id)
                .or_insert_with(|| Definers { first: (exporter, template), other: None });
            let other = definers.add(exporter, template);
            shared = shared.or(other.map(|other| (other, template.template_id)));
        }
        found.extend(shared.map(|(other, template_id)| SharedDomain {
            exporters: [other, exporter],
            version,
            source_id,
            template_id,
        }));
    }
    found
}
