//! The templates that one collector has seen of the exporters of one sender.

use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use nf_transport_core::datagram::Datagram;
use nf_transport_core::netflow::{News, Recipient, Repeats, TemplateMemory};
use nf_transport_core::sequence::SenderId;

use crate::host::locked;
use crate::receiver::numbers::next_number;
use crate::receiver::output::OutputName;
use crate::receiver::state::templates::usage::{MemoryKind, MemoryUsage};

/// Learns templates and options data as datagrams of one sender are sent to one collector, or skipped for it.
/// So it knows the definitions in force at that collector's offset in the stream, independent of other
/// collectors.
pub(crate) struct TemplateLearner {
    sender: SenderId,
    collector: OutputName,
    /// Unique among the senders at the collector's sockets.
    number: u64,
    memory: Mutex<TemplateMemory>,
    usage: MemoryUsage,
    templates: Weak<dyn LearnerOwner>,
}

impl TemplateLearner {
    pub(super) fn new(sender: SenderId, collector: OutputName, templates: Weak<dyn LearnerOwner>) -> Self {
        Self {
            sender,
            collector,
            number: next_number(),
            memory: Mutex::default(),
            usage: MemoryUsage::default(),
            templates,
        }
    }

    pub(super) fn sender(&self) -> &SenderId {
        &self.sender
    }

    /// Returns whether a stream uses it, or it has learned anything.
    pub(super) fn is_needed(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || MemoryKind::ALL.into_iter().any(|kind| self.bytes(kind) > 0)
    }

    pub(super) fn collector(&self) -> &OutputName {
        &self.collector
    }

    /// Unique among the senders at the collector's sockets.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Learns the definitions in `datagrams`, which were sent to `recipient`, or skipped if that is `None`.
    pub(crate) fn learn<'d>(
        &self,
        datagrams: impl IntoIterator<Item = &'d Datagram<'d>>,
        recipient: Option<&Recipient>,
    ) {
        let mut memory = self.memory();
        let news = memory.learn(datagrams, recipient);
        if !news.templates && !news.options {
            return;
        }
        let has_grown = self.note_usage(&memory);
        drop(memory);
        let Some(templates) = self.templates.upgrade() else { return };
        templates.note_dirty(news);
        if has_grown {
            templates.make_room();
        }
    }

    /// See [`TemplateMemory::before`].
    pub(crate) fn before(
        &self,
        run: &[Datagram<'_>],
        recipient: &Recipient,
        now: Instant,
    ) -> Option<(usize, Repeats)> {
        self.memory().before(run, recipient, now)
    }

    /// See [`TemplateMemory::note_repeated`].
    pub(crate) fn note_repeated(&self, repeats: &Repeats, count: usize, recipient: &Recipient, now: Instant) {
        self.memory().note_repeated(repeats, count, recipient, now);
    }

    /// See [`TemplateMemory::forget_progress`].
    pub(crate) fn forget_progress(&self, datagram: &Datagram<'_>, place: usize) {
        self.memory().forget_progress(datagram, place);
    }

    /// Replaces its definitions by those of `other`, of which no recipient has any.
    pub(crate) fn copy(&self, other: &Self) {
        if !core::ptr::eq(self, other) {
            let copied = other.memory().copied();
            self.change(|memory| *memory = copied);
        }
    }

    /// Changes its memory otherwise than by learning.
    pub(super) fn change(&self, change: impl FnOnce(&mut TemplateMemory)) {
        let mut memory = self.memory();
        change(&mut memory);
        self.note_usage(&memory);
    }

    /// Forgets the oldest entries of this kind until `surplus` bytes are free, or none are left. Returns the
    /// bytes freed.
    pub(super) fn shrink(&self, kind: MemoryKind, surplus: usize) -> usize {
        let before = self.bytes(kind);
        self.change(|memory| {
            while before.saturating_sub(kind.bytes_of(memory)) < surplus && kind.forget_oldest(memory) {}
        });
        before.saturating_sub(self.bytes(kind))
    }

    /// Returns the bytes that it uses.
    pub(super) fn bytes(&self, kind: MemoryKind) -> usize {
        self.usage.bytes(kind)
    }

    /// Updates the account of memory. Returns whether the memory has grown.
    fn note_usage(&self, memory: &TemplateMemory) -> bool {
        let templates = self.templates.upgrade();
        let mut has_grown = false;
        for kind in MemoryKind::ALL {
            let bytes = kind.bytes_of(memory);
            let before = self.usage.replace(kind, bytes);
            if let Some(templates) = &templates {
                templates.usage().change(kind, bytes, before);
            }
            has_grown |= bytes > before;
        }
        has_grown
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, TemplateMemory> {
        locked(&self.memory)
    }
}

/// The owner of all learners, which enforces the bounds of their memory.
pub(super) trait LearnerOwner: Send + Sync {
    /// Returns the sum of the memory of all learners.
    fn usage(&self) -> &MemoryUsage;

    /// Notes that the state files lack `news`.
    fn note_dirty(&self, news: News);

    /// Frees memory if a bound is exceeded.
    fn make_room(&self);
}

impl Drop for TemplateLearner {
    fn drop(&mut self) {
        if let Some(templates) = self.templates.upgrade() {
            for kind in MemoryKind::ALL {
                templates.usage().change(kind, 0, self.bytes(kind));
            }
        }
    }
}

impl fmt::Debug for TemplateLearner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {:?}", self.sender, self.collector, self.memory())
    }
}
