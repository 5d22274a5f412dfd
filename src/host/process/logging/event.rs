//! A copy of a log event, with its fields as text, which another thread writes.

use core::cell::Cell;
use core::fmt;
use std::time::SystemTime;

use tracing::field::{Field, Value, Visit, display};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Fields of one event, at most. Events of these programs have fewer than ten.
const FIELDS_MAX: usize = 32;

/// An event with all of its fields as text.
#[derive(Debug)]
pub(super) struct StoredEvent {
    metadata: &'static Metadata<'static>,
    fields: Vec<(Field, String)>,
    time: SystemTime,
}

thread_local! {
    /// The time of the event that this thread is writing.
    static LOGGED: Cell<Option<SystemTime>> = const { Cell::new(None) };
}

impl StoredEvent {
    /// Copies an event without its spans: these programs have none.
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = FieldTexts(Vec::new());
        event.record(&mut fields);
        debug_assert!(fields.0.len() <= FIELDS_MAX, "{event:?}");
        Self { metadata: event.metadata(), fields: fields.0, time: SystemTime::now() }
    }

    /// Sends the event to `subscriber`. [`TimeOfEvent`] writes the time at which the event was logged.
    pub(super) fn replay(&self, subscriber: &dyn Subscriber) {
        let texts: Vec<_> = self.fields.iter().map(|(field, text)| (field, display(text))).collect();
        let Some((first, _)) = texts.first() else { return };
        let mut values: [(&Field, Option<&dyn Value>); FIELDS_MAX] = [(first, None); FIELDS_MAX];
        for (value, (field, text)) in values.iter_mut().zip(&texts) {
            *value = (field, Some(text));
        }
        LOGGED.set(Some(self.time));
        subscriber.event(&Event::new(self.metadata, &self.metadata.fields().value_set(&values)));
        LOGGED.set(None);
    }
}

struct FieldTexts(Vec<(Field, String)>);

impl Visit for FieldTexts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.clone(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.clone(), format!("{value:?}")));
    }
}

/// Writes the time at which the replayed event was logged: RFC 3339, UTC, with microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeOfEvent;

impl FormatTime for TimeOfEvent {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let time = LOGGED.get().unwrap_or_else(SystemTime::now);
        write!(writer, "{}", humantime::format_rfc3339_micros(time))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::Context;
    use tracing_subscriber::prelude::*;

    use super::*;

    /// Level and fields of an event.
    type LevelAndFields = (tracing::Level, Vec<(String, String)>);

    /// Keeps each event.
    #[derive(Clone, Default)]
    struct EventRecorder(Arc<Mutex<Vec<LevelAndFields>>>);

    impl<S: Subscriber> Layer<S> for EventRecorder {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let stored = StoredEvent::of(event);
            let fields = stored.fields.iter().map(|(field, text)| (field.name().to_owned(), text.clone()));
            self.0.lock().unwrap().push((*event.metadata().level(), fields.collect()));
        }
    }

    /// Stores each event and passes it on at once.
    struct Replaying<S>(S);

    impl<S: Subscriber, Inner: Subscriber> Layer<S> for Replaying<Inner> {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            StoredEvent::of(event).replay(&self.0);
        }
    }

    fn log() {
        let (peer, count, reason) = ("edge \"1\"", 3_u64, None::<&str>);
        let error = std::io::Error::from_raw_os_error(2);
        tracing::warn!(message_id = "0123", peer, count, reason, %error, ok = true, "no {peer}:\n{error}");
        tracing::info!("no fields");
    }

    #[test]
    fn replaying_an_event_keeps_level_and_fields() {
        let (direct, replayed) = (EventRecorder::default(), EventRecorder::default());
        let registry = tracing_subscriber::registry();
        tracing::subscriber::with_default(registry.with(direct.clone()), log);
        let inner = tracing_subscriber::registry().with(replayed.clone());
        let registry = tracing_subscriber::registry();
        tracing::subscriber::with_default(registry.with(Replaying(inner)), log);
        let (direct, replayed) = (direct.0.lock().unwrap(), replayed.0.lock().unwrap());
        assert_eq!(direct.len(), 2);
        assert!(direct[0].1.len() >= 6, "{direct:?}");
        assert_eq!(*direct, *replayed);
    }
}
