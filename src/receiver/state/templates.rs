//! The templates and options data of all exporters, as each collector has seen them, for collectors that
//! restart.
//!
//! They are kept by sender and collector. Exporters of two senders may have the same address, and two
//! collectors may be hours apart in one stream.

mod dirty_file;
mod file;
mod learner;
mod passed_on;
mod usage;

use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use nf_transport_core::netflow::{Kept, News, TemplateMemory};
use nf_transport_core::sequence::SenderId;

use crate::host::locked;
use crate::limits::SENDER_ENTRIES_MAX;
use crate::receiver::output::{OutputName, PassedOn};
use crate::receiver::state::templates::dirty_file::DirtyFile;
use crate::receiver::state::templates::learner::LearnerOwner;
pub(crate) use crate::receiver::state::templates::learner::TemplateLearner;
use crate::receiver::state::templates::usage::{MemoryKind, MemoryUsage};

/// The file of templates, and that of options data.
const TEMPLATES_FILE: &str = "templates.json";
const OPTIONS_FILE: &str = "options.json";

/// Shortest intervals between two writes of the files; an orderly stop does not wait for them. Options data
/// may be large, and changes with each refresh.
const TEMPLATES_KEPT_EVERY: Duration = Duration::from_secs(10);
const OPTIONS_KEPT_EVERY: Duration = Duration::from_secs(300);

/// If memory is full, this fraction of the bound is freed in addition, so that not every new template
/// triggers a search.
const FREED_AT_ONCE: usize = 16;

/// The templates of all collectors.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    learners: Mutex<HashMap<SenderId, Vec<Arc<TemplateLearner>>>>,
    /// Sum over all learners.
    usage: MemoryUsage,
    on_disk: DirtyFile,
    options_on_disk: DirtyFile,
    /// State handed over by the last run, of collectors without an output so far.
    passed_on: Mutex<HashMap<OutputName, PassedOn>>,
}

/// Returns the templates that a run of nf-receiver stored in the state directory, with the sender of each and
/// the collectors that have seen them. Empty if they cannot be read. Changes nothing.
pub(crate) fn kept_in(state_directory: &Path) -> Vec<(String, Vec<OutputName>, Kept)> {
    let rows = file::look(state_directory, TEMPLATES_FILE);
    rows.into_iter().map(|row| (row.sender, row.collectors, row.kept)).collect()
}

impl Templates {
    /// Recovers the state of the last run from the files in the state directory.
    pub(crate) fn recovered(state_directory: &Path) -> Arc<Self> {
        let templates = Arc::<Self>::default();
        let (rows, is_news) = file::read(state_directory, TEMPLATES_FILE);
        templates.restore(&rows, TemplateMemory::restore_templates);
        templates.on_disk.is_dirty.store(is_news, Ordering::Relaxed);
        let (rows, is_news) = file::read(state_directory, OPTIONS_FILE);
        templates.restore(&rows, TemplateMemory::restore_options);
        templates.options_on_disk.is_dirty.store(is_news, Ordering::Relaxed);
        templates.make_room();
        templates.restore_passed_on(state_directory);
        templates
    }

    fn restore_passed_on(self: &Arc<Self>, state_directory: &Path) {
        let mut learners = self.learners();
        let learner = |sender: &SenderId, collector: &OutputName| {
            self.find_or_add(learners.entry(sender.clone()).or_default(), sender, collector).0
        };
        let passed_on = passed_on::read(state_directory, learner);
        *locked(&self.passed_on) = passed_on;
    }

    fn restore(self: &Arc<Self>, rows: &[file::TemplateRow], restore: fn(&mut TemplateMemory, &Kept)) {
        let mut learners = self.learners();
        for row in rows {
            let Ok(sender) = row.sender.parse::<SenderId>() else { continue };
            let of_sender = learners.entry(sender.clone()).or_default();
            for collector in &row.collectors {
                let learner = self.find_or_add(of_sender, &sender, collector).0;
                learner.change(|memory| restore(memory, &row.kept));
            }
        }
    }

