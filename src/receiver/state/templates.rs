//! The templates and options data of all exporters, as each collector has seen them, for collectors that restart.
//!
//! Kept by sender and collector: senders may have exporters with the same addresses, and collectors may be hours apart in
//! one stream.

mod file;
mod learner;
mod passed_on;
mod usage;

use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nf_transport_core::netflow::{Kept, News, TemplateMemory};
use nf_transport_core::sequence::SenderId;

use crate::limits::SENDER_ENTRIES_MAX;
use crate::receiver::output::{Outputs, PassedOn};
pub(crate) use crate::receiver::state::templates::learner::TemplateLearner;
use crate::receiver::state::templates::usage::{Kind, Usage};

/// The file of templates, and that of options data.
const TEMPLATES_FILE: &str = "templates.json";
const OPTIONS_FILE: &str = "options.json";

/// How often the files are written at most, except at the end. Options data may be large, and change with each refresh.
const TEMPLATES_KEPT_EVERY: Duration = Duration::from_secs(10);
const OPTIONS_KEPT_EVERY: Duration = Duration::from_secs(300);

/// Where memory is full, more than needed is freed, so that not each new template takes a search.
const FREED_AT_ONCE: usize = 16;

/// A number that is higher than all before it in this process.
pub(crate) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A file that is written if there is news, and not too often.
#[derive(Debug, Default)]
struct NewsFile {
    /// Whether the file is older than what is known.
    is_news: AtomicBool,
    /// When it was written last.
    written: Mutex<Option<Instant>>,
}

