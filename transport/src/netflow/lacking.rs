//! The definitions that a recipient lacks to decode a datagram.

use core::hash::BuildHasher;
use std::collections::HashSet;
use std::time::Instant;

use crate::datagram::Datagram;
use crate::netflow::domain::DomainKey;
use crate::netflow::recipient::{Due, RecipientProgress};
use crate::netflow::repeat::repeats;
use crate::netflow::sets::Sets;
use crate::netflow::template::{TemplateChange, TemplateChanges};
use crate::netflow::templates::{defined, domain_of};
use crate::netflow::{Recipient, TemplateMemory};

/// The repeats before a datagram.
#[derive(Debug)]
pub struct Repeats {
    /// All repeats, in order.
    pub payloads: Vec<Vec<u8>>,
    /// The number of repeats at the beginning that the recipient already has.
    pub sent: usize,
    key: DomainKey,
    since: u64,
    revision: u64,
    /// True if templates were left out because the datagram defines them.
    awaits_datagram: bool,
}

impl TemplateMemory {
    /// Finds the first datagram of a `run` of one exporter that needs repeats before it, so that `recipient`
    /// can decode it. Returns its place in the run and the repeats: templates and then options data that the
    /// recipient does not have, except those that the datagram itself defines.
    ///
    /// Each payload is at most [`REPEAT_TARGET`](crate::limits::REPEAT_TARGET) bytes long, or holds one
    /// template or record.
    pub fn before(
        &self,
        run: &[Datagram<'_>],
        recipient: &Recipient,
        now: Instant,
    ) -> Option<(usize, Repeats)> {
        let mut served: Option<DomainKey> = None;
        for (place, datagram) in run.iter().enumerate() {
            let Some((address, _)) = domain_of(datagram) else { continue };
            if served == Some(address) {
                continue;
            }
            if let Some(repeats) = self.before_one(datagram, address, recipient, now) {
                return Some((place, repeats));
            }
            served = Some(address);
        }
        None
    }

    fn before_one(
        &self,
        datagram: &Datagram<'_>,
        address: DomainKey,
        recipient: &Recipient,
        now: Instant,
    ) -> Option<Repeats> {
        let key = self.resolve(address, datagram.exporter.port());
        let domain = self.domains.peek(&key)?;
        let progress = domain.progress.get(recipient.place)?;
        let Due::Since(since) = progress.due(recipient, domain.revision, now) else { return None };
        let own: HashSet<u16> = changes(datagram.payload).filter_map(defined).collect();
        let lacking = || domain.definitions.iter().filter(move |definition| definition.revision > since);
        let templates = lacking().filter(|definition| !own.contains(&definition.template_id));
        let records = self.options.peek(&key).into_iter().flat_map(|options| options.since(since));
        let records = records.filter(|(template_id, _)| !own.contains(template_id));
        let payloads = repeats(datagram.payload, templates, records)?;
        let sent = progress.interruption(recipient).filter(|interruption| {
            let last = payloads.get(interruption.count.wrapping_sub(1));
            last.is_some_and(|payload| self.hash(payload) == interruption.last)
        });
        Some(Repeats {
            sent: sent.map_or(0, |interruption| interruption.count),
            payloads,
            key,
            since,
            revision: domain.revision,
            awaits_datagram: lacking().any(|definition| own.contains(&definition.template_id)),
        })
    }

    /// Records that the first `count` of the `repeats` were sent to `recipient`.
    pub fn note_repeated(&mut self, repeats: &Repeats, count: usize, recipient: &Recipient, now: Instant) {
        let last = repeats.payloads.get(count.wrapping_sub(1)).map_or(0, |payload| self.hash(payload));
        let Some(domain) = self.domains.peek_mut(&repeats.key) else { return };
        let Some(progress) = domain.progress.get_mut(recipient.place) else { return };
        if count < repeats.payloads.len() {
            progress.interrupt(recipient, repeats.since, count, last);
        } else {
            progress.finish(recipient, repeats.revision, repeats.awaits_datagram, now);
        }
    }

    /// Records that the recipient at this place may lack any definition of the domain of `datagram`.
    pub fn forget_progress(&mut self, datagram: &Datagram<'_>, place: usize) {
        let Some((address, _)) = domain_of(datagram) else { return };
        let key = self.resolve(address, datagram.exporter.port());
        let domain = self.domains.peek_mut(&key);
        if let Some(progress) = domain.and_then(|domain| domain.progress.get_mut(place)) {
            *progress = RecipientProgress::default();
        }
    }

    fn hash(&self, payload: &Vec<u8>) -> u64 {
        self.hasher.hash_one(payload)
    }
}

/// The changes in the template sets of `payload`, in their order.
fn changes(payload: &[u8]) -> impl Iterator<Item = TemplateChange<'_>> {
    Sets::parse(payload).into_iter().flatten().flat_map(|set| TemplateChanges::of(&set))
}