    /// Returns the learner of this sender at each of `collectors`, in their order. A new one copies `model`,
    /// or the learner with most templates at any other collector. Learners of other collectors are dropped.
    pub(crate) fn of_sender(
        self: &Arc<Self>,
        sender: &SenderId,
        collectors: impl IntoIterator<Item = OutputName>,
        model: Option<&TemplateLearner>,
    ) -> Vec<Arc<TemplateLearner>> {
        let mut all = self.learners();
        if all.len() >= SENDER_ENTRIES_MAX && !all.contains_key(sender) {
            all.retain(|_, learners| learners.iter().any(TemplateLearner::is_needed));
        }
        let known = all.entry(sender.clone()).or_default();
        let fullest = known.iter().max_by_key(|learner| learner.bytes(MemoryKind::Templates)).cloned();
        let model = model.or(fullest.as_deref());
        let mut wanted = Vec::new();
        for collector in collectors {
            let (learner, is_new) = self.find_or_add(known, sender, &collector);
            if let Some(model) = model.filter(|_| is_new) {
                learner.copy(model);
            }
            wanted.push(learner);
        }
        known.clone_from(&wanted);
        wanted
    }

    /// Returns the learner for a collector among those that are `known`, or adds one. The flag is `true` for
    /// an added one.
    fn find_or_add(
        self: &Arc<Self>,
        known: &mut Vec<Arc<TemplateLearner>>,
        sender: &SenderId,
        collector: &OutputName,
    ) -> (Arc<TemplateLearner>, bool) {
        if let Some(learner) = known.iter().find(|learner| learner.collector() == collector) {
            return (learner.clone(), false);
        }
        let owner: Weak<Self> = Arc::downgrade(self);
        let new = Arc::new(TemplateLearner::new(sender.clone(), collector.clone(), owner));
        known.push(new.clone());
        (new, true)
    }

    /// Returns whether [`Self::keep_at_times`] has anything to write.
    pub(crate) fn is_due(&self) -> bool {
        self.on_disk.is_due(TEMPLATES_KEPT_EVERY) || self.options_on_disk.is_due(OPTIONS_KEPT_EVERY)
    }

    /// Writes the files that are dirty, unless they were written recently. Blocks.
    pub(crate) fn keep_at_times(&self, state_directory: &Path) -> io::Result<()> {
        if self.on_disk.begin_if_due(TEMPLATES_KEPT_EVERY) {
            self.keep_templates(state_directory)?;
        }
        if self.options_on_disk.begin_if_due(OPTIONS_KEPT_EVERY) {
            self.keep_options(state_directory)?;
        }
        Ok(())
    }

    /// Writes the files that are dirty. Blocks.
    pub(crate) fn keep(&self, state_directory: &Path) -> io::Result<()> {
        self.keep_templates(state_directory)?;
        self.keep_options(state_directory)
    }

    fn keep_templates(&self, state_directory: &Path) -> io::Result<()> {
        self.on_disk.keep(|| {
            let rows = self.rows(|memory| memory.kept_templates().collect());
            file::write(state_directory, TEMPLATES_FILE, rows)
        })
    }

    fn keep_options(&self, state_directory: &Path) -> io::Result<()> {
        self.options_on_disk.keep(|| {
            let rows = self.rows(|memory| memory.kept_options().collect());
            file::write(state_directory, OPTIONS_FILE, rows)
        })
    }

    /// Returns the entries that `kept` extracts from each memory, with its sender and collector.
    fn rows(
        &self,
        kept: impl Fn(&TemplateMemory) -> Vec<Kept>,
    ) -> impl Iterator<Item = (String, OutputName, Kept)> {
        let learners: Vec<_> = self.learners().values().flatten().cloned().collect();
        learners.into_iter().flat_map(move |learner| {
            let rows = kept(&learner.memory());
            rows.into_iter()
                .map(move |kept| (learner.sender().to_string(), learner.collector().clone(), kept))
        })
    }

