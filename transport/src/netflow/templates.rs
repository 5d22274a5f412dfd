//! The definitions of exporters as one collector has seen them: it needs them to decode later datagrams.
//!
//! Keeps templates and the latest options data records, never datagrams or flows. They take at most
//! [`TEMPLATE_MEMORY`] and [`OPTION_MEMORY`]: the exporter whose last definition is oldest makes room. A
//! datagram that changes nothing costs a walk over the headers of its sets and a look-up. Consecutive
//! datagrams of one exporter share the look-up.

use core::fmt;
use std::collections::HashSet;
use std::hash::RandomState;

use lru::LruCache;

use crate::datagram::Datagram;
use crate::limits::{OPTION_MEMORY, PORTS_PER_DOMAIN, TEMPLATE_MEMORY};
use crate::netflow::definitions::Followed;
use crate::netflow::domain::{Domain, DomainKey};
use crate::netflow::options::Options;
use crate::netflow::recipient::RecipientProgress;
use crate::netflow::sets::Sets;
use crate::netflow::template::{TemplateChange, TemplateChanges};
use crate::netflow::{Header, Kept, KeptDomain, Recipient};

/// The definitions that exporters have not withdrawn, up to one position of their stream.
#[derive(Clone)]
pub struct TemplateMemory {
    pub(super) domains: LruCache<DomainKey, Domain>,
    /// Options data of domains that are in `domains`.
    pub(super) options: LruCache<DomainKey, Options>,
    /// Bytes of templates: `template_bytes <= TEMPLATE_MEMORY`.
    template_bytes: usize,
    /// Bytes of options data: `option_bytes <= OPTION_MEMORY`.
    option_bytes: usize,
    pub(super) hasher: RandomState,
}

impl Default for TemplateMemory {
    fn default() -> Self {
        Self {
            domains: LruCache::unbounded(),
            options: LruCache::unbounded(),
            template_bytes: 0,
            option_bytes: 0,
            hasher: RandomState::new(),
        }
    }
}

/// The kinds of definitions that datagrams have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Templates, or options templates.
    pub templates: bool,
    /// Options data.
    pub options: bool,
}

impl News {
    fn add(&mut self, more: Self) {
        self.templates |= more.templates;
        self.options |= more.options;
    }
}

