//! Where log lines go: to the journal with all their fields if stderr leads there, else to stderr as text.

use core::fmt;
use std::env;
use std::io::{self, IsTerminal};
use std::sync::Once;

use tracing::field::Field;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt as text};

/// Starts logging, if that was not done yet; to be called before anything is logged.
///
/// `RUST_LOG` chooses what is shown, `info` and above by default. Each event is a sentence that says it all. In the journal
/// the event's fields are fields of the entry, their names in capitals. Text carries the time, which a service manager's
/// log would add itself; colours are for terminals.
pub fn start() {
    STARTED.call_once(start_now);
}

static STARTED: Once = Once::new();

fn start_now() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let registry = tracing_subscriber::registry().with(filter);
    let is_journal = stderr_is_the_journal();
    let journal = is_journal.then(tracing_journald::layer).and_then(Result::ok);
    if let Some(journal) = journal {
        registry.with(journal.with_field_prefix(None)).init();
        return;
    }
    let lines = text::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .fmt_fields(debug_fn(write_sentence));
    if is_journal { registry.with(lines.without_time()).init() } else { registry.with(lines).init() }
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

    impl io::Write for Page {
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
