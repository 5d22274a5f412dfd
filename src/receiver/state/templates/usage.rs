//! Memory used by templates and options data.

use std::sync::atomic::{AtomicUsize, Ordering};

use nf_transport_core::netflow::TemplateMemory;

use crate::limits::{OPTIONS_TOTAL, TEMPLATES_TOTAL};

/// A kind of memory, with a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryKind {
    Templates,
    Options,
}

impl MemoryKind {
    pub(super) const ALL: [Self; 2] = [Self::Templates, Self::Options];

    /// Returns the bound in bytes for all memories together.
    pub(super) fn bound(self) -> usize {
        match self {
            Self::Templates => TEMPLATES_TOTAL,
            Self::Options => OPTIONS_TOTAL,
        }
    }

    /// Returns the bytes of this kind that `memory` uses.
    pub(super) fn bytes_of(self, memory: &TemplateMemory) -> usize {
        let (templates, options) = memory.bytes();
        match self {
            Self::Templates => templates,
            Self::Options => options,
        }
    }

    /// Forgets the oldest entry of this kind. Returns `false` if there is none.
    pub(super) fn forget_oldest(self, memory: &mut TemplateMemory) -> bool {
        match self {
            Self::Templates => memory.forget_oldest(),
            Self::Options => memory.forget_oldest_options(),
        }
    }
}

/// Bytes by kind.
#[derive(Debug, Default)]
pub(super) struct MemoryUsage {
    templates: AtomicUsize,
    options: AtomicUsize,
}

impl MemoryUsage {
    pub(super) fn bytes(&self, kind: MemoryKind) -> usize {
        self.counter(kind).load(Ordering::Relaxed)
    }

    /// Replaces the value by `bytes`. Returns the previous value.
    pub(super) fn replace(&self, kind: MemoryKind, bytes: usize) -> usize {
        self.counter(kind).swap(bytes, Ordering::Relaxed)
    }

    /// Adds `more`, then subtracts `less`, so that the value never underflows.
    pub(super) fn change(&self, kind: MemoryKind, more: usize, less: usize) {
        self.counter(kind).fetch_add(more, Ordering::Relaxed);
        self.counter(kind).fetch_sub(less, Ordering::Relaxed);
    }

    fn counter(&self, kind: MemoryKind) -> &AtomicUsize {
        match kind {
            MemoryKind::Templates => &self.templates,
            MemoryKind::Options => &self.options,
        }
    }
}
