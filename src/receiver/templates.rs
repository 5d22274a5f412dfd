//! The templates of all exporters, for collectors that come back, and kept from one run to the next.
//!
//! What exporters define is learned as it passes. `templates.json` in the state directory holds it: written whole beside the
//! file before it, which it then replaces. Without the file, or with a damaged one, collectors wait for the exporters' next
//! refresh, as they would without this.

use core::time::Duration;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::config::WhenDown;
use crate::datagram::Datagram;
use crate::netflow::{Kept, TemplateMemory, changes_templates};
use crate::receiver::newer_state::{self, State};
use crate::sequence::Position;

/// How often the file is written at the most, but for the end.
const KEPT_EVERY: Duration = Duration::from_secs(10);

/// What is known of templates. Collectors that are waited for may be far behind those that are not, where an exporter
/// defined something else: each kind has a memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    holding: Mutex<TemplateMemory>,
    skipping: Mutex<TemplateMemory>,
    /// Whether the file is older than what is known.
    is_news: AtomicBool,
    /// When it was written last.
    kept: Mutex<Option<Instant>>,
}

/// What one stream teaches on its way to the collectors of one kind. A datagram is learned once the first of them is done
/// with it: what still waits is to be decoded by what was defined before.
#[derive(Debug)]
pub(crate) struct Lessons {
    templates: Arc<Templates>,
    kind: WhenDown,
    /// Everything below was learned.
    learned: AtomicU64,
}

impl Lessons {
    pub(crate) fn new(templates: Arc<Templates>, kind: WhenDown) -> Self {
        Self { templates, kind, learned: AtomicU64::new(0) }
    }

    /// A collector is done with `datagrams`, which begin at `first`.
    pub(crate) fn learn<'d>(&self, first: Position, datagrams: impl IntoIterator<Item = &'d Datagram<'d>>) {
        for (position, datagram) in (first.0..).zip(datagrams) {
            if position >= self.learned.load(Ordering::Relaxed) {
                self.templates.learn(datagram, self.kind);
                self.learned.store(position + 1, Ordering::Relaxed);
            }
        }
    }
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    hold: Vec<Kept>,
    skip: Vec<Kept>,
}

impl Templates {
    /// What the last run knew, from the file in the state directory.
    pub(crate) fn take_up(state_directory: &Path) -> Self {
        let path = file(state_directory);
        let templates = Self::default();
        let current = match State::read(&path) {
            State::Read(stored) => Some(stored),
            State::Absent => None,
            State::Newer(error) => {
                newer_state::keep(&path, &error);
                None
            }
            State::Unreadable(error) => {
                tracing::warn!(
                    %error,
                    "{}: cannot be taken up, so that collectors which come back wait for their exporters' templates: \
                     {error}",
                    path.display()
                );
                None
            }
        };
        // What was kept is older than what this version has learned since.
        let kept: Option<Stored> = newer_state::take_up_kept(&path);
        templates.is_news.store(kept.is_some(), Ordering::Relaxed);
        for stored in [kept, current].into_iter().flatten() {
            templates.restore(stored);
        }
        templates
    }

    fn restore(&self, stored: Stored) {
        for (kind, kept) in [(WhenDown::Hold, stored.hold), (WhenDown::Skip, stored.skip)] {
            let mut memory = self.memory(kind);
            for kept in kept {
                memory.restore(kept);
            }
        }
    }

    /// Learns what `datagram` defines, which collectors of this kind have.
    fn learn(&self, datagram: &Datagram<'_>, kind: WhenDown) {
        if changes_templates(datagram.payload) && self.memory(kind).note(datagram) {
            self.is_news.store(true, Ordering::Relaxed);
        }
    }

    /// The payloads of datagrams that make a collector of this kind which knows nothing decode `datagram`. If there was none
    /// of its kind until now, what those of the other know has to do.
    pub(crate) fn before(&self, datagram: &Datagram<'_>, kind: WhenDown) -> Vec<Vec<u8>> {
        let own = self.memory(kind).before(datagram);
        let other = match kind {
            WhenDown::Hold => WhenDown::Skip,
            WhenDown::Skip => WhenDown::Hold,
        };
        if own.is_empty() { self.memory(other).before(datagram) } else { own }
    }

