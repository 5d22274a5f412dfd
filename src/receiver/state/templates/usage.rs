//! How much memory templates and options data take.

use std::sync::atomic::{AtomicUsize, Ordering};

use nf_transport_core::netflow::TemplateMemory;

use crate::limits::{OPTIONS_TOTAL, TEMPLATES_TOTAL};

/// What takes memory, each with a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Templates,
    Options,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Templates, Self::Options];

    /// Bytes that all memories together may take.
    pub(super) fn bound(self) -> usize {
        match self {
            Self::Templates => TEMPLATES_TOTAL,
            Self::Options => OPTIONS_TOTAL,
        }
    }

    /// Bytes that `memory` takes.
    pub(super) fn bytes_of(self, memory: &TemplateMemory) -> usize {
        let (templates, options) = memory.bytes();
        match self {
            Self::Templates => templates,
            Self::Options => options,
        }
    }

    /// Forgets the oldest of it; false if there is none.
    pub(super) fn forget_oldest(self, memory: &mut TemplateMemory) -> bool {
        match self {
            Self::Templates => memory.forget_oldest(),
            Self::Options => memory.forget_oldest_options(),
        }
    }
}

/// Bytes by kind.
#[derive(Debug, Default)]
pub(super) struct Usage {
    templates: AtomicUsize,
    options: AtomicUsize,
}

impl Usage {
    pub(super) fn of(&self, kind: Kind) -> usize {
        self.counter(kind).load(Ordering::Relaxed)
    }

    /// Replaces the value by `bytes`, and returns the one before.
    pub(super) fn replace(&self, kind: Kind, bytes: usize) -> usize {
        self.counter(kind).swap(bytes, Ordering::Relaxed)
    }

    /// Adds `more`, then takes `less` away.
    pub(super) fn change(&self, kind: Kind, more: usize, less: usize) {
        self.counter(kind).fetch_add(more, Ordering::Relaxed);
        self.counter(kind).fetch_sub(less, Ordering::Relaxed);
    }

    fn counter(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Templates => &self.templates,
            Kind::Options => &self.options,
        }
    }
}
