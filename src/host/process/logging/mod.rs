//! Where log lines go: to the journal with all their fields if stderr leads there, else to stderr as text.
//!
//! A thread of its own writes them, so that a reader that is stuck (a full pipe, a stopped journald) never stops the loop
//! that logs. [`queue`] bounds what waits for it.

mod event;
mod queue;

use core::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};
use std::{env, thread};

use tracing::field::Field;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Layer, fmt as text};

use crate::host::process::logging::event::{StoredEvent, TimeOfEvent};
use crate::host::process::logging::queue::{Entry, LogQueue};
use crate::limits::LOG_FLUSH;

/// The queue of this process; inside, `None` if the thread that would write its entries could not be started.
static QUEUE: OnceLock<Option<Arc<LogQueue>>> = OnceLock::new();

/// Name of the thread that writes the log.
const WRITER: &str = "log";

/// Starts logging, if that was not done yet; to be called before anything is logged.
///
/// `RUST_LOG` chooses what is shown, `info` and above by default. Each event is a sentence that says it all. In the journal
/// the event's fields are fields of the entry, their names in capitals. Text carries the time, which a service manager's
/// log would add itself; colours are for terminals.
pub fn start() {
    QUEUE.get_or_init(|| {
        let queue = Arc::new(LogQueue::default());
        let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
        tracing_subscriber::registry().with(filter).with(Queueing(queue.clone())).init();
        let writer = queue.clone();
        let spawned = thread::Builder::new().name(WRITER.to_owned()).spawn(move || write_entries(&writer));
        spawned.is_ok().then_some(queue)
    });
}

/// Logs `lines` as they are, each with its line end, on stderr.
pub fn print(lines: String) {
    match QUEUE.get() {
        Some(Some(queue)) => queue.push(Entry::Text(lines)),
        // The exit code is all that is left if this fails.
        _ => drop(io::stderr().write_all(lines.as_bytes())),
    }
}

/// Waits until everything that was logged is written, but not for longer than [`LOG_FLUSH`]. To be called before the
/// process ends or becomes another program.
pub fn finish() {
    if let Some(Some(queue)) = QUEUE.get() {
        queue.drain(LOG_FLUSH);
    }
}

/// Puts events into the queue.
struct Queueing(Arc<LogQueue>);

impl<S: Subscriber> Layer<S> for Queueing {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let entry = Entry::Event(StoredEvent::of(event));
        if thread::current().name() == Some(WRITER) {
            self.0.push_report(entry);
        } else {
            self.0.push(entry);
        }
    }
}

/// Writes what is queued, for as long as the process lives. Connecting with the journal may block as well.
fn write_entries(queue: &LogQueue) {
    let is_journal = stderr_is_the_journal();
    let destination = if is_journal { "the journal" } else { "stderr" };
    let subscriber = subscriber(is_journal);
    loop {
        match queue.next() {
            Entry::Event(event) => event.replay(&*subscriber),
            // The exit code is all that is left if this fails.
            Entry::Text(lines) => drop(io::stderr().write_all(lines.as_bytes())),
        }
        if let Some(dropped) = queue.take_dropped() {
            tracing::warn!(dropped, "{destination} was blocked: {dropped} log lines were dropped");
        }
    }
}

/// Writes events to the journal, else as text to stderr.
fn subscriber(is_journal: bool) -> Box<dyn Subscriber + Send + Sync> {
    let registry = tracing_subscriber::registry();
    let journal = is_journal.then(tracing_journald::layer).and_then(Result::ok);
    if let Some(journal) = journal {
        return Box::new(registry.with(journal.with_field_prefix(None)));
    }
    let lines = text::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // It would report a closed stderr on stderr, and panic.
        .log_internal_errors(false)
        .fmt_fields(debug_fn(write_sentence));
    if is_journal {
        Box::new(registry.with(lines.without_time()))
    } else {
        Box::new(registry.with(lines.with_timer(TimeOfEvent)))
    }
}

/// Whether stderr is the stream that the service manager connected with the journal: `JOURNAL_STREAM` names it by device
/// and inode (systemd.exec(5)), and may be left over in processes whose stderr leads elsewhere.
pub fn stderr_is_the_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// Writes the sentence of an event and leaves out its fields: they repeat what it says, for programs and for searching in
/// the journal.
fn write_sentence(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() == "message" { write!(writer, "{value:?}") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_text_are_the_sentences_alone() {
        let page = Page::default();
        let written = page.clone();
        let lines = text::layer()
            .with_writer(move || page.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .fmt_fields(debug_fn(write_sentence));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::info!(message_id = "0123", peer = "edge", count = 3, "connected to {}", "edge");
        });
        assert_eq!(
            String::from_utf8(written.0.lock().unwrap().clone()).unwrap(),
            " INFO connected to edge\n"
        );
    }
}