    /// Writes the file, if there is news and it was not written just before. Blocks: call it where that is allowed.
    pub(crate) fn keep_at_times(&self, state_directory: &Path) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_some_and(|kept| kept.elapsed() < KEPT_EVERY) {
            return Ok(());
        }
        // A disk that refuses is not asked, and told of, more often.
        *kept = Some(Instant::now());
        self.keep(state_directory)
    }

    /// Writes the file, if there is news. Blocks.
    pub(crate) fn keep(&self, state_directory: &Path) -> io::Result<()> {
        if !self.is_news.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let kept = |kind| self.memory(kind).kept().collect();
        let outcome =
            write(state_directory, &Stored { hold: kept(WhenDown::Hold), skip: kept(WhenDown::Skip) });
        if outcome.is_err() {
            self.is_news.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn memory(&self, kind: WhenDown) -> MutexGuard<'_, TemplateMemory> {
        let memory = match kind {
            WhenDown::Hold => &self.holding,
            WhenDown::Skip => &self.skipping,
        };
        memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file(state_directory: &Path) -> PathBuf {
    state_directory.join("templates.json")
}

fn write(state_directory: &Path, stored: &Stored) -> io::Result<()> {
    // One that a killed run left half written is written anew.
    let path = state_directory.join("templates.json.new");
    let new = File::create(&path)?;
    let mut out = BufWriter::new(&new);
    serde_json::to_writer(&mut out, stored)?;
    out.flush()?;
    drop(out);
    new.sync_data()?;
    std::fs::rename(path, file(state_directory))
}

#[cfg(test)]
impl Templates {
    /// What `datagram` defines, on its way to collectors that are set to hold.
    pub(crate) fn of(datagram: &Datagram<'_>) -> Self {
        let templates = Self::default();
        templates.learn(datagram, WhenDown::Hold);
        templates
    }
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
mod tests {
    use super::*;
    use crate::datagram::Timestamp;

    fn of_exporter(payload: &[u8]) -> Datagram<'_> {
        let exporter = "192.0.2.1:4000".parse().unwrap();
        Datagram { exporter, local: exporter, arrival: Timestamp(0), payload }
    }

    fn learned() -> Templates {
        Templates::of(&of_exporter(&netflow_9(true)))
    }

    #[test]
    fn what_the_first_collector_has_is_learned_and_the_others_change_nothing_of_it() {
        let [first, second] = [4, 8].map(|length| {
            let mut payload = netflow_9(true);
            payload.truncate(payload.len() - 1);
            payload.push(length);
            payload
        });
        let templates = Arc::<Templates>::default();
        let lessons = Lessons::new(templates.clone(), WhenDown::Hold);
        let told = || templates.before(&of_exporter(&netflow_9(false)), WhenDown::Hold).concat();
        lessons.learn(Position(7), [&of_exporter(&first), &of_exporter(b"x")]);
        assert!(told().ends_with(&first[20..]));
        lessons.learn(Position(9), [&of_exporter(&second)]);
        lessons.learn(Position(7), [&of_exporter(&first)]);
        assert!(told().ends_with(&second[20..]));
    }

    #[test]
    fn what_was_learned_outlives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let templates = learned();
        let expected = templates.before(&of_exporter(&netflow_9(false)), WhenDown::Skip);
        assert_eq!(expected.len(), 1);
        templates.keep(directory.path()).unwrap();
        let again = Templates::take_up(directory.path());
        assert_eq!(again.before(&of_exporter(&netflow_9(false)), WhenDown::Skip), expected);
    }

    #[test]
    fn nothing_is_written_without_news() {
        let directory = tempfile::tempdir().unwrap();
        let templates = learned();
        templates.keep(directory.path()).unwrap();
        std::fs::remove_file(file(directory.path())).unwrap();
        templates.keep(directory.path()).unwrap();
        assert!(!file(directory.path()).exists());
    }

    #[test]
    fn news_that_come_fast_are_written_at_times_and_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let templates = learned();
        templates.keep_at_times(directory.path()).unwrap();
        std::fs::remove_file(file(directory.path())).unwrap();
        templates.is_news.store(true, Ordering::Relaxed);
        templates.keep_at_times(directory.path()).unwrap();
        assert!(!file(directory.path()).exists());
        templates.keep(directory.path()).unwrap();
        assert!(file(directory.path()).exists());
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "nothing half written is left");
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let templates = learned();
        templates.keep(&directory.path().join("not there")).unwrap_err();
        templates.keep(directory.path()).unwrap();
        assert!(file(directory.path()).exists());
    }

    #[test]
    fn a_damaged_file_is_done_without() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(file(directory.path()), "[{\"exporter\": 7}").unwrap();
        let templates = Templates::take_up(directory.path());
        assert!(templates.before(&of_exporter(&netflow_9(false)), WhenDown::Skip).is_empty());
    }

    #[test]
    fn a_newer_file_is_kept_and_taken_up_by_a_version_that_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path());
        learned().keep(directory.path()).unwrap();
        let of_this_version = std::fs::read(&path).unwrap();
        std::fs::write(&path, "{\"version\": 2, \"exporters\": []}").unwrap();
        let templates = Templates::take_up(directory.path());
        assert!(templates.before(&of_exporter(&netflow_9(false)), WhenDown::Hold).is_empty());
        templates.is_news.store(true, Ordering::Relaxed);
        templates.keep(directory.path()).unwrap();
        assert_eq!(std::fs::read(newer_state::kept(&path)).unwrap(), b"{\"version\": 2, \"exporters\": []}");

        std::fs::write(newer_state::kept(&path), of_this_version).unwrap();
        let templates = Templates::take_up(directory.path());
        assert_eq!(templates.before(&of_exporter(&netflow_9(false)), WhenDown::Hold).len(), 1);
        assert!(!newer_state::kept(&path).exists());
    }
}
