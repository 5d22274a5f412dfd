//! Writes log lines: to the journal with all fields if stderr is connected to it, else to stderr as text.
//!
//! A separate thread writes them, so that a blocked reader (a full pipe, a stopped journald) never blocks the
//! thread that logs. [`queue`] bounds the waiting lines.

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
use crate::host::process::logging::queue::{LogEntry, LogQueue};
use crate::limits::LOG_FLUSH;

/// The queue of this process. The inner value is `None` if the writing thread could not be started.
static QUEUE: OnceLock<Option<Arc<LogQueue>>> = OnceLock::new();

/// Name of the thread that writes the log.
const WRITER: &str = "log";

/// Starts logging unless it is started already. Programs call this before they log anything.
///
/// `RUST_LOG` selects the levels, by default `info` and above. The message of an event is complete without
/// its fields. In the journal the fields become fields of the entry, with names in capitals. Text lines have
/// a time stamp, unless the journal adds it. Only terminals get colours.
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

/// Writes `lines`, each with its line end, to stderr unchanged.
pub fn print(lines: String) {
    match QUEUE.get() {
        Some(Some(queue)) => queue.push(LogEntry::Text(lines)),
        // If this fails, only the exit code reports the error.
        _ => drop(io::stderr().write_all(lines.as_bytes())),
    }
}

/// Waits until all log lines are written, at most for [`LOG_FLUSH`]. Programs call this before they exit or
/// execute another program.
pub fn finish() {
    if let Some(Some(queue)) = QUEUE.get() {
        queue.drain(LOG_FLUSH);
    }
}

/// Puts events into the queue.
struct Queueing(Arc<LogQueue>);

impl<S: Subscriber> Layer<S> for Queueing {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let entry = LogEntry::Event(StoredEvent::of(event));
        if thread::current().name() == Some(WRITER) {
            self.0.push_report(entry);
        } else {
            self.0.push(entry);
        }
    }
}

/// Writes queued entries until the process ends. It also connects to the journal, because that may block.
fn write_entries(queue: &LogQueue) {
    let is_journal = stderr_is_the_journal();
    let destination = if is_journal { "the journal" } else { "stderr" };
    let subscriber = subscriber(is_journal);
    loop {
        match queue.next() {
            LogEntry::Event(event) => event.replay(&*subscriber),
            // If this fails, only the exit code reports the error.
            LogEntry::Text(lines) => drop(io::stderr().write_all(lines.as_bytes())),
        }
        if let Some(dropped) = queue.take_dropped() {
            tracing::warn!(dropped, "{destination} was blocked: {dropped} log lines dropped");
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
        // Otherwise it would report a closed stderr on stderr, and panic.
        .log_internal_errors(false)
        .fmt_fields(debug_fn(write_sentence));
    if is_journal {
        Box::new(registry.with(lines.without_time()))
    } else {
        Box::new(registry.with(lines.with_timer(TimeOfEvent)))
    }
}

/// Returns whether stderr is the stream that the service manager connected to the journal. `JOURNAL_STREAM`
/// identifies it by device and inode (systemd.exec(5)). A child process may inherit the variable with another
/// stderr.
pub fn stderr_is_the_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// Writes the message of an event without its fields: these repeat its values for programs and for searches
/// in the journal.
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
    fn text_lines_contain_only_the_message() {
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
