//! Where log lines go: to the journal with all their fields if stderr leads there, else to stderr as text.

use core::fmt;
use std::env;
use std::io::{self, IsTerminal};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitFmt, VisitOutput};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt as text};

/// The field that carries one of [`messages`](crate::service::messages). The journal has it, text does not show it.
const MESSAGE_ID: &str = "message_id";

/// Starts logging, if that was not done yet; to be called before anything is logged.
///
/// `RUST_LOG` chooses what is shown, `info` and above by default. In the journal every field of an event is a field of
/// the entry, its name in capitals. Text carries the time, which a service manager's log would add itself; colours are
/// for terminals.
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
        .fmt_fields(WithoutMessageId);
    if is_journal { registry.with(lines.without_time()).init() } else { registry.with(lines).init() }
}

/// Whether stderr is the stream that the service manager connected with the journal: `JOURNAL_STREAM` names it by device
/// and inode (systemd.exec(5)), and may be left over in processes whose stderr leads elsewhere.
pub fn stderr_is_the_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// The fields of a line of text: all but the message's number.
struct WithoutMessageId;

impl<'writer> FormatFields<'writer> for WithoutMessageId {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Rest(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

struct Rest<V>(V);

impl<V: VisitFmt> Visit for Rest<V> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != MESSAGE_ID {
            self.0.record_debug(field, value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE_ID {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn core::error::Error + 'static)) {
        self.0.record_error(field, value);
    }
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
    fn lines_of_text_show_every_field_but_the_number_of_the_message() {
        let page = Page::default();
        let written = page.clone();
        let lines = text::layer()
            .with_writer(move || page.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .fmt_fields(WithoutMessageId);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::info!(message_id = "0123", peer = "edge", count = 3, "connected");
        });
        assert_eq!(
            String::from_utf8(written.0.lock().unwrap().clone()).unwrap(),
            " INFO connected peer=\"edge\" count=3\n"
        );
    }
}
