//! `rate`: the highest rate end to end that loses nothing, comes in order and unchanged, and leaves nothing behind.

use crate::relay::Kind;
use crate::results::Results;
use crate::run::{Course, EXPORTERS};
use crate::search;
use crate::settings::Settings;

/// Topic: datagrams a second.
pub(crate) const RATE: &str = "rate";

/// Where the first search begins, datagrams a second.
const START: f64 = 40_000.0;

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for kind in settings.chosen(Kind::all()) {
        let guess = results.median(RATE, kind.name(), 0);
        results.add(RATE, kind.name(), 0, highest(settings, kind, guess));
    }
}

fn highest(settings: &Settings, kind: Kind, guess: Option<f64>) -> f64 {
    let mut course = Course::new(kind, EXPORTERS);
    let highest = search::highest(guess, START, |rate| {
        let run = course.run(rate, settings.probe);
        settings.note(kind.name(), &run);
        if !run.is_exact() {
            course = Course::new(kind, EXPORTERS); // nothing of it comes into the next probe
        }
        run.is_reached()
    });
    settings.note(kind.name(), &format!("highest {highest:.0}/s"));
    highest
}