impl TemplateMemory {
    /// Learns the definitions and withdrawals of `datagrams`, which were sent to `recipient`, or to nobody.
    pub fn learn<'d>(
        &mut self,
        datagrams: impl IntoIterator<Item = &'d Datagram<'d>>,
        recipient: Option<&Recipient>,
    ) -> News {
        let mut news = News::default();
        // In datagrams of this domain, only template sets can change anything.
        let mut plain: Option<DomainKey> = None;
        for datagram in datagrams {
            let Some((address, sets)) = domain_of(datagram) else { continue };
            let defines = sets.clone().any(|set| set.template_kind().is_some());
            if !defines && plain == Some(address) {
                continue;
            }
            news.add(self.note_one(datagram.exporter.port(), address, &sets, recipient));
            plain = self.is_plain(address).then_some(address);
        }
        news
    }

    /// True if datagrams of this domain without template sets change nothing.
    fn is_plain(&self, address: DomainKey) -> bool {
        self.domains.peek(&address).is_none_or(|domain| {
            let is_settled = domain.progress.iter().all(RecipientProgress::is_settled);
            is_settled && !domain.definitions.has_options() && !domain.is_split()
        })
    }

    fn note_one(
        &mut self,
        port: u16,
        address: DomainKey,
        sets: &Sets<'_>,
        recipient: Option<&Recipient>,
    ) -> News {
        let key = self.resolve(address, port);
        let before = self.domains.peek(&key).map(|domain| domain.revision);
        let mut news = News::default();
        if self.teaches(&key, sets) {
            let Some(learned) = self.learn_sets(key, port, sets.clone()) else {
                self.split(address);
                return self.note_one(port, address, sets, recipient);
            };
            news = learned;
        }
        let Some(domain) = self.domains.peek_mut(&key) else { return news };
        let after = domain.revision;
        for (place, progress) in domain.progress.iter_mut().enumerate() {
            let recipient = recipient.filter(|recipient| recipient.place == place);
            match (before, recipient) {
                (None, Some(recipient)) => *progress = RecipientProgress::complete(recipient, after),
                (None, None) => {}
                (Some(before), recipient) => {
                    progress.follow(recipient.map(|recipient| recipient.generation), before, after);
                }
            }
        }
        news
    }

    /// The domain of a datagram from `port`.
    pub(super) fn resolve(&self, address: DomainKey, port: u16) -> DomainKey {
        let is_split = self.domains.peek(&address).is_some_and(Domain::is_split);
        if is_split { address.of_port(port) } else { address }
    }

    /// True if these sets can change definitions.
    fn teaches(&self, key: &DomainKey, sets: &Sets<'_>) -> bool {
        let definitions = self.domains.peek(key).map(|domain| &domain.definitions);
        let definitions = definitions.filter(|definitions| definitions.has_options());
        let is_options = |id| definitions.is_some_and(|known| known.options_template(id).is_some());
        sets.clone().any(|set| set.template_kind().is_some() || is_options(set.id))
    }

    /// Learns from these sets. `None` if the domain proves to be that of two exporters; some changes may then
    /// be applied.
    fn learn_sets(&mut self, key: DomainKey, port: u16, sets: Sets<'_>) -> Option<News> {
        let (mut domain, mut options) = self.remove_domain(key);
        let revision = domain.revision.saturating_add(1);
        let (mut news, mut is_one) = (News::default(), true);
        for set in sets {
            let template = domain.definitions.options_template(set.id);
            if let Some(template) = template.and_then(|definition| definition.template(set.format)) {
                news.options |= options.store(&template, set.body, revision, &self.hasher);
            }
            for change in TemplateChanges::of(&set) {
                match domain.definitions.follow(&change, port, revision) {
                    Followed::Unchanged => {}
                    Followed::Changed => {
                        news.templates = true;
                        options.retain(|id| {
                            defined(change) != Some(id) && domain.definitions.options_template(id).is_some()
                        });
                    }
                    Followed::Conflict => is_one = false,
                }
            }
        }
        if news.templates || news.options {
            domain.revision = revision;
        }
        self.put(key, domain, options);
        is_one.then_some(news)
    }

    /// Removes and returns the state of a domain; empty if it is unknown.
    fn remove_domain(&mut self, key: DomainKey) -> (Domain, Options) {
        let options = self.options.pop(&key).unwrap_or_default();
        self.option_bytes -= options.bytes();
        let domain = self.domains.pop(&key);
        self.template_bytes -= domain.as_ref().map_or(0, Domain::cost);
        (domain.unwrap_or_default(), options)
    }

    /// Stores the state of a domain as the most recently used one.
    fn put(&mut self, key: DomainKey, domain: Domain, options: Options) {
        if domain.is_empty() {
            return;
        }
        self.template_bytes += domain.cost();
        self.domains.put(key, domain);
        if !options.is_empty() {
            self.option_bytes += options.bytes();
            self.options.put(key, options);
        }
        if let Some(port) = key.port {
            self.list_port(key, port);
        }
        while self.template_bytes > TEMPLATE_MEMORY && self.forget_oldest() {}
        while self.option_bytes > OPTION_MEMORY && self.forget_oldest_options() {}
    }

    /// Gives each port of this address that has definitions its own domain.
    fn split(&mut self, address: DomainKey) {
        let (shared, _) = self.remove_domain(address);
        let ports: HashSet<u16> = shared.definitions.iter().map(|definition| definition.port).collect();
        for port in ports {
            let mut domain = Domain { revision: shared.revision, ..Domain::default() };
            let own = shared.definitions.iter().filter(|definition| definition.port == port);
            own.for_each(|definition| domain.definitions.add(definition.clone()));
            domain.progress.clone_from(&shared.progress);
            self.put(address.of_port(port), domain, Options::default());
        }
    }

    /// Lists this port in the domain of its address. The oldest ports beyond the limit are forgotten.
    fn list_port(&mut self, key: DomainKey, port: u16) {
        let address = DomainKey { port: None, ..key };
        let (mut domain, _) = self.remove_domain(address);
        domain.ports.retain(|listed| *listed != port);
        domain.ports.push(port);
        let surplus = domain.ports.len().saturating_sub(PORTS_PER_DOMAIN);
        for port in domain.ports.drain(..surplus).collect::<Vec<_>>() {
            self.remove_domain(key.of_port(port));
        }
        self.template_bytes += domain.cost();
        self.domains.put(address, domain);
    }

    /// A copy for another collector, none of whose addresses has got anything.
    #[must_use]
    pub fn copied(&self) -> Self {
        let mut copy = self.clone();
        copy.domains.iter_mut().for_each(|(_, domain)| domain.progress = Default::default());
        copy
    }

    /// Forgets the exporter whose last definition is oldest; false if there is none.
    pub fn forget_oldest(&mut self) -> bool {
        let oldest = self.domains.peek_lru().map(|(key, _)| *key);
        oldest.is_some_and(|key| !self.remove_domain(key).0.is_empty())
    }

    /// Forgets the options data of the exporter whose last options data are oldest; false if there is none.
    pub fn forget_oldest_options(&mut self) -> bool {
        let oldest = self.options.pop_lru();
        self.option_bytes -= oldest.as_ref().map_or(0, |(_, options)| options.bytes());
        oldest.is_some()
    }

    /// All templates, to store them for a restart: the exporter whose last definition is oldest first.
    pub fn kept_templates(&self) -> impl Iterator<Item = Kept> {
        let defining = self.domains.iter().rev().filter(|(_, domain)| !domain.definitions.is_empty());
        defining.map(|(key, domain)| Kept::of_templates(*key, &domain.definitions))
    }

    /// All options data with their templates, to store them for a restart: the exporter whose last options
    /// data are oldest first.
    pub fn kept_options(&self) -> impl Iterator<Item = Kept> {
        let with_domain = |(key, options)| Some((key, self.domains.peek(key)?, options));
        let all = self.options.iter().rev().filter_map(with_domain);
        all.map(|(key, domain, options)| Kept::of_options(*key, &domain.definitions, options))
    }

    /// Restores stored templates, in the order of [`Self::kept_templates`]. Malformed parts are ignored.
    pub fn restore_templates(&mut self, kept: &Kept) {
        let (mut domain, options) = self.remove_domain(kept.key());
        domain.revision = domain.revision.saturating_add(1);
        for (port, template) in kept.templates() {
            domain.definitions.follow(&TemplateChange::Defined(template), port, domain.revision);
        }
        self.put(kept.key(), domain, options);
    }

    /// Restores stored options data if their templates are unchanged.
    pub fn restore_options(&mut self, kept: &Kept) {
        let (mut domain, mut options) = self.remove_domain(kept.key());
        domain.revision = domain.revision.saturating_add(1);
        for (_, template) in kept.templates() {
            let known = domain.definitions.options_template(template.id);
            if known.is_none_or(|known| *known.bytes != *template.definition) {
                continue;
            }
            for row in kept.options.iter().filter(|row| row.template_id == template.id) {
                options.store(&template, &row.record, domain.revision, &self.hasher);
            }
        }
        self.put(kept.key(), domain, options);
    }

    /// The domains of which the recipient at this place, in this generation, has got everything.
    pub fn complete(&self, place: usize, generation: u64) -> impl Iterator<Item = KeptDomain> {
        let is_complete = move |domain: &Domain| {
            let progress = domain.progress.get(place);
            progress.is_some_and(|progress| progress.is_complete(generation, domain.revision))
        };
        let complete = self.domains.iter().filter(move |(_, domain)| is_complete(domain));
        complete.map(|(key, _)| KeptDomain::new(*key))
    }

    /// Records that `recipient` got everything of this domain in an earlier run.
    pub fn restore_complete(&mut self, kept: &KeptDomain, recipient: &Recipient) {
        let Some(domain) = self.domains.peek_mut(&kept.key()) else { return };
        if let Some(progress) = domain.progress.get_mut(recipient.place) {
            *progress = RecipientProgress::complete(recipient, domain.revision);
        }
    }

    /// Number of domains with templates.
    pub fn len(&self) -> usize {
        self.domains.iter().filter(|(_, domain)| !domain.definitions.is_empty()).count()
    }

    /// True if no template is known.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Bytes of templates and bytes of options data, as accounted here.
    pub fn bytes(&self) -> (usize, usize) {
        (self.template_bytes, self.option_bytes)
    }
}

impl fmt::Debug for TemplateMemory {
    /// Shows the number of domains and bytes, never their contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TemplateMemory")
            .field("domains", &self.domains.len())
            .field("template_bytes", &self.template_bytes)
            .field("option_bytes", &self.option_bytes)
            .finish_non_exhaustive()
    }
}

/// The domain of a datagram for all ports, and its sets; `None` if its format has no templates.
pub(super) fn domain_of<'a>(datagram: &Datagram<'a>) -> Option<(DomainKey, Sets<'a>)> {
    let sets = Sets::parse(datagram.payload)?;
    let header = Header::parse(datagram.payload)?;
    Some((DomainKey::of_address(datagram.exporter, &header), sets))
}

/// The id that `change` defines.
pub(super) fn defined(change: TemplateChange<'_>) -> Option<u16> {
    match change {
        TemplateChange::Defined(template) => Some(template.id),
        TemplateChange::Withdrawn(_) | TemplateChange::AllWithdrawn { .. } => None,
    }
}
