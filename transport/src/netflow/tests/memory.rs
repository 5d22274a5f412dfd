//! Memories of templates and options data for the tests, and collectors that have got some of them.

use core::net::SocketAddr;
use std::time::Instant;

use super::datagram;
use crate::datagram::Datagram;
use crate::netflow::{Recipient, TemplateMemory};

/// A collector of this generation, at the first of its addresses.
pub(super) fn collector(generation: u64) -> Recipient {
    Recipient { place: 0, generation, socket: generation + 1, has_moved: false }
}

/// The address of another exporter.
pub(super) fn host(number: u8) -> SocketAddr {
    ([192, 0, 2, number], 1).into()
}

/// A datagram of another exporter.
pub(super) fn of_host(number: u8, payload: &[u8]) -> Datagram<'_> {
    Datagram { exporter: host(number), ..datagram(1, payload) }
}

/// Learns from a datagram that nobody gets. Returns true if that changed anything.
pub(super) fn learn(memory: &mut TemplateMemory, datagram: Datagram<'_>) -> bool {
    let news = memory.learn([&datagram], None);
    news.templates || news.options
}

/// A memory that has noted `payloads` of exporter 1.
pub(super) fn memory_of(payloads: &[Vec<u8>]) -> TemplateMemory {
    let mut memory = TemplateMemory::default();
    for payload in payloads {
        learn(&mut memory, datagram(1, payload));
    }
    memory
}

/// The ids of the templates of every exporter.
pub(super) fn ids(memory: &TemplateMemory) -> Vec<u16> {
    memory.kept_templates().flat_map(|kept| kept.templates).map(|template| template.template_id).collect()
}

/// The repeats before `datagram` to `recipient`.
pub(super) fn due(memory: &TemplateMemory, datagram: &Datagram<'_>, recipient: &Recipient) -> Vec<Vec<u8>> {
    let repeats = memory.before(core::slice::from_ref(datagram), recipient, Instant::now());
    repeats.map_or_else(Vec::new, |(_, repeats)| repeats.payloads)
}

/// The repeats before `datagram` to a collector that has nothing.
pub(super) fn before(memory: &TemplateMemory, datagram: &Datagram<'_>) -> Vec<Vec<u8>> {
    due(memory, datagram, &collector(1))
}

/// Sends `datagram` and the repeats before it to `recipient`. Returns the number of repeats.
pub(super) fn deliver(
    memory: &mut TemplateMemory,
    datagram: &Datagram<'_>,
    recipient: &Recipient,
    now: Instant,
) -> usize {
    let mut count = 0;
    if let Some((_, repeats)) = memory.before(core::slice::from_ref(datagram), recipient, now) {
        count = repeats.payloads.len() - repeats.sent;
        memory.note_repeated(&repeats, repeats.payloads.len(), recipient, now);
    }
    memory.learn([datagram], Some(recipient));
    count
}