    /// Takes the state that the last run handed over for this collector. Returns it only once.
    pub(in crate::receiver) fn take_passed_on(&self, collector: &OutputName) -> Option<PassedOn> {
        locked(&self.passed_on).remove(collector)
    }

    /// Stores, at an orderly stop, the state of these collectors for the next run.
    pub(crate) fn pass_on(
        &self,
        state_directory: &Path,
        collectors: impl Iterator<Item = (OutputName, PassedOn)>,
    ) -> io::Result<()> {
        let learners: Vec<_> = self.learners().values().flatten().cloned().collect();
        passed_on::write(state_directory, collectors, &learners)
    }

    /// Returns the templates that this collector has seen of exporters in `had`, with the ids of the senders.
    /// `had` lists the exporters whose datagrams it got, each with the number of its sender.
    pub(crate) fn delivered(
        &self,
        collector: &OutputName,
        had: &HashSet<(u64, IpAddr)>,
    ) -> Vec<(String, Kept)> {
        let learners: Vec<_> = self.learners().values().flatten().cloned().collect();
        let of_collector = learners.into_iter().filter(|learner| learner.collector() == collector);
        let rows = of_collector.flat_map(|learner| {
            let kept: Vec<Kept> = learner.memory().kept_templates().collect();
            let delivered = kept.into_iter().filter(|kept| had.contains(&(learner.number(), kept.exporter)));
            delivered.map(|kept| (learner.sender().to_string(), kept)).collect::<Vec<_>>()
        });
        rows.collect()
    }

    fn learners(&self) -> MutexGuard<'_, HashMap<SenderId, Vec<Arc<TemplateLearner>>>> {
        locked(&self.learners)
    }
}

impl LearnerOwner for Templates {
    fn usage(&self) -> &MemoryUsage {
        &self.usage
    }

    fn note_dirty(&self, news: News) {
        self.on_disk.is_dirty.fetch_or(news.templates, Ordering::Relaxed);
        self.options_on_disk.is_dirty.fetch_or(news.options, Ordering::Relaxed);
    }

    /// Enforces the bounds of all memories together: the sender and collector that use most make room.
    fn make_room(&self) {
        for kind in MemoryKind::ALL {
            let mut surplus = self.usage.bytes(kind).saturating_sub(kind.bound());
            if surplus > 0 {
                surplus += kind.bound() / FREED_AT_ONCE;
            }
            while surplus > 0 {
                let learners: Vec<_> = self.learners().values().flatten().cloned().collect();
                let largest = learners.iter().max_by_key(|learner| learner.bytes(kind));
                let freed = largest.map_or(0, |learner| learner.shrink(kind, surplus));
                if freed == 0 {
                    break;
                }
                surplus = surplus.saturating_sub(freed);
            }
        }
    }
}

#[cfg(test)]
impl Templates {
    /// A learner of a sender that has seen `datagrams`, on their way to a collector.
    pub(crate) fn learned(
        collector: OutputName,
        datagrams: &[nf_transport_core::datagram::Datagram<'_>],
    ) -> (Arc<Self>, Arc<TemplateLearner>) {
        let templates = Arc::<Self>::default();
        let learner = templates.of_sender(&test_sender(), [collector], None).remove(0);
        learner.learn(datagrams, None);
        (templates, learner)
    }
}

#[cfg(test)]
pub(crate) fn test_sender() -> SenderId {
    "edge".parse().expect("an id")
}

/// A NetFlow v9 datagram of sequence 7 and source 1 that defines template 256 with one field of four bytes,
/// or that has a record of it.
#[cfg(test)]
pub(crate) fn netflow_9(defines: bool) -> Vec<u8> {
    let mut payload = vec![0, 9, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 1];
    if defines {
        payload.extend([0, 0, 0, 12, 1, 0, 0, 1, 0, 1, 0, 4]);
    } else {
        payload.extend([1, 0, 0, 8, 0, 0, 0, 9]);
    }
    payload
}

#[cfg(test)]
mod tests;