impl NewsFile {
    /// Whether it is to be written, if it was not written within `every`. A disk that refuses is not asked more often.
    fn is_due(&self, every: Duration) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due =
            self.is_news.load(Ordering::Relaxed) && written.is_none_or(|last| last.elapsed() >= every);
        if is_due {
            *written = Some(Instant::now());
        }
        is_due
    }

    /// Calls `write` if there is news.
    fn keep(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if !self.is_news.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let outcome = write();
        if outcome.is_err() {
            self.is_news.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

/// What all collectors have seen.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    learners: Mutex<HashMap<SenderId, Vec<Arc<TemplateLearner>>>>,
    /// Of all learners.
    usage: Usage,
    on_disk: NewsFile,
    options_on_disk: NewsFile,
    /// What the last run passed on about collectors that have no output yet.
    passed_on: Mutex<HashMap<SocketAddr, PassedOn>>,
}

/// The templates that a run of nf-receiver has kept in the state directory, with the sender of each and the collectors that have
/// seen them. Empty if they cannot be read. Changes nothing.
pub(crate) fn kept_in(state_directory: &Path) -> Vec<(String, Vec<SocketAddr>, Kept)> {
    let rows = file::look(state_directory, TEMPLATES_FILE);
    rows.into_iter().map(|row| (row.sender, row.collectors, row.kept)).collect()
}

impl Templates {
    /// What the last run knew, from the files in the state directory.
    pub(crate) fn recovered(state_directory: &Path) -> Arc<Self> {
        let templates = Arc::<Self>::default();
        let (rows, is_news) = file::read(state_directory, TEMPLATES_FILE);
        templates.restore(&rows, TemplateMemory::restore_templates);
        templates.on_disk.is_news.store(is_news, Ordering::Relaxed);
        let (rows, is_news) = file::read(state_directory, OPTIONS_FILE);
        templates.restore(&rows, TemplateMemory::restore_options);
        templates.options_on_disk.is_news.store(is_news, Ordering::Relaxed);
        templates.make_room();
        templates.restore_passed_on(state_directory);
        templates
    }

    fn restore_passed_on(self: &Arc<Self>, state_directory: &Path) {
        let mut learners = self.learners();
        let learner = |sender: &SenderId, collector| {
            self.find_or_add(learners.entry(sender.clone()).or_default(), sender, collector).0
        };
        let passed_on = passed_on::read(state_directory, learner);
        *self.passed_on.lock().unwrap_or_else(PoisonError::into_inner) = passed_on;
    }

    fn restore(self: &Arc<Self>, rows: &[file::Row], restore: fn(&mut TemplateMemory, &Kept)) {
        let mut learners = self.learners();
        for row in rows {
            let Ok(sender) = row.sender.parse::<SenderId>() else { continue };
            let of_sender = learners.entry(sender.clone()).or_default();
            for collector in &row.collectors {
                let learner = self.find_or_add(of_sender, &sender, *collector).0;
                learner.change(|memory| restore(memory, &row.kept));
            }
        }
    }

    /// The learner of this sender at each of its collectors, in their order. A new one begins with what `model` knows, else
    /// with what is known at any other collector. Those of other collectors are forgotten.
    pub(crate) fn of_sender(
        self: &Arc<Self>,
        sender: &SenderId,
        collectors: impl IntoIterator<Item = SocketAddr>,
        model: Option<&TemplateLearner>,
    ) -> Vec<Arc<TemplateLearner>> {
        let mut all = self.learners();
        if all.len() >= SENDER_ENTRIES_MAX && !all.contains_key(sender) {
            all.retain(|_, learners| learners.iter().any(TemplateLearner::is_needed));
        }
        let known = all.entry(sender.clone()).or_default();
        let fullest = known.iter().max_by_key(|learner| learner.bytes(Kind::Templates)).cloned();
        let model = model.or(fullest.as_deref());
        let mut wanted = Vec::new();
        for collector in collectors {
            let (learner, is_new) = self.find_or_add(known, sender, collector);
            if let Some(model) = model.filter(|_| is_new) {
                learner.copy(model);
            }
            wanted.push(learner);
        }
        known.clone_from(&wanted);
        wanted
    }

    /// The learner for a collector among those that are `known`, and whether it was not.
    fn find_or_add(
        self: &Arc<Self>,
        known: &mut Vec<Arc<TemplateLearner>>,
        sender: &SenderId,
        collector: SocketAddr,
    ) -> (Arc<TemplateLearner>, bool) {
        if let Some(learner) = known.iter().find(|learner| learner.collector() == collector) {
            return (learner.clone(), false);
        }
        let new = Arc::new(TemplateLearner::new(sender.clone(), collector, Arc::downgrade(self)));
        known.push(new.clone());
        (new, true)
    }

    fn note_news(&self, news: News) {
        self.on_disk.is_news.fetch_or(news.templates, Ordering::Relaxed);
        self.options_on_disk.is_news.fetch_or(news.options, Ordering::Relaxed);
    }

    /// Keeps the bounds of all memories together: the sender and collector that take most make room.
    fn make_room(&self) {
        for kind in Kind::ALL {
            let mut surplus = self.usage.of(kind).saturating_sub(kind.bound());
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

    /// Writes the files, if there is news and they were not written shortly before. Blocks: call it where that is allowed.
    pub(crate) fn keep_at_times(&self, state_directory: &Path) -> io::Result<()> {
        if self.on_disk.is_due(TEMPLATES_KEPT_EVERY) {
            self.keep_templates(state_directory)?;
        }
        if self.options_on_disk.is_due(OPTIONS_KEPT_EVERY) {
            self.keep_options(state_directory)?;
        }
        Ok(())
    }

    /// Writes the files, if there is news. Blocks.
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

    /// What `kept` takes of each memory, with its sender and collector.
    fn rows(
        &self,
        kept: impl Fn(&TemplateMemory) -> Vec<Kept>,
    ) -> impl Iterator<Item = (String, SocketAddr, Kept)> {
        let learners: Vec<_> = self.learners().values().flatten().cloned().collect();
        learners.into_iter().flat_map(move |learner| {
            let rows = kept(&learner.memory());
            rows.into_iter().map(move |kept| (learner.sender().to_string(), learner.collector(), kept))
        })
    }

    /// What the last run passed on about the collector at this address. Given once.
    pub(in crate::receiver) fn take_passed_on(&self, collector: SocketAddr) -> Option<PassedOn> {
        self.passed_on.lock().unwrap_or_else(PoisonError::into_inner).remove(&collector)
    }

    /// Passes on, at an orderly stop, what the next run has to know about these collectors.
    pub(crate) fn pass_on(&self, state_directory: &Path, outputs: &Outputs) -> io::Result<()> {
        let learners: Vec<_> = self.learners().values().flatten().cloned().collect();
        passed_on::write(state_directory, outputs, &learners)
    }

    /// The templates that the collector at this address has seen of exporters whose datagrams it got: those in `had`, each with the
    /// number of its sender. With the ids of the senders.
    pub(crate) fn delivered(
        &self,
        collector: SocketAddr,
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
        self.learners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Templates {
    /// What `datagrams` of a sender define, on their way to a collector.
    pub(crate) fn learned(
        collector: SocketAddr,
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

/// A NetFlow v9 datagram of sequence 7 and source 1 that defines template 256 with one field of four bytes, or that has
/// a record of it.
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
