//! What one collector has seen of the exporters of one sender.

use core::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use nf_transport_core::datagram::Datagram;
use nf_transport_core::netflow::{Recipient, Repeats, TemplateMemory};
use nf_transport_core::sequence::SenderId;

use crate::receiver::state::templates::usage::{Kind, Usage};
use crate::receiver::state::templates::{Templates, next_number};

/// Learns templates and options data as the datagrams of one sender reach one collector, or are skipped for it. So it knows
/// what is in force at the collector's own position in the stream, wherever other collectors are.
pub(crate) struct TemplateLearner {
    sender: SenderId,
    collector: SocketAddr,
    /// Unique among the senders at the collector's sockets.
    number: u64,
    memory: Mutex<TemplateMemory>,
    usage: Usage,
    templates: Weak<Templates>,
}

impl TemplateLearner {
    pub(super) fn new(sender: SenderId, collector: SocketAddr, templates: Weak<Templates>) -> Self {
        Self {
            sender,
            collector,
            number: next_number(),
            memory: Mutex::default(),
            usage: Usage::default(),
            templates,
        }
    }

    pub(super) fn sender(&self) -> &SenderId {
        &self.sender
    }

    /// Whether a stream uses it, or it knows anything.
    pub(super) fn is_needed(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || Kind::ALL.into_iter().any(|kind| self.bytes(kind) > 0)
    }

    pub(super) fn collector(&self) -> SocketAddr {
        self.collector
    }

    /// Unique among the senders at the collector's sockets.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Learns what `datagrams` define, which went to `recipient`, or to nobody.
    pub(crate) fn learn<'d>(
        &self,
        datagrams: impl IntoIterator<Item = &'d Datagram<'d>>,
        recipient: Option<&Recipient>,
    ) {
        let mut memory = self.memory();
        let news = memory.note(datagrams, recipient);
        if !news.templates && !news.options {
            return;
        }
        let has_grown = self.note_usage(&memory);
        drop(memory);
        let Some(templates) = self.templates.upgrade() else { return };
        templates.note_news(news);
        if has_grown {
            templates.make_room();
        }
    }

    /// As [`TemplateMemory::before`].
    pub(crate) fn before(
        &self,
        run: &[Datagram<'_>],
        recipient: &Recipient,
        now: Instant,
    ) -> Option<(usize, Repeats)> {
        self.memory().before(run, recipient, now)
    }

    /// As [`TemplateMemory::note_repeated`].
    pub(crate) fn note_repeated(&self, repeats: &Repeats, count: usize, recipient: &Recipient, now: Instant) {
        self.memory().note_repeated(repeats, count, recipient, now);
    }

    /// As [`TemplateMemory::forget_progress`].
    pub(crate) fn forget_progress(&self, datagram: &Datagram<'_>, place: usize) {
        self.memory().forget_progress(datagram, place);
    }

    /// From now on it knows what `other` knows, of which no recipient has anything.
    pub(crate) fn copy(&self, other: &Self) {
        if !core::ptr::eq(self, other) {
            let copied = other.memory().copied();
            self.change(|memory| *memory = copied);
        }
    }

    /// Changes what it knows, otherwise than by learning.
    pub(super) fn change(&self, change: impl FnOnce(&mut TemplateMemory)) {
        let mut memory = self.memory();
        change(&mut memory);
        self.note_usage(&memory);
    }

    /// Forgets the oldest of this kind until `surplus` bytes are free, or nothing is left. Returns how many are free.
    pub(super) fn shrink(&self, kind: Kind, surplus: usize) -> usize {
        let before = self.bytes(kind);
        self.change(|memory| {
            while before.saturating_sub(kind.bytes_of(memory)) < surplus && kind.forget_oldest(memory) {}
        });
        before.saturating_sub(self.bytes(kind))
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self, kind: Kind) -> usize {
        self.usage.of(kind)
    }

    /// Keeps the account up to date. Returns whether more is taken than before.
    fn note_usage(&self, memory: &TemplateMemory) -> bool {
        let templates = self.templates.upgrade();
        let mut has_grown = false;
        for kind in Kind::ALL {
            let bytes = kind.bytes_of(memory);
            let before = self.usage.replace(kind, bytes);
            if let Some(templates) = &templates {
                templates.usage.change(kind, bytes, before);
            }
            has_grown |= bytes > before;
        }
        has_grown
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, TemplateMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TemplateLearner {
    fn drop(&mut self) {
        if let Some(templates) = self.templates.upgrade() {
            for kind in Kind::ALL {
                templates.usage.change(kind, 0, self.bytes(kind));
            }
        }
    }
}

impl fmt::Debug for TemplateLearner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {:?}", self.sender, self.collector, self.memory())
    }
}
